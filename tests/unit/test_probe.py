"""The health probe: what it takes for healthy, how long it waits, and what it costs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragdock.cli import probe

pytestmark = pytest.mark.timing

SHIM = Path(__file__).resolve().parents[2] / "m3_1_dockerize.py"


@contextmanager
def answering(*parts: bytes, pause_seconds: float = 0) -> Iterator[str]:
    """A server that sends `parts` to one client, with pauses, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                for part in parts:
                    try:
                        connection.sendall(part)
                    except OSError:
                        return
                    time.sleep(pause_seconds)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def test_200_is_healthy() -> None:
    """A 200 is healthy, and what the server said is shown on one line."""
    with answering(b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"status":\n "degraded"}') as url:
        assert probe.probe(url) == (True, f'{url}/health: 200 {{"status": "degraded"}}')


@pytest.mark.parametrize("status", ["503 Service Unavailable", "404 Not Found", "302 Found"])
def test_any_other_status_is_unhealthy(status: str) -> None:
    """A 503, a 404 and a redirect are not health."""
    with answering(f"HTTP/1.1 {status}\r\n\r\n".encode()) as url:
        healthy, detail = probe.probe(url)
    assert not healthy
    assert status[:3] in detail


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_not_http_is_unhealthy(answer: bytes) -> None:
    """Another program on the port doesn't pass for the server."""
    with answering(answer) as url:
        assert probe.probe(url) == (False, f"{url}/health: the answer is not HTTP")


def test_the_deadline_holds_for_the_whole_answer() -> None:
    """A server that sends a byte now and then can't stretch the probe beyond its timeout."""
    began = time.monotonic()
    with answering(b"HTTP/1.1 200 OK\r\n", *[b"x"] * 8, pause_seconds=0.1) as url:
        healthy, detail = probe.probe(url, timeout_seconds=0.4)
        assert time.monotonic() - began < 0.7
    assert (healthy, detail) == (False, f"{url}/health: no answer within 0.4 s")


def test_an_endless_answer_is_cut() -> None:
    """More than 64 kB is not our health report."""
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000) as url:
        healthy, detail = probe.probe(url)
    assert not healthy
    assert "more than 65536 bytes" in detail


def test_nobody_there_is_unhealthy(capsys: pytest.CaptureFixture[str]) -> None:
    """A refused connection is exit code 1 and a line on standard error."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert probe.main(["--url", url]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "Connection refused" in said.err


def test_the_port_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --url the probe asks 127.0.0.1 on PORT, as the server listens there."""
    with answering(b"HTTP/1.1 200 OK\r\n\r\n{}") as url:
        monkeypatch.setenv("PORT", url.rsplit(":", 1)[1])
        assert probe.main([]) == 0
    assert capsys.readouterr().out == f"{url}/health: 200 {{}}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--url"], ["--url", "127.0.0.1:8000"], ["--timeout", "soon"], ["--loud", "yes"], ["x"]],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown options, missing values and URLs without a scheme are named as wrong usage."""
    assert probe.main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://web", (False, "web", 80, "")),
        ("http://web:8000/", (False, "web", 8000, "")),
        ("https://rag.example/api/", (True, "rag.example", 443, "/api")),
        ("http://[::1]:8000", (False, "::1", 8000, "")),
        ("http://[::1]", (False, "::1", 80, "")),
    ],
)
def test_urls_are_taken_apart(url: str, parts: tuple[bool, str, int, str]) -> None:
    """Scheme, host, port and prefix, with the scheme's port as default and IPv6 in brackets."""
    assert probe.split_url(url) == parts


def test_the_shim_probes_from_a_bare_checkout(tmp_path: Path) -> None:
    """`m3_1_dockerize.py --health` works from any directory, with no package installed."""
    with answering(b"HTTP/1.1 200 OK\r\n\r\n{}") as url:
        command = [sys.executable, "-I", str(SHIM), "--health", "--url", url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{url}/health: 200 {{}}\n"


def test_the_probe_loads_nothing_heavy() -> None:
    """Every few seconds it starts anew, so it loads no HTTP library, no TLS and no framework."""
    code = (
        "import sys; sys.argv = ['m3_1_dockerize.py', '--health', '--url', 'http://127.0.0.1:9'];"
        "import runpy\n"
        f"try: runpy.run_path({str(SHIM)!r}, run_name='__main__')\n"
        "except SystemExit: print(sorted(m for m in sys.modules if '.' not in m))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SHIM.parent / "src")}
    # -S: what a site's .pth files import is not ours.
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    heavy = {"ssl", "http", "urllib", "email", "json", "asyncio", "pydantic", "typer", "numpy"}
    assert not heavy & set(eval(done.stdout))


def test_the_shim_explains_itself() -> None:
    """Without a command it exits with 2 and shows its two commands; --help is 0."""
    for arguments, code in (([], 2), (["--frobnicate"], 2), (["--help"], 0)):
        command = [sys.executable, str(SHIM), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "--serve" in done.stdout + done.stderr
        assert "--health" in done.stdout + done.stderr
