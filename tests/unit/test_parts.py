"""Large documents in parts: nothing is lost at the borders, and the blocks are the same."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdock.adapters.parsers import (
    delimited,
    json_text,
    markdown,
    pdf_pdfium,
    plain_text,
    source_code,
    text_stream,
)
from ragdock.adapters.parsers.parts import Scanner, scanned, split
from ragdock.adapters.parsers.text_stream import TextStream
from ragdock.core.chunking import PartChunker, chunk_document
from ragdock.errors import DocumentError
from ragdock.types import Block, BlockKind, Chunk, PageSpan, ParsedDocument
from support.files import DATA, joined, pdf_bytes

SCANNERS: dict[str, type[Scanner]] = {
    "guide.md": markdown.Scanner,
    "notes.txt": plain_text.Scanner,
    "catalogue.csv": delimited.Scanner,
    "events.jsonl": json_text.LineScanner,
    "thermostat.py": source_code.Scanner,
}
MARKDOWN_PIECES = (
    "# Top\n",
    "## Second level\n\n",
    "A paragraph of some words\nover two lines.\n\n",
    "Setext\n======\n",
    "- item\n- item two\n\n  with more\n",
    "```python\n# no heading\n\nx = 1\n```\n",
    "a | b\n--|--\n1 | 2\n3 | 4\n\n",
    "    indented code\n\n    and more\n\n",
    "> quoted\n\n",
    "---\n",
    "Ünïcödé 世界 😀.\r\n\r\n",
    "\n\n",
)


def words(text: str) -> int:
    return len(text.split())


def parts_of(content: bytes, scanner: Scanner, limit: int) -> list[ParsedDocument]:
    return list(scanned(TextStream(io.BytesIO(content)), scanner, limit))


def require_whole(parts: list[ParsedDocument], text: str) -> None:
    """The parts are the text, their blocks are in order and leave out nothing but white space."""
    whole = joined(parts)
    assert whole.text == text
    last = 0
    for block in whole.blocks:
        assert last <= block.start < block.end
        assert not text[last : block.start].strip()
        last = block.end
    assert not text[last:].strip()
    shares = [part.done for part in parts]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("name", SCANNERS)
@pytest.mark.parametrize("limit", [200, 700, 2**20])
def test_samples_have_the_same_blocks_in_parts(name: str, limit: int) -> None:
    """A sample file read in tiny parts has the blocks that it has as a whole."""
    content = (DATA / name).read_bytes()
    whole = SCANNERS[name]().whole(content)
    parts = parts_of(content, SCANNERS[name](), limit)
    require_whole(parts, whole.text)
    longest = max(block.end - block.start for block in whole.blocks)
    if longest <= limit:
        assert joined(parts).blocks == whole.blocks
        assert max(len(part.text) for part in parts) <= limit
    assert (len(parts) == 1) == (len(whole.text) <= limit)
    assert parts[0].title == whole.title


@pytest.mark.parametrize("name", SCANNERS)
def test_samples_have_the_same_passages_in_parts(name: str) -> None:
    """Passages of parts cover what those of the whole cover, are numbered on, and are exact."""
    content = (DATA / name).read_bytes()
    whole = SCANNERS[name]().whole(content)
    chunker = PartChunker(max_tokens=60, count_tokens=words)
    parts = parts_of(content, SCANNERS[name](), 500)
    chunks = [chunk for part in parts for chunk in chunker.chunks(part)]
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.text == whole.text[chunk.start : chunk.end]
    reference = chunk_document(whole, max_tokens=60, count_tokens=words)
    assert covered(chunks) == covered(reference)
    alone = PartChunker(max_tokens=60, count_tokens=words)
    assert alone.chunks(whole) == reference


def covered(chunks: Iterable[Chunk]) -> str:
    return "".join("".join(chunk.text.split()) for chunk in chunks)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(MARKDOWN_PIECES), max_size=30),
    st.integers(min_value=40, max_value=300),
)
def test_markdown_in_parts_is_the_same(pieces: list[str], limit: int) -> None:
    """Wherever the borders of parts fall, the blocks are those of the whole document."""
    text = "".join(pieces)
    whole = markdown.Scanner().whole(text.encode())
    parts = parts_of(text.encode(), markdown.Scanner(), limit)
    require_whole(parts, text)
    if all(block.end - block.start <= limit - 8 for block in whole.blocks):
        assert joined(parts).blocks == whole.blocks


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab \n\r\t.é世😀", max_size=400), st.integers(min_value=5, max_value=80))
def test_any_text_in_parts_is_whole(text: str, limit: int) -> None:
    """The parts of any text, joined, are the text."""
    require_whole(parts_of(text.encode(), plain_text.Scanner(), limit), text)


def test_parts_end_before_headings() -> None:
    """A part that is half full ends before a heading, and before all headings in a row."""
    body = "Words of a paragraph.\n\n" * 20
    text = f"# A\n\n{body}# B\n\n## B one\n\n{body}## B two\n\n{body}"
    parts = parts_of(text.encode(), markdown.Scanner(), 700)
    assert [part.text[:8].split("\n")[0] for part in parts] == ["# A", "# B", "## B two"]


def test_headings_go_on_into_the_next_part() -> None:
    """A passage in a later part has the heading path and the title of what was before."""
    text = "# Title\n\n## Section\n\n" + "A paragraph of several words.\n\n" * 60
    parts = parts_of(text.encode(), markdown.Scanner(), 500)
    assert len(parts) > 2
    chunker = PartChunker(max_tokens=40, count_tokens=words)
    chunks = [chunk for part in parts for chunk in chunker.chunks(part)]
    assert {chunk.context for chunk in chunks[1:]} == {"Title > Section"}


def test_a_table_cut_in_two_keeps_its_header() -> None:
    """Rows of a table that is longer than a part have the table's label, wherever they are."""
    rows = "".join(f"station {n} | {n * 7}\n" for n in range(200))
    parts = parts_of(f"Name | Value\n---|---\n{rows}".encode(), markdown.Scanner(), 400)
    assert len(parts) > 5
    assert {block.kind for part in parts for block in part.blocks} == {BlockKind.TABLE}
    chunker = PartChunker(max_tokens=40, count_tokens=words)
    chunks = [chunk for part in parts for chunk in chunker.chunks(part)]
    assert {chunk.context for chunk in chunks[1:]} == {"Name | Value"}


