"""What every embedder must do.

Subclass it in a test module, with the fixtures `embedder` (may be shared between tests) and
`fresh_embedder` (the test closes it).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ragdock.errors import EmbedderError
from ragdock.ports import Embedder

__all__ = ["TEXTS", "EmbedderContract"]

TEXTS = (
    "How do I return an item that I bought online?",
    "The mitochondrion is the site of oxidative phosphorylation.",
    "refund",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "为什么天空是蓝色的？",
    "Почему небо голубое?",
    "naïve café — “quotes” … 😀",
    "Invoice 2024-0117: 3 x widget, 19.90 EUR each, due within 30 days. " * 4,
)
AWKWARD = (
    "",
    " \n\t ",
    "\x00\x07\x1b",
    "\ud800 lone surrogate",
    "\u202eright to left",
    "x" * 5000,
    "word " * 3000,
    "?!" * 400,
)


class EmbedderContract:
    """Behaviour of the `Embedder` Protocol, whatever is behind it."""

    def test_vectors_have_their_shape(self, embedder: Embedder) -> None:
        """`embed` gives one float32 row of `dim` numbers for each text."""
        vectors = embedder.embed(TEXTS)
        assert vectors.shape == (len(TEXTS), embedder.dim)
        assert vectors.dtype == np.float32

    def test_rows_are_unit_vectors(self, embedder: Embedder) -> None:
        """Every row has norm 1, so that a dot product is a cosine."""
        norms = np.linalg.norm(embedder.embed(TEXTS).astype(np.float64), axis=1)
        assert np.abs(norms - 1).max() < 1e-5

    def test_no_texts_give_no_rows(self, embedder: Embedder) -> None:
        """An empty list gives an empty matrix of the right width."""
        vectors = embedder.embed([])
        assert vectors.shape == (0, embedder.dim)
        assert vectors.dtype == np.float32

    @pytest.mark.parametrize("urgent", [False, True])
    def test_a_vector_depends_on_its_text_only(self, embedder: Embedder, urgent: bool) -> None:
        """A text alone gets, bit for bit, the vector that it gets among others, in any order."""
        together = embedder.embed(TEXTS)
        backwards = embedder.embed(TEXTS[::-1])[::-1]
        alone = np.concatenate([embedder.embed([text], urgent=urgent) for text in TEXTS])
        assert np.array_equal(together, backwards)
        assert np.array_equal(together, alone)

    def test_different_texts_get_different_vectors(self, embedder: Embedder) -> None:
        """No two of the texts have the same direction."""
        cosines = embedder.embed(TEXTS) @ embedder.embed(TEXTS).T
        assert (cosines - np.eye(len(TEXTS))).max() < 0.99

    @pytest.mark.parametrize("text", AWKWARD, ids=lambda text: ascii(text[:12]))
    def test_awkward_text_gets_a_unit_vector(self, embedder: Embedder, text: str) -> None:
        """Empty, odd and overlong texts are embedded like any other."""
        (vector,) = embedder.embed([text])
        assert np.isfinite(vector).all()
        assert abs(np.linalg.norm(vector) - 1) < 1e-5

    def test_callers_side_by_side_get_their_own_rows(self, embedder: Embedder) -> None:
        """Eight threads that embed different texts at once get what they get in turn."""
        calls = [[f"{text} {number}" for text in TEXTS[:3]] for number in range(12)]
        in_turn = [embedder.embed(call) for call in calls]
        with ThreadPoolExecutor(8) as threads:
            at_once = threads.map(
                lambda pair: embedder.embed(pair[1], urgent=pair[0] % 2 == 0), enumerate(calls)
            )
            for expected, actual in zip(in_turn, at_once, strict=True):
                assert np.array_equal(expected, actual)

    def test_more_texts_than_any_batch(self, embedder: Embedder) -> None:
        """A long list keeps its order."""
        texts = [f"number {number}" for number in range(150)]
        vectors = embedder.embed(texts)
        for number in (0, 63, 64, 65, 149):
            assert np.array_equal(vectors[number], embedder.embed([texts[number]])[0])

    def test_the_id_and_the_limits_are_stable(self, embedder: Embedder) -> None:
        """`id`, `dim` and `max_tokens` never change: fingerprints are made of them."""
        first = (embedder.id, embedder.dim, embedder.max_tokens)
        embedder.embed(TEXTS[:1])
        assert (embedder.id, embedder.dim, embedder.max_tokens) == first
        assert first[0]
        assert min(first[1:]) > 0

    def test_tokens_are_counted(self, embedder: Embedder) -> None:
        """An empty text has no tokens, and a longer text has more."""
        assert embedder.n_tokens("") == 0
        counts = [embedder.n_tokens("word " * n) for n in (1, 2, 10, 1000)]
        assert counts == sorted(set(counts))

    def test_familiarity_is_a_fraction(self, embedder: Embedder) -> None:
        """`familiarity` lies between 0 and 1 for any text."""
        for text in (*TEXTS, *AWKWARD):
            assert 0.0 <= embedder.familiarity(text) <= 1.0

    def test_ping_returns(self, embedder: Embedder) -> None:
        """A working embedder answers a ping."""
        embedder.ping()

    def test_a_closed_embedder_refuses(self, fresh_embedder: Embedder) -> None:
        """After `close`, which may be called twice, work and pings raise `EmbedderError`."""
        fresh_embedder.embed(TEXTS[:1])
        fresh_embedder.close()
        fresh_embedder.close()
        for urgent in (False, True):
            with pytest.raises(EmbedderError):
                fresh_embedder.embed(TEXTS[:1], urgent=urgent)
        with pytest.raises(EmbedderError):
            fresh_embedder.embed(TEXTS)
        with pytest.raises(EmbedderError):
            fresh_embedder.ping()
