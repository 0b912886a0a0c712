"""Documents that are ZIP archives of XML parts (OOXML, ODF, EPUB), opened with suspicion.

Only the parts that carry text are ever inflated, each within a limit that holds while it is
inflated, whatever the directory of the ZIP declares, and all of them within a common one. A
document type declaration, which no office program writes, is refused before an entity could expand.
"""

from __future__ import annotations

import io
import re
import xml.parsers.expat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from typing import Final, TypeAlias

from ragdock.errors import DocumentError

__all__ = ["Attributes", "Relationship", "XmlPackage", "attribute", "local_name"]

_MAX_MEMBERS: Final = 10_000
_MAX_PART_BYTES: Final = 200 * 2**20
_MAX_TOTAL_BYTES: Final = 400 * 2**20
_MAX_RATIO: Final = 200  # XML of real documents shrinks 5 to 50 times; deflate's limit is 1,032.
_RATIO_FROM_BYTES: Final = 10 * 2**20
_PIECE_BYTES: Final = 2**20  # Expat before 2.6 reads a long tag anew with each piece.
_MAX_DEPTH: Final = 500

_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_ENCRYPTED: Final = "EncryptedPackage".encode("utf-16-le")
_END_OF_DIRECTORY: Final = b"PK\x05\x06"

Attributes: TypeAlias = dict[str, str]
StartHandler: TypeAlias = Callable[[str, Attributes], None]


@dataclass(frozen=True, slots=True)
class Relationship:
    """What a part refers to: the last word of the relation's type, and the path of the target."""

    kind: str
    target: str


