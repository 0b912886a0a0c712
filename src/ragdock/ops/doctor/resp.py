"""One command to Redis and its answer, with the standard library (RESP 2)."""

from __future__ import annotations

import socket
from typing import Any, BinaryIO, Final

from ragdock.ops.doctor.engine_api import world_error
from ragdock.ops.doctor.world import WorldError

__all__ = ["READING", "ask"]

READING: Final = frozenset(
    {
        "PING", "INFO", "CONFIG GET", "TIME", "DBSIZE", "CLIENT LIST", "MEMORY STATS",
        "LATENCY LATEST", "SLOWLOG GET", "ACL WHOAMI", "ACL LIST", "LASTSAVE", "ROLE",
    }
)  # fmt: skip
"""The commands that `ask` may send: a doctor changes nothing."""
TIMEOUT_SECONDS: Final = 2.0
MAX_ITEMS: Final = 100_000
MAX_BYTES: Final = 8 << 20


def ask(host: str, port: int, password: str | None, *command: str) -> Any:
    """Send a command after the password; raises `WorldError`, `status` for what Redis refuses."""
    words = " ".join(command).upper()
    if not any(words == known or words.startswith(f"{known} ") for known in READING):
        raise WorldError("unsupported", f"the doctor doesn't send {command[:1]} to Redis")
    try:
        with socket.create_connection((host, port), TIMEOUT_SECONDS) as link:
            stream = link.makefile("rb")
            if password:
                link.sendall(_encoded("AUTH", password))
                _reply(stream)
            link.sendall(_encoded(*command))
            return _reply(stream)
    except socket.gaierror as exc:
        kind = "unresolvable" if exc.errno == socket.EAI_AGAIN else "unresolved"
        raise WorldError(kind, f"{host}: {exc.strerror}") from exc
    except OSError as exc:
        raise world_error(exc, f"{host}:{port}") from exc
    except ValueError as exc:
        raise WorldError("status", f"{host}:{port} speaks no Redis") from exc


def _encoded(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)


def _reply(stream: BinaryIO, depth: int = 0) -> Any:
    line = stream.readline(MAX_BYTES)
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode(errors="replace")
    if kind == b"-":
        raise WorldError("status", rest.decode(errors="replace"))
    size = int(rest)
    if kind == b":":
        return size
    if size < 0:
        return None
    if kind == b"$" and size <= MAX_BYTES:
        return stream.read(size + 2)[:-2].decode(errors="replace")
    if kind == b"*" and size <= MAX_ITEMS and depth < 8:
        return [_reply(stream, depth + 1) for _ in range(size)]
    raise ValueError(kind)
