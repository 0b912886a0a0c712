"""Encodings that no byte-order mark tells of."""

from __future__ import annotations

import json

import pytest

from ragdock.adapters.parsers.charsets import guess
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.errors import DocumentError
from support.files import DATA

SAMPLES = json.loads((DATA / "encodings.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("language", "encoding"),
    [(language, encoding) for language, (_, codes) in SAMPLES.items() for encoding in codes],
)
def test_legacy_encodings(language: str, encoding: str) -> None:
    """Two sentences are enough to read a text in the code page that its language used."""
    text = SAMPLES[language][0]
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize("language", SAMPLES)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_mark(language: str, encoding: str) -> None:
    """UTF-16 is recognised without its mark, in both byte orders."""
    text = SAMPLES[language][0]
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize(
    "content",
    [bytes(range(128, 256)) * 20, b"\xfd\xfe words \x81\x8d" * 9,
     "naïve café".encode() + b"\xff",
     "Привет".encode() * 20 + b"\xd0", b"\x00\x01\x02\x03" * 50, b"abc\x00def"],
    ids=["all bytes", "noise", "broken utf-8", "cut utf-8", "binary", "a NUL"],
)  # fmt: skip
def test_no_guess_is_better_than_a_wrong_one(content: bytes) -> None:
    """What is no text in any known encoding is refused, not made into garbage."""
    with pytest.raises(DocumentError) as caught:
        decode_text(content)
    assert caught.value.code in ("wrong_encoding", "binary")


def test_a_long_text_is_guessed_from_its_beginning() -> None:
    """A sample that ends within a character is no obstacle."""
    text = SAMPLES["ja"][0] * 2000
    assert guess(text.encode("cp932")[:65_535]) == "cp932"
    assert decode_text(text.encode("cp932")) == text
