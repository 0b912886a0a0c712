"""EPUB: the chapters in the order of the spine, each read as the HTML page that it is."""

from __future__ import annotations

from posixpath import dirname, join, normpath
from typing import Final
from urllib.parse import unquote

from ragdock.adapters.parsers.building import TextBuilder
from ragdock.adapters.parsers.html_lexbor import decode_page, parse_source
from ragdock.adapters.parsers.packages import Attributes, XmlPackage, local_name
from ragdock.types import ParsedDocument

__all__ = ["parse"]

_PAGES: Final = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml"})
_MAX_CHAPTER_BYTES: Final = 50 * 2**20


def parse(content: bytes) -> ParsedDocument:
    """The book's text; its title is the one in its metadata."""
    package = XmlPackage(content, "EPUB")
    book = _package_document(package)
    chapters = _spine(package, book)
    _refuse_protected(package, chapters)
    builder = TextBuilder()
    for chapter in chapters:
        page = package.read(chapter, _MAX_CHAPTER_BYTES)
        if page.strip():
            builder.include(parse_source(decode_page(page), whole=True))
    return builder.document(package.core_title(book))


def _package_document(package: XmlPackage) -> str:
    """The path of the OPF, which lists what the book is made of."""
    found: list[str] = []

    def start(name: str, attributes: Attributes) -> None:
        if local_name(name) == "rootfile":
            found.append(normpath(attributes.get("full-path", "")))

    package.parse("META-INF/container.xml", start)
    found += [name for name in package.members if name.endswith(".opf")]
    for path in found:
        if path in package.members:
            return path
    raise package.damaged()


def _spine(package: XmlPackage, book: str) -> list[str]:
    """Paths of the chapters in reading order, the table of contents left out."""
    items: dict[str, str] = {}
    order: list[str] = []

    def start(name: str, attributes: Attributes) -> None:
        local = local_name(name)
        if local == "item":
            is_contents = "nav" in attributes.get("properties", "").split()
            if attributes.get("media-type") in _PAGES and not is_contents:
                path = join(dirname(book), unquote(attributes.get("href", "").partition("#")[0]))
                items[attributes.get("id", "")] = normpath(path)
        elif local == "itemref":
            order.append(attributes.get("idref", ""))

    package.parse(book, start)
    # A chapter that stands in the spine twice is read once.
    listed = dict.fromkeys(items[identifier] for identifier in order if identifier in items)
    return list(listed) or list(dict.fromkeys(items.values()))


def _refuse_protected(package: XmlPackage, chapters: list[str]) -> None:
    """Fonts may be scrambled; a chapter that is encrypted means a book with copy protection."""
    wanted = set(chapters)

    def start(name: str, attributes: Attributes) -> None:
        if local_name(name) == "CipherReference":
            path = normpath(unquote(attributes.get("URI", "")))
            if path in wanted:
                raise package.encrypted()

    package.parse("META-INF/encryption.xml", start)
