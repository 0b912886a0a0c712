"""DOCX: structure, and packages that are broken or hostile."""

from __future__ import annotations

import struct

import pytest

from ragdock.adapters.parsers import packages
from ragdock.adapters.parsers.docx_xml import parse
from ragdock.errors import DocumentError
from ragdock.types import BlockKind
from support.files import DATA, docx_bytes, docx_parts, paragraph, zip_bytes


def style(identifier: str) -> str:
    return f'<w:pStyle w:val="{identifier}"/>'


def item(list_id: int, level: int = 0) -> str:
    return f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{list_id}"/></w:numPr>'


def cell(text: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{paragraph(text)}</w:tc>"


def row(*cells: str) -> str:
    return f"<w:tr>{''.join(cells)}</w:tr>"


def code_of(content: bytes) -> str:
    with pytest.raises(DocumentError) as caught:
        parse(content)
    assert str(caught.value).endswith(".")
    return caught.value.code


def test_sample_report() -> None:
    """Title, headings with levels, a table with its header, and a list."""
    parsed = parse((DATA / "report.docx").read_bytes())
    assert parsed.title == "Osprey Bay Ferry: Annual Report 2024"
    headings = [(b.level, b.label) for b in parsed.blocks if b.kind is BlockKind.HEADING]
    assert headings == [
        (1, "Osprey Bay Ferry: Annual Report 2024"), (1, "Summary"), (1, "Operations"),
        (2, "Crossings by quarter"), (2, "Fares"), (2, "Crew"), (1, "Outlook"),
    ]  # fmt: skip
    table = next(b for b in parsed.blocks if b.kind is BlockKind.TABLE)
    assert table.label == "Quarter | Crossings | Passengers | Punctuality"
    assert "Q3 | 1,104 | 19,650 | 91.8 %" in parsed.text[table.start : table.end]
    assert "- Check the life rafts every Monday.\n- Log every crossing" in parsed.text


def test_runs_breaks_and_tabs() -> None:
    """Runs join, tabs are spaces, breaks are line ends, tab stops and soft hyphens are nothing."""
    body = (
        "<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>Hel</w:t></w:r><w:r>"
        '<w:t xml:space="preserve">lo </w:t><w:tab/><w:t>wor\u00adld</w:t><w:br/><w:t>x</w:t>'
        "<w:noBreakHyphen/><w:t>y</w:t></w:r></w:p>"
    )
    assert parse(docx_bytes(body)).text == "Hello world\nx-y"


def test_changes_and_fields_are_read_as_printed() -> None:
    """Inserted text stays, deleted and moved-away text and field codes are left out."""
    body = (
        "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText>"
        "</w:r></w:del><w:moveFrom><w:r><w:t>away</w:t></w:r></w:moveFrom>"
        "<w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
    )
    assert parse(docx_bytes(body)).text == "new"


def test_text_boxes_are_read_once() -> None:
    """The alternative content of a text box for old readers is not read again."""
    box = "<w:txbxContent>" + paragraph("In the box") + "</w:txbxContent>"
    space = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    body = (
        f'<w:p><w:r><mc:AlternateContent xmlns:mc="{space}"><mc:Choice>{box}</mc:Choice>'
        f"<mc:Fallback>{box}</mc:Fallback></mc:AlternateContent><w:t>Outside</w:t></w:r></w:p>"
    )
    assert parse(docx_bytes(body)).text == "In the box\n\nOutside"


def test_styles_are_inherited() -> None:
    """A style based on a heading is a heading; outline levels count; contents are left out."""
    styles = (
        '<w:style w:styleId="A"><w:name w:val="heading 2"/></w:style>'
        '<w:style w:styleId="B"><w:name w:val="Mine"/><w:basedOn w:val="A"/></w:style>'
        '<w:style w:styleId="C"><w:name w:val="toc 1"/></w:style>'
        '<w:style w:styleId="D"><w:name w:val="Loop"/><w:basedOn w:val="D"/></w:style>'
        '<w:style w:styleId="E"><w:name w:val="Title"/></w:style>'
    )
    body = (
        paragraph("Main", style("E"))
        + paragraph("Contents 1", style("C"))
        + paragraph("Mine", style("B"))
        + paragraph("Direct", '<w:outlineLvl w:val="2"/>')
        + paragraph("Text", style("D"))
    )
    parsed = parse(docx_bytes(body, styles=styles))
    assert [(str(b.kind), b.level, b.label) for b in parsed.blocks] == [
        ("heading", 1, "Main"), ("heading", 2, "Mine"), ("heading", 3, "Direct"),
        ("paragraph", 0, ""),
    ]  # fmt: skip
    assert parsed.title == "Main"


def test_lists_are_numbered() -> None:
    """Numbered levels count and begin anew below the next item; bullets are dashes."""
    numbering = (
        '<w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl>'
        '<w:lvl w:ilvl="1"><w:numFmt w:val="lowerLetter"/></w:lvl>'
        '<w:lvl w:ilvl="2"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num>'
    )
    levels = [0, 1, 1, 2, 0, 1]
    body = "".join(paragraph(f"i{n}", item(1, level)) for n, level in enumerate(levels))
    parsed = parse(docx_bytes(body + paragraph("End"), numbering=numbering))
    assert parsed.text == "1. i0\n  1. i1\n  2. i2\n    - i3\n2. i4\n  1. i5\n\nEnd"


def test_tables_are_rows() -> None:
    """Merged cells are repeated down, nested tables become text of their cell."""
    restart, merged, wide = '<w:vMerge w:val="restart"/>', "<w:vMerge/>", '<w:gridSpan w:val="2"/>'
    nested = f"<w:tc><w:tbl>{row(cell('x'), cell('y'))}</w:tbl>{paragraph('z')}</w:tc>"
    body = (
        f"<w:tbl>{row(cell('Land'), cell('City'))}{row(cell('Peru', restart), cell('Lima'))}"
        f"{row(cell('', merged), cell('Cusco'))}{row(cell('Wide', wide))}"
        f"{row(cell('In'), nested)}</w:tbl>"
    )
    parsed = parse(docx_bytes(body))
    assert parsed.text == "Land | City\nPeru | Lima\nPeru | Cusco\nWide\nIn | x | y z"
    assert parsed.blocks[0].label == "Land | City"


def test_one_column_tables_are_paragraphs() -> None:
    """A table of one column is a frame around text."""
    body = f"<w:tbl>{row(cell('Note'))}{row(cell('Text'))}</w:tbl>"
    assert [b.kind for b in parse(docx_bytes(body)).blocks] == [BlockKind.PARAGRAPH] * 2


def test_footnotes_follow() -> None:
    """Footnotes come after the text."""
    footnotes = f"<w:footnote>{paragraph('A note.')}</w:footnote>"
    assert parse(docx_bytes(paragraph("Text."), footnotes=footnotes)).text == "Text.\n\nA note."


def test_title_property() -> None:
    """The title is the document's property unless that says nothing."""
    for value, title in (("Real", "Real"), ("Untitled", "H"), ("a.docx", "H")):
        core = (
            '<cp:coreProperties xmlns:cp="c" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<dc:title>{value}</dc:title></cp:coreProperties>"
        )
        parts = docx_parts(paragraph("H", style("H1")))
        assert parse(zip_bytes({**parts, "docProps/core.xml": core})).title == title


# Broken and hostile packages


def test_truncated_package() -> None:
    """A package that ends early is named so."""
    content = (DATA / "report.docx").read_bytes()
    assert code_of(content[: len(content) // 2]) == "truncated"


def test_damaged_packages() -> None:
    """Wrong bytes, wrong XML and other archives are damaged."""
    good = bytearray((DATA / "report.docx").read_bytes())
    at = good.find(b"word/document.xml") + 100
    good[at : at + 50] = b"\xff" * 50
    assert code_of(bytes(good)) == "damaged"
    assert code_of(b"PK\x03\x04 nothing PK\x05\x06") == "damaged"
    assert code_of(b"not a zip") == "damaged"
    assert code_of(docx_bytes("<w:p>")) == "damaged"
    assert code_of(zip_bytes({"xl/workbook.xml": "<x/>"})) == "damaged"


def test_encrypted_packages() -> None:
    """A password, in either form, is named."""
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    assert code_of(ole + "EncryptedPackage".encode("utf-16-le")) == "encrypted"
    content = bytearray(docx_bytes(paragraph("x")))
    at = content.find(b"PK\x01\x02")
    while at >= 0:  # Set the encryption flag of every member in the directory.
        content[at + 8] |= 1
        at = content.find(b"PK\x01\x02", at + 4)
    assert code_of(bytes(content)) == "encrypted"


def test_old_word_is_unsupported() -> None:
    """A file of Word 97-2003 named .docx says what to do."""
    assert code_of(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)) == "unsupported"


def test_zip_bomb_by_ratio() -> None:
    """Megabytes that inflate a thousandfold are refused without inflating them all."""
    bomb = b"<w:p>" + b" " * (40 * 2**20)
    assert code_of(zip_bytes({**docx_parts(""), "word/document.xml": bomb})) == "bomb"


def test_zip_bomb_that_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds while inflating, whatever size the directory declares."""
    monkeypatch.setattr(packages, "_MAX_PART_BYTES", 300_000)
    content = bytearray(docx_bytes("".join(paragraph(f"word {n}") for n in range(20_000))))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.find(signature)
        while at >= 0:
            name = content[at + (30 if offset == 22 else 46) :][:17]
            if name == b"word/document.xml":
                struct.pack_into("<I", content, at + offset, 1000)
            at = content.find(signature, at + 4)
    assert code_of(bytes(content)) in ("bomb", "damaged")
    assert code_of(docx_bytes("".join(paragraph(f"word {n}") for n in range(20_000)))) == "bomb"


def test_too_many_members() -> None:
    """An archive of very many members is refused."""
    members = {f"m{n}": b"" for n in range(10_001)}
    assert code_of(zip_bytes({**docx_parts(paragraph("x")), **members})) == "bomb"


@pytest.mark.parametrize(
    "entity",
    [
        '<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
        '<!ENTITY b SYSTEM "file:///etc/passwd">',
        '<!ENTITY % p SYSTEM "http://127.0.0.1/x"> %p;',
    ],
)
def test_xml_entities_are_refused(entity: str) -> None:
    """Entity bombs and external entities are refused before they expand."""
    document = (
        f"<?xml version='1.0'?><!DOCTYPE x [{entity}]>"
        '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
        "<w:body><w:p><w:r><w:t>&b;</w:t></w:r></w:p></w:body></w:document>"
    )
    assert code_of(zip_bytes({**docx_parts(""), "word/document.xml": document})) == "bomb"


def test_deep_nesting_is_refused() -> None:
    """Elements nested very deep are refused."""
    deep = "<w:sdt>" * 1000 + "</w:sdt>" * 1000
    assert code_of(docx_bytes(deep)) == "too_complex"
