"""What parser processes say to each other: frames of bytes, and documents as frames.

A frame is its length (8 bytes, big endian) and that many bytes. A request is two frames, a JSON
object and the file. A reply is two frames, a JSON object and the text in UTF-8.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

from ragdock.errors import DocumentError
from ragdock.types import Block, BlockKind, PageSpan, ParsedDocument

__all__ = [
    "HEADER",
    "MAX_REPLY_BYTES",
    "MEMORY_MESSAGE",
    "decode_reply",
    "encode_document",
    "encode_error",
    "encode_request",
]

HEADER: Final = struct.Struct(">Q")
MAX_REPLY_BYTES: Final = 512 * 2**20
MEMORY_MESSAGE: Final = (
    "Reading the document takes more memory than a parser may use (RAG_PARSE_MEMORY_MB); split it "
    "into several files or raise the limit."
)

_KINDS: Final = tuple(BlockKind)


def encode_request(content: bytes, filename: str, media_type: str) -> tuple[bytes, bytes]:
    """A file to parse."""
    return json.dumps({"filename": filename, "media_type": media_type}).encode(), content


def encode_document(parsed: ParsedDocument, *, last: bool) -> tuple[bytes, bytes]:
    """A parsed document; `last` says that the child ends after it."""
    labels: dict[str, int] = {}
    blocks = [
        (b.start, b.end, _KINDS.index(b.kind), b.level, labels.setdefault(b.label, len(labels)))
        for b in parsed.blocks
    ]
    head = {
        "title": parsed.title,
        "labels": list(labels),
        "blocks": blocks,
        "pages": [(page.number, page.start, page.end) for page in parsed.pages],
        "last": last,
    }
    return json.dumps(head).encode(), parsed.text.encode()


def encode_error(
    code: str, message: str, *, last: bool = False, detail: str = ""
) -> tuple[bytes, bytes]:
    """Why there is no document; `detail` is for the log, never for clients."""
    head = {"code": code, "message": message, "last": last, "detail": detail}
    return json.dumps(head).encode(), b""


def decode_reply(head: dict[str, Any], body: bytes) -> ParsedDocument:
    """The document of a reply, or its `DocumentError`."""
    if "code" in head:
        raise DocumentError(head["message"], code=head["code"])
    labels = head["labels"]
    return ParsedDocument(
        body.decode(),
        tuple(
            Block(start, end, _KINDS[kind], level, labels[label])
            for start, end, kind, level, label in head["blocks"]
        ),
        tuple(PageSpan(*page) for page in head["pages"]),
        head["title"],
    )
