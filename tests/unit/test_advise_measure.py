"""The measurement of a container's price: arithmetic, both sides, and life without Docker."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ragdock.cli.advise import _show_measurements
from ragdock.cli.main import main
from ragdock.errors import UnavailableError
from ragdock.ops.advise import Measurements, bench, measure
from ragdock.ops.advise.measure import overhead_of, summarised
from ragdock.ops.advise.sides import Side

ROOT = Path(__file__).resolve().parents[2]


def rounds(ratio: float, n: int, noise: float = 0.05) -> list[tuple[float, float, float]]:
    chance = random.Random(7)
    return [
        (
            0.1 * chance.uniform(1 - noise, 1 + noise),
            0.1 * ratio * chance.uniform(1 - noise, 1 + noise),
            0.1 * chance.uniform(1 - noise, 1 + noise),
        )
        for _ in range(n)
    ]


def test_a_difference_is_told_with_its_spread() -> None:
    """The median ratio, quartiles and a 99 % interval around it; noise is bare against bare."""
    found = summarised("cpu", rounds(1.5, 21))
    assert found.ratio == pytest.approx(1.5, rel=0.03)
    assert found.sure_low is not None
    assert found.sure_high is not None
    assert found.sure_low <= found.ratio_low <= found.ratio <= found.ratio_high <= found.sure_high
    assert found.differs
    assert 1 < found.noise < 1.1
    assert found.bare_ms == pytest.approx(100, rel=0.05)
    assert found.n_rounds == 21


def test_chance_is_no_difference() -> None:
    """Equal sides don't differ, and with too few rounds nothing does; no ratio counts then."""
    same = summarised("cpu", rounds(1.0, 21, 0.3))
    few = summarised("memory", rounds(3.0, 5))
    assert not same.differs
    assert not few.differs
    overhead = overhead_of([same, few])
    assert (overhead.cpu_ratio, overhead.memory_ratio, overhead.disk_ratio) == (1.0, 1.0, 1.0)
    assert overhead.host_request_ms is None


def test_too_few_rounds_claim_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """Seven rounds can't hold a median with 99 %: no interval, no verdict; the time is told."""
    seven = summarised("published", rounds(5.0, 7))
    assert (seven.sure_low, seven.sure_high) == (None, None)
    assert summarised("published", rounds(5.0, 8)).differs
    assert overhead_of([seven]).request_ms == pytest.approx(400, rel=0.1)
    _show_measurements(Measurements("rag-api:latest", "20.10", 9.0, (seven,), ()))
    said = capsys.readouterr().out
    assert re.search(r"\t-\t[\d.]+\ttoo few rounds\n", said)
    assert "--seconds" in said


def test_the_price_of_a_request_is_the_difference() -> None:
    """Milliseconds that a published port adds, and those of the host's network."""
    found = [summarised("published", rounds(2, 15)), summarised("host", rounds(1.2, 15))]
    overhead = overhead_of([*found, summarised("disk", rounds(1.3, 15))])
    assert overhead.request_ms == pytest.approx(100, rel=0.1)
    assert overhead.host_request_ms == pytest.approx(20, rel=0.3)
    assert overhead.disk_ratio == pytest.approx(1.3, rel=0.03)
    assert overhead.is_measured


def test_a_worker_does_each_piece_of_work(tmp_path: Path) -> None:
    """Run by its source alone, it answers each word with the seconds that it took."""
    source = Path(bench.__file__).read_text(encoding="utf-8")
    side = Side([sys.executable, "-I", "-S", "-c", source, "work"])
    try:
        side.greet()
        assert side.greeting["python"] == ".".join(map(str, sys.version_info[:3]))
        for words in ("cpu", "memory", f"disk {tmp_path}", f"read {tmp_path}"):
            assert 0 < side.seconds(words) < 30
        with pytest.raises(UnavailableError, match="measurement failed"):
            side.seconds(f"disk {tmp_path}/absent")
    finally:
        side.close()
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} <= {"read"}


def test_a_server_answers_what_the_client_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests over one connection come back whole, one after the other."""

    async def talk() -> bytes:
        told: asyncio.Queue[Any] = asyncio.Queue()
        monkeypatch.setattr(bench, "tell", told.put_nowait)
        serving = asyncio.create_task(bench.serve("127.0.0.1", 0))
        reader, writer = await asyncio.open_connection("127.0.0.1", (await told.get())["port"])
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 2)
        answer = await reader.readexactly(2 * len(bench.ANSWER))
        writer.close()
        serving.cancel()
        return answer

    assert asyncio.run(talk()) == 2 * bench.ANSWER


@pytest.fixture
def no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Docker."""
    monkeypatch.setenv("PATH", str(tmp_path))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(argv)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_without_docker_it_says_so_and_advises(
    no_docker: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--measure without Docker is a remark, and the advice comes all the same."""
    with pytest.raises(UnavailableError, match="no docker command"):
        measure(tmp_path)
    code, out, err = run(capsys, "advise", "--yes", "--measure", "--dir", str(tmp_path))
    assert code == 0
    assert "Not measured: There is no docker command here." in err
    assert out.startswith("Run it with Docker, with Compose.")
    code, out, _ = run(capsys, "advise", "--measure", "--json", "--dir", str(tmp_path))
    assert code == 0
    assert json.loads(out)["measurements"] is None
    assert "docker command" in json.loads(out)["not_measured"]
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A docker command without an Engine behind it is told in the Engine's own words."""
    fake = tmp_path / "docker"
    fake.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UnavailableError, match="Cannot connect to the Docker daemon"):
        measure(tmp_path)


def test_flags_answer_the_questions(capsys: pytest.CaptureFixture[str]) -> None:
    """What options say is used, the rest is assumed and told; JSON has it all."""
    options = (
        *("--platform", "on-premise", "--regulated", "--developers", "4"),
        *("--latency-ms", "0", "--rps", "5", "--documents", "100", "--offline", "--no-gpu"),
    )
    code, out, err = run(capsys, "advise", *options)
    assert code == 0
    assert out.startswith("Run it on a virtual machine.")
    assert "Assumed, because nothing was said: environments, services" in err
    found: dict[str, Any] = json.loads(run(capsys, "advise", "--json", *options)[1])
    assert found["place"] == "vm"
    assert found["situation"]["regulated"] is True
    assert found["situation"]["latency_ms"] is None
    assert found["assumed"] == ["environments", "services", "os_dependencies", "knows_docker"]
    assert {"reasons", "changes", "costs", "next", "docs", "scores"} <= found.keys()
    assert run(capsys, "advise", "--platform", "moon")[0] == 2


def test_on_a_terminal_it_asks() -> None:
    """What no option says is asked, with a default; what can't be is asked again."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ragdock", "advise", "--developers", "2"],
        stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "dumb", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(slave)
    # environments, services, libraries, latency, requests, documents, platform (twice), then
    # four questions of yes or no.
    os.write(master, b"1\n1\n\n\n\n\nmoon\nvps\n\n\n\nn\n")
    said = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux ends a terminal so.
            break
        if not piece:
            break
        said += piece
    os.close(master)
    assert process.wait(20) == 0, said.decode()
    text = said.decode()
    assert "How many people" not in text
    assert text.count("Where will it run?") == 2
    assert "Run it on a bare machine" in text
