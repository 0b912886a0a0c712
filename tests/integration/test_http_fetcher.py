"""The fetcher against real servers on loopback, with name servers that lie.

127.0.0.1 stands for the public internet here, by an address policy that only a test can inject;
127.0.0.2 and the rest are the internal network that nothing may reach.
"""

from __future__ import annotations

import gzip
import logging
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import pytest

from ragdock.adapters.fetchers.http import HttpFetcher
from ragdock.adapters.fetchers.pinning import resolve_by_system
from ragdock.core.addresses import is_public
from ragdock.errors import FetchError
from ragdock.types import FetchedFile
from support.raw_server import Answer, RawServer, make_certificate, response

pytestmark = pytest.mark.timing

MIB = 2**20
UNREACHABLE = "The host can't be reached."


class Names:
    """A resolver with scripted answers; one that runs out of answers repeats its last."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


PUBLIC = [["127.0.0.1"]]


def fetcher(names: Names, *servers: RawServer, max_bytes: int = MIB, **more: object) -> HttpFetcher:
    """One for which 127.0.0.1 is public, and the servers' ports are allowed."""
    return HttpFetcher(
        max_bytes=max_bytes,
        resolve=names,
        is_allowed=lambda address: address == "127.0.0.1" or is_public(address),
        ports={80, 443, *(server.port for server in servers)},
        **more,  # type: ignore[arg-type]
    )


def fetched(
    one: HttpFetcher, url: str, *, timeout_seconds: float = 5.0
) -> tuple[FetchedFile, bytes]:
    """What a URL gives, and its content."""
    pieces: list[bytes] = []
    file = one.fetch(url, pieces.append, time.monotonic() + timeout_seconds)
    return file, b"".join(pieces)


def refused(
    one: HttpFetcher, url: str, *, code: str = "fetch_failed", timeout_seconds: float = 5.0
) -> str:
    """The message of the error that a URL gives."""
    with pytest.raises(FetchError) as failure:
        fetched(one, url, timeout_seconds=timeout_seconds)
    assert failure.value.code == code, failure.value
    return str(failure.value)


def always(*pieces: bytes) -> Answer:
    """The same answer to everything."""
    return lambda _: pieces


def redirect(location: str, status: str = "302 Found") -> bytes:
    """A redirect, with a body that nobody should read as the content."""
    return response(b"moved", status=status, headers=f"Location: {location}\r\n")


@pytest.fixture
def internal() -> Iterator[RawServer]:
    """A server on the internal network; whoever reaches it has broken the promise."""
    with RawServer(always(response(b"the secret")), address="127.0.0.2") as server:
        yield server
        assert server.n_connections == 0


# What works


