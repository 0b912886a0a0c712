"""URLs to uploads: what a fetcher brings, judged as an uploaded file would be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from ragdock.core.media import detect_media_type, safe_filename
from ragdock.errors import FetchError
from ragdock.ports import Fetcher, Metrics
from ragdock.types import Metadata, MetadataValue, Upload

__all__ = ["SOURCE_URL", "UrlReader"]

SOURCE_URL: Final = "source_url"
"""Metadata of a fetched document: its URL without the query, which may hold secrets."""
_HEAD_BYTES: Final = 4096


class UrlReader:
    """Makes uploads of URLs; safe to call from several threads."""

    def __init__(self, fetcher: Fetcher, metrics: Metrics) -> None:
        self._fetcher = fetcher
        self._metrics = metrics

    def read(self, url: str, metadata: Mapping[str, MetadataValue], deadline: float) -> Upload:
        """The content of a URL by `deadline` (monotonic clock); raises `FetchError`."""
        try:
            upload = self._upload(url, dict(metadata), deadline)
        except FetchError as exc:
            self._metrics.count("fetches", outcome=exc.code)
            raise
        self._metrics.count("fetches", outcome="fetched")
        return upload

    def _upload(self, url: str, metadata: Metadata, deadline: float) -> Upload:
        received = _Received()
        file = self._fetcher.fetch(url, received.write, deadline)
        if not received.head.strip():
            raise FetchError("The URL has no content.", code="empty")
        media_type = detect_media_type(file.filename, file.media_type, received.head)
        if media_type is None:
            raise FetchError(
                f"{file.filename!r} is of a format that can't be read ({file.media_type}); see "
                "the README for the formats.",
                code="unsupported_media_type",
            )
        return Upload(
            document_id=file.document_id,
            filename=safe_filename(file.filename),
            media_type=media_type,
            content=received.content(),
            sha256=received.sha256(),
            metadata={SOURCE_URL: file.page} | metadata,
        )


class _Received:
    """Content as it arrives: its beginning, its hash and itself."""

    def __init__(self) -> None:
        self.head = b""
        self._digest = hashlib.sha256()
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        if len(self.head) < _HEAD_BYTES:
            self.head += piece[: _HEAD_BYTES - len(self.head)]
        self._digest.update(piece)
        self._pieces.append(piece)

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def content(self) -> bytes:
        return b"".join(self._pieces)
