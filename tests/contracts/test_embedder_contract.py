"""Every embedder passes the same contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.embedder_contract import EmbedderContract
from ragdock.adapters.embedders.minilm import MiniLmEmbedder
from ragdock.adapters.embedders.openai import OpenAiEmbedder
from ragdock.ports import Embedder
from support.embedders import HashEmbedder
from support.embeddings_server import EmbeddingsServer, serve_embeddings
from support.models import model_dir


@pytest.fixture(scope="module")
def minilm() -> Iterator[Embedder]:
    """One model for all tests; two threads, as on two processors."""
    embedder = MiniLmEmbedder(model_dir(), 2)
    yield embedder
    embedder.close()


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddingsServer]:
    """One endpoint for all tests."""
    with serve_embeddings() as server:
        yield server


@pytest.mark.model
class TestMiniLmEmbedder(EmbedderContract):
    """The local model."""

    @pytest.fixture
    def embedder(self, minilm: Embedder) -> Embedder:
        """The shared one."""
        return minilm

    @pytest.fixture
    def fresh_embedder(self) -> Embedder:
        """One to close."""
        return MiniLmEmbedder(model_dir(), 2)


class TestOpenAiEmbedder(EmbedderContract):
    """An HTTP endpoint, here a small one on loopback."""

    @pytest.fixture
    def embedder(self, server: EmbeddingsServer) -> Iterator[Embedder]:
        """A dimension that has to be asked for."""
        embedder = OpenAiEmbedder(server.url, "hash", server.key, timeout_seconds=10.0)
        yield embedder
        embedder.close()

    @pytest.fixture
    def fresh_embedder(self, embedder: Embedder) -> Embedder:
        """Each is fresh."""
        return embedder


class TestHashEmbedder(EmbedderContract):
    """The stand-in of other tests, which must not be laxer than the real ones."""

    @pytest.fixture
    def embedder(self) -> Embedder:
        """As other tests make it."""
        return HashEmbedder()

    @pytest.fixture
    def fresh_embedder(self) -> Embedder:
        """Each is fresh."""
        return HashEmbedder()
