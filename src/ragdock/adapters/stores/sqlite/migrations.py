"""Numbered, append-only migrations of the catalogue file and of the collection files.

Never edit one that was released: add the next. `PRAGMA user_version` counts those applied.
"""

from __future__ import annotations

from typing import Final

import apsw

from ragdock.adapters.stores.sqlite.connections import Migration

__all__ = ["CATALOGUE", "COLLECTION"]


def _m001_catalogue(connection: apsw.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE collections (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            fingerprint TEXT NOT NULL,
            dim INTEGER NOT NULL,
            created_at REAL NOT NULL
        ) STRICT;

        CREATE TABLE ledger (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            collection_id TEXT NOT NULL REFERENCES collections(id) ON DELETE CASCADE,
            document_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            state TEXT NOT NULL,
            filename TEXT NOT NULL,
            media_type TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            sha256 TEXT NOT NULL,
            metadata TEXT NOT NULL,
            attempt INTEGER NOT NULL DEFAULT 0,
            not_before REAL NOT NULL DEFAULT 0,
            owner TEXT,
            lease_until REAL,
            outcome TEXT,
            error_code TEXT,
            error TEXT,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL
        ) STRICT;
        CREATE INDEX ledger_by_document ON ledger (collection_id, document_id, id);
        CREATE INDEX ledger_by_state ON ledger (state, id);
        CREATE INDEX ledger_open ON ledger (collection_id, document_id, id)
            WHERE state IN ('pending', 'processing');
        CREATE INDEX ledger_deletes ON ledger (id) WHERE state = 'pending' AND kind = 'delete';

        CREATE TABLE contents (
            job_id INTEGER PRIMARY KEY REFERENCES ledger(id) ON DELETE CASCADE,
            content BLOB NOT NULL
        ) STRICT;
        """
    ).fetchall()


def _m001_collection(connection: apsw.Connection) -> None:
    # `removals` logs the chunk ranges that went away, so that a process's copy of the vectors can
    # follow. Chunk ids ascend for ever (AUTOINCREMENT), and a document's are contiguous.
    # `last_version` is the highest ledger number seen, so that a catalogue restored from an older
    # backup doesn't number new writes below what is here. `stamp` is random with each change: after
    # a restored backup, the same generation is another state, which no cache may confuse. Marks
    # count as letters (Mn, Mc): without that the tokenizer tears Hindi and Thai words apart.
    connection.execute(
        """
        CREATE TABLE state (
            only INTEGER PRIMARY KEY CHECK (only = 1),
            generation INTEGER NOT NULL,
            n_documents INTEGER NOT NULL,
            n_chunks INTEGER NOT NULL,
            removals_since INTEGER NOT NULL,
            last_version INTEGER NOT NULL,
            stamp TEXT NOT NULL
        ) STRICT;
        INSERT INTO state VALUES (1, 0, 0, 0, 0, 0, '');

        CREATE TABLE documents (
            n INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            filename TEXT NOT NULL,
            media_type TEXT NOT NULL,
            title TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            sha256 TEXT NOT NULL,
            version INTEGER NOT NULL,
            n_characters INTEGER NOT NULL,
            n_pages INTEGER NOT NULL,
            metadata TEXT NOT NULL,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL,
            first_chunk INTEGER NOT NULL,
            last_chunk INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX documents_by_filename ON documents (filename);

        CREATE TABLE texts (
            document INTEGER PRIMARY KEY,
            deflated BLOB NOT NULL
        ) STRICT;

        CREATE TABLE tombstones (
            document_id TEXT PRIMARY KEY,
            version INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE fields (
            document INTEGER NOT NULL,
            key TEXT NOT NULL,
            kind TEXT NOT NULL,
            value ANY NOT NULL
        ) STRICT;
        CREATE INDEX fields_by_value ON fields (key, kind, value, document);
        CREATE INDEX fields_by_document ON fields (document);

        CREATE TABLE chunks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            document INTEGER NOT NULL,
            start INTEGER NOT NULL,
            "end" INTEGER NOT NULL,
            page INTEGER,
            context TEXT NOT NULL,
            text TEXT NOT NULL
        ) STRICT;

        CREATE TABLE vectors8 (
            chunk INTEGER PRIMARY KEY,
            scale REAL NOT NULL,
            row BLOB NOT NULL
        ) STRICT;
        CREATE TABLE vectors16 (
            chunk INTEGER PRIMARY KEY,
            row BLOB NOT NULL
        ) STRICT;

        CREATE TABLE removals (
            generation INTEGER NOT NULL,
            first_chunk INTEGER NOT NULL,
            last_chunk INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX removals_by_generation ON removals (generation);

        CREATE VIRTUAL TABLE words USING fts5 (
            text, context,
            content = '', contentless_delete = 1,
            tokenize = "porter unicode61 categories 'L* N* Co Mn Mc'"
        );
        """
    ).fetchall()


def _m002_catalogue(connection: apsw.Connection) -> None:
    # `change` numbers every change of a ledger row, so that followers can ask for what is new;
    # `token` is the change by which a job was claimed or cancelled. `faults` counts the attempts
    # that are held against the document. `not_before` and `lease_until` are seconds of the clock
    # that `clock` names; `retry_at` is `not_before` as people's time.
    # A large upload is a file beside the catalogue (`contents.file`), a small one a value in it;
    # `discarded` names the files whose rows went, by whatever statement or cascade.
    # `collections.file` names a collection's file where that isn't its id: since it was reindexed.
    # `indexes` are its other files: former ones (`retired_at`), and one that is being built.
    # `idempotency` keeps the first answer to a write for its key; `secrets` what must be random and
    # the same for all processes.
    connection.execute(
        """
        ALTER TABLE ledger ADD COLUMN stage TEXT;
        ALTER TABLE ledger ADD COLUMN percent INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE ledger ADD COLUMN parent INTEGER;
        ALTER TABLE ledger ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE ledger ADD COLUMN token INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE ledger ADD COLUMN faults INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE ledger ADD COLUMN clock TEXT;
        ALTER TABLE ledger ADD COLUMN retry_at REAL;
        CREATE INDEX ledger_by_change ON ledger (change);
        CREATE INDEX ledger_by_parent ON ledger (parent) WHERE parent IS NOT NULL;

        CREATE TABLE counters (
            name TEXT PRIMARY KEY,
            value INTEGER NOT NULL
        ) STRICT;
        INSERT INTO counters VALUES ('change', 0);

        ALTER TABLE contents ADD COLUMN file TEXT;
        CREATE UNIQUE INDEX contents_by_file ON contents (file) WHERE file IS NOT NULL;
        CREATE TABLE discarded (
            file TEXT PRIMARY KEY
        ) STRICT;
        CREATE TRIGGER contents_discarded AFTER DELETE ON contents WHEN old.file IS NOT NULL
        BEGIN
            INSERT OR IGNORE INTO discarded VALUES (old.file);
        END;

        ALTER TABLE collections ADD COLUMN file TEXT;
        CREATE TABLE indexes (
            file TEXT PRIMARY KEY,
            collection_id TEXT NOT NULL REFERENCES collections(id) ON DELETE CASCADE,
            fingerprint TEXT NOT NULL,
            dim INTEGER NOT NULL,
            percent INTEGER NOT NULL,
            created_at REAL NOT NULL,
            retired_at REAL
        ) STRICT;
        CREATE INDEX indexes_by_collection ON indexes (collection_id);

        CREATE TABLE idempotency (
            scope TEXT NOT NULL,
            key TEXT NOT NULL,
            request TEXT NOT NULL,
            status INTEGER,
            headers TEXT,
            body BLOB,
            owner TEXT,
            clock TEXT NOT NULL,
            since REAL NOT NULL,
            created_at REAL NOT NULL,
            PRIMARY KEY (scope, key)
        ) STRICT;
        CREATE INDEX idempotency_by_age ON idempotency (clock, since);

        CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            hash BLOB NOT NULL,
            rights TEXT NOT NULL,
            collections TEXT,
            rate_per_minute INTEGER,
            created_at REAL NOT NULL,
            expires_at REAL,
            revoked_at REAL,
            last_used_at REAL
        ) STRICT;
        CREATE UNIQUE INDEX api_keys_by_name ON api_keys (name) WHERE revoked_at IS NULL;

        CREATE TABLE secrets (
            name TEXT PRIMARY KEY,
            value BLOB NOT NULL
        ) STRICT;
        """
    ).fetchall()


def _m002_collection(connection: apsw.Connection) -> None:
    # A document's chunks may be several ranges now, hidden until the document is whole: `segments`.
    # `added` is the generation that made a range live (0 for those of the first release, of which
    # no copy is kept that could have to catch up with them). `drafts` are documents whose parts are
    # being staged, `dead` those whose hidden rows wait to be purged. Numbers of documents ascend
    # for ever (`last_document`), since purging lags behind. Commits of a cancelled job's workers
    # (claims up to `token`) are `refused` here, in the transaction that would make their content
    # searchable.
    connection.execute(
        """
        ALTER TABLE state ADD COLUMN last_document INTEGER NOT NULL DEFAULT 0;
        UPDATE state SET last_document = (SELECT coalesce(max(n), 0) FROM documents);

        CREATE TABLE segments (
            first_chunk INTEGER PRIMARY KEY,
            last_chunk INTEGER NOT NULL,
            document INTEGER NOT NULL,
            live INTEGER NOT NULL,
            added INTEGER NOT NULL
        ) STRICT;
        INSERT INTO segments SELECT first_chunk, last_chunk, n, 1, 0 FROM documents
            WHERE last_chunk >= first_chunk;
        CREATE INDEX segments_by_document ON segments (document, first_chunk, last_chunk);
        CREATE INDEX segments_hidden ON segments (first_chunk, last_chunk) WHERE live = 0;
        CREATE INDEX segments_by_added ON segments (added) WHERE live = 1;

        ALTER TABLE documents ADD COLUMN n_chunks INTEGER NOT NULL DEFAULT 0;
        UPDATE documents SET n_chunks = last_chunk - first_chunk + 1;
        ALTER TABLE documents DROP COLUMN first_chunk;
        ALTER TABLE documents DROP COLUMN last_chunk;

        CREATE TABLE drafts (
            document INTEGER PRIMARY KEY,
            document_id TEXT NOT NULL,
            version INTEGER NOT NULL,
            token INTEGER NOT NULL,
            title TEXT NOT NULL,
            n_characters INTEGER NOT NULL,
            n_parts INTEGER NOT NULL,
            n_pages INTEGER NOT NULL,
            last_page INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX drafts_by_document ON drafts (document_id, version);

        CREATE TABLE dead (
            document INTEGER PRIMARY KEY
        ) STRICT;

        ALTER TABLE texts RENAME TO former_texts;
        CREATE TABLE texts (
            document INTEGER NOT NULL,
            part INTEGER NOT NULL,
            start INTEGER NOT NULL,
            deflated BLOB NOT NULL,
            structure BLOB,
            PRIMARY KEY (document, part)
        ) STRICT;
        INSERT INTO texts SELECT document, 0, 0, deflated, NULL FROM former_texts;
        DROP TABLE former_texts;

        CREATE TABLE refused (
            version INTEGER PRIMARY KEY,
            token INTEGER NOT NULL
        ) STRICT;
        """
    ).fetchall()


def _m003_collection(connection: apsw.Connection) -> None:
    # What the page on which a passage starts is called, where that isn't its number. The structure
    # of a part (`texts`) has it too since then, as a page's fourth element.
    connection.execute("ALTER TABLE chunks ADD COLUMN page_label TEXT NOT NULL DEFAULT ''")


CATALOGUE: Final[tuple[Migration, ...]] = (_m001_catalogue, _m002_catalogue)
COLLECTION: Final[tuple[Migration, ...]] = (
    _m001_collection,
    _m002_collection,
    _m003_collection,
)
