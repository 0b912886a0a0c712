"""What is done to a store as a whole: copies of it, checks, other indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ragdock.types import Chunk, Content, Document, ParsedDocument, Vectors

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Build", "Finding", "Keeper", "Member", "StoreCopy", "Transfer", "Verdict"]


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a backup; `pieces` are `size_bytes` in all."""

    name: str
    size_bytes: int
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with stored data: which check found it, where, what it is, what to do."""

    check: str
    where: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of stored data found, and how much it looked at."""

    findings: tuple[Finding, ...]
    checked: dict[str, int]


class Build(Protocol):
    """A collection's next index, made beside the live one, which goes on being read and written.

    It holds documents by version; what it has stays when it is closed or killed.
    """

    def counts(self) -> tuple[int, int, int]:
        """Documents and characters of the collection, and characters of what the build lacks."""
        ...

    def lacking(self, after: str | None = None, limit: int = 100) -> tuple[Document, ...]:
        """Documents whose current version the build doesn't have, by id, with ids above `after`."""
        ...

    def parts(self, document: Document) -> Iterator[ParsedDocument]:
        """The document as it was committed; `NotFoundError` when that version is gone."""
        ...

    def stage(
        self, document: Document, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a part of a large document."""
        ...

    def commit(
        self, document: Document, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a document, or its last part."""
        ...

    def remove_gone(self) -> int:
        """Remove documents that were deleted since they were built; how many it were."""
        ...

    def settle(self) -> None:
        """Do now what of the switch can be done before it."""
        ...

    def note(self, percent: int) -> None:
        """Tell everybody how far it is."""
        ...

    def locked(self) -> AbstractContextManager[Callable[[], None]]:
        """Hold writers up as long as the block runs; yields what makes the build the index.

        That takes effect, for every process at once, when the block ends well. Raises
        `NotFoundError` when the collection was dropped.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Transfer(Protocol):
    """Whole documents out of a store and into one, past the ledger's queue."""

    def exported(self, collection: str) -> Iterator[tuple[Document, Iterator[Content]]]:
        """Each document with its parts, to be read before the next document is asked for."""
        ...

    def imported(self, collection: str, document: Document, contents: Iterator[Content]) -> bool:
        """Put a document in place of its earlier version; False when it is there as it is."""
        ...


class StoreCopy(Protocol):
    """A store's files as of now, which fit together though others write meanwhile."""

    @property
    def size_bytes(self) -> int:
        """About how much it will be."""
        ...

    def members(self) -> Iterator[Member]:
        """Every file; each is to be read before the next is asked for."""
        ...

    def notes(self) -> dict[str, Any]:
        """What `Keeper.settle` needs, and counts, as JSON; complete after the last member."""
        ...


class Keeper(Protocol):
    """A store as a whole: copied, put back, checked; needs no open `Store`."""

    def copy(self, scratch: Path) -> StoreCopy:
        """Copy what there is; `scratch` has room for the largest file. Stops no writer."""
        ...

    def is_member(self, name: str) -> bool:
        """Whether a copy of this store may hold a file of that name."""
        ...

    def adopt(self, *, force: bool) -> AbstractContextManager[tuple[Path, list[Path]]]:
        """Yield a place for a copy's files, and a list for where the old store went.

        What is there when the block ends well is the store from then on; on an exception nothing
        has changed. Raises `ConflictError` while the store is in use, or when there is one already
        and not `force`.
        """
        ...

    def settle(self, staging: Path, notes: Mapping[str, Any]) -> None:
        """Make the files of a copy one store, unlike every state that caches may know."""
        ...

    def verify(self, *, quick: bool, progress: Callable[[str, int, int], None]) -> Verdict:
        """Check everything, beside a server too; `quick` leaves texts and vectors unread.

        `progress` is told what is looked at, how many documents are done, and of how many.
        """
        ...
