"""OCR of scanned pages, where the extra is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from ragdock.adapters.parsers import doors
from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.adapters.parsers.ocr_rapid import Word, scale_for
from ragdock.adapters.parsers.pdf_layout import lines_of_words
from ragdock.core.media import PDF
from ragdock.errors import ConfigurationError, DocumentError
from support.files import DATA, pdf_bytes, read

needs_ocr = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr") is None, reason="the extra `ocr` is not installed"
)


@pytest.fixture(scope="module")
def parser() -> Iterator[ParserPool]:
    """Children that read pictures."""
    with closing(ParserPool(120.0, 1024, processes=1, ocr=True)) as parser:
        yield parser


@needs_ocr
def test_a_scan_is_read(parser: ParserPool) -> None:
    """A scanned page becomes the text that was printed on it, in a child that is shut in."""
    parsed = read(parser, (DATA / "scan.pdf").read_bytes(), "scan.pdf", PDF)
    assert parsed.text.startswith("Care of the instruments")
    assert "The primary mirror is washed with distilled water every 47 days" in parsed.text
    assert [page.number for page in parsed.pages] == [1]
    assert parser.closed_to_children is not None
    assert doors.NETWORK in parser.closed_to_children


@needs_ocr
def test_scanned_pages_between_others_are_read(parser: ParserPool) -> None:
    """Text and pictures of text together give all pages, and none is counted as unread."""
    content = (DATA / "partly_scanned.pdf").read_bytes()
    parsed = read(parser, content, "partly.pdf", PDF)
    assert [page.number for page in parsed.pages] == [1, 2, 3]
    page = parsed.pages[1]
    assert "Tomas Okonkwo" in parsed.text[page.start : page.end]
    assert parsed.text.endswith("This page was never lost.")


@needs_ocr
def test_blank_pages_hold_no_text(parser: ParserPool) -> None:
    """A page without a picture is not looked at, and still holds no text."""
    with pytest.raises(DocumentError) as caught:
        read(parser, pdf_bytes("", ""), "blank.pdf", PDF)
    assert caught.value.code == "no_text"


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """OCR that is asked for and not installed is told at the start, with the remedy."""
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ConfigurationError, match=r"RAG_OCR.*pip install 'ragdock\[ocr\]'"):
        ParserPool(1.0, 256, ocr=True)


@needs_ocr
def test_too_little_memory_is_told() -> None:
    """OCR that would fail on every page for want of memory is told at the start."""
    with pytest.raises(ConfigurationError, match="RAG_PARSE_MEMORY_MB=1024"):
        ParserPool(1.0, 256, ocr=True)


@pytest.mark.parametrize("size", [(595, 842), (14400, 14400), (14400, 1), (0, 0), (72, 72)])
def test_pictures_are_bounded(size: tuple[float, float]) -> None:
    """Pages of any size become pictures of at most 1.9 megapixels and 200 dpi."""
    scale = scale_for(*size)
    assert 0 < scale <= 200 / 72
    assert max(size) * scale <= 1600.5
    assert size[0] * scale * size[1] * scale < 1.9e6


def test_recognised_columns_are_read_one_after_the_other() -> None:
    """Lines that were found side by side are two columns, as in a PDF with text."""
    words = [
        Word(f"{side} line {n} of the column", left, 40.0 * n, left + 480, 40.0 * n + 28)
        for n in range(12)
        for side, left in (("left", 100.0), ("right", 640.0))
    ]
    sides = [line.text.split()[0] for line in lines_of_words(words, 0.5)]
    assert sides == ["left"] * 12 + ["right"] * 12
