"""A collection's index built anew in a file beside the live one, and put in its place.

The build holds documents by version, like every collection's file, so it knows at any moment what
it lacks: whatever has another version in the live file, or isn't there any more. That makes it
resumable after a kill, and lets it follow writes until little is left; the rest is done with the
catalogue and the live file locked against writers, in whose transaction the switch happens.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import apsw

from ragdock.adapters.stores.sqlite.collection import CollectionFile
from ragdock.adapters.stores.sqlite.connections import Database, connect_raw, fetch, translated
from ragdock.adapters.stores.sqlite.indexes import Indexes, Place
from ragdock.adapters.stores.sqlite.ledger_rows import job_again
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.adapters.stores.sqlite.texts import StoredPart, to_document
from ragdock.errors import ConflictError, IntegrityError, NotFoundError, StoreError
from ragdock.types import (
    Chunk,
    Document,
    Job,
    ParsedDocument,
    Vectors,
)

__all__ = ["Build", "Workshop", "discard_build", "open_build"]

PURGE_ROWS: Final = 100_000
_LACKING: Final = (
    "FROM live.documents o LEFT JOIN main.documents n ON n.id = o.id "
    "WHERE n.version IS NOT o.version"
)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a build needs of the store."""

    catalogue: Database
    indexes: Indexes
    owners: Owners
    path_of: Callable[[str], Path]
    remove_file: Callable[[str], None]
    open_file: Callable[..., CollectionFile]
    using: Callable[[Place], AbstractContextManager[CollectionFile]]


def open_build(
    current: Place, fingerprint: str, dim: int, shop: Workshop, *, force: bool
) -> Build | None:
    """Begin a build, or go on with the one that was begun for the same fingerprint."""
    if current.fingerprint == fingerprint and not force:
        discard_build(current, shop)
        return None
    owner = _hold(current, shop)
    try:
        begun = shop.indexes.build(current.id)
        if begun is not None and begun[1:] != (fingerprint, dim):
            _discard(begun[0], shop)
            begun = None
        file = uuid.uuid4().hex if begun is None else begun[0]
        if begun is None:
            shop.indexes.add_build(current.id, file, fingerprint, dim)
        place = current._replace(fingerprint=fingerprint, dim=dim, file=file)
        return Build(current, place, shop, owner)
    except BaseException:
        shop.owners.release(owner)
        raise


def discard_build(current: Place, shop: Workshop) -> bool:
    """Remove what an unfinished build left; `ConflictError` while somebody works on it."""
    if shop.indexes.build(current.id) is None:
        return False
    owner = _hold(current, shop)
    try:
        begun = shop.indexes.build(current.id)
        if begun is not None:
            _discard(begun[0], shop)
        return begun is not None
    finally:
        shop.owners.release(owner)


def _hold(current: Place, shop: Workshop) -> str:
    owner = f"reindex {current.id}"
    try:
        shop.owners.hold(owner)
    except StoreError as exc:
        raise ConflictError(
            f"Another process is reindexing {current.name!r}; wait for it, or end it.",
            code="reindexing",
        ) from exc
    return owner


def _discard(file: str, shop: Workshop) -> None:
    shop.indexes.forget(file)
    shop.remove_file(file)


def _structured(stored: StoredPart, title: str) -> ParsedDocument:
    """A part with blocks to cut between: its paragraphs, where nothing else is known."""
    part = to_document(stored, title)
    if part.blocks:
        return part
    return replace(part, blocks=to_document(replace(stored, structure=None), title).blocks)


