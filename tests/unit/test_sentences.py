"""Sentence boundaries: a table of hard cases, and what holds for every text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdock.core.sentences import line_spans, sentence_spans

CASES = {
    "plain": ["It rained.", "We stayed in!", "Why not?", "Well."],
    "titles": ["Dr. Smith met Mrs. Jones and Prof. Lee.", "They left."],
    "initials": ["J. R. R. Tolkien wrote it.", "So did C. S. Lewis."],
    "latin abbreviations": ["Use it, e.g. Docker, i.e. a container.", "See Fig. 3 and cf. Eq. 4."],
    "et al.": ["Smith et al. (2020) and Lee et al. showed it.", "We agree."],
    "et al. ends": ["This follows Smith et al.", "The proof is short."],
    "numbers": ["Version 3.11 costs 4.50 euros.", "It was cut by 2.5 percent."],
    "number ends": ["That was in 2023.", "5 people came."],
    "no. before number": ["See No. 5 and p. 12, pp. 3-4.", "Sec. 2 says more."],
    "no as answer": ["Did he say no.", "He did."],
    "acronyms": ["The U.S. Army left at 5 p.m. on Monday.", "He lives in the U.S.", "The end."],
    "may end": ["Apples, pears, etc. are fruit.", "He sold apples, pears, etc.", "Then he left."],
    "units": ["It takes 20 ms.", "The other takes 3 km."],
    "quotes": ["“Is it done?” she asked.", "He said “yes.”", "Then he left."],
    "brackets": ["It worked (see above).", "(Really.)", "[1] Next."],
    "ellipsis": ["Wait... what?", "Yes…", "Maybe."],
    "marks together": ["Really?!", "Yes!!!", "Good."],
    "file names": ["Open README.md and src/main.py.", "Then run example.com/install.sh now."],
    "lower case": ["The tool is Yahoo! and not eBay."],
    "chinese": ["他来了。", "他说：“好。”", "然后走了！", "真的？", "是。"],
    "japanese": ["雨が降った。", "「本当？」", "はい！"],
    "fullwidth stop": ["完了｡", "次へ"],
    "hindi": ["यह एक वाक्य है।", "यह दूसरा है॥", "ठीक"],
    "arabic": ["ما اسمك؟", "اسمي علي.", "شكرا"],
    "urdu": ["یہ ایک جملہ ہے۔", "یہ دوسرا ہے۔"],
    "armenian": ["Ես եկա։", "Նա գնաց։"],
    "amharic": ["ሰላም ነው።", "ደህና።"],
    "burmese": ["ဟုတ်တယ်။", "မဟုတ်ဘူး။"],
    "khmer": ["បាទ។", "ទេ។"],
    "greek": ["Ήρθε χθες.", "Έφυγε σήμερα."],
    "russian": ["В 1999 г. вышла книга, т.е. роман А. С. Пушкина.", "Она хороша."],
    "german": ["Am 3. Oktober kam z.B. Herr Dr. Meier, d.h. gestern.", "Er blieb bis ca. 5 Uhr."],
    "german numbers": ["Siehe Nr. 5 und Abs. 2.", "Es kostet 3,5 Mio. Euro."],
    "french": [
        "M. Dupont et Mme Durand arrivent.",
        "«\u00a0Oui\u202f!\u00a0»",
        "Voir p. ex. la page 3.",
    ],
    "spanish": ["¿Qué pasa?", "¡Nada!", "El Sr. García llegó."],
    "turkish": ["Geldim.", "Çok güzel!"],
    "polish": ["Weź np. jabłko, tzn. owoc.", "Dobrze."],
}

LINES = {
    "bullets": ("- one\n- two. Three.\n* four", ["- one", "- two.", "Three.", "* four"]),
    "numbered": ("1. Connect it. Wait.\n2. Go.", ["1. Connect it.", "Wait.", "2. Go."]),
    "letters": ("a) first\nb) second", ["a) first", "b) second"]),
    "hard wrap": (
        "A line that is\nwrapped here. Next\none.",
        ["A line that is\nwrapped here.", "Next\none."],
    ),
    "wrapped item": ("- one that\n  goes on\n- two", ["- one that\n  goes on", "- two"]),
    "blank line": ("No stop here\n\nNor there", ["No stop here", "Nor there"]),
    "windows line ends": ("One\r\n\r\nTwo.\r\nThree.", ["One", "Two.", "Three."]),
    "heading": ("# Title\nText here.", ["# Title", "Text here."]),
    "table": ("| a | b |\n| 1. | 2 |", ["| a | b |", "| 1. | 2 |"]),
    "code": ("x = 1;\nif (x) {\ny();\n}", ["x = 1;", "if (x) {", "y();", "}"]),
    "fence": ("Run:\n```\nls -l\n```", ["Run:", "```", "ls -l", "```"]),
    "only space": (" \n\t\n", []),
    "empty": ("", []),
    "only marks": ("...", ["..."]),
}


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize("sentences", CASES.values(), ids=CASES.keys())
def test_hard_cases(sentences: list[str]) -> None:
    """Abbreviations, numbers, quotations and many scripts are cut where a reader would cut."""
    joined = "".join(
        sentence if re.search("[。！？｡][”」]?$", sentence) else sentence + " "
        for sentence in sentences
    )
    assert cut(joined) == sentences


@pytest.mark.parametrize(("text", "sentences"), LINES.values(), ids=LINES.keys())
def test_lines(text: str, sentences: list[str]) -> None:
    """A line break ends a sentence only beside lines that stand for themselves."""
    assert cut(text) == sentences


ALPHABET = st.sampled_from(
    [*"aB1.!?…\"') \n\t-#|;:。？।", "Dr", "e.g", "etc", "\r\n", "\u3000", "😀"]
)


@given(st.lists(ALPHABET, max_size=60).map("".join))
@settings(max_examples=150, deadline=None)
def test_spans_cover_all_but_white_space(text: str) -> None:
    """Spans ascend, are trimmed, don't overlap, and leave out nothing but white space."""
    last = 0
    for start, end in sentence_spans(text):
        assert last <= start < end
        assert not text[last:start].strip()
        assert text[start:end] == text[start:end].strip()
        last = end
    assert not text[last:].strip()


@given(st.lists(ALPHABET, max_size=40).map("".join))
@settings(max_examples=100, deadline=None)
def test_line_spans_are_the_lines(text: str) -> None:
    """Line spans are the lines that hold more than white space, trimmed."""
    assert [text[a:b] for a, b in line_spans(text)] == [
        line.strip() for line in text.split("\n") if line.strip()
    ]


UNITS = [".", ". ", "Dr. ", "“", '."', "\n\t", "a\n", "a b ", "1) ", "e.g."]


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear(unit: str) -> None:
    """100,000 characters of the worst material take less than two seconds."""
    text = unit * (100_000 // len(unit))
    begin = time.thread_time()
    sentence_spans(text)
    assert time.thread_time() - begin < 2.0
