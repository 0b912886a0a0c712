"""A collection's fingerprint: what its vectors and passages were made with.

`<embedder's id>/<dimension>/<chunker>/<tokens of a passage>`. Passages of another size can be
searched with the same embedder; vectors of another embedder can't be compared.
"""

from __future__ import annotations

__all__ = ["fingerprint_of", "same_vectors"]


def fingerprint_of(embedder_id: str, dim: int, chunker: str, chunk_tokens: int) -> str:
    """The fingerprint of an index that is made so."""
    return f"{embedder_id}/{dim}/{chunker}/{chunk_tokens}"


def same_vectors(one: str, other: str) -> bool:
    """Whether a query's vector for one index can be compared with the other's vectors."""
    # The embedder's id may hold slashes, the rest doesn't.
    return one.rsplit("/", 2)[0] == other.rsplit("/", 2)[0]