def test_code_longer_than_a_part_stays_code() -> None:
    """A fenced block that is cut is code on both sides of the border."""
    code = "```\n" + "# a comment\n\nx = 1\n" * 100 + "```\n\nText.\n"
    parts = parts_of(code.encode(), markdown.Scanner(), 300)
    kinds = [block.kind for part in parts for block in part.blocks]
    assert kinds == [BlockKind.CODE] * (len(kinds) - 1) + [BlockKind.PARAGRAPH]


def test_rows_keep_the_header_of_the_first_part() -> None:
    """CSV rows of all parts are labelled with the header row."""
    content = "name,value\n" + "".join(f"row {n},{n}\n" for n in range(500))
    parts = parts_of(content.encode(), delimited.Scanner(), 300)
    labels = {block.label for part in parts for block in part.blocks}
    assert labels == {"name, value", ""}
    assert sum(not block.label for part in parts for block in part.blocks) == 1


def test_lines_of_json_are_numbered_through() -> None:
    """A damaged line in a later part is named by its number, and a long line is kept whole."""
    good = json.dumps({"text": "x y " * 30}) + "\n"
    lines = good * 40 + json.dumps({"long": "word " * 1000}) + "\n" + "{broken\n" + good
    with pytest.raises(DocumentError, match="line 42") as caught:
        parts_of(lines.encode(), json_text.LineScanner(), 400)
    assert caught.value.code == "damaged"


