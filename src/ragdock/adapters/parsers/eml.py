"""E-mail (RFC 5322): headers, the body as text, forwarded mails, and what was attached.

Read by the standard library's tolerant parser, behind a count of what it would have to take apart.
"""

from __future__ import annotations

import re
from email import message_from_bytes
from email.header import decode_header
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Final

from ragdock.adapters.parsers import html_lexbor
from ragdock.adapters.parsers.building import TextBuilder
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_MAX_PARTS: Final = 2000
_MAX_DEPTH: Final = 20
_MAX_HEADER_LINES: Final = 50_000
_BOUNDARY_LINE: Final = re.compile(rb"^--\S", re.MULTILINE)
_CONTENT_TYPE: Final = re.compile(rb"^[ \t]*content-type[ \t]*:", re.MULTILINE | re.IGNORECASE)
_MULTIPART: Final = re.compile(rb"multipart/|message/", re.IGNORECASE)
_HEADERS: Final = ("From", "To", "Cc", "Date", "Subject")
_MAX_HEADER_CHARACTERS: Final = 2000
_QUOTED: Final = re.compile(r"^>+ ?", re.MULTILINE)
_BLANK_LINES: Final = re.compile(r"\n[^\S\n]*\n\s*")


def parse(content: bytes) -> ParsedDocument:
    """A record of the headers, then the body; the title is the subject."""
    _refuse_many_parts(content)
    message = message_from_bytes(content)
    if not any(message.get(name) for name in ("From", "To", "Subject", "Date", "Received")):
        raise DocumentError(
            "The file is no e-mail: it has none of the headers From, To, Subject and Date. Save "
            "it anew or upload it as text.",
            code="damaged",
        )
    builder = TextBuilder()
    _write(builder, message, 0)
    return builder.document(_header(message, "Subject")[:300])


def _refuse_many_parts(content: bytes) -> None:
    """The parser takes each line to every open boundary, and each part costs an object."""
    n_parts = len(_CONTENT_TYPE.findall(content))
    n_open = len(_MULTIPART.findall(content))
    n_boundaries = len(_BOUNDARY_LINE.findall(content)) if n_open else 0
    head = content[: content.find(b"\n\n") if b"\n\n" in content else len(content)]
    if (
        n_parts > _MAX_PARTS
        or n_boundaries > 10 * _MAX_PARTS
        or n_open > _MAX_PARTS // 4
        or (head.count(b"\n") > _MAX_HEADER_LINES and content.find(b"\r\n\r\n") < 0)
    ):
        raise DocumentError(
            f"The e-mail has more than {_MAX_PARTS:,} parts; save its attachments as files and "
            "upload those.",
            code="too_complex",
        )


def _write(builder: TextBuilder, message: Message, depth: int) -> None:
    lines = [f"{name}: {text}" for name in _HEADERS if (text := _header(message, name))]
    builder.add("\n".join(lines), BlockKind.RECORD)
    texts: list[Message] = []
    forwarded: list[Message] = []
    names: list[str] = []
    _sort(message, texts, forwarded, names, depth)
    for part in texts:
        _write_body(builder, part)
    if names:
        builder.add("Attachments: " + ", ".join(names[:200]), BlockKind.PARAGRAPH)
    for inner in forwarded:
        subject = _header(inner, "Subject") or "Forwarded message"
        builder.add(subject, BlockKind.HEADING, min(depth + 1, 6), subject)
        _write(builder, inner, depth + 1)


def _sort(
    message: Message,
    texts: list[Message],
    forwarded: list[Message],
    names: list[str],
    depth: int,
) -> None:
    """Sort the parts into bodies, forwarded mails, and the names of attachments."""
    if depth > _MAX_DEPTH:
        raise DocumentError(
            f"The e-mail nests parts more than {_MAX_DEPTH} deep; save the inner ones as files.",
            code="too_complex",
        )
    kind = message.get_content_type()
    inner = message.get_payload() if message.is_multipart() else None
    if isinstance(inner, list):
        if kind == "message/rfc822":
            forwarded.extend(part for part in inner if isinstance(part, Message))
        elif kind == "multipart/alternative":
            chosen = _alternative([part for part in inner if isinstance(part, Message)])
            for part in chosen:
                _sort(part, texts, forwarded, names, depth + 1)
        else:
            for child in inner:
                if isinstance(child, Message):
                    _sort(child, texts, forwarded, names, depth + 1)
        return
    name = _decoded(message.get_filename() or "")
    attached = message.get_content_disposition() == "attachment"
    if kind in ("text/plain", "text/html") and not attached and not (name and texts):
        texts.append(message)
    elif name or attached:
        names.append(name or kind)


def _alternative(parts: list[Message]) -> list[Message]:
    """The same content in several forms: plain text, unless it is only a stand-in."""
    for part in parts:
        if part.get_content_type() == "text/plain":
            others = [p for p in parts if p is not part]
            text = part.get_payload(decode=True)
            size = len(text.strip()) if isinstance(text, bytes) else 0
            if size > 100 or not others or (size and not _has_html(others)):
                # Pictures and attachments beside the text come along within the others.
                return [part]
    return [p for p in parts if p.get_content_type() != "text/plain"] or parts


def _has_html(parts: list[Message]) -> bool:
    return any(
        p.get_content_type() in ("text/html", "multipart/related", "multipart/mixed") for p in parts
    )


def _write_body(builder: TextBuilder, part: Message) -> None:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes) or not payload.strip():
        return
    text = _body_text(part, payload)
    if part.get_content_type() == "text/html":
        builder.include(html_lexbor.parse_source(text, whole=True))
        return
    plain = _QUOTED.sub("", text.replace("\r\n", "\n").replace("\0", ""))
    for paragraph in _BLANK_LINES.split(plain):
        builder.add(paragraph, BlockKind.PARAGRAPH)


def _body_text(part: Message, payload: bytes) -> str:
    """By the declared character set, else as for any text, else with replacements."""
    declared = str(part.get_content_charset() or "")
    if declared and declared != "us-ascii":
        try:
            return payload.decode(
                {"iso-8859-1": "cp1252", "gb2312": "gb18030"}.get(declared, declared)
            )
        except (LookupError, UnicodeDecodeError, ValueError):
            pass  # The declaration is wrong or unknown; the bytes must show.
    if part.get_content_type() == "text/html":
        return html_lexbor.decode_page(payload)
    try:
        return decode_text(payload)
    except DocumentError:
        return payload.decode("utf-8", "replace")


def _header(message: Message, name: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    text = _decoded(str(value)[:_MAX_HEADER_CHARACTERS])
    if name == "Date":
        try:
            return parsedate_to_datetime(text).isoformat(sep=" ", timespec="minutes")
        except (ValueError, TypeError, IndexError, OverflowError):
            return text
    return text


def _decoded(value: str) -> str:
    """RFC 2047's encoded words as text."""
    parts = []
    try:
        for piece, charset in decode_header(value):
            if isinstance(piece, str):
                parts.append(piece)
            else:
                parts.append(piece.decode(charset or "utf-8", "replace"))
    except (LookupError, ValueError, UnicodeError):
        return " ".join(value.split())
    text = "".join(parts).encode("utf-8", "replace").decode()
    return " ".join(text.replace("\0", "").split())
