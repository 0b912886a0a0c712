"""URLs taken apart, and what their content is called."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.webfiles import Recoder, split_content_type, web_filename
from ragdock.core.weburls import HostRule, parse_web_url, url_id
from ragdock.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://example.org", "http://example.org/"),
        ("HTTPS://Example.ORG:443/a?b=c#d", "https://example.org/a?b=c"),
        ("http://example.org:/x", "http://example.org/x"),
        ("http://example.org:8080/", "http://example.org:8080/"),
        ("http://example.org./", "http://example.org/"),
        ("http://bücher.example/straße?q=ü", "http://xn--bcher-kva.example/stra%C3%9Fe?q=%C3%BC"),
        ("http://[2606:4700:0:0::1111]:80/", "http://[2606:4700::1111]/"),
        ("http://1.1.1.1/", "http://1.1.1.1/"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
        ("http://a.example?x", "http://a.example/?x"),
        ("http://good.example/@127.0.0.1", "http://good.example/@127.0.0.1"),
        ('http://a.example/"<x>', "http://a.example/%22%3Cx%3E"),
    ],
)
def test_urls_have_one_spelling(text: str, expected: str) -> None:
    """Case, default ports, fragments, IDNs and characters are brought into one form."""
    assert str(parse_web_url(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        # Schemes.
        *("file:///etc/passwd", "gopher://example.org/", "ftp://example.org/", "//example.org/"),
        *("data:text/plain,x", "javascript:alert(1)", "http:example.org", "http:/example.org", ""),
        # Somebody else's host behind a user name.
        *("http://good@127.0.0.1/", "http://good:x@127.0.0.1/", "http://127.0.0.1@good.example/"),
        *("http://@127.0.0.1/", "http://good.example%40127.0.0.1/", "http://a@b@c/"),
        # What one parser takes for a separator, and another one for a part of the host.
        *("http://good.example\\@127.0.0.1/", "http:\\\\127.0.0.1/", "http://127.0.0.1\\.good/"),
        *("http://good.example /", " http://good.example/", "http://good.example\t/"),
        *("http://good.example\r\nHost: x/", "http://good.example/\r\nX: y"),
        "http://go\u00adod.org/",
        *("http://good.example\u2028/", "http://good.example\u3000/", "http://good.example/\x00"),
        # Addresses in spellings that some resolvers understand.
        *("http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://127.1/"),
        *("http://0177.0.0.1/", "http://127.0.0.01/", "http://017700000001/", "http://127.0.1/"),
        *("http://1.2.3.4.5/", "http://256.1.1.1/", "http://0/", "http://example.0x1/"),
        # Hosts that aren't any.
        *("http://", "http:///x", "http://:80/", "http://.example/", "http://a..b/", "http://-a.b/"),
        *("http://a-.b/", "http://%31/", "http://a%2eb/", "http://[::1/", "http://::1/"),
        "http://[]/",
        *("http://[fe80::1%25eth0]/", "http://[::ffff:1.2.3.4]x/", "http://[v1.a]/"),
        *("http://１２７.０.０.１/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", f"http://{'a' * 64}.org/"),
        *(f"http://{'a.' * 127}org/", "http://a:99999999/", "http://a:x/", "http://a:-1/"),
        f"http://a.example/{'x' * 2048}",
    ],
)  # fmt: skip
def test_urls_that_could_mislead_are_refused(text: str) -> None:
    """Foreign schemes, user names, odd separators, odd addresses and broken hosts are no URLs."""
    with pytest.raises(InputError) as refusal:
        parse_web_url(text)
    assert refusal.value.code == "bad_url"


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Whatever follows the scheme makes a URL that parses to itself, or an `InputError`."""
    try:
        url = parse_web_url("http://" + text)
    except InputError:
        return
    assert str(url).isascii()
    assert parse_web_url(str(url)) == url


def test_ids_are_stable_and_distinct() -> None:
    """A URL's id reads like the URL; another query is another document, a fragment is not."""
    guide = url_id(parse_web_url("https://example.org/docs/guide.html?v=1"))
    assert guide.startswith("example.org-docs-guide.html-v-1-")
    assert guide == url_id(parse_web_url("https://EXAMPLE.org/docs/guide.html?v=1#top"))
    assert guide != url_id(parse_web_url("https://example.org/docs/guide.html?v=2"))
    assert len(url_id(parse_web_url(f"https://example.org/{'x' * 1000}"))) <= 200


def test_the_page_has_no_query() -> None:
    """What is kept of a URL leaves out the query, where signatures and tokens stand."""
    assert parse_web_url("https://e.org/a?sig=secret").page == "https://e.org/a"


