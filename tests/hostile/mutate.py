"""Turns good files into bad ones, the same ones for the same seed."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

__all__ = ["mutant"]

TOKENS: tuple[bytes, ...] = (
    b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"%s%n",
    b"../../../etc/passwd", b"A" * 5000, b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\r", b"\x0b", b"\x1b[31m", b"<", b">", b"&", b"&#0;", b"&#x110000;",
    b"&amp;" * 200, b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?xml?>",
    b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"<table>", b"<p>" * 400, b"</p>" * 400, b"<div>" * 4000,
    b"<svg><title>", b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02", b"%PDF-", b"%%EOF", b"endobj",
    b"endstream", b"stream\r\n", b"/Length 99999999", b"/Kids [1 0 R]", b"/Count -1", b"/Prev 0",
    b"/Parent 3 0 R", b"xref\n0 1\n", b"obj\n<<" * 50, b"{", b"}", b"{" * 600, b"}" * 50,
    b"\\bin99999999 ", b"\\u-1?", b"\\u55357?\\u56832?", b"\\'zz", b"\\uc99999 ", b"{\\*",
    b"{\\pict ", b"\\cell" * 300, b"\\row", b"\\par" * 300, b"\\fcharset999 ", b"\\ansicpg99999 ",
    b"\\s-5", b"\\begin{itemize}", b"\\end{document}", b"\\begin{tabular}", b"\\frac{" * 50, b"$",
    b"$$", b"\\[", b"\\verb|", b"\\footnote{" * 60, b"\\def\\x{\\x\\x}\\x", b"\\section{",
    b"\\multicolumn{99}{c}{", b"\\\\" * 300,
    b"\nContent-Type: multipart/mixed; boundary=x\n\n--x\n", b"\n--x--\n", b"=?utf-8?B?////?=",
    b"=?x-no?q?=ff?=", b"\nContent-Transfer-Encoding: base64\n",
    b"\nContent-Type: text/html; charset=utf-7\n", b"\nDate: 99999\n",
    b"00:00:00,000 --> 99:99:99,999\n", b"-->", b"WEBVTT\n", b"[" * 500, b'{"cells": ' * 60,
    b'"source": 7,', b'"cell_type": "heading", "level": -1,', b"1e999", b"-1",
    b"18446744073709551616", b"NaN", b"Infinity", b'"' * 99, b"," * 999, b"\t" * 999, b"|" * 999,
    b"=" * 200 + b"\n", b"#" * 200 + b" x\n", b"```\n", b"- " * 200, b".. code::\n",
    b".. |x| image:: ", b"+--+--+\n", b"====  ====\n", b"`" * 300, b"[x](" * 100, b"\n" * 999,
)  # fmt: skip
NUMBERS = (
    "-1",
    "0",
    "1",
    "2147483648",
    "4294967295",
    "99999999999999999999",
    "1e400",
    "",
    "x",
    "NaN",
)
Mutator = Callable[[random.Random, bytes], bytes]


def mutant(seed: str, content: bytes) -> bytes:
    """A broken version of the file."""
    rng = random.Random(seed)
    if content.startswith(b"PK") and rng.random() < 0.75:
        return _zipped(rng, content)
    text = content.lstrip()[:1] in (b"<", b"{")
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        table = XML + BYTES if text else BYTES
        content = rng.choice(table)(rng, content)
    return content


# Bytes


def _flip(rng: random.Random, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 40)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _behead(rng: random.Random, content: bytes) -> bytes:
    return content[rng.randrange(1, 2 + len(content) // 4) :]


def _span(rng: random.Random, content: bytes, longest: int = 2000) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.randrange(1, longest))


def _repeat(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content, 200)
    return content[:start] + content[start:end] * rng.choice((2, 10, 500)) + content[end:]


def _delete(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def _swap(rng: random.Random, content: bytes) -> bytes:
    a, b = sorted(_span(rng, content, 500)[0] for _ in range(2))
    n = min(rng.randrange(1, 300), b - a)
    return (
        content[:a]
        + content[b : b + n]
        + content[a + n : b]
        + content[a : a + n]
        + content[b + n :]
    )


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(TOKENS) + content[at:]


def _noise(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content, 64)
    return content[:start] + rng.randbytes(end - start) + content[end:]


def _length(rng: random.Random, content: bytes) -> bytes:
    """Overwrite two, four or eight bytes with a length that lies."""
    size, code = rng.choice(((2, "<H"), (4, "<I"), (4, ">I"), (8, "<Q")))
    value = rng.choice((0, 1, 2**15, 2**16 - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
    value &= 2 ** (8 * size) - 1
    at = rng.randrange(max(1, len(content) - size))
    return content[:at] + struct.pack(code, value) + content[at + size :]


def _number(rng: random.Random, content: bytes) -> bytes:
    """Replace a number that is written out."""
    found = list(re.finditer(rb"\d+", content))[:5000]
    if not found:
        return _flip(rng, content)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NUMBERS).encode() + content[match.end() :]


BYTES: list[Mutator] = [
    _flip, _truncate, _behead, _repeat, _delete, _swap, _insert, _insert, _noise, _length, _number,
]  # fmt: skip


# XML and HTML


def _tags(content: bytes) -> list[re.Match[bytes]]:
    return list(re.finditer(rb"<[A-Za-z/][^<>]*>", content))[:20_000]


def _nest(rng: random.Random, content: bytes) -> bytes:
    tags = [tag for tag in _tags(content) if not tag[0].startswith(b"</")]
    if not tags:
        return _insert(rng, content)
    tag = rng.choice(tags)
    return content[: tag.start()] + tag[0] * rng.choice((3, 100, 5000)) + content[tag.end() :]


def _unclose(rng: random.Random, content: bytes) -> bytes:
    tags = _tags(content)
    if not tags:
        return _delete(rng, content)
    tag = rng.choice(tags)
    return content[: tag.start()] + content[tag.end() :]


def _exchange_tags(rng: random.Random, content: bytes) -> bytes:
    tags = _tags(content)
    if len(tags) < 2:
        return _swap(rng, content)
    a, b = sorted(rng.sample(tags, 2), key=lambda tag: tag.start())
    return content[: a.start()] + b[0] + content[a.end() : b.start()] + a[0] + content[b.end() :]


def _copy_element(rng: random.Random, content: bytes) -> bytes:
    tags = _tags(content)
    if len(tags) < 2:
        return _repeat(rng, content)
    first = rng.randrange(len(tags) - 1)
    last = min(len(tags) - 1, first + rng.randrange(1, 12))
    element = content[tags[first].start() : tags[last].end()]
    at = rng.choice(tags).start()
    return content[:at] + element * rng.choice((1, 5, 300)) + content[at:]


def _attributes(rng: random.Random, content: bytes) -> bytes:
    tags = [tag for tag in _tags(content) if not tag[0].startswith(b"</")]
    if not tags:
        return _insert(rng, content)
    end = rng.choice(tags).end() - 1
    junk = rng.choice((
        b" a='" + b"x" * 300_000 + b"'",
        b"".join(b" a%d=''" % n for n in range(rng.choice((50, 3000)))),
        b" xmlns='urn:other'", b" xmlns:w='urn:other'", b" a='&lt;' a='2'", b" r:id='rId999'",
    ))  # fmt: skip
    return content[:end] + junk + content[end:]


def _entities(rng: random.Random, content: bytes) -> bytes:
    levels = rng.choice((2, 10))
    laughs = b"".join(
        b'<!ENTITY l%d "%s">' % (n, (b"&l%d;" % (n - 1)) * 10 if n else b"ha")
        for n in range(levels)
    )
    declared = rng.choice((
        b"<!DOCTYPE x [%s]>" % laughs,
        b"<!DOCTYPE x [<!ENTITY l%d SYSTEM 'file:///etc/passwd'>]>" % (levels - 1),
        b"<!DOCTYPE x SYSTEM 'http://127.0.0.1:9/x.dtd'>",
        b"<!DOCTYPE x [<!ENTITY % p SYSTEM 'file:///etc/passwd'> %p;]>",
    ))  # fmt: skip
    head = re.match(rb"\s*<\?xml[^>]*\?>", content)
    at = head.end() if head else 0
    body = content[at:]
    gap = body.find(b">") + 1
    return content[:at] + declared + body[:gap] + b"&l%d;" % (levels - 1) + body[gap:]


XML: list[Mutator] = [
    _nest,
    _unclose,
    _exchange_tags,
    _copy_element,
    _attributes,
    _entities,
    _number,
]


# Archives


def _zipped(rng: random.Random, content: bytes) -> bytes:
    """Break a member and pack all anew, so that the damage is behind a valid checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    kind = rng.random()
    at = rng.randrange(len(members))
    name, body = members[at]
    if kind < 0.8:
        weights = [1 + len(data) for _, data in members]
        at = rng.choices(range(len(members)), weights)[0]
        name, body = members[at]
        for _ in range(rng.choice((1, 1, 2, 4))):
            table = XML + BYTES if body.lstrip()[:1] == b"<" else BYTES
            body = rng.choice(table)(rng, body)
        members[at] = (name, body)
    elif kind < 0.86:
        del members[at]
    elif kind < 0.92:
        members.append((name, members[rng.randrange(len(members))][1]))
    elif kind < 0.96:
        members[at] = (
            rng.choice(
                (
                    "../x",
                    "/etc/passwd",
                    "",
                    "a\0b",
                    "word/\ud83d.xml".encode("utf-8", "replace").decode(),
                )
            ),
            body,
        )
    else:
        members[at] = (name, body + zlib.compress(b"\0" * 10_000))
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
    ) as archive:
        seen = set()
        for name, body in members:
            if name in seen:
                name += "x"
            seen.add(name)
            archive.writestr(zipfile.ZipInfo(name or "x"), body)
    return out.getvalue()
