"""The parts of the load test: the mix, the mock LLM, records, the knee, the two loops."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from loadtest import records as recording
from loadtest.knee import Point, find_knee
from loadtest.llm import Behaviour, Latency, MockLlm
from loadtest.mix import WRITES, Mix, Request, Visitor, corpus, popular_question, warm_up
from loadtest.plain import Client, closed_loop, drive, open_loop
from loadtest.records import Record, quantile, summarise

from ragdock.adapters.generators.openai import OpenAiGenerator
from ragdock.errors import GeneratorError
from ragdock.types import Hit
from scripted_server import Reply, problem, scripted_server

pytestmark = pytest.mark.timing

TEXT = "Ferries carry passengers. They carry freight."
HIT = Hit(1, "d", "d.md", "", None, "", 0, len(TEXT), TEXT, "", {}, None, None, 1.0)


# ---- the mix ---------------------------------------------------------------------------------


def test_the_mix_keeps_its_weights() -> None:
    """Over many requests each kind has its share, to 1.5 percent points."""
    mix = Mix()
    visitor = Visitor(mix, 0)
    counted = Counter(visitor.next().kind for _ in range(20_000))
    for kind, weight in mix.weights.items():
        assert counted[kind] / 20_000 == pytest.approx(weight / 100, abs=0.015)


def test_popular_questions_follow_zipfs_law() -> None:
    """The first rank is asked about twice as often as the second, ten times as the tenth."""
    visitor = Visitor(Mix(popular_share=1.0), 0)
    counted = Counter(visitor.question() for _ in range(30_000))
    first = counted[popular_question(0)]
    assert first / counted[popular_question(1)] == pytest.approx(2, rel=0.15)
    assert first / counted[popular_question(9)] == pytest.approx(10, rel=0.25)
    assert len(counted) == Mix().n_popular


def test_the_tail_is_never_asked_twice() -> None:
    """Questions of the tail are new in a visitor, between visitors and between runs."""
    mix = Mix(popular_share=0.0)
    visitors = [Visitor(mix, n, run) for n in range(4) for run in ("a", "b")]
    asked = [visitor.question() for visitor in visitors for _ in range(200)]
    assert len(set(asked)) == len(asked)
    assert not set(asked) & {popular_question(rank) for rank in range(mix.n_popular)}


def test_the_same_seed_asks_the_same() -> None:
    """Two visitors of one number and seed send equal requests; another seed others."""
    first, again, other = (Visitor(Mix(seed=seed), 3) for seed in (1, 1, 2))
    ours = [first.next() for _ in range(50)]
    assert ours == [again.next() for _ in range(50)]
    assert ours != [other.next() for _ in range(50)]


def test_a_visitor_deletes_only_what_it_wrote() -> None:
    """Deletions name earlier uploads, once each; writes never touch what is asked."""
    visitor = Visitor(Mix(ask=0, search=0, list=0, health=0, upload=1, delete=1), 0)
    written: set[str] = set()
    for _ in range(300):
        request = visitor.next()
        if request.kind == "upload":
            body = json.loads(request.body or b"")
            assert body["collection"] == WRITES
            written.add(body["documents"][0]["id"])
        else:
            name, _, query = request.path.removeprefix("/v1/documents/").partition("?")
            assert query == f"collection={WRITES}"
            written.remove(name)


def test_think_time_is_exponential_with_its_mean() -> None:
    """The mean is what was set; without one nobody thinks."""
    visitor = Visitor(Mix(think_seconds=2.0), 0)
    assert sum(visitor.think_seconds() for _ in range(5000)) / 5000 == pytest.approx(2, rel=0.1)
    assert Visitor(Mix(), 0).think_seconds() == 0


def test_a_mix_can_be_written_down() -> None:
    """Named numbers replace defaults; what is wrong is named."""
    mix = Mix.parse("ask=80, search=0,popular_share=.5,seed=7")
    assert (mix.ask, mix.search, mix.popular_share, mix.seed) == (80, 0, 0.5, 7)
    assert Mix.parse("") == Mix()
    for text, words in (
        ("asks=1", "'asks' is not of the mix"),
        ("ask=many", "ask='many' is not a number"),
        ("ask=-1", "ask=-1.0 must not be negative"),
        ("popular_share=2", "are shares"),
        ("ask=0,search=0,upload=0,delete=0,list=0,health=0", "nothing would be asked"),
    ):
        with pytest.raises(ValueError, match=words):
            Mix.parse(text)


def test_the_corpus_is_the_same_and_warm_up_covers_what_is_popular() -> None:
    """Documents repeat for a seed; each popular question is asked and searched once."""
    assert corpus(5) == corpus(5) != corpus(5, seed=1)
    mix = Mix(n_popular=7)
    assert Counter(request.kind for request in warm_up(mix)) == {"ask": 7, "search": 7}


# ---- the mock LLM ----------------------------------------------------------------------------


def test_latencies_have_their_distribution() -> None:
    """A lognormal has the median and p95 that were asked for; an exponential its mean."""
    source = random.Random(1)
    lognormal = Latency.parse("lognormal:400:1500")
    drawn = [1000 * lognormal.draw_seconds(source) for _ in range(20_000)]
    assert quantile(drawn, 0.5) == pytest.approx(400, rel=0.05)
    assert quantile(drawn, 0.95) == pytest.approx(1500, rel=0.08)
    exponential = Latency.parse("exponential:50")
    drawn = [1000 * exponential.draw_seconds(source) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(50, rel=0.05)
    assert Latency.parse("fixed:70").draw_seconds(source) == pytest.approx(0.07)
    assert lognormal.text == "lognormal:400:1500"


@pytest.mark.parametrize(
    "text", ["", "fixed", "fixed:a", "fixed:-1", "lognormal:5", "lognormal:9:5", "normal:1:2"]
)
def test_wrong_latencies_show_the_notation(text: str) -> None:
    """What can't be read is quoted, with what can."""
    with pytest.raises(ValueError, match="latency="):
        Latency.parse(text)


