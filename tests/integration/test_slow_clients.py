"""Clients that send or read slowly, or not at all, on real sockets: each has an end."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from support.serving import ServerProcess, until
from support.sockets import connect, head, read_all, seconds_until_closed
from support.web import add

pytestmark = pytest.mark.timing

PATIENCE_SECONDS = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that waits for a second, and has at most 16 connections."""
    process = ServerProcess(
        tmp_path_factory.mktemp("slow") / "data",
        RAG_BODY_TIMEOUT_SECONDS=PATIENCE_SECONDS,
        RAG_MAX_CONNECTIONS=16,
    )
    with process:
        with process.client() as client:
            add(client, "The lamp burns for nine hours. " * 60_000, "lamp")
        yield process


def closed(server: ServerProcess, reason: str) -> float:
    """How many connections the server closed for a reason."""
    with server.client() as client:
        text = client.get("/metrics").text
    for line in text.splitlines():
        if line.startswith(f'rag_connections_closed_total{{reason="{reason}"}}'):
            return float(line.split()[-1])
    return 0.0


def get(connection: socket.socket) -> None:
    """One answered request, read to its end."""
    connection.sendall(head("GET", "/livez"))
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")


def test_who_connects_and_says_nothing_is_closed(server: ServerProcess) -> None:
    """A connection without a byte ends in time."""
    with connect(server.port) as connection:
        assert 0.5 < seconds_until_closed(connection) < 4


@pytest.mark.parametrize("start", [b"GET /", b"\r\n\r\n", head("GET", "/livez")[:-2] + b"X-A: "])
def test_a_header_that_drips_is_closed(server: ServerProcess, start: bytes) -> None:
    """Slowloris: a byte now and then doesn't prolong the time for a header."""
    before = closed(server, "header")
    with connect(server.port) as connection:
        connection.sendall(start)
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 5:
                connection.sendall(start[-1:])
                connection.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break
        assert 0.5 < time.monotonic() - begun < 4
    assert closed(server, "header") > before


def test_a_second_request_that_drips_is_closed(server: ServerProcess) -> None:
    """After an answer, the first byte of another request starts the time for its header."""
    with connect(server.port) as connection:
        get(connection)
        connection.sendall(b"G")
        assert 0.5 < seconds_until_closed(connection) < 4


def test_an_endless_header_is_refused(server: ServerProcess) -> None:
    """64 KiB of header are enough: then 431, and the connection closes."""
    with connect(server.port) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for number in range(200):
                connection.sendall(f"X-{number}: {'y' * 4000}\r\n".encode())
                time.sleep(0.001)
        answer = read_all(connection)
        assert not answer or answer.startswith(b"HTTP/1.1 431")
    with server.client() as client:
        assert client.get("/livez").status_code == 200


def test_a_body_that_stops_gets_408_and_the_connection_closes(server: ServerProcess) -> None:
    """Promised and not sent: `body_timeout` in time, with what every answer carries."""
    with connect(server.port) as connection:
        lines = ("Content-Type: application/json", "Content-Length: 100")
        connection.sendall(head("POST", "/v1/ask", *lines) + b'{"question"')
        start = time.monotonic()
        answer = read_all(connection).decode()
        assert 0.5 < time.monotonic() - start < 4
    assert answer.startswith("HTTP/1.1 408")
    assert '"code":"body_timeout"' in answer
    assert "RAG_BODY_TIMEOUT_SECONDS" in answer
    assert "connection: close" in answer.lower()
    assert "x-content-type-options: nosniff" in answer
    assert "server:" not in answer.lower()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_drips_is_cut_off(server: ServerProcess, chunked: bool) -> None:
    """A piece now and then, each in time, isn't enough: a body comes at 500 bytes a second."""
    with connect(server.port) as connection:
        length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5000"
        connection.sendall(head("POST", "/v1/ask", "Content-Type: application/json", length))
        begun = time.monotonic()
        connection.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - begun < 6:
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(b"1\r\n \r\n" if chunked else b" ")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun < 4


def test_who_sends_on_after_a_refusal_is_closed(server: ServerProcess) -> None:
    """A refused body doesn't keep the connection for as long as it likes."""
    with connect(server.port) as connection:
        lines = ("Content-Type: application/json", f"Content-Length: {10**9}")
        connection.sendall(head("POST", "/v1/ask", *lines))
        begun = time.monotonic()
        answer = b""
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 8:
                connection.sendall(b"x" * 1000)
                connection.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    piece = connection.recv(65536)
                    answer += piece
                    if not piece:
                        break
        assert answer.startswith(b"HTTP/1.1 413")
        assert time.monotonic() - begun < 6


def test_an_answer_that_nobody_reads_is_given_up(server: ServerProcess) -> None:
    """Who asks for megabytes and reads nothing loses the connection."""
    before = closed(server, "slow_reader")
    with connect(server.port, receive_buffer=4096) as connection:
        # What fits into the system's own buffers (up to 4 MB) is not the server's concern.
        connection.sendall(8 * head("GET", "/v1/documents/lamp/text"))
        until(lambda: closed(server, "slow_reader") > before, 10)
        assert len(read_all(connection)) < 8 * 1_860_000


def test_a_reader_who_is_slow_but_reads_gets_all(server: ServerProcess) -> None:
    """Reading over several times the patience is fine, as long as it goes on."""
    with connect(server.port, receive_buffer=65536) as connection:
        connection.sendall(head("GET", "/v1/documents/lamp/text", "Connection: close"))
        n_bytes, begun = 0, time.monotonic()
        while piece := connection.recv(65536):
            n_bytes += len(piece)
            if time.monotonic() - begun < 3 * PATIENCE_SECONDS:
                time.sleep(0.1)
        assert n_bytes > 1_860_000


def test_idle_connections_make_room(server: ServerProcess) -> None:
    """When the server is full, who is idle for longest is closed and the newcomer is served."""
    idle: list[socket.socket] = []
    try:
        for _ in range(16):
            connection = connect(server.port)
            get(connection)
            idle.append(connection)
        with connect(server.port) as newcomer:
            newcomer.sendall(head("GET", "/livez", "Connection: close"))
            assert read_all(newcomer).startswith(b"HTTP/1.1 200")
        assert read_all(idle[0]) == b""
        get(idle[-1])
    finally:
        for connection in idle:
            connection.close()


def test_the_server_has_no_name(server: ServerProcess) -> None:
    """No header tells which server this is, also where uvicorn answers by itself."""
    for request in (head("GET", "/livez", "Connection: close"), b"NONSENSE\r\n\r\n"):
        with connect(server.port) as connection:
            connection.sendall(request)
            answer = read_all(connection).lower()
        assert b"server:" not in answer
        assert b"uvicorn" not in answer
