"""Cache keys and content hashes."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Final

__all__ = [
    "archive_id_of",
    "cache_key",
    "document_id_digest",
    "document_id_from",
    "document_id_of",
    "is_member_of",
    "member_id",
    "members_prefix",
    "normalised",
    "sha256_hex",
]


MAX_ID_CHARACTERS: Final = 200
_DIGEST_CHARACTERS: Final = 16
_LONGEST_PREFIX: Final = MAX_ID_CHARACTERS - _DIGEST_CHARACTERS - 1
_MEMBER: Final = re.compile(r"(.+)~[0-9a-f]{16}")
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


def member_id(archive_id: str, path: str) -> str:
    """The document id of a file in an archive: the same for the same path, 200 characters at most.

    It is the archive's id, `~`, and 16 hexadecimal digits of a BLAKE2b of the path.
    """
    return members_prefix(archive_id) + _digits(path)


def members_prefix(archive_id: str) -> str:
    """What the ids of an archive's files begin with; sixteen digits follow."""
    if len(archive_id) > _LONGEST_PREFIX:
        kept = archive_id[: _LONGEST_PREFIX - _DIGEST_CHARACTERS - 1]
        archive_id = f"{kept}.{_digits(archive_id)}"
    return f"{archive_id}~"


def is_member_of(document_id: str, prefix: str) -> bool:
    """Whether it is the id of a file in the archive with that prefix."""
    return document_id.startswith(prefix) and archive_id_of(document_id) == prefix[:-1]


def archive_id_of(document_id: str) -> str | None:
    """The id of the archive that a document of this id came in, if it came in one."""
    found = _MEMBER.fullmatch(document_id)
    return found[1] if found else None


def _digits(text: str) -> str:
    encoded = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_DIGEST_CHARACTERS // 2).hexdigest()
