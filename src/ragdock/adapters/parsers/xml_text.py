"""XML of any kind: repeated elements as records, running text as paragraphs.

Streamed through expat. A document type may be declared, as DocBook and many others do, but nothing
outside the file is ever read, and entities that could multiply are refused.
"""

from __future__ import annotations

import re
import xml.parsers.expat
from dataclasses import dataclass, field
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder, words
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_MAX_DEPTH: Final = 300
_MAX_ATTRIBUTES: Final = 2000
_MAX_ENTITY_CHARACTERS: Final = 2000
_MAX_ENTITIES: Final = 5000
_LINES_A_BLOCK: Final = 50
_TITLES: Final = words("title head heading name")
_INLINE: Final = words(
    """
    a abbrev acronym b bold br c cite citetitle code command em emphasis filename foreignphrase hi i
    inline italic link literal option phrase q quote ref s span strong sub subscript sup superscript
    systemitem term tt u ulink userinput var varname xref
    """
)
_NOISE: Final = re.compile(r"(?:xmlns.*|xsi:.*|xml:space|style|class|id|xml:id|version)")


@dataclass(slots=True)
class _Element:
    name: str
    text: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    has_children: bool = False
    n_lines: int = 0


def parse(content: bytes) -> ParsedDocument:
    """Lines `name: value` in records, paragraphs of mixed content; the title is the first one."""
    reader = _Reader()
    parser = xml.parsers.expat.ParserCreate()
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.EntityDeclHandler = reader.declare_entity
    parser.UseForeignDTD(False)
    try:
        # At once: in pieces, Expat before 2.6 reads a long tag anew with each.
        parser.Parse(content, True)
    except xml.parsers.expat.ExpatError as exc:
        if exc.code == _AMPLIFICATION:
            raise _bomb() from None
        raise DocumentError(
            f"The XML is not well-formed at line {exc.lineno:,}, column {exc.offset + 1:,}; "
            "correct it and upload it again.",
            code="damaged",
        ) from None
    except (ValueError, LookupError):
        raise DocumentError(
            "The XML declares an encoding that is not known; save it as UTF-8 and upload it again.",
            code="wrong_encoding",
        ) from None
    reader.flush()
    return reader.builder.document(reader.title)


_AMPLIFICATION: Final = 43  # XML_ERROR_AMPLIFICATION_LIMIT_BREACH, since expat 2.4.


class _Reader:
    """Handlers for expat; a record ends with the element below the root that holds it."""

    def __init__(self) -> None:
        self.builder = TextBuilder()
        self.title = ""
        self._open: list[_Element] = []
        self._lines: list[str] = []
        self._gap = "\n\n"
        self._n_entities = 0

    def declare_entity(self, *declaration: str | int | None) -> None:
        value = declaration[2]
        self._n_entities += 1
        if isinstance(value, str) and (
            len(value) > _MAX_ENTITY_CHARACTERS or "&" in value or "%" in value
        ):
            raise _bomb()
        if self._n_entities > _MAX_ENTITIES:
            raise _bomb()

    def start(self, name: str, attributes: list[str]) -> None:
        if len(self._open) >= _MAX_DEPTH:
            raise DocumentError(
                f"The XML nests elements more than {_MAX_DEPTH} deep; simplify it or save it as "
                "text.",
                code="too_complex",
            )
        local = name.rpartition(":")[2]
        if self._open:
            parent = self._open[-1]
            if local in _INLINE and "".join(parent.text).strip():
                self._open.append(_Element(local))
                return
            self._end_text(parent)
            parent.has_children = True
        element = _Element(local)
        for at in range(0, min(len(attributes), 2 * _MAX_ATTRIBUTES), 2):
            key, value = attributes[at], " ".join(attributes[at + 1].split())
            if value and not _NOISE.fullmatch(key):
                element.attributes.append((key.rpartition(":")[2], value))
        self._open.append(element)
        for key, value in element.attributes:
            self._add_line(f"{self._path(1)}.{key}: {value}".lstrip("."))

    def characters(self, text: str) -> None:
        if self._open:
            self._open[-1].text.append(text)

    def end(self, _: str) -> None:
        element = self._open.pop()
        if self._open and element.name in _INLINE and "".join(self._open[-1].text).strip():
            self._open[-1].text += element.text
            return
        text = " ".join("".join(element.text).split())
        if element.has_children:
            self._open.append(element)
            self._end_text(element)
            self._open.pop()
        elif text:
            self._end_leaf(element.name, text)
        if len(self._open) == 1:
            self.flush()

    def _end_leaf(self, name: str, text: str) -> None:
        if not self.title and name in _TITLES and len(self._open) <= 3 and len(text) <= 300:
            self.title = text
        path = self._path(0)
        self._add_line(f"{path}.{name}: {text}".lstrip(".") if self._open else text)

    def _end_text(self, element: _Element) -> None:
        """Text beside child elements is running text."""
        text = " ".join("".join(element.text).split())
        element.text = []
        if text:
            self.flush()
            self.builder.add(text, BlockKind.PARAGRAPH)

    def _path(self, without_last: int) -> str:
        """The names between the record and here, the record's own name left out."""
        names = [element.name for element in self._open[2:]]
        return ".".join(names[-6:]) if names else (self._open[-1].name if without_last else "")

    def _add_line(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) >= _LINES_A_BLOCK:
            self.flush()
            self._gap = "\n"

    def flush(self) -> None:
        """Write what was collected as a record."""
        label = self._open[1].name if len(self._open) > 1 else ""
        self.builder.add("\n".join(self._lines), BlockKind.RECORD, label=label, gap=self._gap)
        self._lines.clear()
        self._gap = "\n\n"


def _bomb() -> DocumentError:
    return DocumentError(
        "The XML is refused as a possible bomb: it declares entities that could multiply. Save it "
        "without a document type and upload it again.",
        code="bomb",
    )
