"""LaTeX: sections, paragraphs, lists, tables, maths and listings of the document as printed.

Nothing is typeset or included: macros that a document defines for itself are taken off like all
others, and their arguments stay.
"""

from __future__ import annotations

import re
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder, words
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.adapters.parsers.latex_inline import group_end, plain_inline, plain_maths
from ragdock.adapters.parsers.tables import Cell, add_table
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_SECTIONS: Final = {
    "part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5,
    "subparagraph": 6, "frametitle": 2,
}  # fmt: skip
_VERBATIM: Final = words("verbatim verbatim* Verbatim lstlisting minted alltt filecontents")
_MATHS: Final = words(
    """
    equation equation* align align* gather gather* multline multline* eqnarray eqnarray* displaymath
    math flalign flalign* alignat alignat*
    """
)
_TABLES: Final = words("tabular tabular* tabularx tabulary longtable tabbing")
_DROPPED: Final = words("comment tikzpicture picture pgfpicture asy pspicture CJK filecontents*")
_LISTS: Final = words("itemize enumerate description compactitem compactenum thebibliography")
_NAMED: Final = words(
    """
    theorem lemma proposition corollary definition remark example proof abstract conjecture exercise
    """
)
_BOUNDARY: Final = re.compile(
    r"(?P<comment>(?<!\\)%[^\n]*\n?)|\\begin[ \t]*\{(?P<begin>[A-Za-z*]{1,40})\}"
    r"|\\end[ \t]*\{(?P<end>[A-Za-z*]{1,40})\}"
    r"|\\(?P<section>part|chapter|section|subsection|subsubsection|paragraph|subparagraph"
    r"|frametitle)\*?(?=[ \t]*[\[{])|\\(?P<item>item|bibitem)(?![a-zA-Z])|\\(?P<caption>caption)\*?"
    r"(?=[ \t]*[\[{])|(?P<display>\\\[|\$\$)|(?P<par>\n[ \t]*\n\s*|\\par(?![a-zA-Z]))"
)
_OPTION: Final = re.compile(r"[ \t\n]*\[([^\[\]]{0,500})\]")
_SETUP: Final = re.compile(r"\\(title|author)[ \t]*(?:\[[^\[\]]{0,500}\])?[ \t]*\{")
_DOCUMENT: Final = re.compile(r"\\begin[ \t]*\{document\}")
_RULES: Final = re.compile(
    r"\\(?:hline|toprule|midrule|bottomrule|endhead|endfirsthead|endfoot|endlastfoot|cline\{[^{}]*\}"
    r"|cmidrule(?:\([^()]*\))?\{[^{}]*\})"
)
_ROW: Final = re.compile(r"\\\\(?:\*|\[[^\]]{0,40}\])?|\\tabularnewline")
_CELL: Final = re.compile(r"(?<!\\)&")
_SPANNED: Final = re.compile(r"\s*\\multicolumn\s*\{\s*(\d{1,2})\s*\}")
_MAX_ARGUMENT: Final = 2000


def parse(content: bytes) -> ParsedDocument:
    """Blocks of the document's body; the title is \\title's, else the first heading's."""
    source = decode_text(content).replace("\r\n", "\n")
    builder = TextBuilder()
    begin = _DOCUMENT.search(source)
    title = ""
    for setup in _SETUP.finditer(source):
        text = _argument(source, setup.end() - 1)[0]
        if setup[1] == "title" and not title:
            title = text
            builder.add(text, BlockKind.HEADING, 1, text)
        elif setup[1] == "author":
            builder.add(text, BlockKind.PARAGRAPH)
    reader = _Reader(source, builder)
    reader.read(begin.end() if begin else 0)
    return builder.document(title or reader.first_heading)


def _argument(source: str, at: int) -> tuple[str, int]:
    """The plain text of the argument that begins at or after `at`, and where it ends."""
    option = _OPTION.match(source, at)
    at = option.end() if option else at
    while source[at : at + 1].isspace():
        at += 1
    if source[at : at + 1] != "{":
        return "", at
    end = group_end(source, at)
    return plain_inline(source[at + 1 : end - 1][:_MAX_ARGUMENT]), end


