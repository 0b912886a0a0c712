"""The load test's judgement of faults and trends, its report, and its options."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from loadtest import commands, faults
from loadtest.faults import FAULTS, Slot, breaking, judged, possible, recovery, schedule
from loadtest.mix import Mix
from loadtest.records import Record, summarise
from loadtest.report import build, write
from loadtest.runs import timeline, vantage
from loadtest.target import Target
from loadtest.trends import trend
from loadtest.watch import Seconds, busy_elsewhere, quietest

from scripted_server import Reply, scripted_server

BUSY = "import time\nwhile time.process_time() < 0.2: pass"
PNG = b"\x89PNG\r\n\x1a\n"


def answers(
    start: float, end: float, *, per_second: int = 20, ms: float = 10.0, **values: Any
) -> list[Record]:
    """Evenly spaced answers."""
    usual: dict[str, Any] = {"status": 200, "code": "", "ok": True, **values}
    times = [start + n / per_second for n in range(round((end - start) * per_second))]
    return [Record("ask", "hit", t, t, t + ms / 1000, **usual) for t in times]


# ---- faults ----------------------------------------------------------------------------------


def test_faults_follow_each_other_with_time_to_recover() -> None:
    """After the baseline each is broken, mended and watched before the next."""
    slots = schedule(["a", "b"], 5, 3, 2)
    assert [(s.begin, s.end, s.until) for s in slots] == [(5, 8, 10), (10, 13, 15)]


def test_a_fault_needs_its_part(tmp_path: Path) -> None:
    """Without Redis, a second process or an LLM there is nothing to break."""
    assert possible(Target(tmp_path, workers=1, redis=False)) == []
    assert possible(Target(tmp_path, workers=2, redis=True, llm="fixed:1")) == list(FAULTS)


def test_errors_beyond_the_design_are_found() -> None:
    """A paused Redis allows no error at all; a killed process allows cut connections, not a 500."""
    slots = [Slot("Redis paused", 10, 13, 16), Slot("worker killed", 16, 19, 22)]
    usual = answers(0, 22)
    reset = answers(17, 17.2, status=0, code="reset", ok=False)
    (redis, worker) = judged([*usual, *reset], slots, 0, 10)
    assert redis["as_designed"]
    assert worker["as_designed"]
    assert worker["during"]["errors"] == {"reset": 4}
    broken = answers(11, 11.1, status=500, code="internal", ok=False)
    (redis, worker) = judged([*usual, *broken], slots, 0, 10)
    assert not redis["as_designed"]
    assert redis["surprises"] == 2
    cut = answers(11, 11.1, status=0, code="reset", ok=False)
    assert not judged([*usual, *cut], slots, 0, 10)[0]["as_designed"]


def test_refusals_are_counted_and_allowed() -> None:
    """A 503 whose code names a limit is what the design says; one without a code isn't."""
    slots = [Slot("LLM slow", 10, 13, 16)]
    refused = answers(11, 12, status=503, code="overloaded", ok=False)
    (found,) = judged([*answers(0, 16), *refused], slots, 0, 10)
    assert (found["as_designed"], found["refused"]) == (True, 20)
    bare = answers(11, 12, status=503, code="", ok=False)
    assert not judged([*answers(0, 16), *bare], slots, 0, 10)[0]["as_designed"]


def test_what_was_in_flight_belongs_to_the_fault() -> None:
    """A request that was sent before the kill and cut off by it is counted with it."""
    slots = [Slot("worker killed", 10, 13, 16)]
    cut = Record("ask", "", 9.9, 9.9, 10.05, 0, "reset", False)
    (found,) = judged([*answers(0, 16), cut], slots, 0, 10)
    assert found["during"]["errors"] == {"reset": 1}


def test_what_a_fault_cuts_off_is_not_the_fault_befores() -> None:
    """A request of the last moment of one fault's recovery, cut off by the next, is the next's."""
    slots = [Slot("Redis paused", 10, 13, 16), Slot("worker killed", 16.001, 19, 22)]
    cut = Record("ask", "", 15.9, 15.9, 16.05, 0, "reset", False)
    (redis, worker) = judged([*answers(0, 22), cut], slots, 0, 10)
    assert redis["as_designed"]
    assert redis["recovery_seconds"] == 0
    assert not redis["after"]["errors"]
    assert worker["during"]["errors"] == {"reset": 1}


def test_recovery_is_the_time_to_the_last_bad_half_second() -> None:
    """Slow answers until two seconds after the mending make it two seconds."""
    slot = Slot("LLM slow", 10, 13, 18)
    slow = [*answers(0, 13), *answers(13, 15, ms=400), *answers(15, 18)]
    assert recovery(slow, slot, usual_ms=10) == pytest.approx(2.0)
    assert recovery(answers(0, 18), slot, usual_ms=10) == 0
    assert recovery([*answers(0, 13), *answers(13, 18, ms=400)], slot, usual_ms=10) is None


