"""The Docker Engine API over its socket, with the standard library: only GET, bounded in time."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ragdock.ops.doctor.world import WorldError

__all__ = ["DEFAULT_HOST", "Engine", "find_host", "world_error"]

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
TIMEOUT_SECONDS: Final = 5.0
SLOW_SECONDS: Final = 20.0
"""For `/system/df`, which walks all layers, and `/stats`, which takes two samples."""
MAX_JSON_BYTES: Final = 32 << 20
MAX_TEXT_BYTES: Final = 256 << 10
_BLOCK: Final = 64 << 10


class Engine:
    """Where the Engine is; each `get` is a connection of its own."""

    def __init__(self, host: str, *, tls: bool = False) -> None:
        self.host = host
        self._tls = tls

    def get(self, path: str) -> Any:
        """The answer to `GET path`: JSON, a list of it (events), or text. Raises `WorldError`."""
        slow = path.startswith("/system/df") or "/stats" in path
        deadline = time.monotonic() + (SLOW_SECONDS if slow else TIMEOUT_SECONDS)
        connection = self._connection(deadline - time.monotonic())
        try:
            connection.request("GET", path, headers={"Host": "docker", "Connection": "close"})
            response = connection.getresponse()
            body = _body(response, deadline, _limit(path))
        except http.client.HTTPException as exc:
            detail = f"{self.host} answers no HTTP ({type(exc).__name__})"
            raise WorldError("status", detail) from exc
        except OSError as exc:
            raise world_error(exc, self._place) from exc
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise WorldError("status", f"{response.status} {_message(body)}")
        return _decoded(path, response.headers.get_content_type(), body)

    @property
    def _place(self) -> str:
        return self.host.removeprefix("unix://")

    def _connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.host)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path, timeout_seconds)
        if parts.scheme not in ("tcp", "http") or self._tls:
            kind = "TLS" if self._tls else f"{parts.scheme}://"
            raise WorldError("unsupported", f"{self.host}: the doctor can't go by {kind}")
        try:
            port = parts.port
        except ValueError as exc:
            raise WorldError("absent", f"{self.host} names no port") from exc
        return http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", port or 2375, timeout=timeout_seconds
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("docker", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _limit(path: str) -> int:
    return MAX_TEXT_BYTES if "/archive?" in path or "/logs?" in path else MAX_JSON_BYTES


def _body(response: http.client.HTTPResponse, deadline: float, limit: int) -> bytes:
    """At most so many bytes; a server that sends one a second is cut off at the deadline."""
    body = bytearray()
    while len(body) < limit and (block := response.read1(_BLOCK)):
        body += block
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length and len(body) < limit:
        raise http.client.IncompleteRead(bytes(body), response.length)
    return bytes(body[:limit])


def _message(body: bytes) -> str:
    text = body[:2000].decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()
    return str(found.get("message", "")) if isinstance(found, dict) else text.strip()


def _decoded(path: str, kind: str, body: bytes) -> Any:
    if "/logs?" in path:
        return _without_frames(body).decode(errors="replace")
    if kind == "application/x-tar":
        return body.decode("latin-1")
    text = body.decode(errors="replace")
    if path.startswith("/events"):
        return [found for line in text.splitlines() if (found := _json(line)) is not None]
    found = _json(text)
    return text if found is None else found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _without_frames(body: bytes) -> bytes:
    """A container's log without the 8 bytes before each piece; with a terminal there are none.

    See "Stream format" of `ContainerAttach` in the Engine API.
    """
    out, at = bytearray(), 0
    while at + 8 <= len(body) and body[at] in (0, 1, 2) and body[at + 1 : at + 4] == b"\0\0\0":
        size = int.from_bytes(body[at + 4 : at + 8], "big")
        out += body[at + 8 : at + 8 + size]
        at += 8 + size
    return bytes(out) if at else body


def world_error(exc: OSError, place: str) -> WorldError:
    """What an operating system's refusal means."""
    kinds: tuple[tuple[type[OSError], str], ...] = (
        (FileNotFoundError, "absent"),
        (NotADirectoryError, "absent"),
        (ConnectionError, "refused"),
        (PermissionError, "denied"),
        (TimeoutError, "timeout"),
    )
    kind = next((kind for error, kind in kinds if isinstance(exc, error)), "absent")
    reason = exc.strerror or ("no answer in time" if kind == "timeout" else type(exc).__name__)
    return WorldError(kind, f"{place}: {reason}")


def find_host(environ: Mapping[str, str]) -> tuple[str, str]:
    """The Engine's address, and where that stands: DOCKER_HOST, a context, or nowhere."""
    if host := environ.get("DOCKER_HOST"):
        return host, "DOCKER_HOST"
    home = Path(environ.get("HOME") or "/")
    config = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    name = environ.get("DOCKER_CONTEXT") or _value(config / "config.json", "currentContext")
    if name and name != "default":
        digest = hashlib.sha256(name.encode()).hexdigest()
        meta = config / "contexts" / "meta" / digest / "meta.json"
        if host := _value(meta, "Endpoints", "docker", "Host"):
            return host, f"context {name}"
    rootless = Path(environ.get("XDG_RUNTIME_DIR") or "/nonexistent") / "docker.sock"
    try:
        if not Path("/var/run/docker.sock").exists() and rootless.exists():
            return f"unix://{rootless}", "XDG_RUNTIME_DIR"
    except OSError:
        pass
    return DEFAULT_HOST, ""


def _value(path: Path, *keys: str) -> str:
    """A string in a JSON file, or nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""
