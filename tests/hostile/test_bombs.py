"""Files made to exhaust a server: small to send, endless to read."""

from __future__ import annotations

import gzip
import io
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator

import pytest

from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.core import media
from ragdock.errors import DocumentError
from ragdock.types import Bounds
from support.files import DATA, docx_parts, joined, zip_bytes

MEMORY_MB = 512
TIMEOUT_SECONDS = 20.0


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    """One pool for all: what one bomb leaves must not hurt the next file."""
    pool = ParserPool(TIMEOUT_SECONDS, MEMORY_MB, processes=1)
    yield pool
    pool.close()


def outcome(pool: ParserPool, content: bytes, media_type: str) -> tuple[str, float]:
    """(code or `parsed`, seconds)."""
    begin = time.monotonic()
    try:
        joined(pool.parts(io.BytesIO(content), "x", media_type))
    except DocumentError as exc:
        return exc.code, time.monotonic() - begin
    return "parsed", time.monotonic() - begin


def within(name: str, part: str, head: bytes = b"", size_mb: int = 210) -> bytes:
    """The sample with one part that inflates to hundreds of megabytes."""
    with zipfile.ZipFile(DATA / name) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    assert part in members
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, body in members.items():
            if member != part:
                archive.writestr(member, body)
        with archive.open(part, "w", force_zip64=True) as stream:
            stream.write(head)
            for _ in range(size_mb):
                stream.write(b" " * 2**20)
    return out.getvalue()


def flate_pdf(n_filters: int) -> bytes:
    """A page whose content inflates to 256 MB (or, packed thrice, from a few kilobytes)."""
    packer = zlib.compressobj(9)
    body = b"".join([packer.compress(b" " * 2**20) for _ in range(256)]) + packer.flush()
    for _ in range(n_filters - 1):
        body = zlib.compress(body, 9)
    filters = b"/FlateDecode " * n_filters
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R >>",
        b"<< /Length %d /Filter [%s] >>\nstream\n%s\nendstream" % (len(body), filters, body),
    ]
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % n for n in offsets)
    out += b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start
    return bytes(out)


LAUGHS = b"".join(
    b'<!ENTITY l%d "%s">' % (n, (b"&l%d;" % (n - 1)) * 10 if n else b"ha") for n in range(10)
)
ODS = (
    '<o:document-content xmlns:o="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:t="urn:'
    'oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:x="urn:oasis:names:tc:opendocument:xmlns:'
    'text:1.0"><o:body><o:spreadsheet><t:table>{}</t:table></o:spreadsheet></o:body>'
    "</o:document-content>"
)
ODS_ROW = (
    '<t:table-row t:number-rows-repeated="1048576"><t:table-cell t:number-columns-repeated="16384">'
    "<x:p>boom boom boom</x:p></t:table-cell></t:table-row>"
)
MAIL = b"From: a@b.c\nSubject: x\nContent-Type: multipart/mixed; boundary=b\n\n"
NESTED_MAIL = b"".join(
    b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(5000)
)

