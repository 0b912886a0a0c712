"""Where sentences begin and end, for many languages, in linear time and without a model.

A terminator (. ! ? … and their kin in other scripts) is a candidate; what stands before and after
it decides. A full stop ends a sentence when white space follows and the next word doesn't begin
in lower case, unless it belongs to an abbreviation, an initial, an ordinal or a list number. CJK,
Arabic, Indic, Armenian, Ethiopic, Burmese and Khmer terminators need no white space. A blank line
ends a sentence always, a single line break only next to lines that stand for themselves: list
items, headings, table rows, code.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["line_spans", "sentence_spans"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Before a name, so they never end a sentence; only with a capital ("Ms. Lee", but "20 ms.").
_TITLES: Final = _words(
    """
    adm capt cmdr col cpl dipl dott dr dra exmo fr gen gov hon hr ing insp lt maj mevr mlle mm mme
    mr mrs ms mt mx pres prof rep rev sen sgt sig sigg sr sra sras srta st ste supt
    """
)
# Before an explanation or a name, so they never end a sentence either.
_NEVER_END: Final = _words(
    """
    abbr approx bzw ca cf dhr eds esp evtl excl fig figs freq ggf hrsg incl inkl np orig resp str
    tel tzn u.a ul urspr vgl viz vol vols vs zzgl eq eqs
    e.g i.e p.ex p.ej z.b d.h z.t s.o s.u i.d.r o.g t.ex bl.a m.b.t т.е напр проф рис гл см ср
    тел им ул акад
    """
)
# Abbreviations only before a number: "No. 5" but "No. He left."
_BEFORE_NUMBER: Final = _words(
    """
    abb abs abschn art arts bd bl ch chap cl col fol gl kap lfd ln n nos no nr núm num p par para
    pag pág pp ref refs s sec sect taf tab v ver wk zif § с т п ст пп
    """
)
# May end a sentence: only when the next word is one that usually begins a sentence.
_MAY_END: Final = _words(
    """
    al bros co corp dec feb apr aug etc ecc ff inc itd jan jr jul jun kg km ltd mar mio mrd nov oct
    okt sept sep usw u.s.w u.s u.k u.n e.u a.m p.m ph.d m.d b.a m.a m.sc b.sc d.c s.a n.v av apr.j
    c.d др тыс млн млрд руб г гг в вв т.д т.п
    """
)
_STARTERS: Final = _words(
    """
    a after all although an and another as at because before both but by during each even every
    finally first for from he her here his how however i if in instead into it its later many most
    my nevertheless no not now of on once one only or our she since so some still such that the
    their then there therefore these they this those though three through thus to today two under
    until we what when where whereas which while who why with yet you your
    der die das ein eine er sie es wir ich im in am auf mit nach aber und wenn dies diese dieser
    le la les un une il elle nous je ce cette ces dans en mais et el los las una ella pero y este
    esta o os as um uma ele ela no na mas lo gli i он она они это мы в на и но
    """
)
_MONTHS: Final = _words(
    """
    januar jänner februar märz april mai juni juli august september oktober november dezember
    january february march may june july october december
    """
)

_CLOSERS: Final = "\"'”’»)\\]}」』】》〉）］"
_OPENERS: Final = "\"'“„‘«‹([{¿¡「『【《〈（*_`"
_HARD: Final = "。！？｡।॥۔؟։።፧။។᙮⸮꓿𑅁"
_CANDIDATE: Final = re.compile(
    rf"[{_HARD}]+[!?…]*[{_CLOSERS}]*"  # CJK and other scripts: no white space needed.
    rf"|[.!?…‼⁇⁈⁉]+(?:[{_CLOSERS}]|[\u00a0\u202f]»)*(?=\s|[{_HARD}]|$)"
    r"|\n[^\S\n]*(?:\n\s*)*"
)
_BLANK_LINE: Final = re.compile(r"\n[^\S\n]*\n")
_ITEM: Final = re.compile(
    r"(?:[-*+•◦▪‣–—·]|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)])[ \t]+\S|#{1,6}[ \t]|\||```|~~~|>"
)
_NUMBER_MARK: Final = re.compile(r"\s*[(\[]?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)]$")
_HEADING_LINE: Final = re.compile(r"[ \t]{0,3}(?:#{1,6}[ \t]|\||```|~~~)")
_CODE_END: Final = "{};"
_NEXT_WORD: Final = re.compile(r"[^\W\d_]+")
_ROMAN_OR_NUMBER: Final = re.compile(r"[\d#]|[IVXLC]+\b")
_LOOK: Final = 40  # Characters looked at before and after a candidate; longer words don't matter.


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Spans (start, end) of the sentences: trimmed, ascending, covering all but white space."""
    spans: list[tuple[int, int]] = []
    start = _skip_space(text, 0)
    line = text.rfind("\n", 0, start) + 1
    for match in _CANDIDATE.finditer(text, start):
        at, end = match.span()
        if at < start:
            continue
        if text[at] == "\n":
            if _line_break_ends(text, line, at, end):
                start = _close(text, spans, start, at)
            line = text.rfind("\n", at, end) + 1
        elif _ends_sentence(text, line, start, match):
            start = _close(text, spans, start, end)
    _close(text, spans, start, len(text))
    return spans