def test_one_enormous_line_is_cut_at_white_space() -> None:
    """A text that is a single line of megabytes comes in parts between its words."""
    text = "word " * 400_000
    parts = parts_of(text.encode(), plain_text.Scanner(), 50_000)
    require_whole(parts, text)
    assert all(part.text.startswith("word ") for part in parts)
    assert max(len(part.text) for part in parts) <= 50_000


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_in_pieces(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters of several bytes survive wherever the pieces of the file are cut."""
    monkeypatch.setattr(text_stream, "_PIECE_BYTES", 7)
    text = "Ein Gerät für Größenmaße, naïve café façade.\r\n" * 50
    text += "" if encoding == "cp1252" else "世界 😀 — жизнь.\n"
    stream = TextStream(io.BytesIO(text.encode(encoding)), whole_bytes=0)
    assert stream.read(10**6) == text
    assert stream.done == 1.0


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("één\n".encode() * 1000 + b"\xff broken", "wrong_encoding", "line 1,001"),
        (b"words\n" * 1000 + b"a\0b", "binary", "byte 6,001"),
        (b"\xff\xfe" + b"a\0" * 1000 + b"x", "wrong_encoding", "byte 2,000"),
        (b"\xfd\xfe words \x81\x8d" * 100, "wrong_encoding", "byte 0x"),
        ("words here\n".encode("utf-16-le") * 100, "wrong_encoding", "looks like UTF-16"),
        (b"\x01\x02\x03\x04" * 1000, "binary", "control"),
        ("één ".encode() * 5 + b"\xc3", "wrong_encoding", "offset 30"),
    ],
    ids=["bytes", "nul", "half", "noise", "utf16", "controls", "end"],
)
def test_wrong_encodings_in_pieces(
    content: bytes, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file that is no text is refused before its first part, with the place."""
    monkeypatch.setattr(text_stream, "_PIECE_BYTES", 100)
    with pytest.raises(DocumentError, match=message) as caught:
        TextStream(io.BytesIO(content), whole_bytes=0)
    assert caught.value.code == code


# Documents that are read whole


def test_split_cuts_pages_where_they_begin() -> None:
    """A border between pages is the page's own beginning; a page that is cut goes on."""
    builder, at, blocks, pages = [], 0, [], []
    for number in range(1, 5):
        start = at
        for _ in range(3):
            text = f"Page {number} has words. " * 3
            at += 2 if builder else 0
            builder.append(text)
            blocks.append(Block(at, at + len(text) - 1, BlockKind.PARAGRAPH))
            at += len(text)
        pages.append(PageSpan(number, start, at, f"label {number}"))
    parsed = ParsedDocument("\n\n".join(builder), tuple(blocks), tuple(pages))
    parts = list(split(parsed, 300))
    assert joined(parts).text == parsed.text
    assert joined(parts).blocks == parsed.blocks
    for part in parts:
        for page in part.pages:
            assert page.label == f"label {page.number}"
            assert f"Page {page.number} " in part.text[page.start : page.end]
            assert page.number == 1 or f"Page {page.number - 1} " not in part.text[page.start :]


def test_small_documents_are_one_part() -> None:
    """A document that fits is handed on as it is."""
    parsed = ParsedDocument("Words.", (Block(0, 6, BlockKind.PARAGRAPH),))
    assert list(split(parsed)) == [parsed]


# PDF


def pages_of(n_pages: int) -> bytes:
    rng = random.Random(1)
    bodies = []
    for number in range(1, n_pages + 1):
        names = " ".join(rng.choices(["pump", "valve", "motor", "filter", "relay"], k=9))
        bodies.append(f"Service Manual\nUnit {number} has {names}.\nPage {number} of {n_pages}")
    return pdf_bytes(*bodies, title="Manual")


def test_pdf_in_parts_is_the_same() -> None:
    """Pages keep their numbers and their text, and running lines are gone from all parts."""
    content = pages_of(60)
    (whole,) = pdf_pdfium.parts(io.BytesIO(content), 1000)
    parts = list(pdf_pdfium.parts(io.BytesIO(content), 1000, limit=800))
    assert len(parts) > 4
    assert joined(parts) == ParsedDocument(whole.text, whole.blocks, whole.pages, "Manual")
    assert "Service Manual" not in whole.text
    assert [page.number for page in whole.pages] == list(range(1, 61))
    assert [part.done for part in parts] == sorted(part.done for part in parts)
    assert parts[-1].done == 1.0
