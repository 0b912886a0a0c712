"""Segments: which ranges of chunk ids are whose, and which of them a search shows.

A segment is a range of chunks that one transaction wrote for one document. It is hidden while the
document's parts are staged, live once the document is committed, and hidden again when that is
replaced or deleted: in each case by this table alone, whatever the number of chunks. Hidden rows
stay in the tables of chunks, words and vectors until `purge_step` takes them out in small steps.

Chunk ids ascend for ever, so whatever follows the collection asks for what became live after a
generation (`added`), and for what went (`removals`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import apsw

from ragdock.adapters.stores.sqlite.connections import fetch

__all__ = [
    "Range",
    "coalesced",
    "complement",
    "hidden_ranges",
    "make_live",
    "purge_step",
    "put_away",
    "record_segment",
]

Range = tuple[int, int]
"""First and last chunk id."""

KEEP_REMOVALS: Final = 10_000
# Up to this many chunks go at once with their document: small documents leave nothing behind.
REMOVE_AT_ONCE: Final = 512
MAX_CHUNK: Final = 2**62


def record_segment(
    connection: apsw.Connection, document: int, first: int, last: int, added: int | None
) -> None:
    """Note who owns the chunks; `added` is the generation that shows them, None while hidden."""
    if added is None:
        # A staged document's next batch mostly follows the one before.
        connection.execute(
            "UPDATE segments SET last_chunk = ? WHERE document = ? AND last_chunk = ? AND live = 0",
            (last, document, first - 1),
        )
        if connection.changes():
            return
    connection.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?, ?)",
        (first, last, document, int(added is not None), added or 0),
    )


def make_live(connection: apsw.Connection, document: int, generation: int) -> int:
    """Show a staged document's chunks from this generation on; how many they are."""
    connection.execute(
        "UPDATE segments SET live = 1, added = ? WHERE document = ? AND live = 0",
        (generation, document),
    )
    sql = "SELECT coalesce(sum(last_chunk - first_chunk + 1), 0) FROM segments WHERE document = ?"
    return int(fetch(connection, sql, (document,))[0][0])


def put_away(connection: apsw.Connection, document: int, n_chunks: int, generation: int) -> None:
    """Hide a document that was live; a small one's rows go at once."""
    ranges = fetch(
        connection, "SELECT first_chunk, last_chunk FROM segments WHERE document = ?", (document,)
    )
    connection.executemany(
        "INSERT INTO removals VALUES (?, ?, ?)", [(generation, *each) for each in ranges]
    )
    if n_chunks > REMOVE_AT_ONCE:
        connection.execute("UPDATE segments SET live = 0 WHERE document = ?", (document,))
        connection.execute("INSERT INTO dead VALUES (?)", (document,))
    else:
        for first, last in ranges:
            _delete_chunks(connection, first, last)
        connection.execute("DELETE FROM segments WHERE document = ?", (document,))
        connection.execute("DELETE FROM texts WHERE document = ?", (document,))
    _trim_removals(connection, generation)


def purge_step(connection: apsw.Connection, limit: int) -> int:
    """Take up to `limit` hidden chunks, or a part's text, out for good; 0 when nothing is left."""
    while dead := fetch(connection, "SELECT document FROM dead ORDER BY document LIMIT 1"):
        document = dead[0][0]
        segment = fetch(
            connection,
            "SELECT first_chunk, last_chunk FROM segments WHERE document = ? "
            "ORDER BY first_chunk LIMIT 1",
            (document,),
        )
        if segment:
            first, end = segment[0]
            last = min(end, first + limit - 1)
            _delete_chunks(connection, first, last)
            if last == end:
                connection.execute("DELETE FROM segments WHERE first_chunk = ?", (first,))
            else:
                connection.execute(
                    "UPDATE segments SET first_chunk = ? WHERE first_chunk = ?", (last + 1, first)
                )
            return int(last - first + 1)
        connection.execute(
            "DELETE FROM texts WHERE document = ? AND part = "
            "(SELECT min(part) FROM texts WHERE document = ?)",
            (document, document),
        )
        if connection.changes():
            return 1
        connection.execute("DELETE FROM dead WHERE document = ?", (document,))
    return 0


def hidden_ranges(connection: apsw.Connection) -> list[Range]:
    """What no search may show, ascending and coalesced: mostly nothing."""
    return coalesced(
        fetch(
            connection,
            "SELECT first_chunk, last_chunk FROM segments WHERE live = 0 ORDER BY first_chunk",
        )
    )


def coalesced(ranges: Iterable[Range]) -> list[Range]:
    """The ranges, which ascend, with neighbours joined."""
    joined: list[Range] = []
    for first, last in ranges:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def complement(ranges: Sequence[Range]) -> list[Range]:
    """All chunk ids but those in the ranges, which ascend."""
    firsts = [1, *(last + 1 for _, last in ranges)]
    lasts = [*(first - 1 for first, _ in ranges), MAX_CHUNK]
    return [each for each in zip(firsts, lasts, strict=True) if each[0] <= each[1]]


def _delete_chunks(connection: apsw.Connection, first: int, last: int) -> None:
    for table, column in (
        ("words", "rowid"),
        ("chunks", "id"),
        ("vectors8", "chunk"),
        ("vectors16", "chunk"),
    ):
        connection.execute(f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?", (first, last))


def _trim_removals(connection: apsw.Connection, generation: int) -> None:
    """Forget old removals; a process that missed them reads all vectors anew."""
    if generation % (KEEP_REMOVALS // 10) == 0:
        floor = generation - KEEP_REMOVALS
        connection.execute("DELETE FROM removals WHERE generation <= ?", (floor,))
        connection.execute("UPDATE state SET removals_since = max(removals_since, ?)", (floor,))
