"""The package around a DOCX document: a ZIP of XML parts, opened with suspicion.

Only the parts that carry text are ever inflated, each within a limit that holds while it is
inflated, whatever the directory of the ZIP declares. A document type declaration, which no word
processor writes, is refused before an entity could expand.
"""

from __future__ import annotations

import io
import re
import xml.parsers.expat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from typing import Final, TypeAlias

from ragdock.errors import DocumentError

__all__ = ["Package", "Style"]

_MAX_MEMBERS: Final = 10_000
_MAX_PART_BYTES: Final = 200 * 2**20
_MAX_RATIO: Final = 200  # XML of real documents shrinks 5 to 50 times; deflate's limit is 1,032.
_RATIO_FROM_BYTES: Final = 10 * 2**20
_PIECE_BYTES: Final = 2**16

_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_ENCRYPTED: Final = "EncryptedPackage".encode("utf-16-le")
_END_OF_DIRECTORY: Final = b"PK\x05\x06"

_HEADING: Final = re.compile(r"heading ?([1-9])", re.IGNORECASE)
_NO_TITLE: Final = re.compile(r"(?:untitled.*|document\d*|word document|.*\.docx?)", re.IGNORECASE)

Attributes: TypeAlias = dict[str, str]
StartHandler: TypeAlias = Callable[[str, Attributes], None]


@dataclass(slots=True)
class Style:
    """What a paragraph style says: a heading's level or 0, the list it belongs to."""

    level: int = 0
    list_id: str = ""
    is_title: bool = False
    is_contents: bool = False
    parent: str = ""


class Package:
    """The parts of a DOCX file; every method raises `DocumentError` on what it can't trust."""

    def __init__(self, content: bytes) -> None:
        _refuse_ole(content)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            members = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            if content.startswith(b"PK\x03\x04") and _END_OF_DIRECTORY not in content[-70_000:]:
                raise DocumentError(
                    "The DOCX file ends early: the directory at its end is missing. Upload the "
                    "complete file.",
                    code="truncated",
                ) from None
            raise _damaged() from None
        if len(members) > _MAX_MEMBERS:
            raise _bomb(f"it has {len(members):,} members")
        self._members = {member.filename: member for member in members}
        self.main_part = self._find_main_part()

    def parse(
        self,
        part: str,
        start: StartHandler,
        end: Callable[[str], None] | None = None,
        characters: Callable[[str], None] | None = None,
    ) -> None:
        """Stream a part's XML to the handlers; names are `namespace local`. No part, no call."""
        member = self._members.get(part)
        if member is None:
            return
        parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = characters
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.buffer_text = True
        try:
            with self._open(member) as stream:
                size_bytes = 0
                while piece := stream.read(_PIECE_BYTES):
                    size_bytes += len(piece)
                    _check_size(size_bytes, member.compress_size)
                    parser.Parse(piece)
                parser.Parse(b"", True)
        except (
            zipfile.BadZipFile, zlib.error, EOFError, ValueError, xml.parsers.expat.ExpatError,
        ):  # fmt: skip
            raise _damaged() from None

    def beside_main(self, name: str) -> str:
        """The path of a part in the main document's folder, for example `styles`."""
        return join(dirname(self.main_part), f"{name}.xml")

    def styles(self) -> dict[str, Style]:
        """Paragraph styles by id, with what they inherit."""
        styles: dict[str, Style] = {}
        current = Style()

        def start(name: str, attributes: Attributes) -> None:
            nonlocal current
            local = name.rpartition(" ")[2]
            value = _attribute(attributes, "val")
            if local == "style":
                current = styles[_attribute(attributes, "styleId")] = Style()
            elif local == "name":
                heading = _HEADING.fullmatch(value)
                current.is_title = value.lower() == "title"
                current.is_contents = re.fullmatch(r"toc \d+", value.lower()) is not None
                current.level = min(int(heading[1]), 6) if heading else int(current.is_title)
            elif local == "basedOn":
                current.parent = value
            elif local == "outlineLvl" and value in "012345678" and not current.level:
                current.level = min(int(value or 8) + 1, 6)
            elif local == "numId":
                current.list_id = value

        self.parse(self.beside_main("styles"), start)
        for style in styles.values():
            _inherit(style, styles)
        return styles

    def numbering(self) -> dict[tuple[str, int], bool]:
        """Whether level (list id, level) is numbered, as opposed to bulleted."""
        abstract: dict[tuple[str, int], bool] = {}
        lists: dict[str, str] = {}
        abstract_id, list_id, level = "", "", 0

        def start(name: str, attributes: Attributes) -> None:
            nonlocal abstract_id, list_id, level
            local = name.rpartition(" ")[2]
            if local == "abstractNum":
                abstract_id = _attribute(attributes, "abstractNumId")
            elif local == "lvl":
                ilvl = _attribute(attributes, "ilvl")
                level = int(ilvl) if ilvl in "012345678" and ilvl else 0
            elif local == "numFmt":
                abstract[abstract_id, level] = _attribute(attributes, "val") not in (
                    "bullet",
                    "none",
                )
            elif local == "num":
                list_id = _attribute(attributes, "numId")
            elif local == "abstractNumId":
                lists[list_id] = _attribute(attributes, "val")

        self.parse(self.beside_main("numbering"), start)
        return {
            (list_id, level): abstract.get((abstract_id, level), False)
            for list_id, abstract_id in lists.items()
            for level in range(9)
        }

    def title(self) -> str:
        """The title among the document's properties, or ""."""
        parts: list[str] = []
        inside = False

        def start(name: str, _: Attributes) -> None:
            nonlocal inside
            inside = name == "http://purl.org/dc/elements/1.1/ title"

        def characters(text: str) -> None:
            if inside:
                parts.append(text)

        def end(_: str) -> None:
            nonlocal inside
            inside = False

        self.parse("docProps/core.xml", start, end, characters)
        title = " ".join("".join(parts).split())
        return "" if _NO_TITLE.fullmatch(title) else title[:300]

    def _find_main_part(self) -> str:
        found = ""

        def start(_: str, attributes: Attributes) -> None:
            nonlocal found
            if attributes.get("Type", "").endswith("/officeDocument"):
                found = normpath(attributes.get("Target", "").lstrip("/"))

        self.parse("_rels/.rels", start)
        for part in (found, "word/document.xml"):
            if part in self._members:
                return part
        raise DocumentError(
            "The file is a ZIP archive without a Word document in it; upload a DOCX, PDF or text "
            "file.",
            code="damaged",
        )

    def _open(self, member: zipfile.ZipInfo) -> io.BufferedIOBase:
        if member.flag_bits & 0x1:
            raise _encrypted()
        _check_size(member.file_size, member.compress_size)
        try:
            return self._zip.open(member)  # type: ignore[return-value]
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError):
            raise _damaged() from None


