"""Bytes to text, or a clear reason why not.

UTF-8 (with or without byte-order mark) and UTF-16/32 with one are certain. Anything else is
guessed at only where the guess can be checked: Windows-1252, if what comes out reads like a
Western European language. A wrong guess would put garbage into the index and nobody would know.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from ragdock.errors import DocumentError

__all__ = ["decode_text"]

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # Before UTF-16 LE, whose mark begins it.
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")  # ESC colours logs.
_MAX_CONTROL_SHARE: Final = 0.02

# In Western European text, a character above ASCII is a letter of a word, or punctuation or a
# sign of its own. Superscripts and signs within words betray another code page.
_LETTER: Final = "A-Za-zÀ-ÖØ-öø-ÿŒœŠšŽžŸ"
_WESTERN: Final = re.compile(
    rf"[À-ÖØ-öø-ÿŒœŠšŽžŸ]|(?<![{_LETTER}])[^\x00-\x7f]|[^\x00-\x7f](?![{_LETTER}])|[‘’“”–—]"
)
_HIGH: Final = re.compile(r"[^\x00-\x7f]")
_ACCENTED_RUN: Final = re.compile(r"[À-ÖØ-öø-ÿ]{3,}")
_MAX_HIGH_SHARE: Final = 0.2
_MULTIBYTE: Final = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)


def decode_text(content: bytes) -> str:
    """The text without its byte-order mark; `DocumentError` `binary` or `wrong_encoding`."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _checked(_decode_marked(content[len(mark) :], encoding))
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        _refuse_nul(content)
        fallback = _western(content)
        if fallback is None:
            raise _wrong_encoding(content, exc.start) from None
        return _checked(fallback)
    _refuse_nul(content)
    return _checked(text)


def _decode_marked(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as exc:
        raise DocumentError(
            f"The file begins with the byte-order mark of {encoding.upper()} and is not valid "
            f"{encoding.upper()} at byte {exc.start:,}; save it as UTF-8 and upload it again.",
            code="wrong_encoding",
        ) from None


def _refuse_nul(content: bytes) -> None:
    at = content.find(b"\0")
    if at < 0:
        return
    sample = content[:2000]
    if min(sample[::2].count(0), sample[1::2].count(0)) * 8 < sample.count(0) > len(sample) // 4:
        raise DocumentError(
            "The file looks like UTF-16 without a byte-order mark; save it as UTF-8 and upload it "
            "again.",
            code="wrong_encoding",
        )
    raise DocumentError(
        f"The file is not text: it has a NUL byte at byte {at:,}. Upload text, Markdown, HTML, "
        "CSV, JSON, source code, PDF or DOCX.",
        code="binary",
    )


def _checked(text: str) -> str:
    if "\0" in text or len(_CONTROLS.findall(text)) > len(text) * _MAX_CONTROL_SHARE:
        raise DocumentError(
            "The file is not text: it is full of control characters. Upload text, Markdown, HTML, "
            "CSV, JSON, source code, PDF or DOCX.",
            code="binary",
        )
    return text


def _western(content: bytes) -> str | None:
    """The text if it plausibly is Windows-1252, else None."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    n_high = len(_HIGH.findall(text))
    n_utf8 = len(_MULTIBYTE.findall(content))
    plausible = (
        n_high <= len(text) * _MAX_HIGH_SHARE
        and len(_WESTERN.findall(text)) >= n_high * 0.98
        and len(_ACCENTED_RUN.findall(text)) * 50 <= n_high
        and n_utf8 * 10 <= n_high  # Else it is UTF-8 with a few broken bytes.
    )
    return text if plausible else None


def _wrong_encoding(content: bytes, offset: int) -> DocumentError:
    line = content.count(b"\n", 0, offset) + 1
    return DocumentError(
        f"The file is not valid UTF-8: byte 0x{content[offset]:02X} at offset {offset:,} "
        f"(line {line:,}). Save it as UTF-8 and upload it again.",
        code="wrong_encoding",
    )
