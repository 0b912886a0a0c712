"""Bytes to text, or a clear reason why not.

UTF-8 (with or without byte-order mark) and UTF-16/32 with one are certain. Anything else is
guessed at only where the guess can be checked: Windows-1252, if what comes out reads like a
Western European language, and what `charsets` is sure of. A wrong guess would put garbage into the
index and nobody would know.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from ragdock.adapters.parsers import charsets
from ragdock.errors import DocumentError

__all__ = [
    "MARKS",
    "decode_text",
    "guess_encoding",
    "n_controls",
    "nul_error",
    "refuse_controls",
    "wrong_encoding",
    "wrong_marked",
]

MARKS: Final = (
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
_HIGH_BYTE: Final = re.compile(rb"[\x80-\xff]")
_HIGH: Final = re.compile(r"[^\x00-\x7f]")
_ACCENTED_RUN: Final = re.compile(r"[À-ÖØ-öø-ÿ]{3,}")
_MAX_HIGH_SHARE: Final = 0.35
_MULTIBYTE: Final = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)


def decode_text(content: bytes) -> str:
    """The text without its byte-order mark; `DocumentError` `binary` or `wrong_encoding`."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return _checked(_decode_marked(content[len(mark) :], encoding))
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        encoding_found = charsets.guess_utf16(content) if b"\0" in content else None
        if encoding_found is None:
            _refuse_nul(content)
            encoding_found = guess_encoding(content)
        if encoding_found is None:
            line = content.count(b"\n", 0, exc.start) + 1
            raise wrong_encoding(content[exc.start : exc.end], exc.start, line) from None
        return _checked(_decode_guessed(content, encoding_found))
    if "\0" in text and (utf16 := charsets.guess_utf16(content)) is not None:
        return _checked(content.decode(utf16))
    _refuse_nul(content)
    return _checked(text)


def guess_encoding(sample: bytes) -> str | None:
    """What bytes that are not UTF-8 plausibly are; None when it can't be told."""
    if _western(sample) is not None:
        return "cp1252"
    if len(_MULTIBYTE.findall(sample)) * 2 > len(_HIGH_BYTE.findall(sample)):
        return None  # UTF-8 with some broken bytes: nothing else looks like that.
    return charsets.guess(sample) or charsets.guess_utf16(sample)


def _decode_guessed(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as exc:  # The guess is made from the beginning of the text.
        line = content.count(b"\n", 0, exc.start) + 1
        raise wrong_encoding(content[exc.start : exc.end], exc.start, line) from None


def _decode_marked(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as exc:
        raise wrong_marked(encoding, exc.start) from None


def wrong_marked(encoding: str, at: int) -> DocumentError:
    """Why a file with a byte-order mark can't be read."""
    return DocumentError(
        f"The file begins with the byte-order mark of {encoding.upper()} and is not valid "
        f"{encoding.upper()} at byte {at:,}; save it as UTF-8 and upload it again.",
        code="wrong_encoding",
    )


def _refuse_nul(content: bytes) -> None:
    at = content.find(b"\0")
    if at >= 0:
        raise nul_error(content[:2000], at)


def nul_error(head: bytes, at: int) -> DocumentError:
    """Why a file is no text that has a NUL at byte `at`; `head` is how it begins."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > max(4, len(head) // 4) and min(even, odd) * 8 < max(even, odd):
        return DocumentError(
            "The file looks like UTF-16 without a byte-order mark; save it as UTF-8 and upload it "
            "again.",
            code="wrong_encoding",
        )
    return DocumentError(
        f"The file is not text: it has a NUL byte at byte {at:,}. The README lists the formats.",
        code="binary",
    )


def _checked(text: str) -> str:
    refuse_controls(len(text) if "\0" in text else n_controls(text), len(text))
    return text


def n_controls(text: str) -> int:
    """How many control characters it has that no text has."""
    return len(_CONTROLS.findall(text))


def refuse_controls(n_found: int, n_characters: int) -> None:
    """Raise `binary` when there are too many of them."""
    if n_found > n_characters * _MAX_CONTROL_SHARE:
        raise DocumentError(
            "The file is not text: it is full of control characters. The README lists the formats.",
            code="binary",
        )


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


def wrong_encoding(byte: bytes, offset: int, line: int) -> DocumentError:
    """Why a file is not UTF-8: this byte, there."""
    return DocumentError(
        f"The file is not valid UTF-8: byte 0x{byte[:1].hex().upper()} at offset {offset:,} "
        f"(line {line:,}). Save it as UTF-8 and upload it again.",
        code="wrong_encoding",
    )
