"""PPTX: slides as pages, their titles as headings, bodies, tables, diagrams and notes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder, words
from ragdock.adapters.parsers.elements import ElementReader
from ragdock.adapters.parsers.packages import Attributes, XmlPackage, attribute, local_name
from ragdock.adapters.parsers.tables import Cell, add_table, grid
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_MAX_SLIDES: Final = 20_000
_TITLES: Final = frozenset({"title", "ctrTitle"})
_BODIES: Final = frozenset({"body", "obj", ""})
_EDGES: Final = frozenset({"dt", "ftr", "sldNum", "hdr", "sldImg"})
_SKIPPED: Final = words("Fallback extLst")
_SPACE: Final = re.compile(r"[^\S\n]+")


@dataclass(slots=True)
class _Line:
    text: str
    level: int
    bullet: bool


@dataclass(slots=True)
class _Shape:
    kind: str | None = None  # The placeholder's type; "" is a body, None no placeholder.
    lines: list[_Line] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


def parse(content: bytes) -> ParsedDocument:
    """Slides in order, each a page; the title is the property's, else the first slide's."""
    package = XmlPackage(content, "PPTX", "PowerPoint 97-2003 (.ppt)")
    builder = TextBuilder()
    first_title = ""
    for number, part in enumerate(_slides(package), 1):
        before = builder.length
        title = _write_slide(package, part, builder)
        if number == 1:
            first_title = title
        if builder.length > before:
            builder.end_page(number, before)
    return builder.document(package.core_title() or first_title)


def _slides(package: XmlPackage) -> list[str]:
    main = package.main_part("ppt/presentation.xml", "presentation")
    targets = package.relationships(main)
    slides: list[str] = []

    def start(name: str, attributes: Attributes) -> None:
        if local_name(name) != "sldId":
            return
        # The plain `id` is the slide's number, the one with a namespace the relationship.
        ids = [value for key, value in attributes.items() if key.endswith("relationships id")]
        if ids and ids[0] in targets:
            slides.append(targets[ids[0]].target)
        if len(slides) > _MAX_SLIDES:
            raise DocumentError(
                f"The PPTX file has more than {_MAX_SLIDES:,} slides; split it.",
                code="too_complex",
            )

    package.parse(main, start)
    return slides


def _write_slide(package: XmlPackage, part: str, builder: TextBuilder) -> str:
    """Write one slide; returns its title."""
    shapes = _shapes(package, part)
    shapes.sort(key=lambda shape: shape.kind not in _TITLES)
    title = next((" ".join(s.text.split()) for s in shapes if s.kind in _TITLES and s.text), "")
    for shape in shapes:
        if shape.kind in _TITLES:
            text = " ".join(shape.text.split())
            builder.add(text, BlockKind.HEADING, 1, text)
        elif shape.rows:
            add_table(builder, grid(shape.rows))
        elif shape.kind not in _EDGES:
            _write_lines(builder, shape)
    for relation in package.relationships(part).values():
        if relation.kind == "diagramData":
            texts = [shape.text for shape in _shapes(package, relation.target)]
            builder.add("\n".join(filter(None, texts)), BlockKind.PARAGRAPH)
        elif relation.kind == "notesSlide":
            for shape in _shapes(package, relation.target):
                if shape.kind in _BODIES and shape.text:
                    builder.add(f"Notes: {shape.text}", BlockKind.PARAGRAPH)
    return title


def _write_lines(builder: TextBuilder, shape: _Shape) -> None:
    """Bulleted lines together as a list, others as paragraphs."""
    several = shape.kind in _BODIES and len(shape.lines) > 1
    items: list[str] = []
    for line in shape.lines:
        if line.bullet and (several or shape.kind not in _BODIES):
            items.append("  " * line.level + "- " + line.text.replace("\n", " "))
            continue
        builder.add("\n".join(items), BlockKind.LIST)
        items = []
        builder.add(line.text, BlockKind.PARAGRAPH)
    builder.add("\n".join(items), BlockKind.LIST)


def _shapes(package: XmlPackage, part: str) -> list[_Shape]:
    reader = _Reader()
    package.parse(part, reader.start, reader.end, reader.characters)
    return reader.shapes


class _Reader(ElementReader):
    """Handlers for expat: the shapes of a slide, of its notes or of a diagram."""

    def __init__(self) -> None:
        super().__init__(_SKIPPED)
        self.shapes: list[_Shape] = []
        self._shape = _Shape()
        self._paragraph: list[str] = []
        self._level = 0
        self._bullet: bool | None = None
        self._in_text = False
        self._cells: list[_Line] | None = None  # The lines of the open table cell.
        self._spans = (1, 1, False)
        self._starts = {
            "sp": self._start_shape,
            "graphicFrame": self._start_shape,
            "pt": self._start_shape,
            "ph": self._set_placeholder,
            "p": self._start_paragraph,
            "pPr": self._set_properties,
            "buNone": lambda _: self._set_bullet(False),
            "buChar": lambda _: self._set_bullet(True),
            "buAutoNum": lambda _: self._set_bullet(True),
            "t": lambda _: self._set_in_text(True),
            "br": lambda _: self._paragraph.append("\n"),
            "tr": lambda _: self._shape.rows.append([]),
            "tc": self._start_cell,
        }
        self._ends = {
            "sp": self._end_shape,
            "graphicFrame": self._end_shape,
            "pt": self._end_shape,
            "p": self._end_paragraph,
            "t": lambda: self._set_in_text(False),
            "tc": self._end_cell,
        }

    def characters(self, text: str) -> None:
        if self._in_text and self._skipping is None:
            self._paragraph.append(text)

    def _set_in_text(self, inside: bool) -> None:
        self._in_text = inside

    def _start_shape(self, _: Attributes) -> None:
        self._shape = _Shape()

    def _end_shape(self) -> None:
        if self._shape.lines or self._shape.rows:
            self.shapes.append(self._shape)
        self._shape = _Shape()

    def _set_placeholder(self, attributes: Attributes) -> None:
        self._shape.kind = attributes.get("type", "")

    def _start_paragraph(self, _: Attributes) -> None:
        self._paragraph, self._level, self._bullet = [], 0, None

    def _set_properties(self, attributes: Attributes) -> None:
        level = attribute(attributes, "lvl")
        self._level = int(level) if level in tuple("012345678") else 0

    def _set_bullet(self, bullet: bool) -> None:
        self._bullet = bullet

    def _end_paragraph(self) -> None:
        lines = (_SPACE.sub(" ", line).strip() for line in "".join(self._paragraph).split("\n"))
        text = "\n".join(line for line in lines if line)
        self._paragraph = []
        if not text:
            return
        bullet = self._shape.kind in _BODIES if self._bullet is None else self._bullet
        line = _Line(text, self._level, bullet)
        (self._shape.lines if self._cells is None else self._cells).append(line)

    def _start_cell(self, attributes: Attributes) -> None:
        self._cells = []
        merged = any(attributes.get(name) in ("1", "true") for name in ("hMerge", "vMerge"))
        self._spans = (_span(attributes, "gridSpan"), _span(attributes, "rowSpan"), merged)

    def _end_cell(self) -> None:
        text = " ".join(line.text.replace("\n", " ") for line in self._cells or ())
        self._cells = None
        columns, rows, merged = self._spans
        if self._shape.rows and not merged:
            self._shape.rows[-1].append(Cell(text, columns=columns, rows=rows))


def _span(attributes: Attributes, name: str) -> int:
    value = attributes.get(name, "1")
    return min(int(value), 100) if value.isascii() and value.isdigit() and len(value) < 6 else 1
