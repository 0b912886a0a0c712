"""The HTTP client of the command line: decoded JSON in, `RagdockError` for everything else.

`httpx2` is imported when the first request is made: `ragdock --help` shouldn't pay for it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlsplit

from ragdock import __version__
from ragdock.core.apikeys import is_whole
from ragdock.errors import InputError, RagdockError, UnavailableError

if TYPE_CHECKING:
    import httpx2

__all__ = ["Api", "api_key", "key_file", "path"]

key_file: ContextVar[Path | None] = ContextVar("key_file", default=None)
"""What the option --key-file of the running command says."""

JSON: Final = "application/json"
CONNECT_TIMEOUT_SECONDS: Final = 5.0
FOLLOW_ATTEMPTS: Final = 5
_BUSY: Final = frozenset({429, 503})


def path(*parts: str) -> str:
    """A path under /v1 whose parts are escaped: `path("documents", "a@b")`."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


class Api:
    """A server's API. Use as a context manager.

    `timeout_seconds` is the longest silence of the server. With `patience_seconds` above 0 a busy
    server (429, 503) is asked again, as its `Retry-After` says, for that long in total. The API key
    is the one in the file of `--key-file`, else in the variable RAGDOCK_API_KEY, if any.
    """

    def __init__(
        self, url: str, *, timeout_seconds: float = 120.0, patience_seconds: float = 0.0
    ) -> None:
        self.url = url.rstrip("/")
        self._loopback = _hostname(url) in ("localhost", "127.0.0.1", "::1")
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._key = api_key()
        self._client: httpx2.Client | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def get(self, route: str, params: Mapping[str, Any] | None = None) -> Any:
        """GET; the decoded body."""
        return _decoded(self._checked("GET", route, params=_given(params)))

    def text(self, route: str, params: Mapping[str, Any] | None = None) -> str:
        """GET a plain text."""
        return self._checked("GET", route, params=_given(params)).text

    def post(
        self, route: str, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
    ) -> Any:
        """POST JSON; the decoded body."""
        return _decoded(self._checked("POST", route, json=body, headers=headers))

    def put_file(
        self,
        route: str,
        filename: str,
        content: IO[bytes],
        *,
        params: Mapping[str, Any],
        fields: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """PUT one file, read piece by piece, as multipart/form-data; the decoded body."""
        files = {"file": (filename, content)}
        return _decoded(
            self._checked(
                "PUT", route, params=_given(params), files=files, data=dict(fields), headers=headers
            )
        )

    def delete(self, route: str, params: Mapping[str, Any] | None = None) -> None:
        """DELETE; nothing comes back."""
        self._checked("DELETE", route, params=_given(params))

    def health(self) -> tuple[int, dict[str, Any]]:
        """The status and body of /health; 503 is an answer here, not an error."""
        response = self._send("GET", "/health")
        if response.status_code not in (200, 503):
            raise _problem(response)
        body = _decoded(response)
        if not isinstance(body, dict):
            raise _foreign(response)
        return response.status_code, body

    def events(
        self, route: str, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """POST JSON and yield the server-sent events as (event, data); `error` events raise."""
        import httpx2

        with (
            self._translated(),
            self._connection().stream("POST", route, json=body, headers=headers) as response,
        ):
            if response.is_error:
                response.read()
                raise _problem(response)
            for event in httpx2.EventSource(response):
                data = json.loads(event.data)
                if event.event == "error":
                    raise _problem_error(data, response.status_code)
                yield event.event, data

    def follow(
        self, route: str, params: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """GET server-sent events and yield their data, across lost connections, until they end.

        A stream that the server ended by itself is over; one that broke is resumed where it was.
        """
        import httpx2

        last: str | None = None
        failures = 0
        while True:
            headers = {"last-event-id": last} if last else {}
            try:
                with (
                    self._translated(),
                    self._connection().stream(
                        "GET", route, params=_given(params), headers=headers
                    ) as response,
                ):
                    if response.is_error:
                        response.read()
                        raise _problem(response)
                    for event in (
                        httpx2.EventSource(response) if response.status_code == 200 else ()
                    ):
                        last, failures = event.id or last, 0
                        yield json.loads(event.data)
                return
            except UnavailableError:
                failures += 1
                if failures > FOLLOW_ATTEMPTS:
                    raise
                time.sleep(failures)

    def _checked(self, method: str, route: str, **options: Any) -> httpx2.Response:
        deadline = time.monotonic() + self._patience_seconds
        while True:
            response = self._send(method, route, **options)
            if not response.is_error:
                return response
            problem = _problem(response)
            pause = getattr(problem, "retry_after_seconds", 1.0)
            if response.status_code not in _BUSY or time.monotonic() + pause > deadline:
                raise problem
            time.sleep(pause)

    def _send(self, method: str, route: str, **options: Any) -> httpx2.Response:
        with self._translated():
            return self._connection().request(method, route, **options)

    def _connection(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> httpx2.Client:
        import httpx2

        return httpx2.Client(
            base_url=self.url,
            timeout=httpx2.Timeout(self._timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            headers={
                "user-agent": f"ragdock/{__version__}",
                "accept": f"{JSON}, */*;q=0.5",
                **({"authorization": f"Bearer {self._key}"} if self._key else {}),
            },
            # A proxy from the environment can't reach this machine's own loopback.
            trust_env=not self._loopback,
            # Reading the certificates takes 140 ms, and http has no use for them.
            verify=self.url.startswith("https:"),
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as exc:
            remedy = (
                "Start one with `ragdock serve`, or name another with --url or RAGDOCK_URL."
                if self._loopback
                else "Check the address (--url or RAGDOCK_URL) and that the server runs."
            )
            raise UnavailableError(
                f"No server answers at {self.url}. {remedy}", code="connection"
            ) from exc
        except httpx2.LocalProtocolError as exc:
            # The length is told before the content is read.
            raise RagdockError(
                "changed while it was read; send it again.", code="file_changed"
            ) from exc
        except httpx2.TimeoutException as exc:
            raise UnavailableError(
                f"{self.url} was silent for {self._timeout_seconds:g} seconds.", code="timeout"
            ) from exc
        except (httpx2.HTTPError, httpx2.InvalidURL, json.JSONDecodeError) as exc:
            raise UnavailableError(
                f"The connection to {self.url} broke: {exc}", code="connection"
            ) from exc


def _hostname(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or not parts.hostname:
        raise InputError(f"--url {url!r} is not an address such as http://127.0.0.1:8000.")
    return parts.hostname


def api_key() -> str | None:
    """The API key to send; raises `InputError` when it can't be one."""
    file = key_file.get()
    source, key = "RAGDOCK_API_KEY", os.environ.get("RAGDOCK_API_KEY", "")
    if file is not None:
        source = f"--key-file {str(file)!r}"
        try:
            key = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise InputError(f"{source} can't be read: {exc}.") from exc
    key = key.strip()
    if not key and file is None:
        return None
    if not key or not all("!" <= character <= "~" for character in key):
        raise InputError(f"{source} doesn't hold a key: one line without spaces.")
    if key.startswith("rdk_") and not is_whole(key):
        raise InputError(f"{source}: the key is mistyped or was cut; its checksum is wrong.")
    return key


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (params or {}).items() if value is not None}


def _decoded(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise _foreign(response) from None


def _foreign(response: httpx2.Response) -> RagdockError:
    return RagdockError(
        f"{response.url} answered {response.status_code} without JSON; "
        "is this address a ragdock server?",
        code="not_ragdock",
    )


def _problem(response: httpx2.Response) -> RagdockError:
    try:
        body = response.json()
    except ValueError:
        return _foreign(response)
    if not isinstance(body, dict) or ("detail" not in body and "title" not in body):
        return _foreign(response)
    body.setdefault("request_id", response.headers.get("x-request-id"))
    return _problem_error(body, response.status_code, response.headers.get("retry-after"))


def _problem_error(
    body: Mapping[str, Any], status: int, retry_after: str | None = None
) -> RagdockError:
    """RFC 9457's members as one message: detail, a line for each field, the request id."""
    lines = [str(body.get("detail") or body.get("title") or f"The server answered {status}.")]
    lines.extend(
        f"  {error.get('field') or 'request'}: {error.get('message', '')}"
        for error in body.get("errors") or ()
        # A single error often says what the detail says.
        if isinstance(error, dict) and error.get("message") != lines[0]
    )
    if body.get("request_id"):
        lines.append(f"  request id: {body['request_id']}")
    if status == 401:
        lines.append("  Set RAGDOCK_API_KEY, or name a file that holds the key by --key-file.")
    code = str(body.get("code") or f"http_{status}")
    if status in _BUSY:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
        return UnavailableError("\n".join(lines), retry_after_seconds=seconds, code=code)
    return RagdockError("\n".join(lines), code=code)
