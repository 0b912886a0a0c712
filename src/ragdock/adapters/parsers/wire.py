"""What parser processes say to each other: frames of bytes, and documents as frames.

A frame is its length (8 bytes, big endian) and that many bytes. A request is one frame, a JSON
object; the file's descriptor comes with its first byte (`SCM_RIGHTS`). A reply is any number of
parts and an end, or an error after any number of parts; each is two frames, a JSON object and the
part's text in UTF-8. The reply to a request for what is in an archive is the same with pieces of
files in place of parts: the first of each file names its path.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from ragdock.errors import DocumentError
from ragdock.types import Block, BlockKind, Bounds, PageSpan, ParsedDocument

__all__ = [
    "HEADER",
    "MAX_REPLY_BYTES",
    "MEMORY_MESSAGE",
    "bounds_of",
    "decode_part",
    "encode_end",
    "encode_error",
    "encode_part",
    "encode_piece",
    "encode_request",
    "is_end",
]

HEADER: Final = struct.Struct(">Q")
MAX_REPLY_BYTES: Final = 64 * 2**20
"""Of a frame: a part has about a million characters, and at most half as many blocks."""
MEMORY_MESSAGE: Final = (
    "Reading the document takes more memory than a parser may use (RAG_PARSE_MEMORY_MB); split it "
    "into several files or raise the limit."
)

_KINDS: Final = tuple(BlockKind)


def encode_request(
    filename: str,
    media_type: str,
    max_pages: int,
    bounds: Bounds | None = None,
    *,
    labelled: bool = True,
) -> bytes:
    """What to know of a file that is to be parsed, or, within bounds, unpacked."""
    head: dict[str, Any] = {
        "filename": filename,
        "media_type": media_type,
        "max_pages": max_pages,
        "labelled": labelled,
    }
    if bounds is not None:
        head["bounds"] = asdict(bounds)
    payload = json.dumps(head).encode()
    return HEADER.pack(len(payload)) + payload


def bounds_of(request: dict[str, Any]) -> Bounds | None:
    """The bounds of a request to unpack; None when it asks for a document."""
    return Bounds(**request["bounds"]) if "bounds" in request else None


def encode_piece(path: str | None, piece: bytes) -> tuple[bytes, bytes]:
    """The beginning of the file at that path in an archive, or more of the file before."""
    return json.dumps({"path": path}).encode(), piece


def encode_part(parsed: ParsedDocument) -> tuple[bytes, bytes]:
    """A part of a document."""
    labels: dict[str, int] = {}
    blocks = [
        (b.start, b.end, _KINDS.index(b.kind), b.level, labels.setdefault(b.label, len(labels)))
        for b in parsed.blocks
    ]
    head = {
        "title": parsed.title,
        "labels": list(labels),
        "blocks": blocks,
        "pages": [(page.number, page.start, page.end, page.label) for page in parsed.pages],
        "start": parsed.start,
        "done": parsed.done,
        "scanned": parsed.n_scanned,
    }
    return json.dumps(head).encode(), parsed.text.encode()


def encode_end(*, last: bool, closed: Iterable[str] = ()) -> tuple[bytes, bytes]:
    """There are no more parts; `last` says that the child ends after it.

    `closed` is what the child has given up (`sandbox.enter`).
    """
    return json.dumps({"last": last, "closed": sorted(closed)}).encode(), b""


def encode_error(
    code: str, message: str, *, last: bool = False, detail: str = ""
) -> tuple[bytes, bytes]:
    """Why there is no document, or no more of it; `detail` is for the log, never for clients."""
    head = {"code": code, "message": message, "last": last, "detail": detail}
    return json.dumps(head).encode(), b""


def is_end(head: dict[str, Any]) -> bool:
    """Whether there are no more parts; raises the `DocumentError` that says why there are none."""
    if "code" in head:
        raise DocumentError(head["message"], code=head["code"])
    return "last" in head


def decode_part(head: dict[str, Any], body: bytes) -> ParsedDocument:
    """The part of a reply that is not the end."""
    labels = head["labels"]
    return ParsedDocument(
        body.decode(),
        tuple(
            Block(start, end, _KINDS[kind], level, labels[label])
            for start, end, kind, level, label in head["blocks"]
        ),
        tuple(PageSpan(*page) for page in head["pages"]),
        head["title"],
        head["start"],
        head["done"],
        head["scanned"],
    )