def test_a_killed_process_recovers_from_its_kill() -> None:
    """Nobody mends it, so the time counts from the beginning."""
    slot = Slot("worker killed", 10, 13, 18)
    cut = answers(10, 11, status=0, code="reset", ok=False)
    assert recovery([*answers(0, 18), *cut], slot, usual_ms=10) == pytest.approx(1.0)


def test_what_is_broken_is_mended_even_when_the_load_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving the block mends at once, long before the schedule would."""
    done: list[str] = []
    fault = faults.Fault(
        "x", "x", "x", frozenset(), lambda _: True,
        lambda _: done.append("broken"), lambda _: done.append("mended"),
    )  # fmt: skip
    monkeypatch.setitem(FAULTS, "x", fault)
    slot = Slot("x", 0, 60, 70)
    began = time.monotonic()

    def load_that_fails() -> None:
        with breaking(Target(tmp_path), [slot], began):
            while not done:
                threading.Event().wait(0.005)
            raise KeyError

    with pytest.raises(KeyError):
        load_that_fails()
    assert time.monotonic() - began < 30
    assert done == ["broken", "mended"]


# ---- trends ----------------------------------------------------------------------------------


def series(per_hour: float, noise: float, *, fill: float = 0.0) -> list[tuple[float, float]]:
    """Half an hour of samples: a start that fills up, a slope, noise."""
    source = random.Random(1)
    return [
        (t, 200 + fill * min(t / 400, 1) + per_hour * t / 3600 + source.gauss(0, noise))
        for t in range(0, 1800, 5)
    ]


def test_growth_is_found_and_noise_isnt() -> None:
    """60 MB an hour grow; a steady level, a noisy one and caches that fill first don't."""
    assert trend(series(120, 2), slack=16).grows
    assert trend(series(120, 2), slack=16).per_hour == pytest.approx(120, rel=0.1)
    assert not trend(series(0, 2), slack=16).grows
    assert not trend(series(0, 25), slack=16).grows
    assert not trend(series(0, 2, fill=80), slack=16).grows


def test_one_spike_is_no_trend() -> None:
    """A single high sample at the end moves nothing."""
    values = [*series(0, 1), (1801.0, 4000.0)]
    assert not trend(values, slack=16).grows
    assert not trend([], slack=1).grows


# ---- the machine -----------------------------------------------------------------------------


def test_work_of_this_process_and_its_children_is_not_elsewhere() -> None:
    """Two children that compute are ours, while they run and when they have ended."""
    with busy_elsewhere() as others:
        before = Seconds.now()
        for _ in range(2):
            subprocess.run([sys.executable, "-c", BUSY], check=True)
        after = Seconds.now()
        assert after.ours - before.ours > 0.3
        assert others() == pytest.approx(after.elsewhere_since(before), abs=0.3)
    assert Seconds(2.0, 9.0, 5.0).elsewhere_since(Seconds(0.0, 1.0, 1.0)) == 2.0


def test_what_others_disturbed_is_measured_again_and_the_quietest_kept() -> None:
    """Three times at most; a quiet first one is the only one."""
    said: list[str] = []
    busy = iter([0.9, 0.4, 0.6, 0.0])
    found = quietest(lambda attempt: {"n": attempt, "busy_elsewhere_cpus": next(busy)}, said.append)
    assert found["n"] == 1
    assert said == [f"others used {cpus} processors meanwhile: again" for cpus in ("0.90", "0.40")]
    assert quietest(lambda n: {"n": n, "busy_elsewhere_cpus": next(busy)}, said.append)["n"] == 0


# ---- the report ------------------------------------------------------------------------------


def step(level: int) -> dict[str, Any]:
    """One step's numbers."""
    pile = answers(0, 1, per_second=10 * level)
    return {"concurrency": level, **summarise(pile, 0, 1).as_json(), "cpus": 1.25,
            "busy_elsewhere_cpus": 0.9}  # fmt: skip


