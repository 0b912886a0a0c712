from __future__ import annotations

import time

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.stemming import stem
from ragdock.core.terms import index_text, overlap_terms, query_terms


@pytest.mark.parametrize(
    ("text", "indexed"),
    [
        ("Plain ASCII, unchanged.", "Plain ASCII, unchanged."),
        ("Café größer", "Café größer"),
        ("北京大学", " 北京 京大 大学 "),
        ("猫", " 猫 "),
        ("Python编程!", "Python 编程 !"),
        ("カタカナ", " カタ タカ カナ "),
        ("ｶﾀｶﾅ", " カタ タカ カナ "),
        ("한국어 문서", " 한국 국어   문서 "),
        ("ไทย", " ไท ทย "),
        ("ﬁne ｆｕｌｌ", "fine full"),
        ("co\u00adoperate", "cooperate"),
        ("الْكِتَاب", "الكتاب"),
        ("हिन्दी", "हिन्दी"),
        ("", ""),
    ],
)
def test_index_text_cuts_only_unspaced_runs(text: str, indexed: str) -> None:
    """Unspaced scripts become bigrams, compatibility forms fold, all else stays."""
    assert index_text(text) == indexed


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("How do I reset my password?", ["reset", "password"]),
        ("what is it", ["what", "is", "it"]),
        ("WHO guidance on US law", ["who", "guidance", "us", "law"]),
        ("WHAT IS THE PRICE", ["price"]),
        ("price, Price and PRICE", ["price"]),
        ("user_id of naïve O'Neill", ["user", "id", "naïve", "o", "neill"]),
        ("编程很好吗", ["编程", "程很", "很好", "好吗"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("كيف تعمل", ["كيف", "تعمل"]),
        ("?!", []),
        ("", []),
    ],
)
def test_query_terms(query: str, terms: list[str]) -> None:
    """A query's terms are lower-case, unique, in order and without stop words, if others remain."""
    assert query_terms(query) == terms


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Payments were relational", "payment relations"),
        ("Café", "cafe"),
        ("FULL ｗｉｄｔｈ", "full width"),
        ("studied", "studies"),
    ],
)
def test_overlap_terms_fold_forms(left: str, right: str) -> None:
    """Inflections, accents, case and width don't keep two mentions of a word apart."""
    assert set(overlap_terms(left)) == set(overlap_terms(right))


@given(st.text())
def test_queries_find_their_own_text(text: str) -> None:
    """Text and query are cut alike: the indexed text, asked as a query, has the query's terms."""
    assert query_terms(index_text(text)) == query_terms(text)


@given(st.text(alphabet="北京 大学猫ab,", max_size=12))
def test_every_unspaced_character_is_indexed(text: str) -> None:
    """No character of an unspaced run is lost, and a bigram never joins two runs."""
    pieces = index_text(text).split()
    assert set("".join(pieces)) == set("".join(text.split()))
    assert all(piece in text for piece in pieces)


def test_stemmer_equals_sqlites() -> None:
    """Our stemmer agrees with FTS5's `porter`, so overlap and index agree on words."""
    words = [
        "caresses",
        "ponies",
        "ties",
        "cats",
        "feed",
        "agreed",
        "plastered",
        "bled",
        "motoring",
        "sing",
        "conflated",
        "troubled",
        "sized",
        "hopping",
        "tanned",
        "falling",
        "hissing",
        "fizzed",
        "failing",
        "filing",
        "happy",
        "sky",
        "relational",
        "conditional",
        "rational",
        "valenci",
        "hesitanci",
        "digitizer",
        "conformabli",
        "radicalli",
        "differentli",
        "vileli",
        "analogousli",
        "vietnamization",
        "predication",
        "operator",
        "feudalism",
        "decisiveness",
        "hopefulness",
        "callousness",
        "formaliti",
        "sensitiviti",
        "sensibiliti",
        "triplicate",
        "formative",
        "formalize",
        "electriciti",
        "electrical",
        "hopeful",
        "goodness",
        "revival",
        "allowance",
        "inference",
        "airliner",
        "gyroscopic",
        "adjustable",
        "defensible",
        "irritant",
        "replacement",
        "adjustment",
        "dependent",
        "adoption",
        "homologou",
        "communism",
        "activate",
        "angulariti",
        "homologous",
        "effective",
        "bowdlerize",
        "probate",
        "rate",
        "cease",
        "controll",
        "roll",
        "universities",
        "running",
        "employees",
        "returns",
        "policies",
        "theology",
        "archaeology",
        "possibly",
        "yearly",
    ]
    database = apsw.Connection(":memory:")
    database.execute("create virtual table f using fts5(t, tokenize='porter unicode61')")
    database.execute("create virtual table v using fts5vocab(f, 'instance')")
    database.executemany(
        "insert into f(rowid, t) values(?, ?)", [(n, w) for n, w in enumerate(words)]
    )
    theirs = {
        words[int(str(doc))]: term for term, doc in database.execute("select term, doc from v")
    }
    assert {word: stem(word) for word in words} == theirs


@pytest.mark.parametrize("word", ["", "a", "to", "x2", "naïve", "编程", "UPPER"])
def test_stemmer_leaves_other_strings(word: str) -> None:
    """What is no lower-case English word of three letters comes back unchanged."""
    assert stem(word) == word


def test_ascii_costs_nothing() -> None:
    """ASCII text passes at far over 50 MB/s, because it isn't read at all."""
    text = "hello world, this is text. " * 400_000
    started = time.perf_counter()
    assert index_text(text) is text
    assert len(text) / 1e6 / (time.perf_counter() - started) > 50
