"""HTML through Lexbor: what a reader of the page would read, without what surrounds it."""

from __future__ import annotations

import codecs
import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ragdock.adapters.parsers.building import TextBuilder, words
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.adapters.parsers.tables import Cell, add_table, grid
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["decode_page", "parse", "parse_source"]

_NEVER_TEXT: Final = (
    "script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "embed",
    "audio", "video", "button", "input", "select", "textarea", "datalist", "map", "head", "dialog",
)  # fmt: skip
_HIDDEN: Final = (
    '[hidden]:not([role="tabpanel"]), [aria-hidden="true"], [style*="display:none"], '
    '[style*="display: none"]'
)
_BOILERPLATE: Final = (
    'nav, [role="navigation"], [role="banner"], [role="contentinfo"], [role="search"], menu'
)
_OUTER_BOILERPLATE: Final = "aside, footer"  # Inside an article these are notes and sources.
_BLOCKS: Final = words(
    """
    address article aside blockquote body caption center dd details div dl dt fieldset figcaption
    figure footer form header hgroup hr legend li main ol optgroup p pre section summary table tbody
    td tfoot th thead tr ul
    """
)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_SPACE: Final = re.compile(r"\s+")
_AROUND_BREAK: Final = re.compile(r" *\n *")
_INVISIBLE: Final = re.compile("[\u00ad\u200b\u2060\ufeff]")
_PERMALINK: Final = re.compile(r"\s*[¶#§🔗]\s*$")

_CHARSET: Final = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{1,40})", re.IGNORECASE
)
_XML_ENCODING: Final = re.compile(
    rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w-]{1,40})", re.IGNORECASE
)
_CHARSET_WINDOW: Final = 4096
# Pages that declare these mean their larger relatives (https://encoding.spec.whatwg.org/#names).
_WHATWG: Final = {
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "utf-16": "utf-8",  # What can be read as ASCII up to here is not UTF-16.
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}

# Lexbor takes cubic time in the depth of open elements: 0.1 s at 5,000, minutes at 100,000.
_MAX_DEPTH: Final = 3000
_TAG: Final = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Empty elements, and those that HTML closes by itself.
_SHALLOW: Final = words(
    """
    area base br col embed hr img input link meta param source track wbr p li dt dd option tr td th
    tbody thead tfoot html head body
    """
)
_MIN_MAIN_CHARACTERS: Final = 200

# Lexbor compares each attribute of a tag with all before it, and each name that is new with all
# others: 0.1 s for 5,000, 10 s for 45,000, minutes for more.
_MAX_ATTRIBUTES: Final = 2000
_MAX_ATTRIBUTE_NAMES: Final = 5000
# A tag, but not one whose attributes everybody has: those are most, and skipped at full speed.
_OPEN_TAG: Final = re.compile(
    r"</?[a-zA-Z][^\s/>]*+(?!(?:\s++(?:class|id|href|src|style|title|alt|name|content|rel|type"
    r"|width|height|target|colspan|rowspan|lang)=(?:\"[^\"]*+\"|[\w.-]++)){0,30}+\s*+/?>)"
)
_ATTRIBUTE: Final = re.compile(
    r"[\s/]*+(?:>|([^\s/>][^\s/=>]*+)"
    r"(?:\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'|[^\s>\"'][^\s>]*+)?+)?+)"
)


def parse(content: bytes) -> ParsedDocument:
    """Headings, paragraphs, lists, tables and code of the page's main part."""
    return parse_source(decode_page(content))


def parse_source(source: str, *, whole: bool = False) -> ParsedDocument:
    """The same for a page that is decoded; `whole` keeps what only looks like boilerplate."""
    _refuse_depth(source)
    _refuse_attributes(source)
    tree = LexborHTMLParser(source)
    title = _text(tree.css_first("title"))
    root = _whole_body(tree) if whole else _main_part(tree)
    if root is None:
        return ParsedDocument("", ())
    walker = _Walker()
    walker.walk(root)
    return walker.builder.document(_best_title(title, root))