def test_host_rules() -> None:
    """A name allows itself, a star allows what is below, nothing allows everything."""
    rule = HostRule("docs.example.org, *.Example.com")
    assert rule.allows("docs.example.org")
    assert rule.allows("a.b.example.com")
    for host in ("example.org", "x.docs.example.org", "example.com", "notexample.com", "1.1.1.1"):
        assert not rule.allows(host)
    assert HostRule("").allows("anything.example")
    for wrong in ("http://a.example", "a.example/x", "*", "a.*.b"):
        with pytest.raises(InputError):
            HostRule(wrong)


@pytest.mark.parametrize(
    ("url", "disposition", "media_type", "expected"),
    [
        ("http://e.org/guide.pdf?x=1", "", "application/pdf", "guide.pdf"),
        ("http://e.org/README.md", "", "text/plain", "README.md"),
        ("http://e.org/index.php", "", "text/html", "index.php.html"),
        ("http://e.org/docs/", "", "text/html", "e.org.html"),
        ("http://e.org/download", "", "application/pdf", "download.pdf"),
        ("http://e.org/data", "", "text/csv", "data.csv"),
        ("http://e.org/x", "", "application/octet-stream", "x"),
        ("http://e.org/x", 'attachment; filename="a \\"b\\".txt"', "", 'a "b".txt'),
        ("http://e.org/x", "attachment; filename=plain.csv", "text/csv", "plain.csv"),
        ("http://e.org/x", "a; filename=n.pdf; filename*=UTF-8''na%C3%AFve.pdf", "", "naïve.pdf"),
        ("http://e.org/x", 'a; filename="../../etc/passwd"', "text/plain", "passwd.txt"),
        ("http://e.org/x", 'a; filename="C:\\\\dir\\\\evil.md"', "", "evil.md"),
        ("http://e.org/%2e%2e%2fpasswd", "", "", "passwd"),
        ("http://e.org/a%00b%0d.md", "", "", "ab.md"),
        ("http://e.org/%E2%80%AEfdp.md", "", "", "fdp.md"),
    ],
)
def test_names_of_files(url: str, disposition: str, media_type: str, expected: str) -> None:
    """The server's name, the path or the host, without a path, with a suffix that tells."""
    assert web_filename(parse_web_url(url), disposition, media_type) == expected


def test_long_names_keep_their_suffix() -> None:
    """A name of many bytes is cut before its suffix."""
    name = web_filename(parse_web_url(f"http://e.org/{'ü' * 300}.pdf"), "", "")
    assert len(name.encode()) <= 200
    assert name.endswith("ü.pdf")


def test_content_types_are_split() -> None:
    """Type and charset come in lower case and without quotes."""
    assert split_content_type('Text/HTML; Charset="UTF-8"') == ("text/html", "utf-8")
    assert split_content_type("") == ("", "")


def recoded(content: bytes, media_type: str, charset: str) -> bytes:
    recoder = Recoder(media_type, charset)
    pieces = [recoder.feed(content[at : at + 3]) for at in range(0, len(content), 3)]
    return b"".join(pieces) + recoder.feed(b"", last=True)


def test_the_declared_charset_becomes_utf_8() -> None:
    """Text in a charset that only the header names is kept as UTF-8 with a mark."""
    text = "Zażółć gęślą jaźń. "
    for charset in ("iso-8859-2", "windows-1250", "utf-16-le"):
        assert recoded(text.encode(charset), "text/plain", charset) == (
            codecs.BOM_UTF8 + text.encode()
        )
    assert recoded("“x”".encode("cp1252"), "text/html", "ISO-8859-1").decode("utf-8-sig") == "“x”"
    long = text * 9000
    assert recoded(long.encode("cp1250"), "text/html", "cp1250").decode("utf-8-sig") == long


@pytest.mark.parametrize(
    ("content", "media_type", "charset"),
    [
        ("ü".encode(), "text/plain", "utf-8"),
        ("ü".encode(), "text/plain", ""),
        (b"\xef\xbb\xbfx", "text/plain", "iso-8859-2"),
        (b"%PDF-\xff", "application/pdf", "iso-8859-2"),
        (b"\xff\xfe\xfd", "text/plain", "shift_jis"),
        (b"abc", "text/plain", "zlib"),
        (b"abc", "text/plain", "unicode_escape"),
        (b"abc", "text/plain", "no-such-thing"),
        (b"", "text/plain", "iso-8859-2"),
    ],
)
def test_other_content_stays_as_it_is(content: bytes, media_type: str, charset: str) -> None:
    """UTF-8, marked, binary and wrongly declared content is passed on untouched."""
    assert recoded(content, media_type, charset) == content