def test_a_document_is_fetched() -> None:
    """Content, name and type arrive; the request says who asks, and carries nothing else."""
    page = response(b"<p>hello", headers="Content-Type: text/html; charset=utf-8\r\n")
    with RawServer(always(page)) as server:
        names = Names(good_example=PUBLIC)
        url = f"http://good.example:{server.port}/docs/page?token=s3cret#top"
        file, content = fetched(fetcher(names, server), url)
    assert content == b"<p>hello"
    assert (file.filename, file.media_type) == ("page.html", "text/html")
    assert file.page == f"http://good.example:{server.port}/docs/page"
    head = server.heads[0].decode()
    assert head.startswith("GET /docs/page?token=s3cret HTTP/1.1\r\n")
    assert f"\r\nHost: good.example:{server.port}\r\n" in head
    assert re.search(r"\r\nUser-Agent: ragdock/\d", head)
    sent = {line.split(":")[0].lower() for line in head.split("\r\n")[1:] if line}
    assert sent == {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_redirects_are_followed_to_the_end() -> None:
    """Five redirects, relative and absolute, to another name, keep the first URL's id."""

    def answer(head: bytes) -> Iterable[bytes]:
        step = int(head.split()[1].rsplit(b"/", 1)[1])
        here = f"http://other.example:{server.port}"
        yield (
            redirect(f"{here}/a/{step + 1}" if step == 2 else str(step + 1))
            if step < 5
            else (response(b"done", headers="Content-Type: text/plain\r\n"))
        )

    with RawServer(answer) as server:
        names = Names(good_example=PUBLIC, other_example=PUBLIC)
        one = fetcher(names, server)
        file, content = fetched(one, f"http://good.example:{server.port}/0")
        message = refused(one, f"http://good.example:{server.port}/-1")
    assert content == b"done"
    assert (file.filename, file.page) == ("5.txt", f"http://good.example:{server.port}/0")
    assert "redirects more than 5 times" in message


def test_cookies_are_not_kept() -> None:
    """What a redirect sets is not sent to where it leads."""

    def answer(head: bytes) -> Iterable[bytes]:
        yield (
            response(status="302 Found", headers="Location: /b\r\nSet-Cookie: a=b; Path=/\r\n")
            if b" /a " in head
            else response(b"x")
        )

    with RawServer(answer) as server:
        fetched(fetcher(Names(good_example=PUBLIC), server), f"http://good.example:{server.port}/a")
    assert len(server.heads) == 2
    assert b"cookie" not in server.heads[1].lower()


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and ALL_PROXY, which could lead anywhere, are not looked at."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.2:9")
    with RawServer(always(response(b"direct"))) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        assert fetched(one, f"http://good.example:{server.port}/")[1] == b"direct"


def test_the_declared_charset_is_heeded() -> None:
    """A page whose charset only the header names arrives as UTF-8."""
    page = response("Füße".encode("cp1252"), headers="Content-Type: text/plain; charset=cp1252\r\n")
    with RawServer(always(page)) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        content = fetched(one, f"http://good.example:{server.port}/a.txt")[1]
    assert content.decode("utf-8-sig") == "Füße"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_packed_answers_are_unpacked(coding: str) -> None:
    """A server that packs although it wasn't asked to is understood."""
    text = b"ferry " * 50_000
    packed = gzip.compress(text) if coding == "gzip" else zlib.compress(text)
    page = response(packed, headers=f"Content-Encoding: {coding}\r\n")
    with RawServer(always(page)) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        assert fetched(one, f"http://good.example:{server.port}/a.txt")[1] == text


# Where it doesn't go


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.2", "10.0.0.1", "169.254.169.254", "100.64.0.1", "192.168.0.1", "172.16.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "::ffff:127.0.0.2", "::7f00:2"),
        *("fe80::1", "fe80::1%lo", "fd00:ec2::254", "2002:7f00:2::", "64:ff9b::7f00:2", "ff02::1"),
        *("2001:0:7f00:2::1", "168.63.129.16"),
    ],
)
def test_a_name_with_an_internal_address_is_refused(address: str, internal: RawServer) -> None:
    """No address that isn't public is connected to, in whatever form it comes."""
    one = fetcher(Names(evil_example=[[address]]), internal)
    assert refused(one, f"http://evil.example:{internal.port}/") == UNREACHABLE


@pytest.mark.parametrize("answers", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
def test_one_internal_address_among_public_ones_refuses_the_host(
    answers: list[str], internal: RawServer
) -> None:
    """Mixed answers are an attack: not even the public address is used."""
    with RawServer(always(response(b"x")), port=internal.port) as public:
        one = fetcher(Names(evil_example=[answers]), internal)
        assert refused(one, f"http://evil.example:{internal.port}/") == UNREACHABLE
    assert public.n_connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "[::ffff:7f00:2]",
        "[::]",
        "0.0.0.0",
        "127。0。0。2",
    ],
)
def test_an_internal_address_in_the_url_is_refused(host: str, internal: RawServer) -> None:
    """A literal address is judged without any look-up."""
    names = Names()
    assert refused(fetcher(names, internal), f"http://{host}:{internal.port}/") == UNREACHABLE
    assert names.asked == []