async def _call(base_url: str, method: str, path: str, body: object) -> tuple[int, Any]:
    client = Client(base_url)
    request = Request("x", method, path, None if body is None else json.dumps(body).encode())
    answer = await client._exchange(request)
    await client.close()
    return answer.status, json.loads(answer.body)


def test_the_generator_understands_the_mock() -> None:
    """ragdock's own client gets a cited answer from it, whole and streamed, after the latency."""

    async def run() -> None:
        async with MockLlm(Behaviour(Latency("fixed", 60))) as llm:
            generator = OpenAiGenerator(llm.base_url, "mock")
            started = time.monotonic()
            whole = await asyncio.to_thread(generator.generate, "Who?", [HIT])
            assert time.monotonic() - started >= 0.06
            pieces = await asyncio.to_thread(lambda: list(generator.stream("Who?", [HIT])))
            assert whole == "".join(pieces) == "Ferries carry passengers. [1]"
            assert len(pieces) > 1
            assert (llm.n_calls, llm.n_failed) == (2, 0)
            await asyncio.to_thread(generator.close)

    asyncio.run(run())


@pytest.mark.parametrize("failure", ["http500", "http429", "disconnect"])
def test_the_mock_fails_as_it_is_told(failure: str) -> None:
    """At a failure rate of 1 every call fails, for ragdock's client as well."""

    async def run() -> None:
        async with MockLlm(Behaviour(Latency("fixed", 0), 1.0, failure)) as llm:
            generator = OpenAiGenerator(llm.base_url, "mock")
            with pytest.raises(GeneratorError):
                await asyncio.to_thread(generator.generate, "Who?", [HIT])
            assert llm.n_failed == llm.n_calls >= 1
            await asyncio.to_thread(generator.close)

    asyncio.run(run())


def test_the_mock_is_changed_while_it_runs() -> None:
    """`/control` tells and changes the behaviour, and refuses what makes no sense."""

    async def run() -> None:
        async with MockLlm() as llm:
            url = llm.base_url.removesuffix("/v1")
            wanted = {"latency": "fixed:5", "failure_rate": 0.5}
            status, body = await _call(url, "POST", "/control", wanted)
            assert (status, body["latency"], body["failure_rate"]) == (200, "fixed:5", 0.5)
            for wrong in ({"latency": "x"}, {"failure_rate": 2}, {"failure": "x"}, {"speed": 1}):
                status, body = await _call(url, "POST", "/control", wrong)
                assert status == 422
            assert llm.behaviour.latency == Latency("fixed", 5)
            status, body = await _call(url, "GET", "/v1/models", None)
            assert body["data"][0]["id"] == "mock"

    asyncio.run(run())


