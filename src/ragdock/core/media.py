"""What a file is, and whether its name may be kept.

Content outranks the name, the name outranks what the client declares: browsers declare what the
name says, scripts declare nonsense, and a PDF named `.txt` is a PDF.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ragdock.errors import InputError

__all__ = [
    "ARCHIVES",
    "BZIP2",
    "CODE_TYPES",
    "CSV",
    "DOCX",
    "EML",
    "EPUB",
    "GZIP",
    "HTML",
    "JSON",
    "JSONL",
    "LATEX",
    "MARKDOWN",
    "NOTEBOOK",
    "ODP",
    "ODS",
    "ODT",
    "PDF",
    "PLAIN_TEXT",
    "PPTX",
    "RST",
    "RTF",
    "SUBRIP",
    "SUPPORTED",
    "TAR",
    "TSV",
    "WEBVTT",
    "XLSX",
    "XML",
    "XZ",
    "ZIP",
    "detect_media_type",
    "safe_filename",
]

PLAIN_TEXT: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
RST: Final = "text/x-rst"
CSV: Final = "text/csv"
TSV: Final = "text/tab-separated-values"
JSON: Final = "application/json"
JSONL: Final = "application/jsonl"
HTML: Final = "text/html"
PDF: Final = "application/pdf"
DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX: Final = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ODT: Final = "application/vnd.oasis.opendocument.text"
ODS: Final = "application/vnd.oasis.opendocument.spreadsheet"
ODP: Final = "application/vnd.oasis.opendocument.presentation"
EPUB: Final = "application/epub+zip"
RTF: Final = "application/rtf"
EML: Final = "message/rfc822"
LATEX: Final = "text/x-tex"
NOTEBOOK: Final = "application/x-ipynb+json"
SUBRIP: Final = "application/x-subrip"
WEBVTT: Final = "text/vtt"
XML: Final = "application/xml"
ZIP: Final = "application/zip"
TAR: Final = "application/x-tar"
GZIP: Final = "application/gzip"
BZIP2: Final = "application/x-bzip2"
XZ: Final = "application/x-xz"

_TEXT_EXTENSIONS: Final = {
    PLAIN_TEXT: "txt text log adoc asciidoc org",
    MARKDOWN: "md markdown mdown mkd mdx qmd rmd",
    RST: "rst rest",
    CSV: "csv",
    TSV: "tsv tab",
    JSON: "json geojson",
    JSONL: "jsonl ndjson",
    HTML: "html htm xhtml",
    PDF: "pdf",
    DOCX: "docx docm dotx",
    PPTX: "pptx pptm ppsx potx",
    XLSX: "xlsx xlsm xltx",
    ODT: "odt ott",
    ODS: "ods ots",
    ODP: "odp otp",
    EPUB: "epub",
    RTF: "rtf",
    EML: "eml",
    LATEX: "tex latex ltx",
    NOTEBOOK: "ipynb",
    SUBRIP: "srt",
    WEBVTT: "vtt",
    XML: "xml",
}
_CODE_EXTENSIONS: Final = {
    "text/x-python": "py pyi pyw",
    "text/javascript": "js mjs cjs jsx",
    "text/x-typescript": "ts tsx mts cts",
    "text/x-java": "java",
    "text/x-kotlin": "kt kts",
    "text/x-scala": "scala",
    "text/x-c": "c h",
    "text/x-c++": "cc cpp cxx hpp hh hxx",
    "text/x-csharp": "cs",
    "text/x-go": "go",
    "text/x-rust": "rs",
    "text/x-swift": "swift",
    "text/x-ruby": "rb",
    "text/x-php": "php",
    "text/x-perl": "pl pm",
    "text/x-lua": "lua",
    "text/x-r": "r",
    "text/x-julia": "jl",
    "text/x-elixir": "ex exs",
    "text/x-erlang": "erl",
    "text/x-haskell": "hs",
    "text/x-clojure": "clj cljs",
    "text/x-dart": "dart",
    "text/x-shellscript": "sh bash zsh fish",
    "text/x-powershell": "ps1 psm1",
    "text/x-sql": "sql",
    "text/css": "css scss less",
    "text/x-vue": "vue svelte",
    "text/x-proto": "proto",
    "text/x-graphql": "graphql gql",
    "text/x-terraform": "tf",
    "application/xslt+xml": "xsd xsl xslt",
    "application/yaml": "yaml yml",
    "application/toml": "toml",
    "text/x-properties": "ini cfg conf properties",
}

_ARCHIVE_EXTENSIONS: Final = {
    ZIP: "zip",
    TAR: "tar",
    GZIP: "gz gzip tgz",
    BZIP2: "bz2 tbz2 tbz",
    XZ: "xz txz",
}

ARCHIVES: Final = frozenset(_ARCHIVE_EXTENSIONS)
"""Media types of files that hold files; a compressed TAR has its compression's."""

