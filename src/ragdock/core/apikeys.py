"""The form of an API key: `rdk_<id>_<secret><checksum>`, 62 characters.

The prefix lets a scanner find a key that leaked into a repository or a log, and the checksum tells
it, and a person who cut one while copying, a key from something that only looks like one. The id
(8 characters) is public; the secret (43 characters) is 256 random bits in base64url.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from typing import Final

__all__ = ["KEY_PATTERN", "hash_of", "is_whole", "make_token", "split_token"]

KEY_PATTERN: Final = r"rdk_[a-z2-7]{8}_[A-Za-z0-9_-]{43}[0-9a-f]{6}"
_FORM: Final = re.compile(KEY_PATTERN)
_ID_CHARACTERS: Final = slice(4, 12)
_SECRET_CHARACTERS: Final = slice(13, 56)
_CHECKSUM_CHARACTERS: Final = 6


def make_token(id_bytes: bytes, secret_bytes: bytes) -> str:
    """A key of 5 random bytes (its id) and 32 random bytes (its secret)."""
    key_id = base64.b32encode(id_bytes).decode("ascii").lower()
    secret = base64.urlsafe_b64encode(secret_bytes).decode("ascii").rstrip("=")
    token = f"rdk_{key_id}_{secret}"
    return token + _checksum(token)


def split_token(token: str) -> tuple[str, str]:
    """The id and the secret; two empty strings when it has not the form of a key."""
    if not _FORM.fullmatch(token):
        return "", ""
    return token[_ID_CHARACTERS], token[_SECRET_CHARACTERS]


def is_whole(token: str) -> bool:
    """Whether it has the form of a key and its checksum: it was not cut or mistyped."""
    return bool(_FORM.fullmatch(token)) and token.endswith(_checksum(token[:-_CHECKSUM_CHARACTERS]))


def hash_of(secret: str) -> bytes:
    """SHA-256, 32 bytes. Nothing slower is of use: 256 random bits can't be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode('ascii')) & 0xFFFFFF:06x}"