# ---- records and the knee --------------------------------------------------------------------


def record(**values: Any) -> Record:
    """A record of a good ask, but for what is given."""
    usual: dict[str, Any] = {
        "kind": "ask", "cache": "hit", "due": 0.0, "sent": 0.0, "done": 0.01, "status": 200,
        "code": "", "ok": True,
    }  # fmt: skip
    return Record(**{**usual, **values})


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A request that was sent late because the server stalled is as late as it was."""
    late = record(due=1.0, sent=3.0, done=3.01)
    assert late.latency_ms == pytest.approx(2010)
    assert late.service_ms == pytest.approx(10)


def test_errors_are_counted_by_kind_and_refusals_are_no_surprise() -> None:
    """A refusal with its code is allowed; a 500, a 503 without one and a reset aren't."""
    pile = [
        record(),
        record(status=503, code="overloaded", ok=False),
        record(status=503, code="", ok=False),
        record(status=500, code="internal", ok=False),
        record(status=429, code="rate_limited", ok=False),
        record(status=0, code="reset", ok=False),
    ]
    summary = summarise(pile, 0, 1)
    assert summary.errors == {
        "503 overloaded": 1, "503": 1, "500 internal": 1, "429 rate_limited": 1, "reset": 1,
    }  # fmt: skip
    assert summary.n_unexpected == 3
    assert (summary.n, summary.n_ok, summary.n_refused) == (6, 1, 2)
    assert summary.refused_share == pytest.approx(1 / 3)


def test_what_was_made_is_told_from_what_was_cached() -> None:
    """Answers that no cache had are counted apart: they are what a server has to work for."""
    pile = [record(), record(), record(cache="miss"), record(kind="upload", cache="")]
    summary = summarise(pile, 0, 1)
    assert (summary.per_second, summary.made_per_second) == (4, 2)


def test_percentiles_are_of_good_answers_in_the_window() -> None:
    """What was due outside, and what failed, is not among the latencies."""
    pile = [record(due=n / 100, done=n / 100 + n / 1000) for n in range(100)]
    pile += [record(due=5.0, done=9.0), record(due=0.5, done=8.0, status=500, ok=False)]
    summary = summarise(pile, 0, 1)
    assert summary.p50_ms == pytest.approx(49.5)
    assert summary.p95_ms == pytest.approx(94.05)
    assert summary.max_ms == pytest.approx(99)
    assert summary.per_second == pytest.approx(91), "of 100, so many were done within the second"
    assert summary.kinds["ask hit"]["n"] == 100


def test_nothing_measured_is_null_and_not_zero() -> None:
    """A window without answers has no percentiles."""
    found = summarise([], 0, 1).as_json()
    assert found["p95_ms"] is None
    assert found["n"] == 0


def test_records_survive_their_file(tmp_path: Path) -> None:
    """What is saved is loaded."""
    pile = [record(), record(status=0, code="reset", ok=False)]
    recording.save(tmp_path / "records.jsonl", pile)
    assert recording.load(tmp_path / "records.jsonl") == pile


def curve(n_servers: float, levels: tuple[int, ...], service_ms: float = 10.0) -> list[Point]:
    """An ideal closed loop: throughput grows to the capacity, then latency does."""
    points = []
    for level in levels:
        rate = min(level, n_servers) / service_ms * 1000
        points.append(Point(level, rate, level / rate * 1000))
    return points


@pytest.mark.parametrize("n_servers", [1, 2, 4, 8])
def test_the_knee_of_an_ideal_server_is_its_number_of_servers(n_servers: int) -> None:
    """Up to there one more client is all gain, from there all wait."""
    knee = find_knee(curve(n_servers, (1, 2, 4, 8, 16, 32)))
    assert knee is not None
    assert knee.at.concurrency == knee.saturated_at.concurrency == n_servers
    assert knee.peak_per_second == pytest.approx(n_servers * 100)
    assert not knee.open_end


def test_the_knee_is_found_in_noise() -> None:
    """Ten percent of noise on a server of four don't move it by more than one step."""
    source = random.Random(1)
    for _ in range(50):
        points = [
            Point(p.concurrency, p.per_second * source.uniform(0.9, 1.1), p.latency_ms)
            for p in curve(4, (1, 2, 4, 8, 16))
        ]
        knee = find_knee(points)
        assert knee is not None
        assert knee.at.concurrency in (2, 4, 8)