def _inherit(style: Style, styles: dict[str, Style]) -> None:
    seen = 0
    parent = styles.get(style.parent)
    while parent is not None and seen < 20:
        style.level = style.level or parent.level
        style.list_id = style.list_id or parent.list_id
        style.is_contents = style.is_contents or parent.is_contents
        parent = styles.get(parent.parent)
        seen += 1


def _attribute(attributes: Attributes, local: str) -> str:
    return next((v for name, v in attributes.items() if name.rpartition(" ")[2] == local), "")


def _check_size(size_bytes: int, compressed_bytes: int) -> None:
    if size_bytes > _MAX_PART_BYTES:
        raise _bomb(f"a part of it is larger than {_MAX_PART_BYTES // 2**20} MB")
    if size_bytes > _RATIO_FROM_BYTES and size_bytes > compressed_bytes * _MAX_RATIO:
        raise _bomb(f"a part of it inflates more than {_MAX_RATIO} times")


def _refuse_doctype(*_: object) -> None:
    raise _bomb("its XML declares a document type, as only attacks do")


def _refuse_ole(content: bytes) -> None:
    if not content.startswith(_OLE):
        return
    if _OLE_ENCRYPTED in content:
        raise _encrypted()
    raise DocumentError(
        "The file is in the format of Word 97-2003 (.doc); save it as .docx and upload it again.",
        code="unsupported",
    )


def _encrypted() -> DocumentError:
    return DocumentError(
        "The DOCX file is encrypted; remove its password and upload it again.", code="encrypted"
    )


def _bomb(why: str) -> DocumentError:
    return DocumentError(
        f"The DOCX file is refused as a possible decompression bomb: {why}. If it is yours, save "
        "it anew or split it.",
        code="bomb",
    )


def _damaged() -> DocumentError:
    return DocumentError(
        "The DOCX file is damaged and can't be read; save it anew and upload it again.",
        code="damaged",
    )
