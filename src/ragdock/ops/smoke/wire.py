"""HTTP for the smoke test: JSON over urllib, bounded in time, and what went wrong in plain words.

urllib, because `tests_docker_sanity.py` runs this with nothing installed.
"""

from __future__ import annotations

import http.client
import json
import math
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from ipaddress import ip_address
from typing import IO, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from ragdock import __version__
from ragdock.errors import InputError
from ragdock.ops.smoke.model import StepError

__all__ = ["Answer", "Deadline", "OutOfTimeError", "Server", "check_url", "path"]

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
LONGEST_BUSY_SECONDS: Final = 15.0
"""A server that says 503 for longer than that is down, not busy."""
_PIECE_BYTES: Final = 65536
_BUSY: Final = frozenset({429, 503})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class OutOfTimeError(StepError):
    """The time that the run has is over."""


class Deadline:
    """A moment by which all must be done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left_seconds(self) -> float:
        """What is left, never below 0."""
        return max(0.0, self._at - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Pause, but not beyond the end. Raises `OutOfTimeError` when that is already reached."""
        if self.left_seconds <= 0:
            raise OutOfTimeError(f"the time is over ({self.seconds:g} s, --timeout)")
        time.sleep(min(seconds, self.left_seconds))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `body` is decoded JSON, or the text."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def object(self, *names: str) -> dict[str, Any]:
        """The body as an object that has these members; raises `StepError` when it hasn't."""
        if not isinstance(self.body, dict) or any(name not in self.body for name in names):
            wanted = f"an object with {', '.join(names)}" if names else "an object"
            raise StepError(f"answered {self.status} without {wanted}: is this ragdock?")
        return self.body


def path(*parts: str, **params: str | int) -> str:
    """A path under /v1 whose parts are escaped, with a query."""
    route = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    return f"{route}?{urlencode(params)}" if params else route


