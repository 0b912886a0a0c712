"""Text formats: the text stays exactly the file's, and blocks are where a reader sees them."""

from __future__ import annotations

import codecs
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragdock.adapters.parsers import (
    building,
    delimited,
    json_text,
    markdown,
    plain_text,
    source_code,
)
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument
from support.files import DATA

Parse = Callable[[bytes], ParsedDocument]


def shape(parsed: ParsedDocument) -> list[tuple[str, str]]:
    """(kind, text) of the blocks."""
    return [(str(block.kind), parsed.text[block.start : block.end]) for block in parsed.blocks]


def labels(parsed: ParsedDocument) -> list[tuple[int, str]]:
    """(level, label) of the headings."""
    return [(b.level, b.label) for b in parsed.blocks if b.kind is BlockKind.HEADING]


# What holds for every file

PIECES = st.sampled_from(
    ["# H", "## ", "a", "word", "-", "--", "---", "===", "|", "a | b", "|-|-|", "```", "~~~", "> ",
     "- x", "1. ", "    ", "\t", "\n", "\n\n", "\r\n", " ", '"', "'", ",", ";", "{", "}",
     "def f():", "@d", "//", ":", "é", "好", "title: x", "<b>", "[x](y)", "*", "_"]
)  # fmt: skip
EXACT = [plain_text.parse, markdown.parse, source_code.parse, delimited.parse]


@pytest.mark.parametrize("parse", EXACT)
@given(st.lists(PIECES, max_size=40).map("".join))
@example('"\n')
@settings(max_examples=80, deadline=None)
def test_text_is_exact_and_covered(parse: Parse, source: str) -> None:
    """The text is the source, blocks ascend in it, and only white space lies between them."""
    parsed = parse(source.encode())
    assert parsed.text == source
    last = 0
    for block in parsed.blocks:
        assert last <= block.start < block.end
        assert not source[last : block.start].strip()
        assert source[block.start : block.end].strip() == source[block.start : block.end]
        last = block.end
    assert not source[last:].strip()


@pytest.mark.parametrize("name", ["guide.md", "notes.txt", "catalogue.csv", "events.jsonl"])
def test_offsets_cut_from_the_file(name: str) -> None:
    """A block's offsets, used on the file as decoded, give the block."""
    content = (DATA / name).read_bytes()
    parsers: dict[str, Parse] = {
        "md": markdown.parse,
        "txt": plain_text.parse,
        "csv": delimited.parse,
        "jsonl": json_text.parse_lines,
    }
    parsed = parsers[name.rpartition(".")[2]](content)
    assert parsed.text == content.decode()
    assert parsed.blocks


# Decoding


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_byte_order_marks(mark: bytes, encoding: str) -> None:
    """A byte-order mark decides the encoding and is no part of the text."""
    assert decode_text(mark + "Grüße, 世界 😀".encode(encoding)) == "Grüße, 世界 😀"


@pytest.mark.parametrize(
    "text", ["Der Bär aß süße Äpfel.", "Il a été à l’école – déjà vu…", "Price: 5 € or £4 (½)"]
)
def test_western_text_is_guessed(text: str) -> None:
    """Windows-1252 that reads like a Western language is accepted."""
    assert decode_text(text.encode("cp1252")) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Привет, как дела? Это русский текст.", "cp1251"),
        ("Привет, как дела? Это русский текст.", "koi8-r"),
        ("これは日本語の文章です。", "shift-jis"),
        ("这是中文文本。", "gb18030"),
        ("Zażółć gęślą jaźń, proszę bardzo. Tak było w książce.", "cp1250"),
        ("Αυτό είναι ένα κείμενο.", "cp1253"),
    ],
)
def test_other_encodings_are_recognised(text: str, encoding: str) -> None:
    """A sentence in the code page that its language used is read as what it says."""
    assert decode_text(b"ascii\n" + text.encode(encoding)) == "ascii\n" + text


def test_what_cannot_be_told_is_refused() -> None:
    """Bytes that are text in no encoding are refused, naming the offset and the remedy."""
    with pytest.raises(
        DocumentError, match=r"offset \d+ \(line 2\).*[Ss]ave it as UTF-8"
    ) as caught:
        decode_text(b"ascii\n" + b"\xfd\xfe words \x81\x8d" * 9)
    assert caught.value.code == "wrong_encoding"


def test_broken_utf8_is_refused() -> None:
    """UTF-8 with a broken byte is not mistaken for Windows-1252."""
    with pytest.raises(DocumentError, match=r"byte 0xFF at offset 8") as caught:
        decode_text("één één".encode()[:8] + b"\xff" + " één één één".encode())
    assert caught.value.code == "wrong_encoding"


@pytest.mark.parametrize(
    "content", [b"abc\0def", b"\x89PNG\0\0", bytes(range(256)), b"\x01\x02" * 9]
)
def test_binary_is_refused(content: bytes) -> None:
    """NUL bytes and masses of control characters are no text."""
    with pytest.raises(DocumentError, match="not text") as caught:
        decode_text(content)
    assert caught.value.code == "binary"