def test_a_curve_that_only_rises_has_an_open_end() -> None:
    """When the last step is the best, the knee may lie beyond it, and that is said."""
    knee = find_knee(curve(100, (1, 2, 4)))
    assert knee is not None
    assert knee.open_end
    assert find_knee([]) is None
    assert find_knee([Point(1, 0.0, math.nan)]) is None


def test_an_overloaded_step_is_neither_knee_nor_peak() -> None:
    """A server that refuses what is dear answers more of what is cheap: that is no throughput."""
    usual = curve(4, (1, 2, 4, 8))
    refusing = [Point(16, 900.0, 2.0, refused_share=0.3), Point(32, 990.0, 2.0, refused_share=0.0)]
    knee = find_knee([*usual, *refusing])
    assert knee is not None
    assert (knee.at.concurrency, knee.peak_per_second) == (4, pytest.approx(400))
    assert knee.overloaded_at == refusing[0]
    assert find_knee(usual).overloaded_at is None  # type: ignore[union-attr]
    assert find_knee([Point(1, 10.0, 5.0, refused_share=0.5)]) is None


# ---- the loops -------------------------------------------------------------------------------


def test_the_closed_loop_keeps_as_many_in_flight_as_it_has_visitors() -> None:
    """Every answer is recorded with what the cache said, errors with their code."""
    with scripted_server() as server:
        server.on("POST", "/v1/ask", Reply({"a": 1}, headers={"x-cache": "hit"}))
        server.on("POST", "/v1/search", problem(503, "busy", code="overloaded"))
        mix = Mix(ask=1, search=1, upload=0, delete=0, list=0, health=0)
        client = Client(server.url)
        start, end = asyncio.run(closed_loop(client, mix, 3, 0.3))
    summary = summarise(client.records, start, end)
    assert len(server.requests) == len(client.records) == summary.n > 10
    assert set(summary.kinds) == {"ask hit"}
    assert set(summary.errors) == {"503 overloaded"}
    assert summary.n_unexpected == 0


def test_the_open_loop_doesnt_wait_for_answers() -> None:
    """A server that stalls for a third of a second is late for all who arrived meanwhile."""
    stalled = time.monotonic() + 0.35

    def answer(_: object) -> Reply:
        time.sleep(max(0.0, stalled - time.monotonic()))
        return Reply({})

    with scripted_server() as server:
        server.on("GET", "/readyz", answer)
        mix = Mix(ask=0, search=0, upload=0, delete=0, list=0, health=1)
        client = Client(server.url)
        start, end = asyncio.run(open_loop(client, mix, 100, 0.7))
    summary = summarise(client.records, start, end)
    assert summary.n == pytest.approx(70, abs=30)
    assert summary.p95_ms > 200
    late = [record for record in client.records if record.latency_ms > 50]
    assert len(late) > 10


@pytest.mark.parametrize(
    ("url", "port", "tls"),
    [
        ("http://127.0.0.1", 80, None),
        ("https://localhost", 443, True),
        ("http://[::1]:81", 81, None),
    ],
)
def test_an_address_without_a_port_has_its_schemes(
    url: str, port: int, tls: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`http://127.0.0.1` is asked at 80, `https://` at 443 and encrypted."""
    asked: list[tuple[object, ...]] = []

    async def connect(_: object, __: object, host: str, port: int, *, ssl: bool | None) -> None:
        asked.append((host, port, ssl))
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
    assert [record.error for record in drive(Client(url), [Request("x", "GET", "/")])] == [
        "refused"
    ]
    assert asked == [(url.split("//")[1].removesuffix(":81").strip("[]"), port, tls)]


def test_a_server_that_is_gone_is_an_error_with_a_name() -> None:
    """A refused connection and a silent server are two kinds of error, and neither is allowed."""
    with scripted_server() as server:
        server.on("GET", "/", Reply({}))
        url = server.url
        server.on("GET", "/slow", lambda _: time.sleep(0.5) or Reply({}))
        client = Client(url, timeout_seconds=0.1)
        (slow,) = drive(client, [Request("x", "GET", "/slow")])
    (refused,) = drive(Client(url), [Request("x", "GET", "/")])
    assert slow.error == "timeout"
    assert refused.error == "refused"
    assert slow.unexpected
    assert refused.unexpected
