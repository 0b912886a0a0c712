"""What can be told of a store and a model without opening either for work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ragdock.adapters.embedders.minilm import identify
from ragdock.adapters.stores.sqlite.survey import files_of, survey
from ragdock.core.chunking import CHUNKER_ID
from ragdock.core.fingerprints import fingerprint_of
from ragdock.core.lead import LEAD_ID
from ragdock.settings import Settings

__all__ = ["Survey"]


class Survey:
    """Looks at what the settings name; answers are JSON, see `adapters.stores.sqlite.survey`."""

    def __init__(self, settings: Settings, *, seconds: float) -> None:
        """Each look ends after `seconds`, with what was found until then."""
        self._settings = settings
        self._seconds = seconds

    def store(self) -> dict[str, Any]:
        """Ledger, keys and collections. Raises `NotFoundError` where there is no store."""
        return survey(Path(self._settings.data_dir), seconds=self._seconds)

    def files(self) -> list[dict[str, Any]]:
        """The database files."""
        return files_of(Path(self._settings.data_dir), seconds=self._seconds)

    def model(self) -> dict[str, Any]:
        """The embedder, and the fingerprint that it gives a collection (None: it must be asked).

        Raises `ConfigurationError` when the local model is missing or damaged.
        """
        settings = self._settings
        if settings.embedder == "minilm":
            name, dim = identify(settings.model_dir)
        elif settings.embed_model is None or settings.embed_dim is None:
            return {"embedder": settings.embedder, "fingerprint": None}
        else:
            dim = settings.embed_dim
            name = f"openai:{settings.embed_model}:{dim}"
        chunker = f"{CHUNKER_ID}+{LEAD_ID}"
        made = fingerprint_of(name, dim, chunker, settings.chunk_tokens)
        return {"embedder": settings.embedder, "fingerprint": made}