@pytest.mark.parametrize(
    "template",
    [
        *("http://good.example@127.0.0.2:{}/", "http://127.0.0.2:{}\\@good.example/"),
        *("http://2130706434:{}/", "http://0x7f000002:{}/", "http://0177.0.0.2:{}/"),
        *("http://127.2:{}/", "http://127.0.0.02:{}/", "http://good.example \t@127.0.0.2:{}/"),
        *("http://１２７.０.０.２:{}/", "http://good.example:80#@127.0.0.2:{}\\/ "),
        *("file:///etc/passwd?{}", "gopher://127.0.0.2:{}/_GET", "ftp://127.0.0.2:{}/"),
        *("http://127.0.0.2:{}\r\nHost: good.example/", "dict://127.0.0.2:{}/"),
    ],
)
def test_urls_that_mislead_are_refused(template: str, internal: RawServer) -> None:
    """User names, backslashes, odd spellings and other schemes reach no server."""
    names = Names(good_example=PUBLIC)
    refused(fetcher(names, internal), template.format(internal.port), code="bad_url")
    assert names.asked == []


def test_a_name_is_resolved_once_and_the_answer_is_kept(internal: RawServer) -> None:
    """A name server that answers otherwise the second time (rebinding) isn't asked again."""
    with RawServer(always(response(b"public")), port=internal.port) as public:
        names = Names(evil_example=[["127.0.0.1"], ["127.0.0.2"]])
        one = fetcher(names, internal)
        assert fetched(one, f"http://evil.example:{internal.port}/")[1] == b"public"
        assert names.asked == ["evil.example"]
        # The next fetch asks again, and the address that it gets is judged again.
        assert refused(one, f"http://evil.example:{internal.port}/") == UNREACHABLE
    assert public.n_connections == 1


def test_the_system_is_not_asked_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting resolves nothing: only our resolver sees the name."""
    seen: list[object] = []
    system = socket.getaddrinfo

    def spy(host: object, *args: object, **kwargs: object) -> object:
        seen.append(host)
        return system(host, *args, **kwargs)  # type: ignore[arg-type]

    with RawServer(always(response(b"x"))) as server:
        monkeypatch.setattr(socket, "getaddrinfo", spy)
        fetched(fetcher(Names(good_example=PUBLIC), server), f"http://good.example:{server.port}/")
    assert set(seen) <= {"127.0.0.1"}


@pytest.mark.parametrize(
    "location",
    [
        *("http://127.0.0.2:{}/", "//127.0.0.2:{}/", "http://evil.example:{}/", "http://[::1]:{}/"),
        *("http://2130706434:{}/", "file:///etc/passwd?{}", "http://good.example@127.0.0.2:{}/"),
        *("gopher://127.0.0.2:{}/", "http://nowhere.example:{}/", "http://127.0.0.2\\:{}/"),
    ],
)
@pytest.mark.parametrize("status", ["301 Moved", "307 Temporary", "308 Permanent"])
def test_redirects_to_the_inside_are_refused(
    location: str, status: str, internal: RawServer
) -> None:
    """Each redirect is judged as a URL that somebody sends."""
    page = redirect(location.format(internal.port), status)
    with RawServer(always(page)) as server:
        names = Names(good_example=PUBLIC, evil_example=[["127.0.0.2"]])
        one = fetcher(names, server, internal)
        with pytest.raises(FetchError) as failure:
            fetched(one, f"http://good.example:{server.port}/")
    assert failure.value.code in ("fetch_failed", "bad_url")
    assert server.n_connections == 1


def test_a_redirect_whose_name_turns_is_judged_anew(internal: RawServer) -> None:
    """The same name, public before a redirect and internal after it, is refused after it."""
    with RawServer(always(redirect("/again")), port=internal.port) as public:
        names = Names(evil_example=[["127.0.0.1"], ["127.0.0.2"]])
        assert refused(fetcher(names, internal), f"http://evil.example:{internal.port}/") == (
            UNREACHABLE
        )
    assert public.n_connections == 1


def test_the_refusals_of_internal_hosts_are_alike(
    internal: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown, private, closed and open: the caller can't tell which; the log says why."""
    names = Names(open_example=[["127.0.0.2"]], gone_example=[["127.0.0.3"]], shut_example=PUBLIC)
    one = fetcher(names, internal)
    with caplog.at_level(logging.INFO):
        messages = {
            refused(one, f"http://{host}:{internal.port}/")
            for host in ("open.example", "gone.example", "unknown.example", "shut.example")
        }
    assert messages == {UNREACHABLE}
    assert "isn't public" in caplog.text
    assert "has no address" in caplog.text
    assert ".example" not in caplog.text


