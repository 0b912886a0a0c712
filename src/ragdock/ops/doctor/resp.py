"""Redis without a client library: one question over a socket, in RESP2, that only reads.

redis-py is an adapter's business and pools, retries and decodes; the doctor wants the server's own
words, also those that a client turns into an exception of its own ("NOAUTH ...", "DENIED ...").
The protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, Final

from ragdock.ops.doctor.world import WorldError

if TYPE_CHECKING:
    from ragdock.settings import Settings

__all__ = ["READING", "ask"]

DEADLINE_SECONDS: Final = 2.0
MAX_ANSWER_BYTES: Final = 2**20
READING: Final = frozenset({"PING", "TIME", "INFO", "DBSIZE", "CONFIG GET", "LATENCY LATEST"})
"""The only commands that are sent, beside AUTH. CONFIG GET only of parameters by name."""

_SECRET_PARAMETERS: Final = ("*", "?", "[", "pass", "masterauth", "masteruser")


def ask(settings: Settings, *command: str) -> Any:
    """What the Redis of the settings answers: text, a number, None or a list of those.

    Raises `WorldError`: `absent` when the settings name none, `unresolved`, `unresolvable`,
    `refused`, `timeout`, `status` with Redis's own error, `unsupported` for what isn't allowed.
    """
    if settings.redis_host is None:
        raise WorldError("absent", "REDIS_HOST is not set, so there is no Redis to ask")
    _require_reading(command)
    deadline = time.monotonic() + DEADLINE_SECONDS
    address = f"{settings.redis_host}:{settings.redis_port}"
    try:
        with socket.create_connection(
            (settings.redis_host, settings.redis_port), DEADLINE_SECONDS
        ) as connection:
            link = _Link(connection, deadline)
            if settings.redis_password is not None:
                link.ask("AUTH", settings.redis_password.get_secret_value())
            return link.ask(*command)
    except socket.gaierror as exc:
        kind = "unresolvable" if exc.errno == socket.EAI_AGAIN else "unresolved"
        raise WorldError(kind, f"{settings.redis_host}: {exc.strerror}") from exc
    except TimeoutError as exc:
        raise WorldError("timeout", f"{address}: no answer in {DEADLINE_SECONDS:g} s") from exc
    except OSError as exc:
        raise WorldError("refused", f"{address}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise WorldError("unsupported", f"{address}: what answers there is not Redis") from exc


def _require_reading(command: tuple[str, ...]) -> None:
    words = [word.upper() for word in command]
    name = " ".join(words[:2]) if words[:1] in (["CONFIG"], ["LATENCY"]) else " ".join(words[:1])
    asks_secret = name == "CONFIG GET" and any(
        part in word.lower() for word in command[2:] for part in _SECRET_PARAMETERS
    )
    if name not in READING or asks_secret:
        raise WorldError("unsupported", f"the doctor doesn't send {name or 'nothing'} to Redis")


class _Link:
    """A connection that ends with the deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""
        self._n_bytes = 0

    def ask(self, *command: str) -> Any:
        words = [word.encode() for word in command]
        parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)]
        self._connection.settimeout(self._left())
        self._connection.sendall(b"".join(parts))
        return self._value()

    def _value(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:].decode("utf-8", "replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise WorldError("status", rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._bulk(int(rest))
        if kind == b"*":
            # An error inside of a list is no answer that a reading command gives.
            return [self._value() for _ in range(int(rest))]
        raise ValueError("not RESP")

    def _bulk(self, size: int) -> str | None:
        if size < 0:
            return None
        while len(self._buffer) < size + 2:
            self._more()
        text, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
        return text.decode("utf-8", "replace")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _more(self) -> None:
        self._connection.settimeout(self._left())
        piece = self._connection.recv(65536)
        self._n_bytes += len(piece)
        if not piece:
            raise ConnectionResetError("the connection was closed before the answer")
        if self._n_bytes > MAX_ANSWER_BYTES:
            raise ValueError("too long")
        self._buffer += piece

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