def results() -> dict[str, Any]:
    """Recorded numbers of every section."""
    slots = [Slot("Redis paused", 2, 3, 4), Slot("worker killed", 4, 5, 6)]
    pile = [*answers(0, 6), *answers(2, 2.1, status=500, code="internal", ok=False)]
    row = {"predicted": 80.0, "measured": 100.0, "error": -0.2}
    return {
        "environment": {"machine": "a <small> machine", "cpus": 2},
        "mix": {"ask": 60.0},
        "runs": [
            {
                "workers": workers,
                "engine": "locust",
                "steps": [step(1), step(4)],
                "knee": {
                    "at": {"concurrency": 4 if workers == 1 else 1, "per_second": 40.0},
                    "saturated_at": {"concurrency": 4},
                    "peak_per_second": 40.0,
                    "open_end": workers == 1,
                    "overloaded_at": None if workers == 1 else {"concurrency": 16},
                },
                "open": [{**step(1), "rate": 12.0}],
                "memory_mb": 200.0,
            }
            for workers in (1, 2)
        ],
        "faults": {
            "rate": 20.0,
            "workers": 2,
            "baseline": summarise(pile, 0, 2).as_json(),
            "faults": judged(pile, slots, 0, 2),
            "seconds": timeline(pile, 0, 6),
        },
        "sizing": {
            "capacity_per_second": 50.0,
            "workers": 1,
            "costs": {"ask hit": dict.fromkeys(
                ("cpu_ms", "alone_ms", "scv", "serial_ms", "client_ms"), 1.0)},
            "rows": [{"share": 0.3, "per_second": 15.0, "busy_elsewhere_cpus": 0.1,
                      "p50_ms": row, "p95_ms": row, "p99_ms": {**row, "error": None}}],
            "curve": [],
        },
        "soak": {
            "visitors": 8,
            "think_seconds": 1.0,
            "seconds": 1800.0,
            "summary": summarise(pile, 0, 6).as_json(),
            "trends": {"rss_mb": {"grows": True, "per_hour": 40.0, "first": 200.0, "last": 220.0}},
            "series": {},
        },
    }  # fmt: skip


def test_the_report_has_every_section_and_needs_nothing_else() -> None:
    """Tables for each part, pictures inside, no address of anything outside."""
    page = build(results(), {"concurrency": PNG, "faults": PNG})
    for words in ("Closed loop", "Open loop", "Faults under load", "Sizing", "Soak", "-20%",
                  "4 or more", "not reached", "<td>16</td>", "keeps 1.2 processors busy already",
                  "of them not cached", "GROWS", "a &lt;small&gt; machine"):  # fmt: skip
        assert words in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<table>") == page.count("</table>") >= 8


def test_the_report_says_what_broke_the_design_and_what_the_machine_did() -> None:
    """An error beyond the design and a busy machine stand out."""
    page = build(results(), {})
    assert '<span class="bad">NOT as designed</span>' in page
    assert "2 × 500 internal" in page
    assert "other programs used up to 0.9 processors" in page


def test_sections_without_results_are_left_out() -> None:
    """A soak's report has no closed loop, and the other way round."""
    page = build({"environment": {}, "soak": results()["soak"]}, {})
    assert "Soak" in page
    assert "Closed loop" not in page
    assert "Sizing" not in build({"environment": {}, "runs": results()["runs"]}, {})


def test_the_files_are_written(tmp_path: Path) -> None:
    """The page, the numbers as JSON without NaN or infinity, and each picture."""
    numbers = {"environment": {"cpus": math.nan}, "runs": []}
    path = write(tmp_path / "out", numbers, {"soak": PNG})
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "out/results.json").read_text())["environment"]["cpus"] is None
    assert (tmp_path / "out/soak.png").read_bytes() == PNG


def test_the_mix_has_shares_that_are_a_whole() -> None:
    """Kinds by what the cache is meant to say add up to one, and an absent kind isn't listed."""
    shares = vantage(Mix(popular_share=0.5))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["ask hit"] == shares["ask miss"] == pytest.approx(0.3)
    assert "upload" not in vantage(Mix(upload=0))


# ---- an existing server ----------------------------------------------------------------------


def test_only_ones_own_machine_is_loaded_without_a_word(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Another address needs the option that says whose it is, and a bounded rate."""
    out = ["--out", str(tmp_path)]
    assert commands.main(["url", "http://192.0.2.1", *out]) == 2
    assert "--yes-this-is-mine" in capsys.readouterr().err
    mine = ["url", "http://192.0.2.1", "--yes-this-is-mine", "--rate", "500", *out]
    assert commands.main(mine) == 2
    assert "at most 20" in capsys.readouterr().err
    assert commands.main(["url", "ftp://x", *out]) == 2
    assert commands.main(["url", "http://127.0.0.1", "--rate", "0", *out]) == 2


def test_an_existing_server_is_read_and_not_written(tmp_path: Path) -> None:
    """Asks and searches arrive with the key of the file; nothing is uploaded or deleted."""
    (tmp_path / "key").write_text("secret\n")
    with scripted_server() as server:
        server.on("POST", "/v1/ask", Reply({}))
        server.on("POST", "/v1/search", Reply({}))
        server.on("GET", "/", Reply({}))
        code = commands.main(
            ["url", server.url, "--rate", "100", "--seconds", "0.5", "--out", str(tmp_path / "o"),
             "--key-file", str(tmp_path / "key")]
        )  # fmt: skip
    assert code == 0
    assert len(server.requests) > 10
    paths = {(request.method, request.path) for request in server.requests}
    assert paths <= {
        ("POST", "/v1/ask"), ("POST", "/v1/search"), ("GET", "/v1/documents"), ("GET", "/readyz"),
    }  # fmt: skip
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer secret"}
    assert "secret" not in (tmp_path / "o/results.json").read_text()
