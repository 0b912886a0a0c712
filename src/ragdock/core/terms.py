"""Words, for the lexical side: what is indexed, what a query asks for, what overlap counts.

Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese runs have no reliable spaces, so they are
cut into character bigrams: measured on XQuAD, BM25 rises from .14 to .96 nDCG@10 for Chinese.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from ragdock.core.stemming import stem

__all__ = ["STOP_WORDS", "index_text", "is_unspaced", "overlap_terms", "query_terms"]

_UNSPACED_CLASS: Final = (
    "\u0e00-\u0e7f\u0e80-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17d3"  # Burmese, Khmer
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"  # hangul
    "\u3005-\u3007\u3041-\u3096\u3099-\u309a\u309d-\u309f"  # iteration marks, hiragana
    "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # katakana, half-width too
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\U00020000-\U0003ffff"  # Han extensions
)
# Vowel signs and accents belong to their word, though `\w` leaves them out.
_MARK_CLASS: Final = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0983\u09bc-\u09cd\u09d7"
    "\u0a01-\u0a03\u0a3c-\u0a51\u0a70\u0a71\u0a81-\u0a83\u0abc-\u0acd\u0b01-\u0b03\u0b3c-\u0b57"
    "\u0b82\u0bbe-\u0bcd\u0bd7\u0c00-\u0c04\u0c3c-\u0c56\u0c81-\u0c83\u0cbc-\u0cd6"
    "\u0d00-\u0d03\u0d3b-\u0d4d\u0d57\u0d81-\u0d83\u0dca-\u0ddf\u200c\u200d"
)
_UNSPACED: Final = re.compile(f"[{_UNSPACED_CLASS}]+")
_TOKEN: Final = re.compile(
    f"(?P<run>[{_UNSPACED_CLASS}]+)|(?P<word>(?:[^\\W_{_UNSPACED_CLASS}]|[{_MARK_CLASS}])+)"
)
# Soft hyphens and joiners of PDF and HTML text sit inside words; Arabic vowel marks, the Arabic
# stretching stroke and Hebrew points are optional spelling that questions leave out.
_INVISIBLE: Final = re.compile(
    "[\u00ad\u2060\ufeff\u0640\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"
)
_STRIPPED_MARKS: Final = re.compile("[\u0300-\u036f]")

_STOP_WORDS: Final = (
    "a about above after again against all am an and any are aren as at be because been before "
    "being below between both but by can cannot could couldn d did didn do does doesn doing don "
    "down during each few for from further had hadn has hasn have haven having he her here hers "
    "herself him himself his how i if in into is isn it its itself just ll m me might more most "
    "must my myself no nor not now of off on once only or other our ours ourselves out over own "
    "please re s same shall she should shouldn so some such t tell than that the their theirs "
    "them themselves then there these they this those through to too under until up us ve very "
    "was wasn we were weren what when where which while who whom whose why will with won would "
    "wouldn you your yours yourself yourselves"
)
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())


def index_text(text: str) -> str:
    """The text for a full-text index: compatibility forms folded, unspaced runs as bigrams.

    NFKC turns ligatures and full-width letters into what people type; a run of one character stays
    one term. ASCII text comes back as it is, at no cost. Only for the index: offsets are lost.
    An index that splits words at marks (FTS5 does, unless its `categories` hold `Mn Mc`) tears
    Hindi and Thai words apart.
    """
    if text.isascii():
        return text
    text = _fold(text)
    if _UNSPACED.search(text) is None:
        return text
    return _UNSPACED.sub(lambda run: f" {' '.join(_bigrams(run.group()))} ", text)


def query_terms(text: str) -> list[str]:
    """Lower-case words and bigrams of a query, each once, in order.

    English stop words go, unless nothing else is left. Upper-case ones stay when the rest of the
    query is not upper case: "WHO guidance" and "US law" ask for names. Accents stay: the index's
    tokenizer decides about them.
    """
    text = _fold(text)
    shouted = text == text.upper()
    kept: dict[str, None] = {}
    stopped: dict[str, None] = {}
    for token in _tokens(text):
        term = token.lower()
        name = not shouted and len(token) > 1 and token.isupper()
        (stopped if term in STOP_WORDS and not name else kept)[term] = None
    return list(kept or stopped)


@lru_cache(maxsize=1024)
def overlap_terms(text: str) -> tuple[str, ...]:
    """Terms for comparing a question with a sentence, in order, with repetitions.

    Lower case, without accents, English stems, no stop words, bigrams for unspaced scripts: the
    same word in another form is the same term.
    """
    decomposed = unicodedata.normalize("NFKD", _fold(text).lower())
    plain = unicodedata.normalize("NFC", _STRIPPED_MARKS.sub("", decomposed))
    return tuple(stem(token) for token in _tokens(plain) if token not in STOP_WORDS)


def is_unspaced(text: str) -> bool:
    """Whether most letters of the text belong to scripts that are cut into bigrams."""
    n_unspaced = sum(len(run) for run in _UNSPACED.findall(text))
    return 2 * n_unspaced > sum(map(str.isalpha, text)) > 0


def _fold(text: str) -> str:
    if text.isascii():
        return text
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "run":
            tokens.extend(_bigrams(match.group()))
        else:
            tokens.append(match.group())
    return tokens


def _bigrams(run: str) -> list[str]:
    if len(run) == 1:
        return [run]
    return [run[index : index + 2] for index in range(len(run) - 1)]
