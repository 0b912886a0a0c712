"""URLs to uploads: what a fetcher brings, judged as an uploaded file would be."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from ragdock.core.keys import sha256_hex
from ragdock.core.media import detect_media_type, safe_filename
from ragdock.errors import FetchError, StoreError
from ragdock.ports import Fetcher, Metrics, Spool, Store
from ragdock.services.intake import Receipt
from ragdock.types import FetchedFile, Metadata, MetadataValue, SpooledFile, Upload

__all__ = ["SOURCE_URL", "UrlBatch", "UrlReader"]

SOURCE_URL: Final = "source_url"
"""Metadata of a fetched document: its URL without the query, which may hold secrets."""
_HEAD_BYTES: Final = 4096
_MEMORY_BYTES: Final = 256 * 1024


class UrlReader:
    """Makes uploads of URLs."""

    def __init__(self, fetcher: Fetcher, store: Store, metrics: Metrics) -> None:
        self.fetcher = fetcher
        self.store = store
        self.metrics = metrics

    def batch(
        self, metadata: Mapping[str, MetadataValue], deadline: float, receipt: Receipt
    ) -> UrlBatch:
        """The URLs of one request, all to be read by `deadline` (monotonic clock).

        `receipt` counts what comes; the batch closes it.
        """
        return UrlBatch(self, metadata, deadline, receipt)


class UrlBatch:
    """Reads URLs from several threads; close it, so that what nobody accepted leaves the disk."""

    def __init__(
        self,
        reader: UrlReader,
        metadata: Mapping[str, MetadataValue],
        deadline: float,
        receipt: Receipt,
    ) -> None:
        self._reader = reader
        self._metadata = dict(metadata)
        self._deadline = deadline
        self._receipt = receipt
        self._lock = threading.Lock()
        self._spools: list[Spool] = []
        self._kept_bytes = 0
        self._closed = False

    def read(self, url: str) -> Upload:
        """The content of a URL; raises `FetchError`, and `StoreError` when it doesn't fit."""
        metrics = self._reader.metrics
        try:
            upload = self._read(url)
        except FetchError as exc:
            metrics.count("fetches", outcome=exc.code)
            raise
        metrics.count("fetches", outcome="fetched")
        return upload

    def close(self) -> None:
        """Remove what was received and not accepted, also of reads that still go on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            spools, self._spools = self._spools, []
            self._receipt.give_back(self._kept_bytes)
            self._receipt.close()
        for spool in spools:
            with suppress(StoreError):  # What can't be removed now, the store sweeps up later.
                spool.discard()

    def _read(self, url: str) -> Upload:
        received = _Received(self)
        file = self._reader.fetcher.fetch(url, received.write, self._deadline)
        if not received.head.strip():
            raise FetchError("The URL has no content.", code="empty")
        metadata: Metadata = {SOURCE_URL: file.page} | self._metadata
        return received.upload(file, _media_type(file, received.head), metadata)

    # For what is received

    def spool(self) -> Spool:
        """A place on the store's disk, which goes when the batch is closed."""
        spool = self._reader.store.spool()
        with self._lock:
            if not self._closed:
                self._spools.append(spool)
                return spool
        spool.discard()
        raise _abandoned()

    def takes(self, n_bytes: int, *, keep: bool) -> bool:
        """Count bytes that came; whether they may stay in memory, if they should.

        Raises `FetchError` when the caller has left, which ends the transfer.
        """
        with self._lock:
            if self._closed:
                raise _abandoned()
            self._receipt.grow(n_bytes)
            kept = keep and self._receipt.keep(n_bytes)
            self._kept_bytes += n_bytes if kept else 0
            return kept

    def write(self, spool: Spool, piece: bytes) -> None:
        """Append, unless the batch is closed: its spools are gone then."""
        with self._lock:
            if self._closed:
                raise _abandoned()
            spool.write(piece)

    def finish(self, spool: Spool) -> SpooledFile:
        """Make what was written durable, unless the batch is closed."""
        with self._lock:
            if self._closed:
                raise _abandoned()
            return spool.finish()


class _Received:
    """Content as it arrives: small in memory, large on the store's disk."""

    def __init__(self, batch: UrlBatch) -> None:
        self.head = b""
        self._batch = batch
        self._spool: Spool | None = None
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def write(self, piece: bytes) -> None:
        if len(self.head) < _HEAD_BYTES:
            self.head += piece[: _HEAD_BYTES - len(self.head)]
        self._size_bytes += len(piece)
        keep = self._spool is None and self._size_bytes <= _MEMORY_BYTES
        if self._batch.takes(len(piece), keep=keep):
            self._pieces.append(piece)
            return
        if self._spool is None:
            self._spool = self._batch.spool()
            for earlier in self._pieces:
                self._batch.write(self._spool, earlier)
            self._pieces.clear()
        self._batch.write(self._spool, piece)

    def upload(self, file: FetchedFile, media_type: str, metadata: Metadata) -> Upload:
        content: bytes | SpooledFile
        if self._spool is None:
            content = b"".join(self._pieces)
            sha256 = sha256_hex(content)
        else:
            content = self._batch.finish(self._spool)
            sha256 = content.sha256
        return Upload(
            document_id=file.document_id,
            filename=safe_filename(file.filename),
            media_type=media_type,
            content=content,
            sha256=sha256,
            metadata=metadata,
        )


def _abandoned() -> FetchError:
    return FetchError("Nobody waits for the URL any more.", code="fetch_timeout")


def _media_type(file: FetchedFile, head: bytes) -> str:
    found = detect_media_type(file.filename, file.media_type, head)
    if found is None:
        raise FetchError(
            f"{file.filename!r} is of a format that can't be read ({file.media_type or 'no type'}"
            "); see the README for the formats.",
            code="unsupported_media_type",
        )
    return found
