"""An embedder without a model, for tests that need vectors but not meaning."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from ragdock.errors import EmbedderError
from ragdock.types import Vectors

__all__ = ["HashEmbedder"]

_WORD = re.compile(r"\w+")


class HashEmbedder:
    """A bag of hashed words: texts that share words are near, and nothing else is known.

    Each distinct word (case folded) adds a pseudo-random unit direction that is drawn from its
    BLAKE2 hash, so vectors agree between processes and machines. A text without words has a
    direction of its own. `calls` counts `embed` calls and `texts` the texts embedded, for tests
    that watch caches. `embed` raises `EmbedderError` after `close`.
    """

    def __init__(self, dim: int = 64) -> None:
        self._dim = dim
        self._closed = False
        self.calls = 0
        self.texts = 0

    @property
    def id(self) -> str:
        """Names the dimension, the only parameter."""
        return f"hash:{self._dim}"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def max_tokens(self) -> int:
        """Words beyond this are cut off."""
        return 256

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """(len(texts), dim) float32, unit rows."""
        if self._closed:
            raise EmbedderError("The embedder is closed.")
        self.calls += 1
        self.texts += len(texts)
        rows = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            words = _WORD.findall(text.casefold())[: self.max_tokens]
            # Sorted, so that the sum and its rounding do not depend on the order of the words.
            for word in sorted(set(words)) or [""]:
                row += _direction(word, self._dim)
            row /= np.linalg.norm(row)
        return rows

    def n_tokens(self, text: str) -> int:
        """Words of the text."""
        return len(_WORD.findall(text))

    def familiarity(self, text: str) -> float:
        """Always 1.0: a hash knows every language equally."""
        return 1.0

    def ping(self) -> None:
        """Return unless closed."""
        if self._closed:
            raise EmbedderError("The embedder is closed.")

    def close(self) -> None:
        """Refuse all further work."""
        self._closed = True


@functools.lru_cache(maxsize=50_000)
def _direction(word: str, dim: int) -> Vectors:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    direction = np.random.default_rng(seed).standard_normal(dim)
    return (direction / np.linalg.norm(direction)).astype(np.float32)