class XmlPackage:
    """The parts of one file; every method raises `DocumentError` on what it can't trust.

    `name` is the format's name in messages (`DOCX`), `old_name` what a file of the format's
    predecessor is called, where there is one.
    """

    def __init__(self, content: bytes, name: str, old_name: str = "") -> None:
        self._name = name
        self._total_bytes = 0
        self._refuse_ole(content, old_name)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            members = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            if content.startswith(b"PK\x03\x04") and _END_OF_DIRECTORY not in content[-70_000:]:
                raise DocumentError(
                    f"The {name} file ends early: the directory at its end is missing. Upload the "
                    "complete file.",
                    code="truncated",
                ) from None
            raise self.damaged() from None
        if len(members) > _MAX_MEMBERS:
            raise self.bomb(f"it has {len(members):,} members")
        self._members = {member.filename: member for member in members}

    @property
    def members(self) -> Mapping[str, zipfile.ZipInfo]:
        """The members by path."""
        return self._members

    def read(self, part: str, max_bytes: int = _MAX_PART_BYTES) -> bytes:
        """A part as it is; b"" when there is none."""
        pieces: list[bytes] = []
        size_bytes = 0
        for piece in self._pieces(part):
            size_bytes += len(piece)
            if size_bytes > max_bytes:
                raise self.bomb(f"a part of it is larger than {max_bytes // 2**20} MB")
            pieces.append(piece)
        return b"".join(pieces)

    def parse(
        self,
        part: str,
        start: StartHandler,
        end: Callable[[str], None] | None = None,
        characters: Callable[[str], None] | None = None,
    ) -> None:
        """Stream a part's XML to the handlers; names are `namespace local`. No part, no call."""
        parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
        depth = 0

        def enter(name: str, attributes: Attributes) -> None:
            nonlocal depth
            depth += 1
            if depth > _MAX_DEPTH:
                raise DocumentError(
                    f"The {self._name} file nests elements more than {_MAX_DEPTH} deep; save it "
                    "anew or as text.",
                    code="too_complex",
                )
            start(name, attributes)

        def leave(name: str) -> None:
            nonlocal depth
            depth -= 1
            if end is not None:
                end(name)

        parser.StartElementHandler = enter
        parser.EndElementHandler = leave
        parser.CharacterDataHandler = characters
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.buffer_text = True
        empty = True
        try:
            for piece in self._pieces(part):
                empty = False
                parser.Parse(piece)
            if not empty:
                parser.Parse(b"", True)
        except (xml.parsers.expat.ExpatError, ValueError, LookupError):
            raise self.damaged() from None

    def relationships(self, part: str) -> dict[str, Relationship]:
        """What the part refers to within the package, by id (OOXML)."""
        folder = dirname(part)
        found: dict[str, Relationship] = {}

        def start(name: str, attributes: Attributes) -> None:
            if local_name(name) != "Relationship" or attributes.get("TargetMode") == "External":
                return
            target = attributes.get("Target", "")
            path = target.lstrip("/") if target.startswith("/") else join(folder, target)
            kind = attributes.get("Type", "").rpartition("/")[2]
            found[attributes.get("Id", "")] = Relationship(kind, normpath(path))

        self.parse(join(folder, "_rels", f"{part[len(folder) :].lstrip('/')}.rels"), start)
        return found

    def main_part(self, usual: str, what: str) -> str:
        """The part that the package is about (OOXML); `what` it should hold, for the message."""
        found = [r.target for r in self.relationships("").values() if r.kind == "officeDocument"]
        for part in (*found, usual):
            if part in self._members:
                return part
        raise DocumentError(
            f"The file is a ZIP archive without a {what} in it; upload a {self._name}, PDF or text "
            "file.",
            code="damaged",
        )

    def core_title(self, part: str = "docProps/core.xml") -> str:
        """The title (Dublin Core) among the properties in this part, or ""."""
        parts: list[str] = []
        inside = False

        def start(name: str, _: Attributes) -> None:
            nonlocal inside
            inside = name == "http://purl.org/dc/elements/1.1/ title" and not parts

        def characters(text: str) -> None:
            if inside:
                parts.append(text)

        def end(_: str) -> None:
            nonlocal inside
            inside = False

        self.parse(part, start, end, characters)
        title = " ".join("".join(parts).split())
        return "" if _NO_TITLE.fullmatch(title) else title[:300]

    def encrypted(self) -> DocumentError:
        """The error of a file with a password."""
        return DocumentError(
            f"The {self._name} file is encrypted; remove its password and upload it again.",
            code="encrypted",
        )

    def damaged(self) -> DocumentError:
        """The error of a file that can't be read."""
        return DocumentError(
            f"The {self._name} file is damaged and can't be read; save it anew and upload it "
            "again.",
            code="damaged",
        )

    def bomb(self, why: str) -> DocumentError:
        """The error of a file that would grow too large."""
        return DocumentError(
            f"The {self._name} file is refused as a possible decompression bomb: {why}. If it is "
            "yours, save it anew or split it.",
            code="bomb",
        )

    def _pieces(self, part: str) -> Iterator[bytes]:
        member = self._members.get(part)
        if member is None:
            return
        try:
            with self._open(member) as stream:
                size_bytes = 0
                while piece := stream.read(_PIECE_BYTES):
                    size_bytes += len(piece)
                    self._total_bytes += len(piece)
                    self._check_size(size_bytes, member.compress_size)
                    yield piece
        except (
            zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError,
        ):  # fmt: skip
            raise self.damaged() from None

    def _open(self, member: zipfile.ZipInfo) -> io.BufferedIOBase:
        if member.flag_bits & 0x1:
            raise self.encrypted()
        self._check_size(member.file_size, member.compress_size)
        try:
            return self._zip.open(member)  # type: ignore[return-value]
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError):
            raise self.damaged() from None

    def _check_size(self, size_bytes: int, compressed_bytes: int) -> None:
        if size_bytes > _MAX_PART_BYTES:
            raise self.bomb(f"a part of it is larger than {_MAX_PART_BYTES // 2**20} MB")
        if size_bytes > _RATIO_FROM_BYTES and size_bytes > compressed_bytes * _MAX_RATIO:
            raise self.bomb(f"a part of it inflates more than {_MAX_RATIO} times")
        if self._total_bytes > _MAX_TOTAL_BYTES:
            raise self.bomb(f"its parts are larger than {_MAX_TOTAL_BYTES // 2**20} MB together")

    def _refuse_doctype(self, *_: object) -> None:
        raise self.bomb("its XML declares a document type, as only attacks do")

    def _refuse_ole(self, content: bytes, old_name: str) -> None:
        if not content.startswith(_OLE):
            return
        if _OLE_ENCRYPTED in content:
            raise self.encrypted()
        raise DocumentError(
            f"The file is in the format of {old_name or 'an older program'}; save it as "
            f".{self._name.lower()} and upload it again.",
            code="unsupported",
        )


_NO_TITLE: Final = re.compile(
    r"(?:untitled.*|(?:document|presentation|workbook|slide|book|sheet)\s?\d*"
    r"|(?:word|powerpoint) (?:document|presentation)|.*\.(?:docx?|pptx?|xlsx?|od[tsp]|epub))",
    re.IGNORECASE,
)


def local_name(name: str) -> str:
    """The name without its namespace."""
    return name.rpartition(" ")[2]


def attribute(attributes: Attributes, local: str) -> str:
    """An attribute by its local name, or ""."""
    value = attributes.get(local)
    if value is not None:
        return value
    return next((v for name, v in attributes.items() if local_name(name) == local), "")
