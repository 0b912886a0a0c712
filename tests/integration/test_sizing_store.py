"""The sizing model's bytes beside those of a real collection."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.adapters.stores.sqlite.blocks import Block, View
from ragdock.adapters.stores.sqlite.dense import quantise
from ragdock.adapters.stores.sqlite.shared import SharedFile
from ragdock.core.sizing import Demand, plan
from ragdock.ops.sizing import shipped_constants
from ragdock.types import Chunk, ParsedDocument
from support.stores import upload

DIM = 384
CHUNKS_A_DOCUMENT = 20


def words() -> list[str]:
    """An invented vocabulary; its words are as long as English ones."""
    source = random.Random(1)
    return ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(8000)]


def fill(directory: Path, n_documents: int, words_a_chunk: int) -> tuple[int, int]:
    """A collection of random words by Zipf's law; passages and characters."""
    source, vectors = random.Random(2), np.random.default_rng(3)
    vocabulary = words()
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    n_characters = 0
    store = SqliteStore(directory)
    store.create_collection("real", "fingerprint", DIM)
    store.accept("real", [upload(f"d{n}", f"document {n}") for n in range(n_documents)])
    for job in store.claim("test", n_documents, 600.0):
        passages = [
            " ".join(source.choices(vocabulary, weights, k=words_a_chunk))
            for _ in range(CHUNKS_A_DOCUMENT)
        ]
        text, chunks, start = "\n\n".join(passages), [], 0
        for ordinal, passage in enumerate(passages):
            chunks.append(Chunk(ordinal, start, start + len(passage), passage))
            start += len(passage) + 2
        rows = vectors.standard_normal((len(chunks), DIM)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        store.commit_document(job, ParsedDocument(text, ()), chunks, rows)
        n_characters += len(text)
    store.close()
    return n_documents * CHUNKS_A_DOCUMENT, n_characters


@pytest.mark.parametrize("words_a_chunk", [60, 150])
def test_the_disk_of_a_real_collection_is_what_sizing_says(
    tmp_path: Path, words_a_chunk: int
) -> None:
    """For short and for long passages the predicted store is within a quarter of the real one."""
    n_chunks, n_characters = fill(tmp_path, 40, words_a_chunk)
    real = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    constants = shipped_constants()
    # Collections of less than 20,000 passages have no mapped file of vectors.
    mapped = n_chunks * constants.memory_bytes_per_chunk
    demand = Demand(documents=40, chunks=n_chunks)
    characters = n_characters / n_chunks
    predicted = (
        constants.base_disk_mb * 2**20
        + n_chunks * constants.disk_bytes_per_chunk
        + n_characters * constants.disk_bytes_per_character
        - mapped
    )
    assert real == pytest.approx(predicted, rel=0.25)
    # And the plan's own number is that one, but for passages of the usual length.
    store = plan(demand, constants).disk.store_gb * 1e9 - mapped
    usual = store + n_chunks * (characters - constants.characters_per_chunk) * (
        constants.disk_bytes_per_character
    )
    assert usual == pytest.approx(predicted, rel=0.01)


def test_the_vectors_of_a_real_index_are_what_sizing_says(tmp_path: Path) -> None:
    """The file that all processes map has the predicted bytes a passage, but for its header."""
    vectors = np.random.default_rng(1).standard_normal((5000, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, scales = quantise(vectors)
    block = Block(np.arange(5000, dtype=np.int64), scales, rows)
    SharedFile(tmp_path, DIM).write(View(1, (block,)))
    real = (tmp_path / "vectors.i8").stat().st_size
    predicted = plan(Demand(chunks=5000), shipped_constants()).memory.vectors_mb * 2**20
    assert real == pytest.approx(predicted, rel=0.01)
