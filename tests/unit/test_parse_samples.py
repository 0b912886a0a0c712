"""Every format's sample becomes exactly what parses.json says; offsets hold for all."""

from __future__ import annotations

import json

import pytest

from ragdock.types import BlockKind
from support.files import DATA, SAMPLES, parse_sample, summary

PARSES = json.loads((DATA / "parses.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(name: str) -> None:
    """Title, pages and blocks with their kinds, levels, labels and texts are as recorded."""
    assert summary(parse_sample(name)) == PARSES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_offsets(name: str) -> None:
    """Blocks and pages ascend, don't overlap, and leave only white space between them."""
    parsed = parse_sample(name)
    last = 0
    for block in parsed.blocks:
        assert last <= block.start < block.end
        assert not parsed.text[last : block.start].strip()
        assert (block.level > 0) == (block.kind is BlockKind.HEADING)
        last = block.end
    assert not parsed.text[last:].strip()
    last = 0
    for page in parsed.pages:
        assert last <= page.start < page.end <= len(parsed.text)
        last = page.end


@pytest.mark.parametrize("name", ["guide.md", "notes.txt", "catalogue.csv", "kiln.rst"])
def test_plain_text_stays_exact(name: str) -> None:
    """Formats that are read as written keep the file's text, so that offsets point into it."""
    assert parse_sample(name).text == (DATA / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("railway.pptx", "Night Otter | 23:15 | 64 | 19.90"),
        ("boatyard.xlsx", "Bronze cleat | A4 | 1,240 | £ 18.50 | 2025-11-03 | 42.5%"),
        ("lighthouse.odt", "Gull | Malta | 23:05"),
        ("rainfall.ods", "April | 48.0 | 11"),
        ("caravan.epub", "7 | 3,615 m"),
        ("vineyard.rtf", "Negrette | 18 | 21 September"),
        ("glacier.tex", "2023 | 8.69"),
        ("kiln.rst", "| Upper  | 35 cm  |"),
    ],
)
def test_tables_stay_readable(name: str, fact: str) -> None:
    """A row of a table is a line, under a label that names its columns."""
    parsed = parse_sample(name)
    kinds = (BlockKind.TABLE, BlockKind.RECORD)
    rows = [b for b in parsed.blocks if b.kind in kinds and fact in parsed.text[b.start : b.end]]
    assert rows
    assert " | " in rows[0].label