CODE_TYPES: Final = frozenset(_CODE_EXTENSIONS)
"""Media types of source code and configuration, all handled alike."""

SUPPORTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        f".{extension}": media_type
        for media_type, extensions in (
            _TEXT_EXTENSIONS | _CODE_EXTENSIONS | _ARCHIVE_EXTENSIONS
        ).items()
        for extension in extensions.split()
    }
)
"""Media type by file extension, in lower case with the dot."""

_TYPES: Final = frozenset(SUPPORTED.values())
_ALIASES: Final = {
    "text/x-markdown": MARKDOWN,
    "text/prs.fallenstein.rst": RST,
    "application/csv": CSV,
    "text/json": JSON,
    "application/x-ndjson": JSONL,
    "application/x-jsonlines": JSONL,
    "application/jsonlines": JSONL,
    "application/xhtml+xml": HTML,
    "application/x-pdf": PDF,
    "text/xml": XML,
    "text/rtf": RTF,
    "application/x-latex": LATEX,
    "application/x-tex": LATEX,
    "text/srt": SUBRIP,
    "application/x-zip-compressed": ZIP,
    "application/x-zip": ZIP,
    "application/x-gtar": TAR,
    "application/x-gzip": GZIP,
    "application/x-tgz": GZIP,
    "application/x-compressed-tar": GZIP,
    "application/x-bzip": BZIP2,
    "application/x-xz-compressed-tar": XZ,
    "text/yaml": "application/yaml",
    "application/x-yaml": "application/yaml",
    "application/javascript": "text/javascript",
    "application/x-python": "text/x-python",
    "application/x-sh": "text/x-shellscript",
}
_UNKNOWN_TYPES: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})

_PDF: Final = b"%PDF-"
_RTF: Final = b"{\\rtf"
_ZIP: Final = b"PK\x03\x04"
_OOXML: Final = frozenset({DOCX, PPTX, XLSX})
_PACKAGES: Final = _OOXML | {ODT, ODS, ODP, EPUB}
# ODF and EPUB begin with a member that is not compressed and names the format.
_MIMETYPE: Final = re.compile(
    rb"PK\x03\x04.{26}mimetype([a-z./+-]{10,80}?)(?=PK|[^a-z./+-])", re.DOTALL
)
_FOLDERS: Final = {b"word/": DOCX, b"ppt/": PPTX, b"xl/": XLSX}
_CONTENT_TYPES: Final = b"[Content_Types].xml"  # Every OOXML package has it, and no other ZIP.
_COMPRESSED: Final = {b"\x1f\x8b": GZIP, b"BZh": BZIP2, b"\xfd7zXZ\0": XZ}
_TAR: Final = b"ustar"
_TAR_AT: Final = 257
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # Old Word, and DOCX with a password.
_BINARY: Final = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"\x1f\x8b", b"BZh", b"\xfd7zXZ",
    b"7z\xbc\xaf", b"Rar!", b"\x7fELF", b"MZ\x90", b"\xca\xfe\xba\xbe", b"OggS", b"ID3", b"fLaC",
    b"\x28\xb5\x2f\xfd", b"SQLite format 3", b"%!PS", b"II*\x00", b"MM\x00*", b"wOF",
    b"\x00asm", b"PAR1",
)  # fmt: skip
_HTML_START: Final = re.compile(
    rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL
)
_XML_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?<\?xml\s")
_MAIL_START: Final = re.compile(
    rb"(?:Return-Path|Received|Delivered-To|From|To|Subject|Date|Message-ID|MIME-Version"
    rb"|X-[\w-]+): ",
    re.IGNORECASE,
)
_MAIL_HEADER: Final = re.compile(
    rb"^(?:From|To|Subject|Date|Message-ID): ", re.MULTILINE | re.IGNORECASE
)
_PDF_WINDOW: Final = 1024  # Readers accept that much before the header (PDF 1.7, annex H.3.4.1).