def decode_page(content: bytes) -> str:
    """The encoding is the byte-order mark's, else the declared one, else as for any text."""
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return decode_text(content)
    head = content[:_CHARSET_WINDOW]
    declared = _CHARSET.search(head) or _XML_ENCODING.search(head)
    if declared:
        try:
            name = codecs.lookup(declared.group(1).decode("ascii")).name
            return content.decode(_WHATWG.get(name, name))
        except (LookupError, UnicodeDecodeError):
            pass  # The declaration is wrong; what it is must show from the bytes.
    return decode_text(content)


def _refuse_depth(source: str) -> None:
    depth = 0
    for match in _TAG.finditer(source):
        if match.group(2).lower() in _SHALLOW:
            continue
        depth = max(0, depth - 1) if match.group(1) else depth + 1
        if depth > _MAX_DEPTH:
            raise DocumentError(
                f"The HTML page nests elements more than {_MAX_DEPTH:,} deep; simplify it or save "
                "it as text.",
                code="too_complex",
            )


def _refuse_attributes(source: str) -> None:
    """Read the tags as HTML's tokenizer does and count the names of their attributes."""
    names: set[str] = set()
    at = 0
    while tag := _OPEN_TAG.search(source, at):
        at = tag.end()
        n_attributes = 0
        while attribute := _ATTRIBUTE.match(source, at):
            at = attribute.end()
            if attribute[1] is None:
                break
            names.add(attribute[1])
            n_attributes += 1
        if n_attributes > _MAX_ATTRIBUTES or len(names) > _MAX_ATTRIBUTE_NAMES:
            raise DocumentError(
                f"The HTML page has a tag with more than {_MAX_ATTRIBUTES:,} attributes, or more "
                f"than {_MAX_ATTRIBUTE_NAMES:,} names of attributes; simplify it or save it as "
                "text.",
                code="too_complex",
            )


def _whole_body(tree: LexborHTMLParser) -> LexborNode | None:
    body = tree.body
    if body is not None:
        body.strip_tags(list(_NEVER_TEXT), recursive=True)
    return body


