"""Which encoding bytes are in that are not UTF-8: a guess that is checked, or none.

A candidate has to decode the whole sample, what comes out has to consist of words in one script,
in upper or lower case as words are, and its letters have to be those that the script's languages
use most. The best candidate wins if it is plausible by itself and clearly better than the next;
else there is no answer, because a wrong guess puts garbage into the index and nobody knows.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

__all__ = ["guess", "guess_utf16"]

_SAMPLE_BYTES: Final = 65_536
_MIN_SCORE: Final = 0.62
_MIN_LEAD: Final = 0.04

# The letters that make up most of the running text of the languages that use the code page.
_CYRILLIC: Final = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъёіїєґў"
_COMMON: Final = {
    "cp1251": _CYRILLIC, "koi8-r": _CYRILLIC, "cp866": _CYRILLIC,
    "cp1253": "αοιετσνηυρπκμλςωάίήέόδγχθφβώξύζψ",
    "cp1255": "יוהלאתרבמשנדחקפעכםטגסןצזךףץ",
    "cp1256": "اليمنورتبةعدفسهكقحأجشطىصخإذضزثئغظءؤآ،",
    "cp874": "านรอกเงมยลวดทตสปบคหแจพชขใไโผซธถฐศณฟภ่้ิีัุูึืํ์็ๆำฯ",
    "cp1250": "áéíóúýčďěňřšťůžąćęłńśźżőűâăîșțşţđäöüôľĺŕ",
    "cp1254": "ıişğüçöâîûİŞĞÜÇÖ",
    "cp1257": "āčēģīķļņšūžąęėįųõäöüćłńóśźż",
}  # fmt: skip
_HAN: Final = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
    "這個們來為國說時會對過發後裡還進樣種從經現當沒動開實與學長將麼無關點問機間體總產業區電報導灣書"
    "日月年市区公司工程业务第管理服务信息系统技术研究安全标准规定使用内容数据网络文件号其中包括"
)
_MULTIBYTE: Final = ("gb18030", "big5", "cp932", "euc_jp", "cp949")
_HIGH: Final = re.compile(r"[^\x00-\x7f]")
_WORD: Final = re.compile(r"[^\W\d_]+")
_KANA: Final = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u30fc]")
_HANGUL: Final = re.compile(r"[\uac00-\ud7a3]")
_SPACE: Final = re.compile(r"[ \n\u3000、。，]")
_IDEOGRAPH: Final = re.compile(r"[\u4e00-\u9fff]")
_WIDE_MARKS: Final = re.compile(r"[\u3000-\u303f\uff01-\uff5e“”‘’…—·]")


def guess_utf16(content: bytes) -> str | None:
    """`utf-16-le` or `utf-16-be` for text without a byte-order mark, else None."""
    sample = content[: _SAMPLE_BYTES & ~1]
    sample = sample[: len(sample) & ~1]
    shares = {}
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = sample.decode(encoding)
        except UnicodeDecodeError as exc:
            if exc.start < len(sample) - 2:
                continue
            text = sample[: exc.start].decode(encoding)
        if text and not any(unicodedata.category(c) in ("Cc", "Cn", "Co") for c in text.strip()
                            if c not in "\n\r\t\f"):  # fmt: skip
            shares[encoding] = sum(map(_plain, text)) / len(text)
    if not shares or len(content) % 2:
        return None
    # Text has white space, or what divides sentences where none divides words.
    if len(content) > 80:
        shares = {e: s for e, s in shares.items() if _SPACE.search(sample.decode(e, "replace"))}
        if not shares:
            return None
    best = max(shares, key=lambda encoding: shares[encoding])
    clear = len(shares) == 1 or shares[best] - min(shares.values()) > 0.1
    return best if shares[best] >= 0.65 and clear else None


def _plain(c: str) -> float:
    """How sure it is that a character is one of a text: the other byte order gives ideographs."""
    if _IDEOGRAPH.match(c):
        return 1.0 if c in _HAN else 0.5
    code = ord(c)
    alphabet = code < 0x0E80 or 0x1E00 <= code < 0x2070
    return 1.0 if alphabet or _KANA.match(c) or _HANGUL.match(c) or _WIDE_MARKS.match(c) else 0.0


def guess(content: bytes) -> str | None:
    """The encoding of text that is neither UTF-8 nor Western European; None when it can't be told.

    A sample that ends within a character is cut before it.
    """
    sample = content[:_SAMPLE_BYTES]
    scores = {}
    for encoding in (*_COMMON, *_MULTIBYTE):
        text = _decoded(sample, encoding)
        if text is not None:
            wide = encoding in _MULTIBYTE
            scores[encoding] = _wide_score(text, encoding) if wide else _score(text, encoding)
    ranked = sorted(scores, key=lambda encoding: scores[encoding], reverse=True)
    if not ranked or scores[ranked[0]] < _MIN_SCORE:
        return None
    if len(ranked) > 1 and scores[ranked[0]] - scores[ranked[1]] < _MIN_LEAD:
        return None
    return ranked[0]


def _decoded(sample: bytes, encoding: str) -> str | None:
    try:
        return sample.decode(encoding)
    except UnicodeDecodeError as exc:
        if exc.start < len(sample) - 4:
            return None
        return sample[: exc.start].decode(encoding)


def _score(text: str, encoding: str) -> float:
    """How much the text is like one in a language of this code page, 0 to 1."""
    high = _HIGH.findall(text)
    if not high:
        return 0.0
    common = _COMMON[encoding]
    weights = _weights(common)
    frequent = sum(weights.get(c.lower(), 0.0) for c in high) / len(high)
    words = [word for word in _WORD.findall(text) if _HIGH.search(word)]
    if not words:
        return 0.0
    shaped = sum(1 for word in words if _is_word(word, encoding)) / len(words)
    # A text of nothing but capital letters is more likely one in a script that has none.
    shaped *= 1.0 - 0.15 * sum(map(str.isupper, words)) / len(words)
    inside = len(_HIGH.findall("".join(words))) / len(high)
    return frequent * shaped * min(1.0, inside + 0.08)


@lru_cache(maxsize=32)
def _weights(common: str) -> dict[str, float]:
    """1.0 for the most frequent letters, falling to 0.3 for the rare ones."""
    return {c.lower(): 1.0 - 0.7 * max(0, at - 8) / len(common) for at, c in enumerate(common)}


def _is_word(word: str, encoding: str) -> bool:
    """In one script, and in lower case, upper case or with a capital letter first."""
    latin = encoding in ("cp1250", "cp1254", "cp1257")
    if not latin and any("A" <= c <= "z" for c in word):
        return False
    if word.islower() or word.isupper() or word[1:].islower():
        return not (word.isupper() and len(word) > 12)
    return not any(c.islower() or c.isupper() for c in word)


def _wide_score(text: str, encoding: str) -> float:
    """The same for Chinese, Japanese and Korean."""
    high = _HIGH.findall(text)
    if not high:
        return 0.0
    n = len(high)
    kana, hangul = len(_KANA.findall(text)), len(_HANGUL.findall(text))
    ideographs = _IDEOGRAPH.findall(text)
    marks = len(_WIDE_MARKS.findall(text))
    strange = n - kana - hangul - len(ideographs) - marks
    clean = 1.0 - min(1.0, 4.0 * strange / n)
    if encoding in ("cp932", "euc_jp"):
        return clean * min(1.0, 0.4 + 2.0 * kana / n) if kana else 0.0
    if encoding == "cp949":
        return clean * min(1.0, 0.3 + hangul / n) if hangul > len(ideographs) else 0.0
    if kana > n // 10 or hangul:
        return 0.0
    frequent = sum(1 for c in ideographs if c in _HAN) / max(1, len(ideographs))
    return clean * min(1.0, 0.35 + 2.0 * frequent)