MAX_NAME_BYTES: Final = 255
_BAD_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION_MARKS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def detect_media_type(filename: str, declared: str | None, head: bytes) -> str | None:
    """The media type of a file, or None if ragdock can't read such files.

    `head` is the file's beginning (1 KiB or more). Magic bytes decide first, then the extension,
    then the declared type, and a file without any of these is text if it looks like text.
    """
    dot = filename.rfind(".")
    extension = filename[dot:].lower() if dot > 0 else ""
    declared = (declared or "").split(";")[0].strip().lower()
    declared = _ALIASES.get(declared, declared)
    by_name = SUPPORTED.get(extension)
    if (not extension or by_name in ARCHIVES) and (packed := _packed(head)):
        return packed
    window = _PDF_WINDOW if by_name in (None, PDF) else len(_PDF)
    if _PDF in head[:window]:
        return PDF
    if head.startswith(_RTF):
        return RTF
    if head.startswith(_ZIP):
        return _zipped(head, by_name) if extension else _zipped(head, _package(declared)) or ZIP
    if head.startswith(_OLE):
        return by_name if by_name in _OOXML else None
    if head.startswith(_BINARY) and by_name not in (PDF, *_PACKAGES):
        return None
    if by_name is not None:
        return by_name
    if declared in _TYPES:
        return declared
    if extension or declared not in _UNKNOWN_TYPES:
        return None
    return _sniffed(head)


def _zipped(head: bytes, expected: str | None) -> str | None:
    """The package that a ZIP is by its first members, else what it should be, if a package."""
    if named := _MIMETYPE.match(head):
        media_type = named[1].decode("ascii").removesuffix("-template")
        return media_type if media_type in _PACKAGES else None
    if expected in _PACKAGES:
        return expected
    if expected is None or (expected == ZIP and _CONTENT_TYPES in head):
        expected = next((kind for folder, kind in _FOLDERS.items() if folder in head), expected)
    return expected if expected == ZIP or expected in _PACKAGES else None


def _packed(head: bytes) -> str | None:
    """What a TAR or a compressed file is by its first bytes."""
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return TAR
    return next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)


def _package(declared: str) -> str | None:
    return declared if declared in _PACKAGES else None


def _sniffed(head: bytes) -> str | None:
    """What a file without a telling name is by the look of its text."""
    if _HTML_START.match(head):
        return HTML
    if _XML_START.match(head):
        return XML
    if _MAIL_START.match(head) and len(_MAIL_HEADER.findall(head)) > 1:
        return EML
    return PLAIN_TEXT if _looks_like_text(head) else None


def safe_filename(name: str) -> str:
    """The name in NFC; `InputError` (`bad_filename`) unless it is a plain name of a file."""
    normal = unicodedata.normalize("NFC", name)
    problem = _name_problem(normal)
    if problem is not None:
        raise InputError(
            f"The file name {problem}; send a plain name such as report.pdf.",
            field="file",
            code="bad_filename",
        )
    return normal


def _name_problem(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if "/" in name or "\\" in name or name.strip() in (".", ".."):
        return "contains a path"
    if any(unicodedata.category(c) in _BAD_CATEGORIES or c in _DIRECTION_MARKS for c in name):
        return "contains control characters"
    size_bytes = len(name.encode())
    if size_bytes > MAX_NAME_BYTES:
        return f"has {size_bytes} bytes and may have {MAX_NAME_BYTES}"
    return None


def _looks_like_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as exc:
        return exc.start >= len(head) - 3  # The head may end within a character.
    return True
