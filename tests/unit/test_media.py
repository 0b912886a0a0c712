"""What a file is, and which names may be kept."""

from __future__ import annotations

import unicodedata

import pytest

from ragdock.core import media
from ragdock.core.media import DOCX, SUPPORTED, detect_media_type, safe_filename
from ragdock.errors import InputError

PDF_HEAD = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
ZIP_HEAD = b"PK\x03\x04\x14\x00\x00\x00\x08\x00"
MIMETYPE = ZIP_HEAD + b"\0" * 20 + b"mimetype%sPK\x03\x04"

DETECTED = {
    "pdf by content": ("x.pdf", "application/pdf", PDF_HEAD, "application/pdf"),
    "pdf named txt": ("x.txt", "text/plain", PDF_HEAD, "application/pdf"),
    "pdf without name": ("x", None, b"junk\n" + PDF_HEAD, "application/pdf"),
    "pdf by name only": ("x.PDF", None, b"not a pdf", "application/pdf"),
    "text about pdf": ("x.txt", None, b"A file starts with %PDF-1.7.", "text/plain"),
    "markdown about pdf": ("x.md", None, b"A file starts with %PDF-1.7.", "text/markdown"),
    "docx": ("x.docx", None, ZIP_HEAD, DOCX),
    "docx without extension": ("x", DOCX, ZIP_HEAD, DOCX),
    "docx by its parts": ("x", None, ZIP_HEAD + b"word/document.xml", DOCX),
    "encrypted docx": ("x.docx", None, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", DOCX),
    "old word": ("x.doc", "application/msword", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None),
    "xlsx": ("x.xlsx", None, ZIP_HEAD, media.XLSX),
    "pptx by its parts": ("x", None, ZIP_HEAD + b"[Content_Types].xml ppt/a", media.PPTX),
    "odt by its mimetype": (
        "x.zip",
        None,
        MIMETYPE % b"application/vnd.oasis.opendocument.text",
        media.ODT,
    ),
    "epub named docx": ("x.docx", None, MIMETYPE % b"application/epub+zip", media.EPUB),
    "rtf named doc": ("x.doc", "application/msword", b"{\\rtf1\\ansi", media.RTF),
    "mail without name": ("x", None, b"From: a@b.c\r\nTo: d@e.f\r\n\r\nHi", media.EML),
    "text that begins like a mail": ("x", None, b"From: here to there", "text/plain"),
    "xml without name": ("x", None, b"<?xml version='1.0'?><a/>", media.XML),
    "subtitles": ("x.srt", None, b"1\n", media.SUBRIP),
    "notebook": ("x.ipynb", "application/json", b"{}", media.NOTEBOOK),
    "zip": ("x.zip", None, ZIP_HEAD, media.ZIP),
    "zip without extension": ("x", "application/zip", ZIP_HEAD, media.ZIP),
    "zip without anything": ("x", None, ZIP_HEAD + b"a.txt", media.ZIP),
    "docx named zip": ("x.zip", None, ZIP_HEAD + b"[Content_Types].xml word/document", DOCX),
    "zip with a folder named word": ("x.zip", None, ZIP_HEAD + b"word/list.txt", media.ZIP),
    "tar": ("x.tar", None, b"a".ljust(257, b"\0") + b"ustar", media.TAR),
    "tar without extension": ("x", None, b"a".ljust(257, b"\0") + b"ustar\0", media.TAR),
    "tar that begins with a pdf": (
        "x",
        None,
        b"a".ljust(257, b"\0") + b"ustar".ljust(255, b"\0") + PDF_HEAD,
        media.TAR,
    ),
    "tar.gz": ("x.tar.gz", "application/x-gzip", b"\x1f\x8b\x08", media.GZIP),
    "tgz named tar": ("x.tar", None, b"\x1f\x8b\x08", media.GZIP),
    "bzip2": ("notes.md.bz2", None, b"BZh91AY", media.BZIP2),
    "xz": ("x.txz", None, b"\xfd7zXZ\0", media.XZ),
    "gzip without extension": ("x", None, b"\x1f\x8b\x08", media.GZIP),
    "gzip named txt": ("x.txt", None, b"\x1f\x8b\x08", None),
    "rar named zip": ("x.zip", None, b"Rar!\x1a\x07", None),
    "7z": ("x.7z", None, b"7z\xbc\xaf", None),
    "jar": ("x.jar", None, ZIP_HEAD, None),
    "zip named txt": ("x.txt", "text/plain", ZIP_HEAD, None),
    "png named md": ("x.md", "text/markdown", b"\x89PNG\r\n\x1a\n", None),
    "elf": ("tool", None, b"\x7fELF\x02\x01", None),
    "text": ("x.txt", None, b"hello", "text/plain"),
    "name before declaration": ("x.md", "text/plain", b"# hi", "text/markdown"),
    "declaration": ("x.unknown", "text/markdown; charset=utf-8", b"# hi", "text/markdown"),
    "alias": ("x", "application/x-ndjson", b"{}", "application/jsonl"),
    "unknown extension": ("x.xyz", None, b"hello", None),
    "unknown declaration": ("x", "video/mp4", b"hello", None),
    "no extension, text": ("LICENSE", None, b"Permission is", "text/plain"),
    "no extension, cut utf-8": ("x", "application/octet-stream", "né".encode()[:2], "text/plain"),
    "no extension, html": ("x", None, b" \n<!DOCTYPE html><p>", "text/html"),
    "no extension, binary": ("x", None, b"\x00\x01", None),
    "dot file": (".env", None, b"A=1", "text/plain"),
    "code": ("x.rs", "application/octet-stream", b"fn main() {}", "text/x-rust"),
    "empty": ("x.txt", None, b"", "text/plain"),
}


@pytest.mark.parametrize(
    ("name", "declared", "head", "expected"), DETECTED.values(), ids=DETECTED.keys()
)
def test_detection(name: str, declared: str | None, head: bytes, expected: str | None) -> None:
    """Content decides before the name, the name before the declaration; None is unsupported."""
    assert detect_media_type(name, declared, head) == expected


def test_every_supported_extension_is_detected() -> None:
    """Each extension listed as supported gives its media type, whatever its case."""
    for extension, media_type in SUPPORTED.items():
        assert detect_media_type(f"file{extension.upper()}", None, b"x") == media_type


@pytest.mark.parametrize(
    "name",
    [
        "", "  ", ".", "..", "../x.txt", "a/b.txt", "/etc/passwd", "..\\x", "C:\\x.txt", "a\0.txt",
        "a\n.txt", "a\x1b[31m.txt", "a\u202etxt.exe", "a\u2028.txt", "\ud800.txt",
        "x" * 252 + ".txt", "é" * 126 + ".txt",
    ],
)  # fmt: skip
def test_bad_names_are_refused(name: str) -> None:
    """A path, a control character, an empty or overlong name is an input error of `file`."""
    with pytest.raises(InputError) as caught:
        safe_filename(name)
    assert (caught.value.code, caught.value.field) == ("bad_filename", "file")
    assert "report.pdf" in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt", "..hidden..txt", "日本語.pdf", "a b (1).md", "x" * 255])
def test_good_names_are_kept(name: str) -> None:
    """Any other name stays as it is."""
    assert safe_filename(name) == name


def test_names_are_normalised() -> None:
    """A name from a Mac (decomposed) and one from elsewhere (composed) are the same name."""
    assert safe_filename(unicodedata.normalize("NFD", "Über.txt")) == "Über.txt"
