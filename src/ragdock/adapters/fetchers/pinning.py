"""Connections to addresses that were looked up once and checked, and to no others.

A name is resolved here and nowhere else, every address among the answers has to be allowed, and
the connection goes to one of these very addresses: a second look-up, which a hostile name server
could answer otherwise (DNS rebinding), never happens. The name is still what TLS checks.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import httpcore2

__all__ = ["Lookups", "PinnedBackend", "Resolve", "UnreachableError", "resolve_by_system"]

Resolve = Callable[[str], Sequence[str]]
"""A host name to its addresses, as texts; raises `OSError` when there are none."""

CONNECT_TIMEOUT_SECONDS: Final = 5.0
_MAX_LOOKUPS: Final = 16
_MAX_TRIES: Final = 3


class UnreachableError(Exception):
    """There is no way to the host; the message is for the log and never for the caller."""


def resolve_by_system(host: str) -> list[str]:
    """Every address of a host, as the system's resolver knows it."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class Lookups:
    """Name look-ups with a deadline, which the system's resolver doesn't know."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        # One that hangs keeps its place: a name server that answers nothing can't fill the process.
        self._places = threading.BoundedSemaphore(_MAX_LOOKUPS)

    def addresses(self, host: str, deadline: float) -> Sequence[str]:
        """The host's addresses by `deadline` on the monotonic clock; `UnreachableError`."""
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise UnreachableError("too many look-ups hang")
        answer: list[Sequence[str]] = []
        done = threading.Event()

        def look_up() -> None:
            try:
                answer.append(self._resolve(host))
            except (OSError, UnicodeError):
                answer.append(())
            finally:
                self._places.release()
                done.set()

        try:
            threading.Thread(target=look_up, name="lookup", daemon=True).start()
        except RuntimeError as exc:
            self._places.release()
            raise UnreachableError("too many threads run") from exc
        if not done.wait(max(0.0, deadline - time.monotonic())):
            raise UnreachableError("the look-up of the name took too long")
        if not answer or not answer[0]:
            raise UnreachableError("the name has no address")
        return answer[0]


class PinnedBackend(httpcore2.NetworkBackend):
    """Connects to the given addresses, whatever name it is told, and reads until a deadline."""

    def __init__(self, addresses: Sequence[str], deadline: float) -> None:
        self._addresses = tuple(addresses)
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 (the name, which is not to be resolved again)
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        """Connect to the first address that lets us."""
        system = httpcore2.SyncBackend()
        failure: Exception = httpcore2.ConnectError("no address")
        for address in self._addresses[:_MAX_TRIES]:
            seconds = min(CONNECT_TIMEOUT_SECONDS, _left(self._deadline))
            try:
                return _Stream(system.connect_tcp(address, port, seconds), self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure


class _Stream(httpcore2.NetworkStream):
    """A stream whose every wait ends at one deadline: drops now and then don't prolong it."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: float) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """What has arrived, or what arrives in the time that is left."""
        return self._inner.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """Send everything in the time that is left."""
        self._inner.write(buffer, _left(self._deadline))

    def close(self) -> None:
        """End the connection."""
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        """Shake hands in the time that is left; the certificate has to be the name's."""
        left = _left(self._deadline)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """What the stream below knows."""
        return self._inner.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the deadline is over")
    return left
