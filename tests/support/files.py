"""Files for parser tests, written byte by byte so that each test says what is in them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

from ragdock.adapters.parsers import formats
from ragdock.core.media import detect_media_type
from ragdock.ports import Parser
from ragdock.types import Block, PageSpan, ParsedDocument

__all__ = [
    "CRASHING_LABELS",
    "DATA",
    "LABELS",
    "SAMPLES",
    "docx_bytes",
    "docx_parts",
    "joined",
    "parse_sample",
    "pdf_bytes",
    "read",
    "summary",
    "tar_bytes",
    "zip_bytes",
]

DATA = Path(__file__).parent.parent / "data"
SAMPLES = (
    "handbook.pdf", "report.docx", "page.html", "guide.md", "notes.txt", "catalogue.csv",
    "stations.json", "events.jsonl", "thermostat.py", "railway.pptx", "boatyard.xlsx",
    "lighthouse.odt", "rainfall.ods", "bees.odp", "caravan.epub", "belfry.eml", "vineyard.rtf",
    "glacier.tex", "kiln.rst", "ferment.ipynb", "clockmaker.srt", "tides.vtt", "apiary.xml",
)  # fmt: skip
"""One readable file of every format."""

LABELS = "/PageLabels << /Nums [0 << /S /r >> 2 << /S /D >> 5 << /S /D /P (A-) >>] >>"
"""For a PDF's catalogue: pages i, ii, 1, 2, 3, A-1, A-2 and so on."""
CRASHING_LABELS = {
    "a tree that is its own branch": "/PageLabels 1 0 R /Kids [1 0 R]",
    "letters before all numbers": "/PageLabels << /Nums [0 << /S /A /St -2147483648 >>] >>",
    "letters beyond all numbers": "/PageLabels << /Nums [0 << /S /a /St 2147483647 >>] >>",
}
"""Likewise: those that crash PDFium (159.0.8149.0), where there are three pages."""

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_RELATIONSHIPS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Target="word/document.xml" Type='
    '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/>'
    "</Relationships>"
)
_STYLES = "".join(
    f'<w:style w:type="paragraph" w:styleId="H{n}"><w:name w:val="heading {n}"/></w:style>'
    for n in range(1, 7)
)


def parse_sample(name: str) -> ParsedDocument:
    """A file of the samples, parsed in this process."""
    content = (DATA / name).read_bytes()
    media_type = detect_media_type(name, None, content[:4096])
    assert media_type is not None
    return joined(formats.read(io.BytesIO(content), name, media_type, max_pages=1000))


def summary(parsed: ParsedDocument) -> dict[str, object]:
    """A parse as JSON: title, pages, and each block's kind, level, label and text."""
    return {
        "title": parsed.title,
        "pages": [[page.number, page.start, page.end] for page in parsed.pages],
        "blocks": [
            [block.kind.value, block.level, block.label, parsed.text[block.start : block.end]]
            for block in parsed.blocks
        ],
    }


def read(parser: Parser, content: bytes, filename: str, media_type: str) -> ParsedDocument:
    """The whole document that a parser makes of these bytes."""
    return joined(parser.parts(io.BytesIO(content), filename, media_type))


def joined(parts: Iterable[ParsedDocument]) -> ParsedDocument:
    """The document of its parts, which must follow each other."""
    text: list[str] = []
    blocks: list[Block] = []
    pages: list[PageSpan] = []
    title, at = "", 0
    for part in parts:
        assert part.start == at
        title = title if at else part.title
        text.append(part.text)
        blocks += [replace(b, start=b.start + at, end=b.end + at) for b in part.blocks]
        pages += [replace(p, start=p.start + at, end=p.end + at) for p in part.pages]
        at += len(part.text)
    return ParsedDocument("".join(text), tuple(blocks), tuple(pages), title)


def pdf_bytes(*pages: str, title: str = "", producer: str = "", catalogue: str = "") -> bytes:
    """A PDF with one line of text for each line of each page; object 1 is the catalogue."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalogue.encode(), b""]
    kids = []
    for text in pages:
        lines = [
            line.encode("cp1252")
            .replace(b"\\", b"\\\\")
            .replace(b"(", b"\\(")
            .replace(b")", b"\\)")
            for line in text.split("\n")
        ]
        stream = b"BT /F1 11 Tf 14 TL 50 800 Td " + b" ".join(b"(%s) Tj T*" % n for n in lines)
        stream += b" ET"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        kids.append(len(objects) + 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica "
            b"/Encoding /WinAnsiEncoding >> >> >> >>" % len(objects)
        )
    references = b" ".join(b"%d 0 R" % kid for kid in kids)
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (references, len(kids))
    objects.append(b"<< /Title (%s) /Producer (%s) >>" % (title.encode(), producer.encode()))
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        len(objects),
        start,
    )
    return bytes(out)


def zip_bytes(parts: dict[str, bytes | str]) -> bytes:
    """A ZIP archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes(parts: dict[str, bytes | str], *extra: tarfile.TarInfo) -> bytes:
    """A TAR archive of these members, after entries that are no files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info in extra:
            archive.addfile(info)
        for name, content in parts.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def docx_parts(body: str, **parts: str) -> dict[str, bytes | str]:
    """The parts of a DOCX with this body; `styles`, `numbering`, ... are parts beside it."""
    document = f'<w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>'
    parts.setdefault("styles", _STYLES)
    members: dict[str, bytes | str] = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": _RELATIONSHIPS,
        "word/document.xml": document,
    }
    for name, content in parts.items():
        members[f"word/{name}.xml"] = f'<w:{name} xmlns:w="{_WORD}">{content}</w:{name}>'
    return members


def docx_bytes(body: str, **parts: str) -> bytes:
    """A DOCX with this body; styles H1 to H6 are headings unless `styles` is given."""
    return zip_bytes(docx_parts(body, **parts))


def paragraph(text: str, properties: str = "") -> str:
    """A paragraph of a DOCX body."""
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{escape(text)}</w:t></w:r></w:p>"
