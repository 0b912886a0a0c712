"""What turns files into text, text into vectors, and passages into answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Steps
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ragdock.types import (
    Bounds,
    FetchedFile,
    Hit,
    ParsedDocument,
    Vectors,
)

if TYPE_CHECKING:
    pass

__all__ = ["Embedder", "Fetcher", "Generator", "Parser"]


class Parser(Protocol):
    """Bytes to text with structure."""

    def parts(
        self, content: BinaryIO, filename: str, media_type: str
    ) -> Steps[ParsedDocument, None, None]:
        """The document in parts (one, when it is small), each as soon as it is read.

        Raises `DocumentError`, also after some parts, when the bytes can't become text. Bounded in
        time and memory; closing the generator ends the work.
        """
        ...

    def members(
        self, content: BinaryIO, filename: str, media_type: str, bounds: Bounds
    ) -> Steps[tuple[str, Iterator[bytes]], None, None]:
        """The path and the content of each file in an archive, in its order.

        The pieces of one are to be taken before the next is asked for. Raises `DocumentError`, also
        after some files, when the archive is damaged, unsafe or over the bounds.
        """
        ...

    def close(self) -> None:
        """End child processes."""
        ...


class Embedder(Protocol):
    """Text to unit vectors. Deterministic: a text's vector depends on nothing but the text."""

    @property
    def id(self) -> str:
        """Names weights and processing; two embedders with the same id agree on vectors."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens beyond this are cut off."""
        ...

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """(len(texts), dim) float32, unit rows. Urgent work (a query) goes before bulk work.

        Raises `EmbedderError` when the embedder fails or its queue is full.
        """
        ...

    def n_tokens(self, text: str) -> int:
        """Tokens of the text, special ones not counted (an estimate where the model is remote)."""
        ...

    def familiarity(self, text: str) -> float:
        """0..1: how well the model knows this text's language; 1.0 when it can't tell."""
        ...

    def ping(self) -> None:
        """Return when the embedder can embed."""
        ...

    def close(self) -> None:
        """Release threads and memory."""
        ...


class Generator(Protocol):
    """Writes an answer from passages, citing them as [1]..[n] in the order given."""

    @property
    def id(self) -> str:
        """Names the model; part of the answer and, with `PROMPT_ID`, of cache keys."""
        ...

    def generate(self, question: str, passages: Sequence[Hit]) -> str:
        """The whole answer text with [n] markers; raises `GeneratorError`."""
        ...

    def stream(self, question: str, passages: Sequence[Hit]) -> Steps[str, None, None]:
        """The answer text in pieces; raises `GeneratorError`, also after some pieces."""
        ...

    def ping(self) -> None:
        """Return when reachable, raise `GeneratorError` when not (short deadline)."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class Fetcher(Protocol):
    """Content from URLs that strangers name."""

    def fetch(self, url: str, write: Callable[[bytes], None], deadline: float) -> FetchedFile:
        """Hand the content to `write` by `deadline` (monotonic clock); raises `FetchError`."""
        ...
