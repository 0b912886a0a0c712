"""What a server already holds of a folder: to send only what changed, and to prune what is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ragdock.cli.client import Api, path
from ragdock.cli.files import LocalFile, Skipped, Source, sha256_of
from ragdock.core.keys import archive_id_of
from ragdock.errors import InputError, RagdockError

__all__ = ["Remote", "gone", "remove"]

PAGE_SIZE: Final = 1000


@dataclass(frozen=True, slots=True)
class Remote:
    """The documents of a collection by id, as the server lists them."""

    documents: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, api: Api, collection: str) -> Remote:
        """All of them, searchable or not; raises `RagdockError`."""
        found: dict[str, dict[str, Any]] = {}
        params: dict[str, Any] = {"collection": collection, "limit": PAGE_SIZE, "after": None}
        while True:
            page = api.get(path("documents"), params)
            found |= {item["id"]: item for item in page["documents"]}
            params["after"] = page["next"]
            if page["next"] is None:
                return cls(found)

    def has(self, file: LocalFile, metadata: Mapping[str, Any]) -> bool:
        """Whether the server has, or works on, this very file with these metadata."""
        held = self.documents.get(file.document_id)
        if held is None or held["status"] in ("failed", "cancelled"):
            return False
        try:
            same = (
                held["filename"] == file.filename
                and held["metadata"] == {**file.origin, **metadata}
                and held["size_bytes"] == file.path.stat().st_size
            )
            return bool(same and held["sha256"] == sha256_of(file.path))
        except (OSError, InputError):
            return False

    def of_source(self, source: Source) -> dict[str, str]:
        """The documents that runs of this folder made: path below the folder, by id.

        An archive stands for all that came in it.
        """
        return {
            _owner(key, item): str(item["metadata"].get("source_path", ""))
            for key, item in self.documents.items()
            if item["metadata"].get("source_root") == source.id
        }


def gone(
    remote: Remote,
    sources: Sequence[Source],
    files: Iterable[LocalFile],
    skipped: Iterable[Skipped],
) -> list[str]:
    """Ids of the folders' documents that have no file any more.

    What can't be seen isn't gone: documents from below an unreadable folder stay. Raises
    `InputError` for a folder without any file, which may be a disk that isn't mounted.
    """
    present = {file.document_id for file in files}
    found_in = {file.source.id for file in files if file.source is not None}
    unreadable = [item.path for item in skipped if item.reason == "unreadable"]
    vanished: list[str] = []
    for source in sources:
        made = {key: where for key, where in remote.of_source(source).items() if key not in present}
        if made and source.id not in found_in:
            raise InputError(
                f"{source.folder} holds no file to send, and --prune would delete all "
                f"{len(made)} documents that came from it; if that is meant, delete them with "
                "`ragdock documents rm`.",
                code="empty_folder",
            )
        vanished += [
            key
            for key, where in made.items()
            if not any(_is_below(source.folder / where, folder) for folder in unreadable)
        ]
    return sorted(set(vanished))


def remove(api: Api, document_id: str, collection: str) -> bool:
    """Delete a document; False when it was gone already. Raises `RagdockError`."""
    try:
        api.delete(path("documents", document_id), {"collection": collection})
    except RagdockError as exc:
        if exc.code in ("document_not_found", "not_found"):
            return False
        raise
    return True


def _owner(document_id: str, item: Mapping[str, Any]) -> str:
    """The id that a document was sent under: its own, or that of the archive it came in."""
    if "archive" in item["metadata"]:
        return archive_id_of(document_id) or document_id
    return document_id


def _is_below(file: Path, folder: Path) -> bool:
    return folder in file.parents
