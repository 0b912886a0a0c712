"""One HTTP exchange with a total deadline, which an HTTP client's per-read timeouts don't give.

The exchange runs in a thread of its own and hands over what arrives; the caller waits no longer
than its deadline, whatever hangs: name resolution, a server that sends a byte now and then, a
connection that died silently. Leaving early ends the connection, so the server stops its work.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx2

from ragdock.errors import GeneratorError

__all__ = ["CONNECT_TIMEOUT_SECONDS", "MAX_RESPONSE_BYTES", "ConnectionLostError", "Exchange"]

CONNECT_TIMEOUT_SECONDS: Final = 5.0
MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024


class ConnectionLostError(GeneratorError):
    """No byte of a response came: worth one more try."""

    def __init__(self) -> None:
        super().__init__("The LLM can't be reached.", reason="connection")


class Exchange:
    """Sends a request at once; `status` and `headers` are set once `open` has returned.

    `deadline` is on `time.monotonic()`'s clock. `on_end` is called exactly once, when the
    connection is given back, which can be after the caller left.
    """

    def __init__(
        self,
        client: httpx2.Client,
        request: httpx2.Request,
        deadline: float,
        on_end: Callable[[], None],
    ) -> None:
        self._client = client
        self._request = request
        self._on_end = on_end
        self._deadline = deadline
        self._arrived: queue.SimpleQueue[httpx2.Response | bytes | GeneratorError | None] = (
            queue.SimpleQueue()
        )
        self._abandoned = threading.Event()
        self._network: Any = None
        self._responded = False
        self.status = 0
        self.headers = httpx2.Headers()
        left = max(0.001, deadline - time.monotonic())
        request.extensions["timeout"] = httpx2.Timeout(
            left, connect=min(left, CONNECT_TIMEOUT_SECONDS)
        ).as_dict()
        request.extensions["trace"] = self._trace
        thread = threading.Thread(target=self._run, name="ragdock-llm", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            on_end()
            raise GeneratorError("Too many threads run.", reason="busy") from exc

    def open(self) -> None:
        """Wait for the status line and headers; raises `GeneratorError`."""
        arrived = self._next(self._deadline)
        assert isinstance(arrived, httpx2.Response)
        self.status = arrived.status_code
        self.headers = arrived.headers

    def chunks(self, patience: Callable[[], float | None] = lambda: None) -> Iterator[bytes]:
        """The body as it arrives; raises `GeneratorError`.

        `patience` is asked before each wait: the seconds after which silence means that the body
        is over, or None while it must go on.
        """
        while True:
            seconds = patience()
            try:
                if seconds is None:
                    arrived = self._next(self._deadline)
                else:
                    arrived = self._next(min(self._deadline, time.monotonic() + seconds))
            except GeneratorError as exc:
                if seconds is not None and exc.reason in {"timeout", "cut"}:
                    return
                raise
            if not isinstance(arrived, bytes):
                return
            yield arrived

    def close(self) -> None:
        """Leave: wakes the thread out of whatever it waits for, so the connection ends now.

        The client must not keep connections alive, else this could end another's.
        """
        self._abandoned.set()
        network = self._network
        connection = network.get_extra_info("socket") if network is not None else None
        if isinstance(connection, socket.socket):
            # The plain socket's method: SSLSocket's own takes its state away under the reader.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by the HTTP client for each step; learns the connection before any response."""
        network = info.get("return_value")
        if event.endswith(".complete") and hasattr(network, "get_extra_info"):
            self._network = network
            if self._abandoned.is_set():
                self.close()

    def _next(self, deadline: float) -> httpx2.Response | bytes | None:
        left = deadline - time.monotonic()
        try:
            # What has arrived by now is taken even when the time is over.
            arrived = self._arrived.get(timeout=left) if left > 0 else self._arrived.get_nowait()
        except queue.Empty:
            raise GeneratorError("The LLM took too long.", reason="timeout") from None
        if isinstance(arrived, GeneratorError):
            raise arrived
        return arrived

    def _run(self) -> None:
        try:
            self._transfer()
        except httpx2.HTTPError as exc:
            self._arrived.put(self._translated(exc))
        except (OSError, ValueError, RuntimeError, httpx2.InvalidURL, httpx2.StreamError) as exc:
            # A client closed by another thread, a socket shut down by `close`, a wrong URL.
            self._arrived.put(_error("The LLM can't be reached.", "connection", exc))
        finally:
            # Whatever ended this thread, the caller doesn't wait for it.
            self._arrived.put(GeneratorError("The LLM can't be asked.", reason="connection"))
            self._on_end()

    def _transfer(self) -> None:
        n_bytes = 0
        with contextlib.closing(self._client.send(self._request, stream=True)) as response:
            self._responded = True
            self._network = response.extensions.get("network_stream", self._network)
            self._arrived.put(response)
            for chunk in response.iter_bytes():
                n_bytes += len(chunk)
                if self._abandoned.is_set():
                    return
                if n_bytes > MAX_RESPONSE_BYTES:
                    raise httpx2.DecodingError("response too large")
                if chunk:
                    self._arrived.put(chunk)
        self._arrived.put(None)

    def _translated(self, exc: httpx2.HTTPError) -> GeneratorError:
        if isinstance(exc, httpx2.TimeoutException) and not isinstance(exc, httpx2.ConnectTimeout):
            return _error("The LLM took too long.", "timeout", exc)
        if isinstance(exc, httpx2.DecodingError | httpx2.LocalProtocolError):
            return _error("The LLM's response can't be read.", "protocol", exc)
        if self._responded:
            return _error("The LLM's answer was cut off.", "cut", exc)
        if isinstance(exc, httpx2.RemoteProtocolError) and "disconnected" not in str(exc):
            return _error("The LLM's response isn't HTTP.", "protocol", exc)
        if isinstance(exc, httpx2.ConnectTimeout):
            return _error("The LLM can't be reached.", "connection", exc)
        lost = ConnectionLostError()
        lost.__cause__ = exc
        return lost


def _error(message: str, reason: str, cause: Exception) -> GeneratorError:
    error = GeneratorError(message, reason=reason)
    error.__cause__ = cause
    return error
