"""How well an English model knows a text's language, told from its letters and words.

A dense score is worth nothing in a language that the model has not learnt (XQuAD nDCG@10 of
MiniLM: English .94, German .70, Chinese .26, Arabic .04), so fusion lowers its weight there.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from ragdock.core.wordpiece import WordPiece

__all__ = ["familiarity"]

MAX_CHARACTERS: Final = 4000
"""The start of a text tells its language, and the cost stays below a millisecond or two."""

IDEOGRAPH_LETTERS: Final = 2.5
"""One ideograph, kana or hangul says about as much as so many Latin letters."""

FOREIGN_LATIN: Final = 0.4
"""Value of text in another language with Latin letters: loan words and names still carry."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Only words that are common in English and hardly occur in the other languages, and the reverse:
# "in", "die", "on", "was" belong to several and are in neither set. Without accents, lower case.
_ENGLISH: Final = _set(
    "the of and to is are were be been that this these those with for from by at it its which who "
    "whom whose what when where why how can could would should may might must will does did has "
    "have not or than then there their they them his her you your our my if into about between "
    "after before during such only most more other each any because while many much but"
)
_FOREIGN: Final = _set(
    # Spanish, Portuguese, Italian, French, Catalan
    "de la el los las del que en un una por para su sus lo mas pero cuando donde quien cual cuanto "
    "es esta este hay sobre entre desde hasta os uma nao em na nos nas ao dos das com mais foi sao "
    "eu meu minha di che non della dei delle gli nel nella sono perche dove quale quali mio mia "
    "le les est et dans pour qui pas au aux du ce cette ces avec sont elle je vous nous comment "
    "pourquoi quel quelle quels quelles mes "
    # German, Dutch
    "der das und ist von mit dem des ein eine einen einer einem fur nicht auf zu zum zur im wie "
    "ich sie er wir sich auch bei nach aus uber wird werden wurde sind kann welche welcher oder "
    "warum wer vor bis durch mein meinen het een van niet zijn voor ook naar wordt waarom hoe "
    "ik wat mijn deze dit dat aan "
    # Swedish, Danish, Norwegian
    "och att det som till inte jag hur vad varfor ett jeg ikke og til hvordan hvorfor "
    # Polish, Turkish, Indonesian
    "nie jest sie na jak czy dlaczego jako przez oraz ve bir bu icin ile nasil neden nedir yang di "
    "untuk dengan itu adalah apa bagaimana mengapa saya dari"
)


def familiarity(text: str, tokens: WordPiece) -> float:
    """0..1: about 1 for English, .4 to .6 for other Latin-letter languages, 0 for other scripts.

    The square of the share of Latin letters, times .4 to 1 by the odds that the language is
    English: function words vote, a word with an accent is half a foreign vote, and the share of
    letters in words that the vocabulary knows whole has one vote (it decides for key words alone).
    A text without letters is in no language: 1.0.

    Measured: English queries and passages (XQuAD, SciFact, Cranfield) are above .8 in 96-100 %,
    German, Spanish and French sentences between .40 and .62, Chinese and Arabic ones below .25.
    """
    text = text[:MAX_CHARACTERS]
    latin, other, accented = _letters(text)
    if latin + other == 0:
        return 1.0
    english, foreign, known = _words(text, tokens)
    odds = (english + known) / (english + foreign + 0.5 * accented + 1)
    share = latin / (latin + other)
    return share * share * (FOREIGN_LATIN + (1 - FOREIGN_LATIN) * odds)


def _letters(text: str) -> tuple[int, float, int]:
    """Latin letters, letters of other scripts, and words with accented Latin letters."""
    latin, other, accented = 0, 0.0, 0
    for word in text.split():
        if word.isascii():
            latin += sum(map(str.isalpha, word))
            continue
        accents = False
        for character in word:
            code = ord(character)
            if code < 0x250 or 0x1E00 <= code < 0x1F00:
                latin += character.isalpha()
                accents |= code >= 0x80 and character.isalpha()
            elif unicodedata.category(character).startswith("L"):
                other += IDEOGRAPH_LETTERS if _is_dense(code) else 1.0
            else:
                accents |= unicodedata.category(character) == "Mn"
        accented += accents
    return latin, other, accented


def _is_dense(code: int) -> bool:
    return (
        0x2E80 <= code < 0xA000
        or 0xAC00 <= code < 0xD7B0
        or 0xF900 <= code < 0xFB00
        or (0x20000 <= code < 0x30000)
    )


def _words(text: str, tokens: WordPiece) -> tuple[int, int, float]:
    """English and foreign function words, and the share of letters in words known whole."""
    english, foreign, letters, known = 0, 0, 0, 0.0
    for word in tokens.words(text):
        if not word.isalpha():
            continue
        english += word in _ENGLISH
        foreign += word in _FOREIGN
        letters += len(word)
        if word.isascii():
            n_pieces = len(tokens.pieces(word).ids)
            # In three pieces a word is half guessed, in more it is spelt.
            known += len(word) * {1: 1.0, 2: 0.5, 3: 0.25}.get(n_pieces, 0.0)
    return english, foreign, known / letters if letters else 1.0