def line_spans(text: str) -> list[tuple[int, int]]:
    """Spans of the lines that are not blank, without their leading and trailing white space."""
    return [
        (match.start(), match.start() + len(match.group().rstrip()))
        for match in re.finditer(r"\S[^\n]*", text)
    ]


def _close(text: str, spans: list[tuple[int, int]], start: int, end: int) -> int:
    trimmed = start + len(text[start:end].rstrip())
    if trimmed > start:
        spans.append((start, trimmed))
    return _skip_space(text, end)


def _skip_space(text: str, start: int) -> int:
    match = _NOT_SPACE.search(text, start)
    return match.start() if match else len(text)


_NOT_SPACE: Final = re.compile(r"\S")


def _line_break_ends(text: str, line: int, at: int, end: int) -> bool:
    if _BLANK_LINE.match(text, at, end) or end == len(text):
        return True
    following = _skip_space(text, at)
    if _ITEM.match(text, following) or _HEADING_LINE.match(text, line):
        return True
    return text[at - 1] in _CODE_END  # Prose seldom ends its lines like that.


def _ends_sentence(text: str, line: int, start: int, match: re.Match[str]) -> bool:
    at, end = match.span()
    if text[at] in _HARD:
        return True
    following = _skip_space(text, end)
    if following == len(text):
        return True
    if text[line] == "|":
        return False  # A row of a table stays whole.
    ahead = text[following : following + _LOOK].lstrip(_OPENERS)
    if not ahead or ahead[0].islower():
        return False
    if text[at] != "." or (end > at + 1 and text[at + 1] not in _CLOSERS):
        return True
    if start >= line and end - start <= 5 and _NUMBER_MARK.match(text, start, end):
        return False  # "1. Connect the cable" is one item, its number no sentence.
    words = text[max(start, at - _LOOK) : at].split()
    word = words[-1].lstrip(_OPENERS) if words and not text[at - 1].isspace() else ""
    return not word or _stop_ends(word, ahead)


def _stop_ends(word: str, ahead: str) -> bool:
    """Whether a full stop after `word` ends the sentence, given the text ahead."""
    lower = word.lower()
    if len(word) == 1 and word.isupper() and word != "I":
        return False  # An initial: "J. R. Smith".
    if lower in _NEVER_END or (lower in _TITLES and not word.islower()):
        return False
    if lower in _BEFORE_NUMBER:
        return _ROMAN_OR_NUMBER.match(ahead) is None
    found = _NEXT_WORD.match(ahead)
    following = found.group().lower() if found else ""
    if word.isdigit() and len(word) <= 2:
        return following not in _MONTHS  # "am 3. Oktober"
    if lower in _MAY_END or ("." in word and _DOTTED.fullmatch(word) is not None):
        return following in _STARTERS
    return True


_DOTTED: Final = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")
