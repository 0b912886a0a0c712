"""Cache keys and content hashes."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Final

__all__ = [
    "cache_key",
    "document_id_digest",
    "document_id_from",
    "document_id_of",
    "normalised",
    "sha256_hex",
]


_encode: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def cache_key(kind: str, *parts: object) -> str:
    """`rag:v1:<kind>:<digest>` over JSON-able parts: BLAKE2b, 20 bytes."""
    text = _encode(parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20)
    return f"rag:v1:{kind}:{digest.hexdigest()}"


def normalised(text: str) -> str:
    """The text that two equal questions share: NFC, white space folded."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def sha256_hex(content: bytes) -> str:
    """SHA-256 of the content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def document_id_of(filename: str, content: bytes) -> str:
    """The id of a document that came without one: the same file twice is the same document."""
    digest = document_id_digest(filename)
    digest.update(content)
    return document_id_from(digest)


def document_id_digest(filename: str) -> hashlib._Hash:
    """What is fed with the content to get the id of a document that came without one."""
    return hashlib.sha256(filename.encode("utf-8", "surrogatepass") + b"\0")


def document_id_from(digest: hashlib._Hash) -> str:
    """The id, when all of the content was fed."""
    return f"doc-{digest.hexdigest()[:24]}"
