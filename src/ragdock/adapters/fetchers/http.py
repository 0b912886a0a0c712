"""`Fetcher` over HTTP, for URLs that strangers name: it resists server-side request forgery.

What is refused, and where: URLs that could be read in two ways (`core.weburls`), hosts that the
operator didn't allow, hosts one of whose addresses isn't public (`core.addresses`), other ports
than 80 and 443. Every redirect goes through all of it again. There are no proxies, no cookies, no
credentials and no connection that two fetches share. Time and bytes are bounded, packed and
unpacked. A caller learns the same about every host that it may not reach, so that nobody can map
a network by asking: that the name is unknown, the port closed or the address private is for the
log.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Final
from urllib.parse import urljoin

import httpcore2

from ragdock import __version__
from ragdock.adapters.fetchers.pinning import (
    Lookups,
    PinnedBackend,
    Resolve,
    UnreachableError,
    resolve_by_system,
)
from ragdock.core.addresses import is_public
from ragdock.core.webfiles import Recoder, split_content_type, web_filename
from ragdock.core.weburls import HostRule, WebUrl, parse_web_url, url_id
from ragdock.errors import FetchError, InputError
from ragdock.types import FetchedFile

__all__ = ["HttpFetcher"]

MAX_REDIRECTS: Final = 5
PIECE_BYTES: Final = 64 * 1024
PORTS: Final = frozenset({80, 443})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GZIP, _ZLIB = 31, 15  # zlib's `wbits`.

log = logging.getLogger(__name__)


class HttpFetcher:
    """Fetches http and https URLs; may be used by several threads.

    `hosts` is the operator's list (empty: any host). `resolve`, `is_allowed`, `ports` and
    `ssl_context` are there for tests, which have no public host: no setting reaches them.
    Raises `InputError` when `hosts` can't be read.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        hosts: str = "",
        resolve: Resolve = resolve_by_system,
        is_allowed: Callable[[str], bool] = is_public,
        ports: Collection[int] = PORTS,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._rule = HostRule(hosts)
        self._max_bytes = max_bytes
        self._lookups = Lookups(resolve)
        self._is_allowed = is_allowed
        self._ports = ports
        self._ssl_context = ssl_context
        self._lock = threading.Lock()

    def fetch(self, url: str, write: Callable[[bytes], None], deadline: float) -> FetchedFile:
        """Hand the content to `write`, piece by piece, by `deadline` on the monotonic clock."""
        first = here = _parsed(url)
        for _ in range(MAX_REDIRECTS + 1):
            addresses = self._addresses(here, deadline)
            answer = self._visit(here, addresses, write, deadline)
            if not isinstance(answer, str):
                media_type, disposition = answer
                return FetchedFile(
                    document_id=url_id(first),
                    page=first.page,
                    filename=web_filename(here, disposition, media_type),
                    media_type=media_type,
                )
            there = _target(here, answer)
            if here.scheme == "https" and there.scheme == "http":
                raise FetchError("The URL leads from https to http.", code="fetch_refused")
            here = there
        raise FetchError(f"The URL redirects more than {MAX_REDIRECTS} times.")

    def _addresses(self, url: WebUrl, deadline: float) -> list[str]:
        """The checked addresses of a URL's host."""
        if not self._rule.allows(url.host):
            raise FetchError(
                "The server may not fetch from this host (RAG_FETCH_HOSTS).", code="fetch_refused"
            )
        if url.port not in self._ports:
            raise FetchError("Only the ports 80 and 443 are fetched from.", code="fetch_refused")
        try:
            is_literal = ":" in url.host or url.host.rpartition(".")[2].isdigit()
            found = [url.host] if is_literal else self._lookups.addresses(url.host, deadline)
            # One private address among public ones is what a rebinding name server sends.
            if not all(map(self._is_allowed, found)):
                raise UnreachableError("the host has an address that isn't public")
        except UnreachableError as exc:
            raise _unreachable(str(exc)) from None
        return list(found)

    def _visit(
        self,
        url: WebUrl,
        addresses: list[str],
        write: Callable[[bytes], None],
        deadline: float,
    ) -> str | tuple[str, str]:
        """Where the URL redirects to, or (media type, content disposition) of what was written."""
        try:
            with (
                self._pool(url, addresses, deadline) as pool,
                pool.stream(
                    "GET",
                    httpcore2.URL(
                        scheme=url.scheme, host=url.host, port=url.port, target=url.target
                    ),
                    headers={
                        "Host": url.authority,
                        "User-Agent": f"ragdock/{__version__} (fetches documents on request)",
                        "Accept": "*/*",
                        "Accept-Encoding": "identity",
                        "Connection": "close",
                    },
                ) as response,
            ):
                return self._received(response, write, deadline)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
            # The pool takes the cause away; the translated exception is still its argument.
            if any(isinstance(argument, ssl.SSLError) for argument in exc.args):
                raise FetchError("The host's TLS certificate can't be trusted.") from exc
            raise _unreachable("no connection") from exc
        except httpcore2.TimeoutException as exc:
            raise _too_slow() from exc
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError, ValueError) as exc:
            raise FetchError("The host's answer can't be read.") from exc

    def _received(
        self, response: httpcore2.Response, write: Callable[[bytes], None], deadline: float
    ) -> str | tuple[str, str]:
        headers = {key.lower(): value.decode("latin-1") for key, value in response.headers}
        if response.status in _REDIRECTS and b"location" in headers:
            return headers[b"location"].encode("latin-1").decode("utf-8", "replace")
        if response.status != 200:
            raise FetchError(f"The host answers with status {response.status}.")
        declared = headers.get(b"content-length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_large()
        media_type, charset = split_content_type(headers.get(b"content-type", ""))
        recoder = Recoder(media_type, charset)
        encoding = headers.get(b"content-encoding", "").strip().lower()
        n_bytes = 0
        for piece in self._unpacked(response, encoding):
            n_bytes += len(piece)
            if n_bytes > self._max_bytes:
                raise self._too_large()
            if time.monotonic() > deadline:
                raise _too_slow()
            write(recoder.feed(piece))
        write(recoder.feed(b"", last=True))
        return media_type, headers.get(b"content-disposition", "")

    def _unpacked(self, response: httpcore2.Response, encoding: str) -> Iterator[bytes]:
        """The body in pieces of bounded size, however well it was packed."""
        if encoding in ("", "identity"):
            yield from response.iter_stream()
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise FetchError("The host's answer is packed in a way that can't be read.")
        wbits = _ZLIB if encoding == "deflate" else _GZIP
        unpacker, n_packed = zlib.decompressobj(wbits), 0
        try:
            for packed in response.iter_stream():
                n_packed += len(packed)
                if n_packed > self._max_bytes:
                    raise self._too_large()
                rest, is_full = packed, True
                while (rest or is_full) and not unpacker.eof:
                    piece = unpacker.decompress(rest, PIECE_BYTES)
                    rest, is_full = unpacker.unconsumed_tail, len(piece) == PIECE_BYTES
                    yield piece
                if unpacker.eof:
                    return
        except zlib.error as exc:
            raise FetchError("The host's answer can't be unpacked.") from exc
        raise FetchError("The host's answer ends early.")

    def _pool(self, url: WebUrl, addresses: list[str], deadline: float) -> httpcore2.ConnectionPool:
        return httpcore2.ConnectionPool(
            ssl_context=self._context() if url.scheme == "https" else None,
            max_connections=1,
            network_backend=PinnedBackend(addresses, deadline),
        )

    def _context(self) -> ssl.SSLContext:
        # Reading the certificates takes 30 ms and 10 MB, and is done when they are wanted.
        with self._lock:
            if self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()
            return self._ssl_context

    def _too_large(self) -> FetchError:
        return FetchError(
            f"The content is larger than {self._max_bytes // 2**20} MiB (RAG_MAX_UPLOAD_MB).",
            code="too_large",
        )


def _parsed(url: str) -> WebUrl:
    try:
        return parse_web_url(url)
    except InputError as exc:
        raise FetchError(str(exc), code=exc.code) from None


def _target(here: WebUrl, location: str) -> WebUrl:
    """Where a redirect leads, taken apart anew."""
    try:
        return _parsed(urljoin(str(here), location))
    except ValueError:
        raise FetchError("The URL redirects to something that is no URL.") from None


def _unreachable(reason: str) -> FetchError:
    log.info("a fetch reached no host: %s", reason)
    return FetchError("The host can't be reached.")


def _too_slow() -> FetchError:
    return FetchError("The URL took too long (RAG_FETCH_TIMEOUT_SECONDS).", code="fetch_timeout")