def test_utf16_without_mark_is_read() -> None:
    """UTF-16 needs no byte-order mark where the text shows what it is."""
    assert decode_text("plain words in UTF-16".encode("utf-16-le")) == "plain words in UTF-16"


def test_cut_utf16_is_refused() -> None:
    """UTF-16 that ends within a character is refused by its name."""
    with pytest.raises(DocumentError, match="UTF-16-LE"):
        decode_text(codecs.BOM_UTF16_LE + "ab".encode("utf-16-le")[:3])


# Plain text


def test_paragraphs_are_set_apart_by_blank_lines() -> None:
    """Wrapped lines belong together, blank lines divide."""
    parsed = plain_text.parse(b"One\nline.\n \nTwo.\r\n\r\nThree.\n")
    assert [text for _, text in shape(parsed)] == ["One\nline.", "Two.", "Three."]


def test_long_lines_are_paragraphs() -> None:
    """Where lines are too long to be wrapped by hand, each is a paragraph."""
    line = "A paragraph on one line. " * 6
    parsed = plain_text.parse(f"{line}\n{line}\nShort.".encode())
    assert len(parsed.blocks) == 3


# Markdown


def test_markdown_headings() -> None:
    """ATX and setext headings carry their level and the words a reader sees."""
    source = (
        "Title\n=====\n\n## A *b* `c_d` [e](http://f) ##\n### <a id=x></a>G\\_h {#id}\n"
        "Sub _title_\n---\n####### no\n#no\n###### deep\n"
    )
    assert labels(markdown.parse(source.encode())) == [
        (1, "Title"), (2, "A b c_d e"), (3, "G_h"), (2, "Sub title"), (6, "deep"),
    ]  # fmt: skip


def test_markdown_blocks() -> None:
    """Lists, fences, tables, quotes and indented code are blocks of their kind."""
    source = (
        "Intro\nline\n\n- a\n  more\n\n- b\n1. c\n\nText\n\n```py\n# no heading\n\n```\n\n"
        "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n> quote\n\n    code()\n\n    more()\n"
    )
    assert shape(markdown.parse(source.encode())) == [
        ("paragraph", "Intro\nline"),
        ("list", "- a\n  more\n\n- b\n1. c"),
        ("paragraph", "Text"),
        ("code", "```py\n# no heading\n\n```"),
        ("table", "| a | b |\n|---|:-:|\n| 1 | 2 |"),
        ("paragraph", "> quote"),
        ("code", "code()\n\n    more()"),
    ]


def test_markdown_table_header_is_label() -> None:
    """A table's label is its header row, without markup."""
    parsed = markdown.parse(b"**Name** | `Size` \\| x\n---|---\na|1\n")
    assert parsed.blocks[0].label == "Name | Size | x"


def test_markdown_front_matter() -> None:
    """Front matter is a record, and gives the title."""
    parsed = markdown.parse(b"---\r\ntitle: 'My: Title'\r\ntags: [a]\r\n---\r\n# Other\r\n")
    assert parsed.title == "My: Title"
    assert [str(block.kind) for block in parsed.blocks] == ["record", "heading"]


def test_markdown_rule_is_no_front_matter() -> None:
    """A rule at the top is not front matter; the title is the first heading then."""
    parsed = markdown.parse(b"---\n\nText: here\n\n---\n\n# Head\n")
    assert parsed.title == "Head"
    assert [str(block.kind) for block in parsed.blocks] == ["paragraph", "paragraph", "heading"]


def test_unclosed_fence_takes_the_rest() -> None:
    """A fence without an end reaches to the end of the file, as CommonMark says."""
    assert shape(markdown.parse(b"a\n\n```\n# b\n")) == [("paragraph", "a"), ("code", "```\n# b")]


def test_fence_within_list() -> None:
    """A fence inside an item does not end the list."""
    source = "- item\n\n  ```\n  # code\n\n  ```\n- next\n\nAfter\n"
    assert [kind for kind, _ in shape(markdown.parse(source.encode()))] == ["list", "paragraph"]


# Source code


def test_definitions_are_blocks() -> None:
    """Each definition is a block with its comments and decorators, labelled by its first line."""
    source = (
        '"""Doc."""\n\nimport os\n\n# About f.\n@cache\ndef f(\n    a,\n):\n    return a\n\n\n'
        "class C:\n    x = 1\n\n    def g(self):\n        pass\n"
    )
    parsed = source_code.parse(source.encode())
    assert [block.label for block in parsed.blocks] == ["", "", "def f(", "class C:"]
    assert parsed.text[parsed.blocks[2].start :].startswith("# About f.\n@cache\ndef f(")


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        ("#include <a.h>\n\nint main(int n)\n{\n  return 0;\n}\n\nvoid f() {\n}\n",
         ["", "int main(int n)", "void f() {"]),
        ("package a\n\n// F does.\nfunc F() {\n}\n\ntype T struct {\n}\n",
         ["", "func F() {", "type T struct {"]),
        ("pub fn a() {\n}\nimpl B for C {\n}\n", ["pub fn a() {", "impl B for C {"]),
        ("def a\n  1\nend\n\nclass B < C\nend\n", ["def a", "class B < C"]),
        ("CREATE TABLE x (\n  y int\n);\n\nSELECT 1;\n", ["CREATE TABLE x (", ""]),
    ],
)  # fmt: skip
def test_definitions_of_many_languages(source: str, labels: list[str]) -> None:
    """No grammar is needed to find definitions in languages that people indent."""
    assert [block.label for block in source_code.parse(source.encode()).blocks] == labels