def check_url(url: str) -> str:
    """The address without a slash at its end. Raises `InputError` for what can't be one."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"{url!r} is not an address such as http://127.0.0.1:8000.", field="URL")
    if parts.username is not None or parts.password is not None:
        raise InputError("The address holds a password: leave it out, and set RAGDOCK_API_KEY.")
    return url.rstrip("/")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    # A redirected POST would become a GET, and the key would go to whoever is named there.
    def redirect_request(self, *_: Any) -> None:
        return None


class Server:
    """One deployment. `waited_seconds` is what it made us wait by 429 and 503."""

    def __init__(self, url: str, key: str | None, deadline: Deadline) -> None:
        self.url = url
        self.has_key = bool(key)
        self.deadline = deadline
        self.waited_seconds = 0.0
        self._headers = {
            "User-Agent": f"ragdock/{__version__}",
            "Accept": "application/json, */*;q=0.5",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if _is_loopback(url):
            # A proxy from the environment can't reach this machine's own loopback.
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, method: str, route: str, body: object = None, *, patient: bool = True) -> Answer:
        """Send once, and again as `Retry-After` says while it is busy (429, 503).

        Raises `StepError` when nothing comes back that can be understood, and `OutOfTimeError`
        when the time is over.
        """
        busy_seconds = 0.0
        while True:
            answer = self._once(method, route, body)
            if answer.status not in _BUSY or not patient:
                return answer
            pause = _retry_after(answer.headers)
            # A rate limit tells the truth about when to come back; an outage only guesses.
            is_late = answer.status == 503 and busy_seconds + pause > LONGEST_BUSY_SECONDS
            if is_late or pause >= self.deadline.left_seconds:
                return answer
            self.deadline.sleep(pause)
            busy_seconds += pause
            self.waited_seconds += pause

    def expect(
        self,
        method: str,
        route: str,
        body: object = None,
        *,
        status: tuple[int, ...] = (200,),
        needs: str = "read",
    ) -> Answer:
        """Ask, and raise `StepError` with the reason unless the status is one of these.

        `needs` is the right that the route wants of a key.
        """
        answer = self.ask(method, route, body)
        if answer.status not in status:
            raise StepError(f"{method} {route.partition('?')[0]}: {self.refusal(answer, needs)}")
        return answer

    def refusal(self, answer: Answer, needs: str) -> str:
        """What an answer that says no means, and what to do."""
        said = _problem(answer.body)
        if answer.status in (401, 403):
            return self._forbidden(answer, said, needs)
        if answer.status in _REDIRECTS:
            target = answer.headers.get("location", "another address").partition("?")[0]
            return f"answered {answer.status}, a redirect to {target}; name that address instead"
        if answer.status in _BUSY:
            pause = _retry_after(answer.headers)
            what = "the rate limit" if answer.status == 429 else "it is unavailable"
            return (
                f"answered {answer.status} ({what}) after {self.waited_seconds:.0f} s of waiting; "
                f"it says to come back in {pause:.0f} s. {said}".rstrip()
            )
        if not said:
            return f"answered {answer.status} without saying why: is this ragdock?"
        return f"answered {answer.status}: {said}"

    def _forbidden(self, answer: Answer, said: str, needs: str) -> str:
        if not said:
            return (
                f"answered {answer.status}, and not as ragdock does: something in front of it "
                "(a proxy with a login?) refuses"
            )
        wanted = f"This needs a key with the right `{needs}`"
        if answer.status == 403:
            return f"answered 403: {said} {wanted}."
        given = (
            "the key that was sent opens nothing: it is mistyped, expired, revoked, or another "
            "server's"
            if self.has_key
            else "no key was sent: set RAGDOCK_API_KEY, or name a file that holds it by --key-file"
        )
        return f"answered 401; {given}. {wanted} (`ragdock keys create --rights read,write`)."

    def _once(self, method: str, route: str, body: object) -> Answer:
        if self.deadline.left_seconds <= 0:
            raise OutOfTimeError(f"the time is over ({self.deadline.seconds:g} s, --timeout)")
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({} if data is None else {"Content-Type": "application/json"})
        request = urllib.request.Request(  # noqa: S310 # `check_url` admits http and https only.
            self.url + route, data, headers, method=method
        )
        return self._translated(lambda: self._exchange(request))

    def _exchange(self, request: urllib.request.Request) -> Answer:
        try:
            with self._opener.open(request, timeout=self.deadline.left_seconds) as response:
                return self._read(response.status, response.headers, response)
        except urllib.error.HTTPError as exc:
            with exc:
                return self._read(exc.code, exc.headers, exc)

    def _read(self, status: int, headers: Message, body: IO[bytes]) -> Answer:
        content = b""
        while piece := body.read(_PIECE_BYTES):
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise StepError(f"answered more than {MAX_ANSWER_BYTES} bytes: is this ragdock?")
            if self.deadline.left_seconds <= 0:
                raise TimeoutError
        lowered = {name.lower(): value for name, value in headers.items()}
        return Answer(status, lowered, _decoded(lowered.get("content-type", ""), content))

    def _translated(self, exchange: Callable[[], Answer]) -> Answer:
        """The exchange, with the network's errors in the words of a person who can mend them."""
        try:
            return exchange()
        except TimeoutError:
            raise self._silent() from None
        except urllib.error.URLError as exc:
            cause = exc.reason if isinstance(exc.reason, BaseException) else exc
            if isinstance(cause, TimeoutError):
                raise self._silent() from None
            raise StepError(_unreachable(self.url, cause)) from exc
        except (http.client.HTTPException, OSError) as exc:
            raise StepError(_unreachable(self.url, exc)) from exc

    def _silent(self) -> OutOfTimeError:
        return OutOfTimeError(
            f"{self.url} did not answer in time ({self.deadline.seconds:g} s in all)"
        )


def _unreachable(url: str, cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {url} isn't trusted: {cause.verify_message}. With an authority of "
            "your own, name its certificate by SSL_CERT_FILE"
        )
    if isinstance(cause, ssl.SSLError):
        hint = "; it may speak plain http" if "WRONG_VERSION_NUMBER" in str(cause) else ""
        return f"TLS with {url} failed: {cause.reason or cause}{hint}"
    if isinstance(cause, ConnectionRefusedError):
        start = "`docker compose up -d` or `ragdock serve` starts it" if _is_loopback(url) else ""
        return f"nothing listens at {url}. {start or 'Check the address, and that it runs'}"
    if isinstance(cause, http.client.BadStatusLine | ConnectionError):
        hint = "" if url.startswith("https:") else " If it speaks TLS, use https://"
        return f"{url} broke the connection ({type(cause).__name__}): is this ragdock?{hint}"
    return f"{url} can't be reached: {cause or type(cause).__name__}"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait; 1 where nothing is said, or a date, which nobody can compare with."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return 1.0
    return min(max(seconds, 0.1), 1e6) if math.isfinite(seconds) else 1.0


def _problem(body: Any) -> str:
    """The sentence of a problem document (RFC 9457), and its request id; "" for anything else."""
    if not isinstance(body, dict) or not isinstance(body.get("detail"), str):
        return ""
    request = f" (request {body['request_id']})" if body.get("request_id") else ""
    return f"{body['detail']}{request}"


def _decoded(content_type: str, content: bytes) -> Any:
    text = content.decode("utf-8", "replace")
    if "json" not in content_type:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # Whoever needs an object says that there is none.