def test_only_the_usual_ports_are_fetched_from() -> None:
    """Another port than 80 and 443 is refused before the name is looked up."""
    names = Names(good_example=PUBLIC)
    one = HttpFetcher(max_bytes=MIB, resolve=names)
    for port in (22, 6379, 8000, 0, 65535):
        assert "80 and 443" in refused(one, f"http://good.example:{port}/", code="fetch_refused")
    assert names.asked == []


def test_only_listed_hosts_are_fetched_from() -> None:
    """With RAG_FETCH_HOSTS, other hosts are refused, after a redirect too."""
    names = Names(good_example=PUBLIC, other_example=PUBLIC, sub_good_example=PUBLIC)
    with RawServer(lambda _: [redirect(f"http://other.example:{server.port}/")]) as server:
        one = fetcher(names, server, hosts="good.example")
        for host in ("other.example", "sub.good.example", "127.0.0.1", "good.example"):
            message = refused(one, f"http://{host}:{server.port}/", code="fetch_refused")
            assert "RAG_FETCH_HOSTS" in message
    assert server.n_connections == 1
    assert names.asked == ["good.example"]


def test_loopback_is_refused_by_default() -> None:
    """Without a test's policy, this machine's own server isn't reached by any of its names."""
    with RawServer(always(response(b"x"))) as server:
        one = HttpFetcher(max_bytes=MIB, ports={server.port})
        for host in ("localhost", "127.0.0.1", "[::1]", socket.gethostname()):
            assert refused(one, f"http://{host}:{server.port}/") == UNREACHABLE
    assert server.n_connections == 0


def test_the_systems_resolver_gives_addresses() -> None:
    """The resolver that is used outside of tests answers with plain addresses."""
    assert set(resolve_by_system("localhost")) <= {"127.0.0.1", "::1"}


# TLS


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "good.example")


