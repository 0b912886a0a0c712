"""What a web server's answer is as a file: its name, its type, its text in UTF-8."""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import Final

from ragdock.core.media import HTML, MARKDOWN, PLAIN_TEXT, SUPPORTED, detect_media_type
from ragdock.core.weburls import WebUrl

__all__ = ["Recoder", "split_content_type", "web_filename"]

_SNIFFED_BYTES: Final = 64 * 1024
_MAX_NAME_BYTES: Final = 200
_MARKS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_EXTENSIONS: Final = {HTML: ".html", PLAIN_TEXT: ".txt", MARKDOWN: ".md"} | {
    media_type: extension
    for extension, media_type in reversed(list(SUPPORTED.items()))
    if media_type not in (HTML, PLAIN_TEXT, MARKDOWN)
}
# Python's names of charsets; its other codecs are escapes, compressions and encodings of names.
_CHARSETS: Final = (
    "iso8859-", "cp125", "cp866", "cp874", "cp932", "cp949", "koi8-", "mac-", "shift_jis", "euc_",
    "gb", "big5", "iso2022_jp", "utf-16", "utf-32",
)  # fmt: skip
# RFC 6266: filename*=UTF-8''na%C3%AFve.pdf outranks filename="naive.pdf".
_EXTENDED: Final = re.compile(r"filename\*\s*=\s*(?i:utf-8)'[^']*'([^;\s]+)", re.IGNORECASE)
_PLAIN: Final = re.compile(r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9._:-]{1,40})""", re.IGNORECASE)


def split_content_type(value: str) -> tuple[str, str]:
    """Media type and charset of a Content-Type header, in lower case; empty when absent."""
    found = _PARAMETER.search(value)
    return value.partition(";")[0].strip().lower(), found[1].lower() if found else ""


def web_filename(url: WebUrl, disposition: str, media_type: str) -> str:
    """A plain file name for a URL's content, with a suffix that tells its type if one does.

    The server's Content-Disposition comes first, then the path's last part, then the host. The
    declared type wins over a suffix that names another one, for `/index.php` answers HTML; only
    `text/plain` and types of nothing in particular say less than a suffix does.
    """
    name = _clean(_offered(disposition)) or _clean(_unquoted(_last_part(url))) or url.host
    declared = detect_media_type("", media_type, b"\0") or ""
    dot = name.rfind(".")
    by_name = SUPPORTED.get(name[dot:].lower()) if dot > 0 else None
    vague = declared in ("", PLAIN_TEXT)
    if by_name == declared or (by_name is not None and vague):
        return name
    return name + _EXTENSIONS.get(declared, "")


class Recoder:
    """Bytes in a charset that only the server's answer names, as UTF-8 with a byte-order mark.

    The mark outranks what the text says of itself, as the header does (HTML, section 13.2.3.2).
    Content that is UTF-8 already, has a mark, is no text or isn't in that charset stays as it is.
    """

    def __init__(self, media_type: str, charset: str) -> None:
        self._decoder: codecs.IncrementalDecoder | None = None
        self._head = b""
        self._settled = True
        is_text = media_type.startswith("text/") or media_type.endswith(("xml", "json"))
        codec = _codec(charset) if is_text else None
        if codec is not None:
            self._decoder = codec.incrementaldecoder("replace")
            self._strict = codec.incrementaldecoder("strict")
            self._settled = False

    def feed(self, piece: bytes, *, last: bool = False) -> bytes:
        """The next bytes, as they should be kept."""
        if self._settled:
            return self._recoded(piece, last=last)
        self._head += piece
        if len(self._head) < _SNIFFED_BYTES and not last:
            return b""
        head, self._head, self._settled = self._head, b"", True
        if head.startswith(_MARKS) or not self._fits(head[:_SNIFFED_BYTES]):
            self._decoder = None
            return head
        return codecs.BOM_UTF8 + self._recoded(head, last=last) if head else b""

    def _fits(self, head: bytes) -> bool:
        try:
            self._strict.decode(head)
        except UnicodeDecodeError:
            return False
        return True

    def _recoded(self, piece: bytes, *, last: bool) -> bytes:
        return piece if self._decoder is None else self._decoder.decode(piece, last).encode()


def _codec(charset: str) -> codecs.CodecInfo | None:
    try:
        codec = codecs.lookup(charset)
    except (LookupError, ValueError):
        return None
    # Pages that say ISO 8859-1 mean its larger relative (https://encoding.spec.whatwg.org/#names).
    codec = codecs.lookup("cp1252") if codec.name == "iso8859-1" else codec
    return codec if codec.name.startswith(_CHARSETS) else None


def _offered(disposition: str) -> str:
    extended = _EXTENDED.search(disposition)
    if extended:
        return _unquoted(extended[1])
    plain = _PLAIN.search(disposition)
    if plain is None:
        return ""
    quoted, token = plain.groups()
    return token or re.sub(r"\\(.)", r"\1", quoted or "")


def _last_part(url: WebUrl) -> str:
    return url.target.partition("?")[0].rpartition("/")[2]


def _unquoted(text: str) -> str:
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    return raw.decode("utf-8", "replace")


def _clean(name: str) -> str:
    """The last part of a name, without what a file name may not hold."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    kept = "".join(
        character
        for character in last
        if unicodedata.category(character)[0] not in "CZ" or character == " "
    ).strip(" .")
    while len(kept.encode()) > _MAX_NAME_BYTES:
        stem, dot, suffix = kept.rpartition(".")
        kept = f"{stem[:-1]}{dot}{suffix}" if stem and len(suffix) < 12 else kept[:-1]
    return kept
