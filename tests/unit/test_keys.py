"""Cache keys, content hashes and document ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.keys import (
    archive_id_of,
    cache_key,
    document_id_of,
    is_member_of,
    member_id,
    members_prefix,
    normalised,
    sha256_hex,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", None), ("a", "null")),
        ((1,), ("1",)),
        ((1,), (True,)),
        (([],), ()),
        ((["a"],), (["a", "a"],)),
        (({"a": 1},), ({"a": 2},)),
        (("a",), ("A",)),
    ],
)
def test_different_parts_have_different_keys(one: tuple[object], other: tuple[object]) -> None:
    """Parts don't run together, and types tell."""
    assert cache_key("answer", *one) != cache_key("answer", *other)
    assert cache_key("answer", *one) != cache_key("search", *one)


def test_keys_say_what_they_are_and_nothing_else() -> None:
    """A key is a prefix, a kind and a digest: no question can be read from it."""
    key = cache_key("answer", "a secret question", {"b": 1, "a": [1, None]}, "\ud800")
    assert key.startswith("rag:v1:answer:")
    assert len(key) == len("rag:v1:answer:") + 40
    assert key == cache_key("answer", "a secret question", {"a": [1, None], "b": 1}, "\ud800")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"),
        ("  a \t\n b\u00a0c\u3000", "a b c"),
        ("cafe\u0301", "caf\u00e9"),
        ("A a", "A a"),
        (" \n ", ""),
        ("ﬁ", "ﬁ"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    """NFC and single blanks; case and compatibility characters stay."""
    assert normalised(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    """A normalised text is its own normal form."""
    assert normalised(normalised(text)) == normalised(text)


def test_document_ids_are_of_name_and_content() -> None:
    """The same name and content give the same id; either one changes it, and they don't mix."""
    one = document_id_of("a.txt", b"content")
    assert one == document_id_of("a.txt", b"content")
    assert one.startswith("doc-")
    assert len(one) == 28
    assert one != document_id_of("b.txt", b"content")
    assert one != document_id_of("a.txt", b"contenT")
    assert document_id_of("\ud800.txt", b"x")


def test_sha256() -> None:
    """The hash that everybody else computes."""
    assert sha256_hex(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,199}", fullmatch=True), st.text(min_size=1))
def test_members_have_ids_of_their_archive(archive: str, path: str) -> None:
    """An id of the same form, never over 200 characters, that tells the archive and no other."""
    made = member_id(archive, path)
    assert len(made) <= 200
    assert made == member_id(archive, path) != member_id(archive, f"{path}x")
    assert is_member_of(made, members_prefix(archive))
    assert not is_member_of(made, members_prefix(made))
    assert not is_member_of(archive, members_prefix(archive))
    if len(archive) <= 183:
        assert archive_id_of(made) == archive


def test_what_is_no_member() -> None:
    """Other ids with a tilde, and files of an archive within that id, aren't its files."""
    assert archive_id_of("report~final") is None
    assert archive_id_of("~0123456789abcdef") is None
    inner = member_id(member_id("a", "x"), "y")
    assert not is_member_of(inner, members_prefix("a"))
    assert member_id("k" * 184, "x")[:160] == member_id("k" * 185, "x")[:160]
    assert member_id("k" * 184, "x") != member_id("k" * 185, "x")