# CSV and TSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_rows_carry_the_header(delimiter: str) -> None:
    """Every row is a record labelled with the header, whatever the delimiter."""
    rows = [["name", "size", "note"], ["a", "1", "x, y; z"], ["b", "2", '"q"']]
    source = "\n".join(
        delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows
    )
    parsed = delimited.parse(source.encode())
    assert [(str(b.kind), b.label) for b in parsed.blocks] == [
        ("table", ""), ("record", "name, size, note"), ("record", "name, size, note"),
    ]  # fmt: skip


def test_rows_with_line_breaks_are_one_record() -> None:
    """A quoted line break does not end a row."""
    parsed = delimited.parse(b'k,v\na,"one\ntwo ""x""\n\nthree"\nb,2\n')
    assert [text for _, text in shape(parsed)] == [
        "k,v", 'a,"one\ntwo ""x""\n\nthree"', "b,2",
    ]  # fmt: skip


def test_open_quotation_does_not_swallow_the_file() -> None:
    """A quotation that never closes costs one row, not all that follow."""
    source = 'k,v\na,"oops\n' + "b,2\n" * 600
    assert len(delimited.parse(source.encode()).blocks) == 602


def test_rows_without_header() -> None:
    """A first row of numbers is no header."""
    parsed = delimited.parse(b"1,2\n3,4\n")
    assert [(str(b.kind), b.label) for b in parsed.blocks] == [("record", ""), ("record", "")]


# JSON


def test_array_of_objects_is_records() -> None:
    """Each object of a top-level array is a record of `name: value` lines."""
    parsed = json_text.parse((DATA / "stations.json").read_bytes())
    assert shape(parsed)[1] == (
        "record",
        "station: Drumlin Flats\nelevation_m: 37\nestablished: 1984\nkeeper: Mirela Fonseca",
    )


def test_nested_values_have_paths() -> None:
    """Nested values are lines with their path; numbers stay as written, nulls are left out."""
    source = (
        '{"title": "T", "a": {"b": [1.50, true, null, ""]}, "items": [{"n": {"x": 1}}, {"n": 2}],'
        ' "big": 123456789012345678901234567890}'
    )
    parsed = json_text.parse(source.encode())
    assert parsed.text == (
        "title: T\na.b[0]: 1.50\na.b[1]: true\n\nitems[0].n.x: 1\n\nitems[1].n: 2\n\n"
        "big: 123456789012345678901234567890"
    )
    assert parsed.title == "T"


def test_scalars_are_text() -> None:
    """A document that is one string is that string; illegal characters are replaced."""
    assert json_text.parse(rb'"a\u0000b\ud800c"').text == "a\ufffdb\ufffdc"


@pytest.mark.parametrize("source", ['{"a": 1', "[1, 2", "{'a': 1}", "nope"])
def test_broken_json_is_damaged(source: str) -> None:
    """JSON that can't be read names line and column."""
    with pytest.raises(DocumentError, match=r"line 1, column \d") as caught:
        json_text.parse(source.encode())
    assert caught.value.code == "damaged"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_json_is_too_complex(opening: str) -> None:
    """Nesting that would exhaust the stack is refused."""
    with pytest.raises(DocumentError, match="nested too deeply") as caught:
        json_text.parse((opening * 100_000).encode())
    assert caught.value.code == "too_complex"


def test_json_lines_are_records() -> None:
    """Each line of JSON Lines is a record, and the text is the file."""
    parsed = json_text.parse_lines(b'{"a": 1}\r\n\n[2]\n')
    assert shape(parsed) == [("record", '{"a": 1}'), ("record", "[2]")]


def test_broken_json_line_is_named() -> None:
    """A line that isn't JSON is named."""
    with pytest.raises(DocumentError, match="line 3") as caught:
        json_text.parse_lines(b'{"a": 1}\n\n{"a": \n')
    assert caught.value.code == "damaged"


# Bounds


def test_small_blocks_are_joined_in_huge_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a number of blocks, neighbours of one kind share a block: memory stays bounded."""
    monkeypatch.setattr(building, "_JOIN_FROM", 10)
    parsed = plain_text.parse(b"ab\n\n" * 2000)
    assert len(parsed.blocks) < 20


def test_too_many_headings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be joined is refused past a limit."""
    monkeypatch.setattr(building, "MAX_BLOCKS", 50)
    with pytest.raises(DocumentError, match="more than 50") as caught:
        markdown.parse(b"# a\n" * 100)
    assert caught.value.code == "too_complex"
