"""What a DOCX package says besides its text: styles, and which lists are numbered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from posixpath import dirname, join
from typing import Final

from ragdock.adapters.parsers.packages import Attributes, XmlPackage, attribute

__all__ = ["Package", "Style"]

_LEVELS: Final = frozenset("012345678")
_STYLE_ELEMENTS: Final = frozenset({"style", "name", "basedOn", "outlineLvl", "numId"})
_HEADING: Final = re.compile(r"heading ?([1-9])", re.IGNORECASE)


@dataclass(slots=True)
class Style:
    """What a paragraph style says: a heading's level or 0, the list it belongs to."""

    level: int = 0
    list_id: str = ""
    is_title: bool = False
    is_contents: bool = False
    parent: str = ""


class Package(XmlPackage):
    """The parts of a DOCX file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, "DOCX", "Word 97-2003 (.doc)")
        self.word_part = self.main_part("word/document.xml", "Word document")

    def beside_main(self, name: str) -> str:
        """The path of a part in the main document's folder, for example `styles`."""
        return join(dirname(self.word_part), f"{name}.xml")

    def styles(self) -> dict[str, Style]:
        """Paragraph styles by id, with what they inherit."""
        styles: dict[str, Style] = {}
        current = Style()

        def start(name: str, attributes: Attributes) -> None:
            nonlocal current
            local = name.rpartition(" ")[2]
            if local not in _STYLE_ELEMENTS:
                return
            value = attribute(attributes, "val")
            if local == "style":
                current = styles[attribute(attributes, "styleId")] = Style()
            elif local == "name":
                heading = _HEADING.fullmatch(value)
                current.is_title = value.lower() == "title"
                current.is_contents = re.fullmatch(r"toc \d+", value.lower()) is not None
                current.level = min(int(heading[1]), 6) if heading else int(current.is_title)
            elif local == "basedOn":
                current.parent = value
            elif local == "outlineLvl" and value in _LEVELS and not current.level:
                current.level = min(int(value) + 1, 6)
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
                abstract_id = attribute(attributes, "abstractNumId")
            elif local == "lvl":
                ilvl = attribute(attributes, "ilvl")
                level = int(ilvl) if ilvl in _LEVELS else 0
            elif local == "numFmt":
                abstract[abstract_id, level] = attribute(attributes, "val") not in (
                    "bullet",
                    "none",
                )
            elif local == "num":
                list_id = attribute(attributes, "numId")
            elif local == "abstractNumId":
                lists[list_id] = attribute(attributes, "val")

        self.parse(self.beside_main("numbering"), start)
        return {
            (list_id, level): abstract.get((abstract_id, level), False)
            for list_id, abstract_id in lists.items()
            for level in range(9)
        }


def _inherit(style: Style, styles: dict[str, Style]) -> None:
    seen = 0
    parent = styles.get(style.parent)
    while parent is not None and seen < 20:
        style.level = style.level or parent.level
        style.list_id = style.list_id or parent.list_id
        style.is_contents = style.is_contents or parent.is_contents
        parent = styles.get(parent.parent)
        seen += 1
