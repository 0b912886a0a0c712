"""Text and vectors to fill a store with: real words with natural frequencies, clustered vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragdock.bootstrap import Services
from ragdock.types import Block, BlockKind, Chunk, ParsedDocument, Upload, Vectors

__all__ = ["Words", "fill", "texts"]

WORDS_PER_CHUNK = 130
CHUNKS_PER_DOCUMENT = 100
N_CLUSTERS = 300
DOCUMENTS_PER_BATCH = 10


class Words:
    """Draws from the whole words of the model's vocabulary by Zipf's law (rank ** -1.05)."""

    def __init__(self, vocabulary: Path, seed: int) -> None:
        lines = vocabulary.read_text(encoding="utf-8").splitlines()
        # BERT's vocabulary is ordered by frequency, so ranks are roughly those of English.
        self._words = np.array(
            [word for word in lines if word.isascii() and word.isalpha() and len(word) > 1]
        )
        weights = np.arange(1, len(self._words) + 1) ** -1.05
        self._cumulative = np.cumsum(weights / weights.sum())
        self._random = np.random.default_rng(seed)

    def sentence(self, n_words: int) -> str:
        """One sentence."""
        return " ".join(self._draw(n_words))

    def passage(self, n_words: int) -> str:
        """Sentences of 5 to 20 words."""
        words = self._draw(n_words)
        sentences = []
        while len(words):
            n_next = int(self._random.integers(5, 21))
            sentences.append(" ".join(words[:n_next]).capitalize() + ".")
            words = words[n_next:]
        return " ".join(sentences)

    def question(self) -> str:
        """A question with three content words."""
        # Skipping the commonest words leaves what a reader would ask for.
        ranks = self._random.integers(300, len(self._words) // 2, 3)
        first, second, third = self._words[ranks]
        return f"what is the {first} {second} of the {third}?"

    def _draw(self, n_words: int) -> NDArray[np.str_]:
        ranks = np.searchsorted(self._cumulative, self._random.random(n_words))
        return self._words[np.minimum(ranks, len(self._words) - 1)]


def texts(words: Words, n_documents: int, chunks_per_document: int) -> list[str]:
    """Documents of paragraphs, each about a passage long."""
    return [
        "\n\n".join(words.passage(WORDS_PER_CHUNK) for _ in range(chunks_per_document))
        for _ in range(n_documents)
    ]


def fill(services: Services, name: str, n_chunks: int, words: Words) -> None:
    """Make a collection of `n_chunks` through the store's ports, without embedding."""
    dim = services.embedder.dim
    services.store.create_collection(name, services.fingerprint, dim)
    random = np.random.default_rng(n_chunks)
    centres = random.standard_normal((N_CLUSTERS, dim)).astype(np.float32)
    n_documents = n_chunks // CHUNKS_PER_DOCUMENT
    for start in range(0, n_documents, DOCUMENTS_PER_BATCH):
        numbers = range(start, min(start + DOCUMENTS_PER_BATCH, n_documents))
        jobs = services.store.accept(name, [_upload(number) for number in numbers])
        for job in services.store.claim("bench", len(jobs), 600.0):
            parsed, chunks = _document(words)
            vectors = _clustered(centres, len(chunks), random)
            services.store.commit_document(job, parsed, chunks, vectors)


def _upload(number: int) -> Upload:
    content = f"document {number}".encode()
    return Upload(
        document_id=f"d{number:06}",
        filename=f"d{number:06}.txt",
        media_type="text/plain",
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _document(words: Words) -> tuple[ParsedDocument, list[Chunk]]:
    passages = [words.passage(WORDS_PER_CHUNK) for _ in range(CHUNKS_PER_DOCUMENT)]
    text = "\n\n".join(passages)
    spans = list(_spans(passages))
    blocks = tuple(Block(start, end, BlockKind.PARAGRAPH) for start, end in spans)
    chunks = [
        Chunk(ordinal, start, end, text[start:end]) for ordinal, (start, end) in enumerate(spans)
    ]
    return ParsedDocument(text, blocks), chunks


def _spans(passages: list[str]) -> Iterator[tuple[int, int]]:
    start = 0
    for passage in passages:
        yield start, start + len(passage)
        start += len(passage) + 2


def _clustered(
    centres: NDArray[np.float32], n_vectors: int, random: np.random.Generator
) -> Vectors:
    picks = centres[random.integers(0, len(centres), n_vectors)]
    vectors = picks + random.standard_normal(picks.shape).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
