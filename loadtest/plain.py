"""The load generator that needs nothing but the standard library: closed and open loop.

Closed: so many visitors, each sends its next request when the last one is answered. Open: requests
come at a rate, whatever the server does, as Poisson arrivals do; each is sent on a free connection
or a new one, and its latency counts from its arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from loadtest.mix import Mix, Request, Visitor
from loadtest.records import Record

__all__ = ["Client", "answer_record", "closed_loop", "drive", "open_loop", "steps"]

TIMEOUT_SECONDS = 30.0
MAX_CONNECTIONS = 1000


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class ServerClosedError(ConnectionError):
    """The connection ended before the answer did."""


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._waiting: asyncio.Future[_Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.open = True

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = _parsed(self._received)
        if answer is not None and self._waiting is not None and not self._waiting.done():
            self._received = bytearray()
            if answer.headers.get(b"connection", b"").lower() == b"close":
                self.close()
            self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ServerClosedError(str(exc or "closed")))

    async def send(self, data: bytes) -> _Answer:
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._waiting

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.abort()


@dataclass(slots=True)
class Client:
    """Sends requests to one server and keeps a record of each."""

    url: str
    key: str | None = None
    timeout_seconds: float = TIMEOUT_SECONDS
    records: list[Record] = field(default_factory=list)
    _idle: list[_Connection] = field(default_factory=list)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS))

    async def send(self, request: Request, due: float | None = None) -> Record:
        """Send one request; the record is kept too. `due` is now when not given."""
        due = time.monotonic() if due is None else due
        sent = time.monotonic()
        answer, code = None, ""
        try:
            async with self._places, asyncio.timeout(self.timeout_seconds):
                sent = time.monotonic()
                answer = await self._exchange(request)
        except TimeoutError:
            code = "timeout"
        except ServerClosedError:
            code = "reset"
        except OSError as exc:
            code = "refused" if isinstance(exc, ConnectionRefusedError) else "reset"
        status, headers, body = (
            (answer.status, answer.headers, answer.body) if answer else (0, {}, b"")
        )
        record = answer_record(request, status, headers, body, code, due, sent)
        self.records.append(record)
        return record

    async def _exchange(self, request: Request) -> _Answer:
        parts = urlsplit(self.url)
        data = request.head(parts.netloc, self.key)
        connection = None
        # A connection that the server has closed meanwhile is no failure of a request.
        while self._idle and not (connection and connection.open):
            connection = self._idle.pop()
        if connection is None or not connection.open:
            tls = parts.scheme == "https"
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection,
                parts.hostname or "",
                parts.port or (443 if tls else 80),
                ssl=tls or None,
            )
        try:
            answer = await connection.send(data)
        except BaseException:
            connection.close()
            raise
        if connection.open:
            self._idle.append(connection)
        return answer

    async def close(self) -> None:
        """End the idle connections, in the loop that they belong to."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        # The loop closes the sockets in its next turn.
        await asyncio.sleep(0)


async def closed_loop(
    client: Client, mix: Mix, n_visitors: int, seconds: float, *, run: str = "0"
) -> tuple[float, float]:
    """Visitors who each send, wait for the answer, think, and send again; start and end."""
    start = time.monotonic()
    end = start + seconds

    async def visit(number: int) -> None:
        visitor = Visitor(mix, number, run)
        while time.monotonic() < end:
            await client.send(visitor.next())
            if mix.think_seconds:
                await asyncio.sleep(visitor.think_seconds())

    await asyncio.gather(*(visit(number) for number in range(n_visitors)))
    await client.close()
    return start, end


async def open_loop(
    client: Client, mix: Mix, per_second: float, seconds: float, *, run: str = "0"
) -> tuple[float, float]:
    """Poisson arrivals at a rate; start and end. Answers still owed at the end are waited for."""
    source = random.Random(f"arrivals {mix.seed} {run}")
    visitor = Visitor(mix, 0, run)
    start = due = time.monotonic()
    end = start + seconds
    running: set[asyncio.Task[Record]] = set()
    while True:
        due += source.expovariate(per_second)
        if due >= end:
            break
        pause = due - time.monotonic()
        # A late arrival is sent at once; giving way now and then lets answers be read meanwhile.
        await asyncio.sleep(max(0.0, pause))
        task = asyncio.create_task(client.send(visitor.next(), due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    await client.close()
    return start, end


async def _all(client: Client, requests: Iterable[Request], n_at_once: int) -> None:
    places = asyncio.Semaphore(n_at_once)

    async def one(request: Request) -> None:
        async with places:
            await client.send(request)

    await asyncio.gather(*(one(request) for request in requests))


def drive(client: Client, requests: Sequence[Request], n_at_once: int = 4) -> list[Record]:
    """Send all of these, some at once; their records, which the client doesn't keep."""

    async def run() -> None:
        await _all(client, requests, n_at_once)
        await client.close()

    before = len(client.records)
    asyncio.run(run())
    records, client.records[before:] = client.records[before:], []
    return records


def steps(
    client: Client,
    mix: Mix,
    levels: Sequence[int],
    seconds: float,
    *,
    run: str = "0",
    told: Callable[[int], None] = lambda _: None,
) -> list[tuple[int, float, float]]:
    """A closed loop at each level, one after the other; level, start and end of each."""

    async def all_levels() -> list[tuple[int, float, float]]:
        found = []
        for level in levels:
            told(level)
            span = await closed_loop(client, mix, level, seconds, run=f"{run}.{level}")
            found.append((level, *span))
        return found

    return asyncio.run(all_levels())


def answer_record(
    request: Request,
    status: int,
    headers: Mapping[bytes, bytes],
    body: bytes,
    code: str,
    due: float,
    sent: float,
) -> Record:
    """The record of what came back just now; status 0 and a `code` when nothing did."""
    done = time.monotonic()
    ok = status in request.good
    cache = headers.get(b"x-cache", b"").decode()
    generator = ""
    if status and not ok:
        with contextlib.suppress(ValueError, AttributeError):
            code = str(json.loads(body).get("code", ""))
    elif request.kind == "ask" and ok:
        compact = body.replace(b'": "', b'":"')
        generator = "extractive" if b'"generator":"extractive' in compact else "llm"
        if b'"fallback_reason":"' in compact:
            generator = "fallback"
    return Record(request.kind, cache, due, sent, done, status, code, ok, generator)


def _parsed(received: bytearray) -> _Answer | None:
    """The answer if it is whole."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(received[:end]).split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    status = int(first.split(b" ", 2)[1])
    body = bytes(received[end + 4 :])
    if b"content-length" in headers:
        length = int(headers[b"content-length"])
        return _Answer(status, headers, body[:length]) if len(body) >= length else None
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        # The last chunk ends the answer; an event stream never holds these bytes otherwise.
        return _Answer(status, headers, body) if body.endswith(b"0\r\n\r\n") else None
    return _Answer(status, headers, b"")