def test_the_certificate_is_checked_by_name(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """The pinned address doesn't matter to TLS: the right name passes, another one doesn't."""
    with RawServer(always(response(b"safe")), context=contexts[0]) as server:
        names = Names(good_example=PUBLIC, wrong_example=PUBLIC)
        one = fetcher(names, server, ssl_context=contexts[1])
        assert fetched(one, f"https://good.example:{server.port}/")[1] == b"safe"
        for host in ("wrong.example", "127.0.0.1"):
            assert "certificate" in refused(one, f"https://{host}:{server.port}/")
        # One that the system doesn't know.
        assert "certificate" in refused(
            fetcher(names, server), f"https://good.example:{server.port}/"
        )
    assert len(server.heads) == 1


def test_https_does_not_lead_to_http(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A redirect may raise the scheme and not lower it."""
    with ExitStack() as stack:
        plain = stack.enter_context(
            RawServer(lambda _: [redirect(f"https://good.example:{safe.port}/up")])
        )
        safe = stack.enter_context(
            RawServer(
                lambda head: [
                    response(b"top")
                    if b" /up " in head
                    else redirect(f"http://good.example:{plain.port}/")
                ],
                context=contexts[0],
            )
        )
        one = fetcher(Names(good_example=PUBLIC), plain, safe, ssl_context=contexts[1])
        assert fetched(one, f"http://good.example:{plain.port}/")[1] == b"top"
        message = refused(one, f"https://good.example:{safe.port}/", code="fetch_refused")
    assert "https to http" in message
    assert plain.n_connections == 1


# Bounded


def test_a_bomb_is_not_unpacked() -> None:
    """256 MiB of zeros in 256 KiB ends at the limit, after pieces of bounded size."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(16 * MIB)) for _ in range(16)) + packer.flush()
    page = response(bomb, headers="Content-Encoding: gzip\r\n")
    largest = 0

    def measure(piece: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(piece))

    with RawServer(always(page)) as server:
        one = fetcher(Names(good_example=PUBLIC), server, max_bytes=2 * MIB)
        with pytest.raises(FetchError, match="RAG_MAX_UPLOAD_MB") as failure:
            one.fetch(f"http://good.example:{server.port}/", measure, time.monotonic() + 20)
    assert failure.value.code == "too_large"
    assert 0 < largest <= 64 * 1024


def test_an_endless_body_ends_at_the_limit() -> None:
    """Without a length, chunked or not, no more than the limit is taken."""
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"

    def endless(head: bytes) -> Iterable[bytes]:
        if b"/chunked" in head:
            yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            while True:
                yield chunk
        yield response(length=False)
        while True:
            yield bytes(65536)

    with RawServer(endless) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        for path in ("/plain", "/chunked"):
            refused(one, f"http://good.example:{server.port}{path}", code="too_large")


def test_a_declared_length_above_the_limit_is_refused_at_once() -> None:
    """Nothing of it is read."""
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
    with RawServer(always(page)) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        refused(one, f"http://good.example:{server.port}/", code="too_large")


@pytest.mark.parametrize("where", ["head", "body", "start"])
def test_drops_do_not_prolong_the_deadline(where: str) -> None:
    """A byte now and then, or none at all, ends when the time for everything is over."""

    def slow(_: bytes) -> Iterable[bytes]:
        if where == "body":
            yield response(length=False)
        elif where == "head":
            yield b"HTTP/1.1 200 OK\r\nX-Slow: "
        for _ in range(50):
            time.sleep(0.1)
            yield b"" if where == "start" else b"x"

    with RawServer(slow) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        start = time.monotonic()
        refused(
            one,
            f"http://good.example:{server.port}/",
            code="fetch_timeout",
            timeout_seconds=0.6,
        )
        assert 0.5 < time.monotonic() - start < 1.5


def test_redirects_share_the_deadline() -> None:
    """Each of them may take long, all of them together may not."""

    def slow(_: bytes) -> Iterable[bytes]:
        time.sleep(0.3)
        yield redirect("/next")

    with RawServer(slow) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        start = time.monotonic()
        refused(one, f"http://good.example:{server.port}/", code="fetch_timeout",
                timeout_seconds=0.7)  # fmt: skip
        assert time.monotonic() - start < 1.5


def test_a_look_up_that_hangs_ends_at_the_deadline() -> None:
    """A name server that doesn't answer looks like an unknown name, in time."""
    release = threading.Event()

    def hang(_: str) -> list[str]:
        release.wait(10)
        return ["127.0.0.1"]

    one = HttpFetcher(max_bytes=MIB, resolve=hang)
    start = time.monotonic()
    assert refused(one, "http://good.example/", timeout_seconds=0.3) == UNREACHABLE
    assert time.monotonic() - start < 1.0
    release.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 100_000 + b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"",
        response(b"plain", headers="Content-Encoding: gzip\r\n"),
        response(gzip.compress(b"x" * 9999)[:-9], headers="Content-Encoding: gzip\r\n"),
        response(b"x", headers="Content-Encoding: br\r\n"),
        response(b"x", status="404 Not Found"),
        response(b"x", status="206 Partial Content"),
        response(b"x", status="302 Found"),
        redirect("http://[/"),
        redirect(""),
    ],
)
def test_broken_answers_are_errors(answer: bytes) -> None:
    """Huge heads, other protocols, cut bodies and wrong packing are one sentence, no surprise."""
    with RawServer(always(answer)) as server:
        one = fetcher(Names(good_example=PUBLIC), server)
        with pytest.raises(FetchError):
            fetched(one, f"http://good.example:{server.port}/")
