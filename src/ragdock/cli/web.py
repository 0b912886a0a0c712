"""URLs that the command line fetches itself, with its user's own rights and proxies."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

from ragdock import __version__
from ragdock.cli.sending import Content, Outgoing
from ragdock.core.webfiles import Recoder, split_content_type, web_filename
from ragdock.core.weburls import WebUrl, parse_web_url, url_id
from ragdock.errors import InputError, RagdockError

if TYPE_CHECKING:
    import httpx2

__all__ = ["is_url", "remote"]

MAX_REDIRECTS: Final = 5
MAX_BYTES: Final = 512 * 2**20
TIMEOUT_SECONDS: Final = 120.0
_SILENCE_SECONDS: Final = 20.0
_MEMORY_BYTES: Final = 2**20


def is_url(argument: str) -> bool:
    """Whether an argument of the command line is to be fetched."""
    return argument.lower().startswith(("http://", "https://"))


def remote(argument: str, *, document_id: str | None = None) -> Outgoing:
    """A document on the web; raises `InputError` when the URL is none."""
    url = parse_web_url(argument)
    wanted_id = document_id or url_id(url)
    return Outgoing(url.page, lambda: _fetched(url, wanted_id), wanted_id)


def _fetched(url: WebUrl, document_id: str) -> Content:
    import httpx2

    deadline = time.monotonic() + TIMEOUT_SECONDS
    file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 (sending closes it)
    try:
        with (
            _translated(),
            httpx2.Client(
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                timeout=_SILENCE_SECONDS,
                headers={"user-agent": f"ragdock/{__version__}"},
            ) as client,
            client.stream("GET", str(url)) as response,
        ):
            filename = _received(response, url, file, deadline)
    except BaseException:
        file.close()
        raise
    return Content(document_id, filename, file, {"source_url": url.page})


def _received(response: httpx2.Response, url: WebUrl, file: IO[bytes], deadline: float) -> str:
    """Write the content to a file; the name that it should have."""
    if response.status_code != 200:
        raise _failed(f"the host answers with status {response.status_code}")
    media_type, charset = split_content_type(response.headers.get("content-type", ""))
    recoder = Recoder(media_type, charset)
    n_bytes = 0
    for piece in response.iter_bytes():
        n_bytes += len(piece)
        if n_bytes > MAX_BYTES:
            raise _failed(f"the content is larger than {MAX_BYTES // 2**20} MiB")
        if time.monotonic() > deadline:
            raise _failed(f"it took longer than {TIMEOUT_SECONDS:g} seconds")
        file.write(recoder.feed(piece))
    file.write(recoder.feed(b"", last=True))
    if not n_bytes:
        raise _failed("the content is empty")
    try:
        last = parse_web_url(str(response.url))
    except InputError:
        last = url
    return web_filename(last, response.headers.get("content-disposition", ""), media_type)


@contextmanager
def _translated() -> Iterator[None]:
    import httpx2

    try:
        yield
    except httpx2.TooManyRedirects as exc:
        raise _failed(f"it redirects more than {MAX_REDIRECTS} times") from exc
    except httpx2.TimeoutException as exc:
        raise _failed(f"the host was silent for {_SILENCE_SECONDS:g} seconds") from exc
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as exc:
        raise _failed(str(exc)) from exc


def _failed(reason: str) -> RagdockError:
    return RagdockError(f"can't be fetched: {reason}.", code="fetch_failed")