def _main_part(tree: LexborHTMLParser) -> LexborNode | None:
    body = tree.body
    if body is None:
        return None
    body.strip_tags(list(_NEVER_TEXT), recursive=True)
    for node in body.css(_HIDDEN):
        node.decompose()
    text = _text(body)
    for node in body.css(_BOILERPLATE):
        node.decompose()
    if not _text(body) and text:
        return LexborHTMLParser(text).body  # All of it was boilerplate: better than nothing.
    enough = min(_MIN_MAIN_CHARACTERS, len(_text(body)) // 3)
    mains = body.css('main, [role="main"]') or body.css("article")
    if len(mains) == 1 and len(_text(mains[0])) >= enough:
        return mains[0]
    for node in body.css(_OUTER_BOILERPLATE):
        if node.parent is not None and not _inside_article(node):
            node.decompose()
    return body


def _inside_article(node: LexborNode) -> bool:
    parent = node.parent
    while parent is not None:
        if parent.tag in ("article", "main", "blockquote"):
            return True
        parent = parent.parent
    return False


def _text(node: LexborNode | None) -> str:
    return _SPACE.sub(" ", _INVISIBLE.sub("", node.text())).strip() if node else ""


def _best_title(title: str, root: LexborNode) -> str:
    headings = root.css("h1")
    first = _PERMALINK.sub("", _text(headings[0])) if headings else ""
    # "Page | Site": the heading alone says it better.
    return first if first and (not title or (len(headings) == 1 and first in title)) else title


class _Walker:
    """Visits the nodes in order, without recursion, and writes blocks."""

    def __init__(self) -> None:
        self.builder = TextBuilder()
        self.inline: list[str] = []
        self.heading = 0
        self.lists: list[int | None] = []  # Next number of each open ordered list, None for ul.
        self.items: list[str] = []  # The lines of the outermost open list.
        self.marker = ""
        self.gap = "\n\n"

    def walk(self, root: LexborNode) -> None:
        stack: list[tuple[LexborNode, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            tag = node.tag or ""
            if leaving:
                self._leave(tag)
            elif node.is_text_node:
                self.inline.append(_SPACE.sub(" ", node.text_content or ""))
            elif not node.is_element_node:
                continue
            elif tag == "br":
                self.inline.append("\n")
            elif tag == "pre":
                self._take_code(node)
            elif tag == "table" and _is_data_table(node):
                self._take_table(node)
            else:
                self._enter(tag, node)
                stack.append((node, True))
                children = []
                child = node.first_child
                while child is not None:
                    children.append((child, False))
                    child = child.next
                stack.extend(reversed(children))
        self._flush()
        self._end_list()

    def _enter(self, tag: str, node: LexborNode) -> None:
        if tag in _HEADINGS:
            self._flush()
            self._end_list()
            self.heading = _HEADINGS[tag]
        elif tag in _BLOCKS:
            self._flush()
            if tag in ("ul", "ol"):
                start = _number(node.attributes.get("start"))
                self.lists.append(start if tag == "ol" else None)
            elif tag == "li" and self.lists:
                self._begin_item()
            elif tag == "dd":
                self.gap = "\n"

    def _leave(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._flush()
            self.heading = 0
        elif tag in _BLOCKS:
            self._flush()
            if tag in ("ul", "ol") and self.lists:
                self.lists.pop()
                if not self.lists:
                    self._end_list()

    def _begin_item(self) -> None:
        number = self.lists[-1]
        indent = "  " * (len(self.lists) - 1)
        self.marker = f"{indent}- " if number is None else f"{indent}{number}. "
        if number is not None:
            self.lists[-1] = number + 1

    def _flush(self) -> None:
        """Write what was collected as a paragraph, heading or line of a list."""
        text = _INVISIBLE.sub("", "".join(self.inline))
        self.inline.clear()
        text = _AROUND_BREAK.sub("\n", re.sub(" {2,}", " ", text)).strip()
        if not text:
            return
        if self.heading:
            label = _SPACE.sub(" ", _PERMALINK.sub("", text))
            self.builder.add(label, BlockKind.HEADING, self.heading, label)
        elif self.lists:
            indent = "  " * len(self.lists)
            self.items.append((self.marker or indent) + text.replace("\n", "\n" + indent))
            self.marker = ""
        else:
            self.builder.add(text, BlockKind.PARAGRAPH, gap=self.gap)
        self.gap = "\n\n"

    def _end_list(self) -> None:
        self.builder.add("\n".join(self.items), BlockKind.LIST)
        self.items.clear()

    def _take_code(self, node: LexborNode) -> None:
        self._flush()
        self._end_list()
        self.builder.add(_INVISIBLE.sub("", node.text()).strip("\n"), BlockKind.CODE)

    def _take_table(self, node: LexborNode) -> None:
        self._flush()
        self._end_list()
        caption = _text(node.css_first("caption"))
        self.builder.add(caption, BlockKind.PARAGRAPH)
        rows = []
        for row in node.css("tr"):
            cells = [cell for cell in _children(row) if cell.tag in ("td", "th")]
            if cells:
                rows.append([_cell(cell) for cell in cells])
        add_table(self.builder, grid(rows))


def _children(node: LexborNode) -> list[LexborNode]:
    children = []
    child = node.first_child
    while child is not None:
        if child.is_element_node:
            children.append(child)
        child = child.next
    return children


def _cell(node: LexborNode) -> Cell:
    for line_break in node.css("br, p, div, li"):
        line_break.insert_before(" ")
    attributes = node.attributes
    return Cell(
        _text(node),
        heading=node.tag == "th",
        columns=min(_number(attributes.get("colspan")), 100),
        rows=min(_number(attributes.get("rowspan")), 100),
    )


def _number(value: str | None) -> int:
    plain = value is not None and value.isascii() and value.isdigit() and len(value) < 6
    return int(value) if value and plain else 1


def _is_data_table(table: LexborNode) -> bool:
    """Not a table that lays out a page: rows of short cells, and no table within."""
    if len(table.css("table")) > 1 or table.css_first("h1, h2, h3, ul, ol, pre") is not None:
        return False
    return any(len(_children(row)) > 1 for row in table.css("tr"))
