"""PDF: pages, paragraphs, and files that can't be read."""

from __future__ import annotations

import io
import re

import pytest

from ragdock.adapters.parsers import pdf_labels, pdf_pdfium
from ragdock.core.chunking import chunk_document
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument
from support.files import DATA, LABELS, joined, pdf_bytes

MAX_PAGES = 20_000
SCAN = (DATA / "scan.pdf").read_bytes()
HANDBOOK = (DATA / "handbook.pdf").read_bytes()


def parse(content: bytes) -> ParsedDocument:
    return joined(pdf_pdfium.parts(io.BytesIO(content), MAX_PAGES))


def code_of(content: bytes) -> str:
    with pytest.raises(DocumentError) as caught:
        parse(content)
    assert str(caught.value).endswith(".")
    return caught.value.code


def test_sample_handbook() -> None:
    """Pages are spans of the text, lines are joined to paragraphs, the title is the metadata's."""
    parsed = parse(HANDBOOK)
    assert parsed.title == "Marlow Ridge Observatory Handbook"
    assert [page.number for page in parsed.pages] == [1, 2, 3]
    fact = parsed.text.index("washed with distilled water every 47 days")
    assert parsed.pages[1].start <= fact < parsed.pages[1].end
    assert "\n" not in parsed.text[parsed.blocks[1].start : parsed.blocks[1].end]
    assert parsed.text[: parsed.blocks[0].end] == "Marlow Ridge Observatory"


