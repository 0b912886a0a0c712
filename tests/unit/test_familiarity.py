"""Familiarity tells English from languages that the model hardly knows."""

from __future__ import annotations

import time

import pytest

from ragdock.core.familiarity import familiarity
from ragdock.core.wordpiece import WordPiece, read_vocabulary
from support.models import model_dir
from support.wordpiece import recorded_tokens

ENGLISH = (
    "How do I cancel my subscription?",
    "why is the sky blue",
    "What does HTTP 429 mean?",
    "opening hours library sunday",
    "Who wrote Die Verwandlung?",
    "The mitochondrion is the site of oxidative phosphorylation in eukaryotic cells.",
    "To rotate a key, create the new one, deploy it, then revoke the old one.",
)
OTHER_LATIN = (
    "Wie kündige ich meinen Vertrag fristgerecht?",
    "Öffnungszeiten Bibliothek Sonntag",
    "Warum ist der Himmel blau?",
    "¿Cómo puedo cancelar mi suscripción?",
    "¿Se puede pagar la factura a plazos?",
    "Comment résilier mon abonnement ?",
    "Le mot de passe expire au bout de quatre-vingt-dix jours.",
    "Come posso annullare il mio abbonamento?",
    "Hoe kan ik mijn abonnement opzeggen?",
    "Jak mogę anulować subskrypcję?",
    "Tại sao bầu trời màu xanh?",
)
OTHER_SCRIPTS = (
    "为什么天空是蓝色的？",
    "なぜ空は青いのですか",
    "하늘은 왜 파란가요?",
    "لماذا السماء زرقاء؟",
    "Почему небо голубое?",
    "Γιατί ο ουρανός είναι γαλάζιος;",
    "למה השמיים כחולים?",
    "आसमान नीला क्यों है?",
    "ทำไมท้องฟ้าถึงเป็นสีฟ้า",
    "Internet2是什么",
    "PPM1D是什么蛋白质",
)

RECORDED = recorded_tokens()


@pytest.fixture(scope="module")
def tokens() -> WordPiece:
    """The whole vocabulary."""
    return WordPiece(read_vocabulary(model_dir() / "vocab.txt"))


@pytest.mark.model
@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_familiar(tokens: WordPiece, text: str) -> None:
    """English sentences and key words of it are above .8."""
    assert familiarity(text, tokens) > 0.8


@pytest.mark.model
@pytest.mark.parametrize("text", OTHER_LATIN)
def test_other_latin_languages_are_half_familiar(tokens: WordPiece, text: str) -> None:
    """Other languages with Latin letters are clearly below English, and not worthless."""
    assert 0.35 < familiarity(text, tokens) < 0.65


@pytest.mark.parametrize("text", OTHER_SCRIPTS)
def test_other_scripts_are_unfamiliar(text: str) -> None:
    """Text in another script is below .3, also with a Latin name in it."""
    assert familiarity(text, RECORDED) < 0.3


@pytest.mark.parametrize("text", ["", "   ", "42", "3.14 + 2 = ?", "😀", "!!!"])
def test_text_without_letters_has_no_language(text: str) -> None:
    """What no language claims is familiar: 1.0."""
    assert familiarity(text, RECORDED) == 1.0


@pytest.mark.parametrize("text", [*ENGLISH, *OTHER_LATIN, *OTHER_SCRIPTS])
def test_value_is_a_fraction(text: str) -> None:
    """The value lies between 0 and 1."""
    assert 0.0 <= familiarity(text, RECORDED) <= 1.0


def test_a_foreign_quotation_lowers_it_gradually() -> None:
    """The more of a text is in another script, the less familiar it is."""
    english, chinese = "The quick brown fox jumps over the lazy dog. ", "因为瑞利散射天空是蓝色的"
    values = [familiarity(english * 4 + chinese * n, RECORDED) for n in (0, 1, 4, 16)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.3


def test_a_few_greek_letters_hardly_matter() -> None:
    """English science with Greek letters is still English."""
    text = "The α and β subunits of the protein that binds to the receptor are not the same."
    assert familiarity(text, RECORDED) > 0.8


def test_long_texts_cost_little() -> None:
    """Only the start is read, so a megabyte costs no more than a page."""
    text = "The quick brown fox jumps over the lazy dog. " * 25_000
    started = time.thread_time()
    familiarity(text, RECORDED)
    assert time.thread_time() - started < 1.0