BOMBS: dict[str, tuple[str, Callable[[], bytes], set[str]]] = {
    "docx: a part of 210 MB": (
        media.DOCX, lambda: within("report.docx", "word/document.xml", b"<a>"), {"bomb"}),
    "docx: billion laughs": (
        media.DOCX,
        lambda: zip_bytes({**docx_parts(""), "word/document.xml":
                           b"<!DOCTYPE x [" + LAUGHS + b"]><x>&l9;</x>"}), {"bomb"}),
    "xlsx: a sheet of 210 MB": (
        media.XLSX, lambda: within("boatyard.xlsx", "xl/worksheets/sheet1.xml", b"<a>"), {"bomb"}),
    "pptx: a slide of 210 MB": (
        media.PPTX, lambda: within("railway.pptx", "ppt/slides/slide2.xml", b"<a>"), {"bomb"}),
    "epub: a chapter of 210 MB": (
        media.EPUB, lambda: within("caravan.epub", "OEBPS/text/one.xhtml"), {"bomb"}),
    "odt: a document of 210 MB": (
        media.ODT, lambda: within("lighthouse.odt", "content.xml", b"<a>"), {"bomb"}),
    "ods: cells repeated": (
        media.ODS, lambda: zip_bytes({"content.xml": ODS.format(ODS_ROW * 50)}),
        {"too_complex", "memory"}),
    "pdf: 256 MB of spaces": (
        media.PDF, lambda: flate_pdf(1), {"no_text", "memory", "timeout", "damaged"}),
    "pdf: 256 MB of spaces, packed thrice": (
        media.PDF, lambda: flate_pdf(3), {"no_text", "memory", "timeout", "damaged"}),
    "xml: billion laughs": (
        media.XML, lambda: b"<!DOCTYPE x [" + LAUGHS + b"]><x>&l9;</x>", {"bomb"}),
    "xml: quadratic entities": (
        media.XML,
        lambda: b"<!DOCTYPE x [<!ENTITY a '" + b"a" * 100_000 + b"'>]><x>" + b"&a;" * 100_000 +
        b"</x>", {"bomb"}),
    "xml: a file of the server": (
        media.XML, lambda: b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;b</x>",
        {"parsed"}),
    "xml: nested": (media.XML, lambda: b"<a>" * 1_000_000, {"too_complex"}),
    "xml: attributes": (
        media.XML,
        lambda: b"<a " + b" ".join(b"a%d='1'" % n for n in range(200_000)) + b">x</a>",
        {"parsed", "too_complex"}),
    "html: 100,000 attributes": (
        media.HTML,
        lambda: b"<div " + b" ".join(b"a%d=1" % n for n in range(100_000)) + b">x",
        {"too_complex"}),
    "html: 100,000 names of attributes": (
        media.HTML, lambda: b"".join(b"<p a%d>x" % n for n in range(100_000)), {"too_complex"}),
    "html: nested": (media.HTML, lambda: b"<div>" * 200_000, {"too_complex"}),
    "rtf: nested": (media.RTF, lambda: b"{\\rtf1 " + b"{" * 500_000, {"too_complex"}),
    "rtf: cells": (media.RTF, lambda: b"{\\rtf1 x" + b"\\cell x" * 50_000 + b"\\row}", {"parsed"}),
    "eml: 100,000 parts": (media.EML, lambda: MAIL + b"--b\n\nx\n" * 100_000, {"too_complex"}),
    "eml: nested": (media.EML, lambda: b"From: a@b.c\n" + NESTED_MAIL, {"too_complex"}),
    "eml: header": (
        media.EML, lambda: b"From: a@b.c\n" + b"To: x\n" * 500_000 + b"\nHello",
        {"too_complex", "parsed"}),
    "eml: one long encoded word": (
        media.EML, lambda: b"From: a@b.c\nSubject: " + b"=?utf-8?q?a?= " * 200_000 + b"\n\nHello",
        {"parsed"}),
    "ipynb: nested": (media.NOTEBOOK, lambda: b"[" * 3_000_000, {"too_complex", "memory"}),
    "json: nested": (media.JSON, lambda: b'{"a":' * 1_000_000, {"too_complex", "memory"}),
    "srt: 50,000 cues": (
        media.SUBRIP, lambda: b"00:00:00,000 --> 00:00:01,000\nx\n\n" * 50_000, {"parsed"}),
    "tex: nested": (media.LATEX, lambda: b"\\textbf{" * 300_000, {"parsed", "no_text"}),
    "tex: footnotes": (media.LATEX, lambda: b"\\footnote{a" * 200_000, {"parsed"}),
    "tex: definitions": (
        media.LATEX, lambda: b"a\\newcommand{\\x" + b"{" * 1_000_000, {"parsed"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(pool: ParserPool, name: str) -> None:
    """A bomb is refused with a reason, or read within the limits; the pool goes on."""
    media_type, build, expected = BOMBS[name]
    code, seconds = outcome(pool, build(), media_type)
    assert code in expected
    assert seconds < TIMEOUT_SECONDS + 5
    assert outcome(pool, b"<p>Hello", media.HTML)[0] == "parsed"


def test_no_entity_reads_a_file(pool: ParserPool) -> None:
    """An external entity stays unread: the text beside it is all there is."""
    content = b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;b</x>"
    parsed = joined(pool.parts(io.BytesIO(content), "x", media.XML))
    assert parsed.text == "b"


HEADS = {
    media.LATEX: b"", media.RST: b"", media.MARKDOWN: b"", media.CSV: b"a,b\n", media.WEBVTT:
    b"WEBVTT\n\n00:01.000 --> 00:02.000\nx", media.RTF: b"{\\rtf1 ", media.EML:
    b"From: a@b.c\nSubject: x\n\n", media.HTML: b"<p>", media.XML: b"<a>x",
}  # fmt: skip
RUNS = (
    b"a", b" ", b"\n", b"\t \n", b"\\", b"{", b"}", b"[", b"]", b"(", b"$", b"$a", b"%", b"&",
    b"~", b"`", b"``a", b":a:`", b"*", b"_a", b"=", b"-", b"=\n", b"+-", b"|", b"a|b\n", b"<",
    b"<a", b"<!--", b">", b"--", b"--a\n", b"'", b'"', b'"a\n', b",", b"a\\begin{", b"\\item",
    b"\\[", b"\\caption{", b"\\cite[", b"\\frac{a}{", b"\\multicolumn{1}{", b"\\'e", b"\\u1?",
    b"\\cell", b"\\par", b"\\bin1 ", b"- a\n", b"1. a\n", b".. a::\n", b":a: b\n", b" a\n",
    b"00:00:01,0 --> ", b"<v a>", b"&amp;", b"=?utf-8?q?a?=",
    b"Content-Type: multipart/a; boundary=b\n", b"![a](", b"[a]: b\n", b"# a\n",
)  # fmt: skip


@pytest.mark.parametrize("media_type", HEADS)
def test_long_runs_take_linear_time(pool: ParserPool, media_type: str) -> None:
    """Tens of thousands of any one thing are read within seconds, or refused."""
    slow = {}
    for run in RUNS:
        code, seconds = outcome(pool, HEADS[media_type] + run * (40_000 // len(run)), media_type)
        if seconds > 5.0 or code == "timeout":
            slow[run] = seconds
    assert slow == {}


def overlapping() -> bytes:
    """A thousand entries of a directory that all name the same 1 MB (D. Fifield's idea)."""
    whole = zip_bytes({"a": bytes(2**20)})
    at = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    entry = whole[at:end]
    directory = entry * 1000
    tail = bytearray(whole[end:])
    tail[8:12] = (1000).to_bytes(2, "little") * 2
    tail[12:16] = len(directory).to_bytes(4, "little")
    return whole[:at] + directory + bytes(tail)


PACKED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gzip: 300 MB of zeros": (media.GZIP, lambda: gzip.compress(bytes(300 * 2**20)), "bomb"),
    "zip: 300 MB of zeros": (media.ZIP, lambda: zip_bytes({"a": bytes(300 * 2**20)}), "bomb"),
    "zip: entries over each other": (media.ZIP, overlapping, "bomb"),
    "zip: 60,000 files": (
        media.ZIP, lambda: zip_bytes({str(n): b"" for n in range(60_000)}), "bomb"),
    "tar: a file of 8 TB that isn't there": (
        media.TAR,
        lambda: b"a".ljust(124, b"\0") + b"77777777777777"[:11] + b" 00000000000 ", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_bomb_of_an_archive(pool: ParserPool, name: str) -> None:
    """What inflates without end is stopped at the bounds, and the pool goes on."""
    media_type, build, expected = PACKED[name]
    content = io.BytesIO(build())
    sizes: list[int] = []

    def unpack() -> None:
        bounds = Bounds(1000, 100 * 2**20)
        for _, pieces in pool.members(content, "x", media_type, bounds):
            sizes.extend(map(len, pieces))

    begin = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        unpack()
    assert caught.value.code == expected
    assert sum(sizes) <= 100 * 2**20
    assert time.monotonic() - begin < TIMEOUT_SECONDS
    assert outcome(pool, b"<p>Hello", media.HTML)[0] == "parsed"
