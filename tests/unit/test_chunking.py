"""Passages: what holds for every document, and how a reader would want it."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdock.core.chunking import CHUNKER_ID, chunk_document
from ragdock.core.sentences import sentence_spans
from ragdock.core.spans import overlong_word_spans
from ragdock.types import Block, BlockKind, Chunk, PageSpan, ParsedDocument


def words(text: str) -> int:
    """A tokenizer whose tokens do not span white space: four characters a token."""
    return sum(-(-len(word) // 4) for word in text.split())


def document(*parts: tuple[BlockKind, int, str] | str, title: str = "") -> ParsedDocument:
    """A document of paragraphs (strings) and of (kind, level, text)."""
    text, blocks = "", []
    for part in parts:
        kind, level, body = (BlockKind.PARAGRAPH, 0, part) if isinstance(part, str) else part
        label = body if kind is BlockKind.HEADING else ""
        if kind in (BlockKind.TABLE, BlockKind.RECORD):
            label = body.split("\n")[0]
        blocks.append(Block(len(text), len(text) + len(body), kind, level, label))
        text += body + "\n\n"
    return ParsedDocument(text, tuple(blocks), title=title)


def heading(level: int, text: str) -> tuple[BlockKind, int, str]:
    return BlockKind.HEADING, level, text


def sentence(n_words: int, word: str = "word") -> str:
    return " ".join([word.capitalize(), *[word] * (n_words - 1)]) + "."


def texts(chunks: tuple[Chunk, ...]) -> list[str]:
    return [chunk.text for chunk in chunks]


# What holds for every document

_WORDS = st.text(
    alphabet=st.sampled_from([*"abcXYZ019.!?,;:()-|#\"'你好。อ้é😀"]), min_size=1, max_size=30
)
_SPACE = st.sampled_from([" ", "  ", "\n", "\t", "\n\n", "\u3000", "\r\n"])
_BODY = st.lists(st.tuples(_WORDS, _SPACE), min_size=1, max_size=40).map(
    lambda pairs: "".join(word + space for word, space in pairs).strip()
)
_BLOCK = st.tuples(st.sampled_from(BlockKind), st.integers(1, 6), _BODY)


@st.composite
def documents(draw: st.DrawFn) -> ParsedDocument:
    """Any blocks with any white space between them, and pages that cover the text."""
    text, blocks = draw(st.sampled_from(["", "\n", "  "])), []
    for kind, level, body in draw(st.lists(_BLOCK, max_size=12)):
        label = draw(_BODY) if draw(st.booleans()) else ""
        level = level if kind is BlockKind.HEADING else 0
        blocks.append(Block(len(text), len(text) + len(body), kind, level, label))
        text += body + draw(_SPACE)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    edges = [0, *cuts, len(text)]
    pages = [PageSpan(n, a, b) for n, (a, b) in enumerate(pairwise(edges), 1)]
    return ParsedDocument(text, tuple(blocks), tuple(pages), title=draw(_BODY))


LIMITS = st.sampled_from([8, 32, 64, 200])


@given(documents(), LIMITS, st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_chunks_are_stretches_of_the_text(
    parsed: ParsedDocument, max_tokens: int, overlap: int
) -> None:
    """Every chunk is text[start:end] without white space around it, numbered and ascending."""
    chunks = chunk_document(
        parsed, max_tokens=max_tokens, count_tokens=words, overlap_sentences=overlap
    )
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.text == parsed.text[chunk.start : chunk.end]
        assert chunk.text
        assert chunk.text == chunk.text.strip()
        assert len(chunk.context) <= 200
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        assert overlap or before.end <= after.start


@given(documents(), LIMITS, st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_chunks_keep_the_limit(parsed: ParsedDocument, max_tokens: int, overlap: int) -> None:
    """Context and text together never have more tokens than allowed."""
    for chunk in chunk_document(
        parsed, max_tokens=max_tokens, count_tokens=words, overlap_sentences=overlap
    ):
        assert words(chunk.context) + words(chunk.text) <= max_tokens


@given(documents(), LIMITS)
@settings(max_examples=50, deadline=None)
def test_chunks_cover_the_text(parsed: ParsedDocument, max_tokens: int) -> None:
    """What lies between chunks is white space."""
    last = 0
    for chunk in chunk_document(parsed, max_tokens=max_tokens, count_tokens=words):
        assert not parsed.text[last : chunk.start].strip()
        last = chunk.end
    assert not parsed.text[last:].strip()


@given(documents(), LIMITS, st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_chunks_do_not_cross_sections(
    parsed: ParsedDocument, max_tokens: int, overlap: int
) -> None:
    """A heading of level 1 or 2 is inside a chunk only if nothing but headings stands before."""
    body = [block for block in parsed.blocks if block.kind is not BlockKind.HEADING]
    tops = [b for b in parsed.blocks if b.kind is BlockKind.HEADING and b.level <= 2]
    for chunk in chunk_document(
        parsed, max_tokens=max_tokens, count_tokens=words, overlap_sentences=overlap
    ):
        for top in tops:
            if chunk.start < top.start < chunk.end:
                before = [b for b in body if b.end > chunk.start and b.start < top.start]
                assert not before


@given(documents(), LIMITS)
@settings(max_examples=50, deadline=None)
def test_pages_are_where_chunks_start(parsed: ParsedDocument, max_tokens: int) -> None:
    """A chunk's page holds the chunk's first character."""
    pages = {page.number: page for page in parsed.pages}
    for chunk in chunk_document(parsed, max_tokens=max_tokens, count_tokens=words):
        assert chunk.page is not None
        assert pages[chunk.page].start <= chunk.start < pages[chunk.page].end


@given(documents(), LIMITS)
@settings(max_examples=50, deadline=None)
def test_chunks_end_with_their_page(parsed: ParsedDocument, max_tokens: int) -> None:
    """A chunk goes beyond its page by no more than the sentence that began there."""
    for chunk in chunk_document(parsed, max_tokens=max_tokens, count_tokens=words):
        for page in parsed.pages:
            if chunk.start < page.start < chunk.end:
                rest = parsed.text[page.start : chunk.end].strip()
                assert rest == "" or len(sentence_spans(rest)) == 1


# How a reader would want it


def test_small_document_is_one_chunk() -> None:
    """Paragraphs that fit together stay together."""
    chunks = chunk_document(document("One.", "Two.", "Three."), count_tokens=words)
    assert texts(chunks) == ["One.\n\nTwo.\n\nThree."]


def test_long_paragraph_is_balanced() -> None:
    """A paragraph slightly above the limit is halved at a sentence, not cut with a small rest."""
    parsed = document(" ".join(sentence(10) for _ in range(11)))
    assert len(chunk_document(parsed, count_tokens=words)) == 1
    sizes = [
        words(chunk.text) for chunk in chunk_document(parsed, max_tokens=100, count_tokens=words)
    ]
    assert len(sizes) == 2
    assert min(sizes) >= 50


def test_paragraphs_are_not_cut_for_room() -> None:
    """A chunk ends between paragraphs, even if half a sentence more would fit."""
    paragraphs = [" ".join(sentence(9) for _ in range(6)) for _ in range(4)]
    chunks = chunk_document(document(*paragraphs), max_tokens=100, count_tokens=words)
    assert texts(chunks) == paragraphs


def test_sections_are_not_mixed() -> None:
    """A heading of level 2 begins a chunk, though both sections would fit in one."""
    parsed = document(
        heading(1, "Top"), "Intro.", heading(2, "A"), "Alpha.", heading(2, "B"), "Be."
    )
    chunks = chunk_document(parsed, count_tokens=words)
    assert texts(chunks) == ["Top\n\nIntro.", "A\n\nAlpha.", "B\n\nBe."]
    assert [chunk.context for chunk in chunks] == ["", "Top", "Top"]


def test_small_deep_sections_are_packed() -> None:
    """Small sections under headings of level 3 share a chunk; larger ones do not."""
    small = [part for n in range(3) for part in (heading(3, f"Sub {n}"), sentence(20))]
    chunks = chunk_document(document(heading(2, "Top"), *small), count_tokens=words)
    assert len(chunks) == 1
    large = [part for n in range(3) for part in (heading(3, f"Sub {n}"), sentence(80))]
    chunks = chunk_document(document(heading(2, "Top"), *large), count_tokens=words)
    assert [text.split("\n")[0] for text in texts(chunks)] == ["Top", "Sub 1", "Sub 2"]


def test_heading_stays_with_its_text() -> None:
    """A heading is never the end of a chunk when text follows."""
    parsed = document(sentence(90), heading(3, "Next"), sentence(90))
    chunks = chunk_document(parsed, max_tokens=110, count_tokens=words)
    assert [text.split("\n")[0][:4] for text in texts(chunks)] == ["Word", "Next"]


def test_context_is_title_and_path() -> None:
    """Chunks carry title and headings above them, but not the heading they start with."""
    parsed = document(
        heading(1, "Guide"), heading(2, "Setup"), sentence(120), sentence(120), title="The Manual"
    )
    chunks = chunk_document(parsed, max_tokens=150, count_tokens=words)
    assert [chunk.context for chunk in chunks] == ["The Manual", "The Manual > Guide > Setup"]


def test_title_is_not_repeated() -> None:
    """A title that is the first heading appears once, and not on the chunk it starts."""
    parsed = document(heading(1, "Guide"), sentence(50), heading(2, "Setup"), "Go.", title="Guide")
    chunks = chunk_document(parsed, count_tokens=words)
    assert [chunk.context for chunk in chunks] == ["", "Guide"]


def test_pages_are_not_mixed() -> None:
    """What fits in one chunk is still cut at the end of a page, so that the page is exact."""
    text = "First page.\n\nSecond page."
    blocks = (Block(0, 11, BlockKind.PARAGRAPH), Block(13, 25, BlockKind.PARAGRAPH))
    parsed = ParsedDocument(text, blocks, (PageSpan(1, 0, 11), PageSpan(2, 11, 25)))
    chunks = chunk_document(parsed, count_tokens=words)
    assert [(chunk.page, chunk.text) for chunk in chunks] == [
        (1, "First page."),
        (2, "Second page."),
    ]


def test_sentence_over_two_pages_stays_whole() -> None:
    """A sentence that goes on over the page belongs to the page on which it begins."""
    text = "It begins here and\n\ngoes on there. Next sentence."
    blocks = (Block(0, 18, BlockKind.PARAGRAPH), Block(20, len(text), BlockKind.PARAGRAPH))
    parsed = ParsedDocument(text, blocks, (PageSpan(1, 0, 18), PageSpan(2, 18, len(text))))
    chunks = chunk_document(parsed, count_tokens=words)
    assert [(chunk.page, chunk.text) for chunk in chunks] == [
        (1, "It begins here and\n\ngoes on there."),
        (2, "Next sentence."),
    ]


def test_table_header_is_context() -> None:
    """The later chunks of a table carry its header row; the first has it in its text."""
    rows = "\n".join(["| name | price |", *(f"| item {n} | {n}.00 |" for n in range(40))])
    parsed = document(heading(1, "Prices"), (BlockKind.TABLE, 0, rows))
    chunks = chunk_document(parsed, max_tokens=80, count_tokens=words)
    assert len(chunks) > 2
    assert chunks[0].context == ""
    assert {chunk.context for chunk in chunks[1:]} == {"Prices\n| name | price |"}
    assert all(re.fullmatch(r"\| item .*\|", chunk.text, re.DOTALL) for chunk in chunks[1:])


def test_records_carry_their_label() -> None:
    """Every chunk of records carries the header row, which is not in their text."""
    blocks = (Block(0, 4, BlockKind.RECORD, 0, "k, v"), Block(5, 9, BlockKind.RECORD, 0, "k, v"))
    (chunk,) = chunk_document(ParsedDocument("a, 1\nb, 2", blocks), count_tokens=words)
    assert (chunk.text, chunk.context) == ("a, 1\nb, 2", "k, v")


def test_context_is_capped() -> None:
    """A long path keeps its ends; the context takes at most a third of the tokens."""
    path = [heading(level, f"Level {level} " + "x" * 60) for level in range(1, 6)]
    parsed = document(*path, sentence(300), title="T" * 150)
    chunks = chunk_document(parsed, count_tokens=words)
    assert all(len(chunk.context) <= 200 for chunk in chunks)
    assert chunks[-1].context.startswith("TTT")
    assert "Level 5" in chunks[-1].context
    for chunk in chunk_document(parsed, max_tokens=32, count_tokens=words):
        assert words(chunk.context) <= 10


def test_overlong_words_are_left_out() -> None:
    """Base64 between sentences is in no chunk, and no chunk reaches across it."""
    blob = "QUJD" * 400
    parsed = document(f"Before it. {blob} After it.", blob, "The end.")
    assert texts(chunk_document(parsed, count_tokens=words)) == [
        "Before it.",
        "After it.",
        "The end.",
    ]


def test_scripts_without_spaces_are_kept() -> None:
    """Long runs of Chinese or Thai are text: they are cut at sentences, and wholly covered."""
    chinese = "这是一个很长的句子用来测试分块。" * 100
    thai = "ภาษาไทยไม่มีช่องว่างระหว่างคำ" * 60
    assert overlong_word_spans(chinese + thai) == []
    chunks = chunk_document(document(chinese, thai), max_tokens=50, count_tokens=words)
    assert "".join(texts(chunks)) == chinese + thai
    assert all(text.endswith("。") for text in texts(chunks) if text[0] == "这")


def test_minified_json_is_kept() -> None:
    """Punctuation ends a word: minified data is no overlong word, and is cut beside it."""
    minified = "{" + ",".join(f'"key{n}":{n}' for n in range(300)) + "}"
    assert overlong_word_spans(minified) == []
    chunks = chunk_document(document(minified), max_tokens=60, count_tokens=words)
    assert "".join(texts(chunks)) == minified
    assert all(text[-1] in ",}:" for text in texts(chunks))


def test_long_sentence_is_cut_at_spaces() -> None:
    """A sentence above the limit is divided evenly between words."""
    parsed = document(" ".join(f"word{n:03}" for n in range(250)))
    chunks = chunk_document(parsed, max_tokens=100, count_tokens=words)
    assert all(re.fullmatch(r"(word\d{3} ?)+", text) for text in texts(chunks))
    sizes = [words(text) for text in texts(chunks)]
    assert max(sizes) - min(sizes) < 25


def test_long_records_are_cut_at_sentences() -> None:
    """A record with a long text is divided where its sentences end, a list of lines at lines."""
    record = '{"id": 1, "text": "' + " ".join(sentence(9, f"w{n}") for n in range(60)) + '"}'
    chunks = chunk_document(document((BlockKind.RECORD, 0, record)), count_tokens=words)
    assert len(chunks) > 2
    assert all(text.endswith(".") for text in texts(chunks[:-1]))
    lines = "\n".join(f"entry number {n} of the index" for n in range(100))
    chunks = chunk_document(document(lines), max_tokens=80, count_tokens=words)
    assert all(text.startswith("entry") and text.endswith("index") for text in texts(chunks))


def test_overlap_repeats_sentences() -> None:
    """With an overlap of one, a chunk begins with the last sentence of the chunk before."""
    body = " ".join(sentence(9, f"w{n}") for n in range(30))
    chunks = chunk_document(document(body), max_tokens=50, count_tokens=words, overlap_sentences=1)
    for before, after in pairwise(chunks):
        assert before.text.endswith(after.text.split(". ")[0] + ".")


def test_code_is_cut_at_blank_lines() -> None:
    """A long definition is cut where it has a blank line, and its first line is context."""
    body = ["class Big:"]
    for n in range(6):
        body += [f"    def method_{n}(self):", *(f"        call({n}, {i})" for i in range(5)), ""]
    text = "\n".join(body).rstrip()
    parsed = ParsedDocument(text, (Block(0, len(text), BlockKind.CODE, 0, "class Big:"),))
    chunks = chunk_document(parsed, max_tokens=70, count_tokens=words)
    assert [chunk.context for chunk in chunks] == ["", *["class Big:"] * (len(chunks) - 1)]
    assert all(chunk.text.startswith("def method_") for chunk in chunks[1:])


def test_nothing_gives_nothing() -> None:
    """A document without blocks has no chunks."""
    assert chunk_document(ParsedDocument("  \n", ()), count_tokens=words) == ()


def test_identity_is_stable() -> None:
    """The fingerprint names the chunker; changing what it does means changing this name."""
    assert CHUNKER_ID == "structure-1"


@pytest.mark.parametrize("unit", ["word ", "Short one. ", "a\n\n", "- item\n", "x", "好", "a,"])
def test_time_is_linear(unit: str) -> None:
    """100,000 characters of the worst material take a few seconds at most."""
    text = (unit * (100_000 // len(unit))).strip()
    blocks = [
        Block(m.start(), m.end(), BlockKind.PARAGRAPH)
        for m in re.finditer(r"\S(?:(?!\n\n).)*", text, re.DOTALL)
    ]
    begin = time.thread_time()
    chunk_document(ParsedDocument(text, tuple(blocks)), count_tokens=words)
    assert time.thread_time() - begin < 4.0