class Build:
    """`ports.Build`: one collection's next index; one process works on it at a time."""

    def __init__(self, current: Place, place: Place, shop: Workshop, owner: str) -> None:
        self._current, self._place, self._shop, self._owner = current, place, shop, owner
        path = shop.path_of(place.file)
        # No guard: nobody else knows the file, and it isn't the current one.
        self._file = CollectionFile(
            path,
            name=place.name,
            collection_id=place.id,
            fingerprint=place.fingerprint,
            dim=place.dim,
            created_at=place.created_at,
            create=True,
        )
        with translated():
            self._both = connect_raw(path)
            self._both.execute("ATTACH DATABASE ? AS live", (str(shop.path_of(current.file)),))
        for document, _ in self._file.drafts():
            self._file.discard(document)  # What a killed process had staged.
        self._file.purge(PURGE_ROWS)

    def close(self) -> None:
        """Let go of it; what is done stays for the next time."""
        self._both.close()
        self._file.close()
        self._shop.owners.release(self._owner)

    def __enter__(self) -> Build:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is to be done

    def counts(self) -> tuple[int, int, int]:
        """Documents and characters of the collection, and characters of what the build lacks."""
        with self._reading() as connection:
            (row,) = fetch(
                connection,
                "SELECT count(*), coalesce(sum(n_characters), 0) FROM live.documents",
            )
            (lacking,) = fetch(connection, f"SELECT coalesce(sum(o.n_characters), 0) {_LACKING}")
        return int(row[0]), int(row[1]), int(lacking[0])

    def lacking(self, after: str | None = None, limit: int = 100) -> tuple[Document, ...]:
        """Documents that the build doesn't have in this version, by id."""
        with self._reading() as connection:
            rows = fetch(
                connection,
                f"SELECT o.id {_LACKING} AND o.id > ? ORDER BY o.id LIMIT ?",
                (after or "", limit),
            )
        found = []
        with self._shop.using(self._current) as live:
            for (document_id,) in rows:
                try:
                    found.append(live.document(document_id))
                except NotFoundError:
                    continue  # Deleted since.
        return tuple(found)

    def parts(self, document: Document) -> Iterator[ParsedDocument]:
        """The document as it was committed; `NotFoundError` when that version is gone."""
        with self._shop.using(self._current) as live:
            n, n_parts, title = live.parts(document.id)
            for number in range(n_parts):
                part = _structured(live.part(n, number), title)
                if number == 0 and live.document(document.id).version != document.version:
                    raise NotFoundError("The document was replaced while it was read.")
                yield part

    # Doing it

    def stage(
        self, document: Document, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a part of a large document."""
        self._file.stage(self._job(document), parsed, chunks, vectors)

    def commit(
        self, document: Document, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a document, or its last part."""
        outcome = self._file.commit(self._job(document), parsed, chunks, vectors)
        if outcome != "indexed":
            raise IntegrityError(f"Document {document.id!r} can't be built anew ({outcome}).")

    def _job(self, document: Document) -> Job:
        return job_again(document, self._place.id, document.version)

    def remove_gone(self) -> int:
        """Remove the documents that were deleted since; how many it were."""
        with self._reading() as connection:
            gone = fetch(
                connection,
                "SELECT n.id, n.version FROM main.documents n WHERE NOT EXISTS "
                "(SELECT 1 FROM live.documents o WHERE o.id = n.id)",
            )
        for document_id, version in gone:
            # The live file's own tombstone, which is younger, comes with the switch.
            self._file.delete([(document_id, version + 1)])
        return len(gone)

    def note(self, percent: int) -> None:
        """Tell everybody how far it is."""
        self._shop.indexes.note(self._place.file, percent)

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """No writer writes as long as the block runs; yields what makes the build the index.

        Raises `NotFoundError` when the collection was dropped. Keep it short: writers wait.
        """
        with ExitStack() as later, ExitStack() as sooner:
            # Opened before the catalogue is locked: opening may have to write to it.
            live = later.enter_context(self._shop.using(self._current))
            # The catalogue first, as whoever takes both locks does; and it is committed first, so
            # that a writer who waits for the live file finds that it is no longer the one.
            catalogue = sooner.enter_context(self._shop.catalogue.write())
            later.enter_context(live.locked())
            yield lambda: self._switch(catalogue)

    def settle(self) -> None:
        """Give the documents the times that they have in the live file."""
        with self._file.locked() as connection, self._reading() as both:
            connection.executemany(
                "UPDATE documents SET created_at = ?, updated_at = ? WHERE id = ?",
                both.execute(
                    "SELECT o.created_at, o.updated_at, o.id FROM live.documents o "
                    "JOIN main.documents n ON n.id = o.id AND n.version = o.version "
                    "WHERE n.created_at IS NOT o.created_at OR n.updated_at IS NOT o.updated_at"
                ).fetchall(),
            )

    def _switch(self, catalogue: apsw.Connection) -> None:
        self.settle()
        self._take_over()
        place = self._place
        done = Indexes.switch(catalogue, self._current, place.file, place.fingerprint, place.dim)
        if not done:
            raise NotFoundError(
                f"Collection {place.name!r} was dropped meanwhile.", code="collection_not_found"
            )

    def _take_over(self) -> None:
        """Go on where the live file is: what it refuses, its generation and its last version."""
        with self._file.locked() as connection, self._reading() as both:
            for table in ("tombstones", "refused"):
                rows = both.execute(f"SELECT * FROM live.{table}").fetchall()
                connection.execute(f"DELETE FROM {table}")
                connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
            (state,) = fetch(both, "SELECT generation, last_version FROM live.state")
            connection.execute(
                "UPDATE state SET generation = max(generation, ?) + 1, "
                "last_version = max(last_version, ?), stamp = lower(hex(randomblob(8)))",
                state,
            )

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        with translated():
            yield self._both