def test_chunks_know_their_page() -> None:
    """The passage with the fact of page 2 is on page 2."""
    chunks = chunk_document(parse(HANDBOOK), count_tokens=lambda text: len(text) // 4)
    (chunk,) = (chunk for chunk in chunks if "every 47 days" in chunk.text)
    assert chunk.page == 2


def labels(n_pages: int, catalogue: str) -> list[str]:
    # No line may repeat: those are left out.
    pages = ("abcdefghij"[n // 10] + "klmnopqrst"[n % 10] + " is a word." for n in range(n_pages))
    return [page.label for page in parse(pdf_bytes(*pages, catalogue=catalogue)).pages]


def test_pages_have_their_labels() -> None:
    """Roman front matter, text from 1 and an appendix are called what is printed on them."""
    assert labels(7, LABELS) == ["i", "ii", "1", "2", "3", "A-1", "A-2"]


@pytest.mark.parametrize(
    "catalogue",
    ["", "/PageLabels << /Nums [0 << /S /D >>] >>", "/PageLabels << /Nums [0 << >>] >>"],
)
def test_a_label_that_says_nothing_is_none(catalogue: str) -> None:
    """Without labels, with the page's own number and with empty ones, there is none."""
    assert labels(2, catalogue) == ["", ""]


@pytest.mark.parametrize(
    ("prefix", "label"),
    [
        ("(  Cover\\n page )", "Cover page"),
        ("<FEFF0041200B00AD202E0007FFFE0042>", "AB"),  # Marks that are not seen, and a bell.
        ("<FEFF004100200020FB01>", "A fi"),
        ("<FEFF0041D8000042>", "AB"),  # Half a surrogate pair.
        ("<FEFF00A7D83DDE00>", "§😀"),
        (f"({'x' * 32})", "x" * 32),
        (f"({'x' * 33})", ""),
        (f"({'x' * 1_000_000})", ""),
        ("(1)", ""),
        ("(01)", "01"),
    ],
)
def test_labels_are_clean_and_short(prefix: str, label: str) -> None:
    """No control characters, no halves of pairs; one that is too long to be a name is none."""
    assert labels(1, f"/PageLabels << /Nums [0 << /P {prefix} >>] >>") == [label]


@pytest.mark.parametrize(
    "tree",
    [
        "99 0 R", "(text)", "[0 << /S /r >>]", "<< >>", "<< /Nums 7 >>", "<< /Nums [0] >>",
        "<< /Nums [0 5 1 (x)] >>", "<< /Kids [7 (x) 99 0 R] >>",
        "<< /Kids [<< /Limits [9 2] /Nums [0 << /S /r >>] >>] >>", "<< /Nums [0 << /S /Nope >>] >>",
        "<< /Nums [9 << /S /r >>] >>",
    ],
)  # fmt: skip
def test_a_damaged_tree_of_labels_costs_labels_only(tree: str) -> None:
    """Whatever stands where labels should be, the pages are read, and have numbers."""
    assert labels(2, f"/PageLabels {tree}") == ["", ""]


def test_labels_that_cost_too_much_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that takes PDFium long to search is given up, and the pages are read."""
    monkeypatch.setattr(pdf_labels, "_CPU_SECONDS", 0.05)
    entries = " ".join(f"{10**6 + n} << /P (x) >>" for n in range(100_000))
    tree = f"/PageLabels << /Nums [0 << /S /r >> {entries}] >>"
    assert labels(100, tree) == [""] * 100
    assert labels(100, LABELS)[:2] == ["i", "ii"]


def test_passages_know_their_page_s_label() -> None:
    """A passage has the label of the page on which it starts."""
    pages = [f"Page of {word}. " * 40 for word in ("apples", "pears", "plums")]
    parsed = parse(pdf_bytes(*pages, catalogue=LABELS))
    chunks = chunk_document(parsed, count_tokens=lambda text: len(text) // 4)
    told = {(chunk.text.split()[2], chunk.page, chunk.page_label) for chunk in chunks}
    assert told == {("apples.", 1, "i"), ("pears.", 2, "ii"), ("plums.", 3, "1")}


def test_hyphenation_is_undone() -> None:
    """A word divided at the end of a line is one word; a hyphen before a capital stays."""
    long = "The rest of this line is long enough to be a full line of text"
    text = parse(pdf_bytes(f"{long}, a divi-\nded word. {long} and Anglo-\nSaxon.")).text
    assert "a divided word" in text
    assert "Anglo-" in text


def test_paragraphs_end_with_short_lines() -> None:
    """A line that ends a sentence early ends the paragraph; list items begin anew."""
    full = "This is a line of text that is about as long as all the others on the page are"
    page = f"A Heading\n{full}\n{full} and\nends.\n{full}.\n- one\n- two"
    blocks = parse(pdf_bytes(page)).blocks
    text = parse(pdf_bytes(page)).text
    assert [text[b.start : b.end].split(" ")[0] for b in blocks] == ["A", "This", "This", "-", "-"]


def test_running_lines_are_left_out() -> None:
    """Headers and page numbers that repeat on most pages are no text."""
    bodies = ["Alpha is here.", "Beta is here.", "Gamma is here.", "Delta is here.", "Eps is here."]
    pages = [
        f"Annual Report 2024\n{body}\nMore of it.\nEven more of it.\nPage {n} of 5"
        for n, body in enumerate(bodies, 1)
    ]
    text = parse(pdf_bytes(*pages)).text
    assert "Alpha is here." in text
    assert "Annual Report" not in text
    assert "of 5" not in text


def test_pages_without_text_keep_their_number() -> None:
    """An empty page has no span, and the next page keeps its number."""
    parsed = parse(pdf_bytes("First.", "", "Third."))
    assert [page.number for page in parsed.pages] == [1, 3]


@pytest.mark.parametrize("title", ["untitled", "Microsoft Word - a.doc", "report.pdf", ""])
def test_meaningless_titles_are_ignored(title: str) -> None:
    """A title that a program left behind is no title."""
    assert parse(pdf_bytes("Text.", title=title)).title == ""


def test_encrypted() -> None:
    """A PDF that needs a password says so."""
    assert code_of((DATA / "encrypted.pdf").read_bytes()) == "encrypted"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated(share: float) -> None:
    """A PDF that ends early is refused, not read in part."""
    assert code_of(HANDBOOK[: int(len(HANDBOOK) * share)]) == "truncated"


def test_damaged() -> None:
    """Files that only begin or end like a PDF are damaged."""
    assert code_of(b"%PDF-1.7\n" + b"garbage " * 100 + b"%%EOF") == "damaged"
    assert code_of(b"no pdf at all %%EOF") == "damaged"
    assert code_of(b"no pdf at all") == "damaged"


def test_scanned() -> None:
    """A PDF of pictures without text names OCR as the remedy."""
    with pytest.raises(DocumentError, match=r"scanned.*RAG_OCR=true"):
        parse(SCAN)
    assert code_of(SCAN) == "scanned"


def test_blank() -> None:
    """A PDF of empty pages is not scanned: there is nothing to recognise."""
    assert code_of(pdf_bytes("", "")) == "no_text"


def test_partly_scanned() -> None:
    """A PDF with some pictures of pages is read, and tells how many pages it could not read."""
    content = (DATA / "partly_scanned.pdf").read_bytes()
    parts = list(pdf_pdfium.parts(io.BytesIO(content), MAX_PAGES))
    assert sum(part.n_scanned for part in parts) == 1
    assert [page.number for page in joined(parts).pages] == [1, 3]
    assert "every 47 days" not in joined(parts).text


def sample(name: str) -> ParsedDocument:
    return parse((DATA / name).read_bytes())


def texts(parsed: ParsedDocument, kind: BlockKind) -> list[str]:
    return [parsed.text[b.start : b.end] for b in parsed.blocks if b.kind is kind]


def test_columns_are_read_one_after_the_other() -> None:
    """Columns that are drawn row by row are read from top to bottom, then from left to right."""
    parsed = sample("columns.pdf")
    paragraphs = texts(parsed, BlockKind.PARAGRAPH)
    openings = ["The salt works", "The rakers", "Since the bridge", "The salt works"]
    openings += ["The salt works", "The rakers", "Since the bridge"]  # Of page 2, in three columns.
    assert len(paragraphs) == len(openings)
    assert all(text.startswith(begin) for text, begin in zip(paragraphs, openings, strict=True))
    assert "to the height of a hand. Wind and sun do the rest." in paragraphs[0]


def test_titles_over_columns_divide_them() -> None:
    """What stands above and below a title over all columns stays above and below it."""
    parsed = sample("columns.pdf")
    headings = [(b.level, b.label) for b in parsed.blocks if b.kind is BlockKind.HEADING]
    assert headings == [
        (1, "The salt works of Ulverby and the people who rake the ponds"),
        (2, "What became of the barges in the years after the bridge"),
        (1, "Three columns of the same story"),
    ]
    kinds = [b.kind for b in parsed.blocks]
    assert kinds.index(BlockKind.HEADING, 1) == 3


def test_tables_are_rows() -> None:
    """Rows that stand in line are a table with its header; the text around them is none."""
    parsed = sample("tables.pdf")
    (table,) = [b for b in parsed.blocks if b.kind is BlockKind.TABLE]
    assert table.label == "Pond | Area | Harvest | Foreman"
    assert "Chapel | 440 m² | 87 t | Ida Brandt\n" in parsed.text[table.start : table.end]
    assert len(texts(parsed, BlockKind.PARAGRAPH)) == 2


def test_headings_by_size() -> None:
    """Short lines in larger letters than the text's are headings."""
    assert texts(parse(HANDBOOK), BlockKind.HEADING) == [
        "Marlow Ridge Observatory", "Care of the instruments", "In an emergency",
    ]  # fmt: skip


def test_headings_by_outline() -> None:
    """Where bookmarks name the headings, type does not matter."""
    blocks = sample("outline.pdf").blocks
    headings = [(b.level, b.label) for b in blocks if b.kind is BlockKind.HEADING]
    assert headings == [
        (1, "Repair of tide gates"), (2, "1 Inspection"), (3, "1.1 Hinges"), (3, "1.2 Seals"),
        (2, "2 Replacement"),
    ]  # fmt: skip


def test_text_of_one_size_has_no_headings() -> None:
    """Short lines alone are no headings, and single columns stay as they are."""
    page = "\n".join(f"Line {n} of a poem that is set in short lines" for n in range(40))
    parsed = parse(pdf_bytes(page))
    assert {b.kind for b in parsed.blocks} == {BlockKind.PARAGRAPH}
    numbers = re.findall(r"Line (\d+)", parsed.text)
    assert numbers == sorted(numbers, key=int)


def test_too_many_pages() -> None:
    """The number of pages is limited."""
    with pytest.raises(DocumentError, match="RAG_MAX_PAGES") as caught:
        joined(pdf_pdfium.parts(io.BytesIO(HANDBOOK), 2))
    assert caught.value.code == "too_complex"