class _Reader:
    """Walks the boundaries between blocks; what lies between them is text of the open block."""

    def __init__(self, source: str, builder: TextBuilder) -> None:
        self.first_heading = ""
        self._source = source
        self._builder = builder
        self._raw: list[str] = []
        self._lists: list[str] = []
        self._counters: list[int] = []
        self._items: list[str] = []
        self._marker = ""

    def read(self, at: int) -> None:
        source = self._source
        while (token := _BOUNDARY.search(source, at)) is not None:
            self._raw.append(source[at : token.start()])
            at = token.end()
            if token["comment"] is not None:
                continue
            if token["end"] == "document":
                break
            at = self._take(token, at)
        else:
            self._raw.append(source[at:])
        self._flush()
        self._end_list()

    def _take(self, token: re.Match[str], at: int) -> int:
        if token["begin"]:
            return self._begin(token["begin"], at)
        if token["end"]:
            self._end(token["end"])
        elif token["section"]:
            self._flush()
            self._end_list()
            text, at = _argument(self._source, at)
            self._builder.add(text, BlockKind.HEADING, _SECTIONS[token["section"]], text)
            self.first_heading = self.first_heading or text
        elif token["item"]:
            at = self._begin_item(token["item"], at)
        elif token["caption"]:
            self._flush()
            text, at = _argument(self._source, at)
            self._builder.add(text, BlockKind.PARAGRAPH)
        elif token["display"]:
            close = "\\]" if token["display"] == "\\[" else "$$"
            at = self._take_maths(at, close)
        else:
            self._flush()
        return at

    # Environments

    def _begin(self, name: str, at: int) -> int:
        self._flush()
        if name in _VERBATIM or name in _DROPPED or name in _TABLES or name in _MATHS:
            end = self._source.find(f"\\end{{{name}}}", at)
            end = len(self._source) if end < 0 else end
            body = self._source[at:end]
            after = end + len(f"\\end{{{name}}}")
            if name in _VERBATIM:
                self._end_list()
                option = _OPTION.match(body)
                code = body[option.end() :] if option else body
                code = re.sub(r"\A\{\w*\}", "", code) if name == "minted" else code
                self._builder.add(code.strip("\n"), BlockKind.CODE)
            elif name in _TABLES:
                self._take_table(name, body)
            elif name in _MATHS:
                self._add_maths(body)
            return after
        if name in _LISTS:
            self._lists.append(name)
            self._counters.append(0)
        option = _OPTION.match(self._source, at)
        if name in _NAMED:
            label = name.capitalize() + (f" ({plain_inline(option[1])})" if option else "")
            self._raw.append(f"{label}. ")
        at = option.end() if option else at
        if name == "thebibliography":
            at = _argument(self._source, at)[1]
        elif name == "frame" and self._source[at : at + 1] == "{":
            text, at = _argument(self._source, at)
            self._builder.add(text, BlockKind.HEADING, 2, text)
        elif name in ("minipage", "multicols", "wrapfigure", "subfigure", "adjustbox"):
            at = _argument(self._source, at)[1]
        return at

    def _end(self, name: str) -> None:
        self._flush()
        if name in _LISTS and self._lists:
            self._lists.pop()
            self._counters.pop()
            if not self._lists:
                self._end_list()

    def _take_maths(self, at: int, close: str) -> int:
        self._flush()
        end = self._source.find(close, at)
        end = len(self._source) if end < 0 else end
        self._add_maths(self._source[at:end])
        return end + len(close)

    def _add_maths(self, source: str) -> None:
        lines = [plain_maths(line) for line in _ROW.split(source)]
        self._end_list()
        self._builder.add("\n".join(filter(None, lines)), BlockKind.PARAGRAPH)

    def _take_table(self, name: str, body: str) -> None:
        self._end_list()
        at = 0
        for _ in range(2 if name in ("tabular*", "tabularx", "tabulary") else 1):
            option = _OPTION.match(body, at)
            at = option.end() if option else at
            if body[at : at + 1] == "{":
                at = group_end(body, at)
        caption = body.find("\\caption", at) if name == "longtable" else -1
        if caption >= 0:
            text, end = _argument(body, caption + len("\\caption"))
            self._builder.add(text, BlockKind.PARAGRAPH)
            body = body[:caption] + body[end:]
        rows = []
        for line in _ROW.split(_RULES.sub(" ", body[at:])):
            cells = [_cell(raw) for raw in _CELL.split(line)]
            if any(cell.text for cell in cells):
                rows.append(cells)
        add_table(self._builder, rows)

    # Text

    def _begin_item(self, name: str, at: int) -> int:
        self._flush()
        option = _OPTION.match(self._source, at)
        at = option.end() if option else at
        marker = "- "
        if name == "bibitem":
            key, at = _argument(self._source, at)
            marker = f"[{key}] "
        elif option:
            marker = f"- {plain_inline(option[1])} "
        elif self._lists and "enum" in self._lists[-1]:
            self._counters[-1] += 1
            marker = f"{self._counters[-1]}. "
        self._marker = "  " * max(0, len(self._lists) - 1) + marker
        return at

    def _flush(self) -> None:
        """Write what was collected as a paragraph or a line of a list."""
        text = plain_inline("".join(self._raw))
        self._raw.clear()
        if not text.strip(" .{}"):
            return
        if self._lists:
            indent = "  " * len(self._lists)
            self._items.append((self._marker or indent) + text)
            self._marker = ""
        else:
            self._end_list()
            self._builder.add(text, BlockKind.PARAGRAPH)

    def _end_list(self) -> None:
        self._builder.add("\n".join(self._items), BlockKind.LIST)
        self._items.clear()


def _cell(raw: str) -> Cell:
    span = _SPANNED.match(raw)
    return Cell(plain_inline(raw), columns=int(span[1]) or 1 if span else 1)
