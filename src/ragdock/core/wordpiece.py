"""BERT's uncased WordPiece tokenizer, in Python.

The `tokenizers` wheel is larger than our model and pulls in a hub client; this is as fast for
passages and gives the same ids (`tests/unit/test_wordpiece.py` has ids recorded from it).
Algorithm: Devlin et al. 2019 (https://arxiv.org/abs/1810.04805), `tokenization.py` of
google-research/bert, and for the ids longest-match-first WordPiece.

Two deliberate differences: a literal `[SEP]` or `[MASK]` in a text is text, so that a document
can't write control tokens; and characters that Unicode added after version 8 are classified by
Python's Unicode data (`tokenizers` has version 8), which concerns some 500 rare marks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from ragdock.errors import ConfigurationError

__all__ = ["WordPiece", "read_vocabulary"]

MAX_WORD_CHARACTERS: Final = 100
"""Longer words are one unknown token, as in BERT's reference implementation."""

_WORDS_CACHED: Final = 32_768
_CHARACTERS_CACHED: Final = 16_384

_CJK_RANGES: Final = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""CJK ideographs by BERT's definition: no kana and no hangul, which are written with spaces."""


class Pieces(NamedTuple):
    """A word's ids, and whether the vocabulary could spell it."""

    ids: tuple[int, ...]
    known: bool


class WordPiece:
    """Text to token ids; safe to share between threads.

    `vocabulary` lists the tokens by id and must hold `[UNK]`, `[CLS]` and `[SEP]`, else
    `ConfigurationError`. Memory stays below about 30 MB whatever the texts are.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {token: i for i, token in enumerate(vocabulary)}
        try:
            self.unknown_id = self._ids["[UNK]"]
            self.start_id = self._ids["[CLS]"]
            self.end_id = self._ids["[SEP]"]
        except KeyError as exc:
            raise ConfigurationError(f"The vocabulary lacks the token {exc.args[0]}.") from None
        self._longest = max(len(token) for token in vocabulary)
        self._pieces = lru_cache(maxsize=_WORDS_CACHED)(self._split)
        self._characters = _Characters()

    def words(self, text: str) -> list[str]:
        """The text's words: lower case, without accents; punctuation and ideographs stand alone."""
        return text.translate(self._characters).split()

    def pieces(self, word: str) -> Pieces:
        """One word's ids (a word as `words` returns it)."""
        if len(word) > MAX_WORD_CHARACTERS:
            return Pieces((self.unknown_id,), known=False)
        return self._pieces(word)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """`[CLS]` ids `[SEP]`, at most `max_tokens` (>= 2) in all; what is beyond is cut off."""
        room = max_tokens - 2
        ids: list[int] = [self.start_id]
        for piece in self._iterate(text):
            ids.extend(piece)
            if len(ids) > room:
                del ids[room + 1 :]
                break
        ids.append(self.end_id)
        return ids

    def count(self, text: str) -> int:
        """Number of ids without `[CLS]` and `[SEP]`."""
        return sum(map(len, self._iterate(text)))

    def _iterate(self, text: str) -> Iterator[tuple[int, ...]]:
        return (self.pieces(word).ids for word in self.words(text))

    def _split(self, word: str) -> Pieces:
        ids: list[int] = []
        start, size = 0, len(word)
        while start < size:
            prefix = "##" if start else ""
            # No entry is longer, which halves the cost of a long random word (1.4 to .8 ms).
            for end in range(min(size, start + self._longest), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                return Pieces((self.unknown_id,), known=False)
        return Pieces(tuple(ids), known=True)


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Tokens by id from a `vocab.txt`: one a line, UTF-8. OSError when it can't be read."""
    # Not splitlines(): the vocabulary may hold characters that it takes for line ends.
    return tuple(path.read_text(encoding="utf-8").rstrip("\n").split("\n"))


class _Characters(dict[int, str]):
    """What each code point becomes, worked out on first use, for `str.translate`.

    Decomposing code points one by one equals decomposing the string: NFD's reordering moves only
    combining marks, and those are dropped. Texts full of ever new code points can't fill memory.
    """

    def __missing__(self, code: int) -> str:
        value = _normalise(chr(code))
        if len(self) < _CHARACTERS_CACHED:
            self[code] = value
        return value


def _normalise(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category.startswith("Z"):
        return " "
    if character in "\0\ufffd" or category in {"Cc", "Cf", "Co", "Cs"}:
        # Also form feeds and U+0085, as in the reference. Unassigned code points stay.
        return ""
    if _is_ideograph(ord(character)):
        return f" {unicodedata.normalize('NFD', character)} "
    # Case is folded code point by code point: BERT has no final sigma.
    plain = "".join(
        part.lower()
        for part in unicodedata.normalize("NFD", character)
        if unicodedata.category(part) != "Mn"
    )
    return "".join(f" {part} " if _is_punctuation(part) else part for part in plain)


def _is_ideograph(code: int) -> bool:
    return any(first <= code <= last for first, last in _CJK_RANGES)


def _is_punctuation(character: str) -> bool:
    # BERT counts all ASCII symbols ($ + < = > ^ ` | ~) as punctuation, also those Unicode doesn't.
    if character < "\x7f":
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")
