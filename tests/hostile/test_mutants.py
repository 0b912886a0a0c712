"""Thousands of broken files: each becomes a document or a reason, and the server stays."""

from __future__ import annotations

import gzip
import io
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from hostile.mutate import mutant
from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.core.media import GZIP, ZIP, detect_media_type
from ragdock.errors import DocumentError
from ragdock.types import Bounds
from support.files import DATA, LABELS, SAMPLES, joined, pdf_bytes, tar_bytes, zip_bytes

TIMEOUT_SECONDS = 20.0
MEMORY_MB = 512
CODES = {
    "binary", "bomb", "damaged", "empty", "encrypted", "memory", "no_text", "scanned", "timeout",
    "too_complex", "truncated", "unsupported", "wrong_encoding",
}  # fmt: skip
"""Every code that a document may fail with."""


SEEDS = {name: (DATA / name).read_bytes() for name in SAMPLES} | {
    "labelled.pdf": pdf_bytes(*(f"Word {'abcdefg'[n]}." for n in range(7)), catalogue=LABELS)
}
"""Files to be broken; much of the last one is the labels of its pages."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant."""

    name: str
    code: str
    seconds: float


def run(pool: ParserPool, name: str, seed: str) -> Outcome:
    """Break a sample and parse it; any exception but `DocumentError` is the server's fault."""
    content = mutant(seed, SEEDS[name])
    media_type = detect_media_type(name, None, SEEDS[name][:4096])
    assert media_type is not None
    begin = time.monotonic()
    try:
        parsed = joined(pool.parts(io.BytesIO(content), name, media_type))
    except DocumentError as exc:
        code = exc.code if str(exc).endswith(".") else f"no sentence: {exc}"
        return Outcome(seed, code, time.monotonic() - begin)
    last = 0
    for block in parsed.blocks:
        assert last <= block.start < block.end <= len(parsed.text), seed
        last = block.end
    parsed.text.encode()  # What is stored has to be text: no half of a surrogate pair.
    assert "\0" not in parsed.text, seed
    return Outcome(seed, "parsed", time.monotonic() - begin)


def test_mutants(
    pytestconfig: pytest.Config,
    caplog: pytest.LogCaptureFixture,
    report: Callable[[str], None],
) -> None:
    """No mutant of any format crashes or hangs the server; each failure has a known code."""
    n_each = pytestconfig.getoption("mutants")
    caplog.set_level(logging.WARNING)
    pool = ParserPool(TIMEOUT_SECONDS, MEMORY_MB, processes=2)
    work = [(name, f"{name}-{n}") for n in range(n_each) for name in SEEDS]
    begin = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda item: run(pool, *item), work))
    pool.close()
    seconds = time.monotonic() - begin
    codes = Counter(outcome.code for outcome in outcomes)
    deaths = [r for r in caplog.records if r.message == "a parser process died"]
    bugs = [r for r in caplog.records if r.message == "a parser failed on a document"]
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    for line in (
        f"{len(outcomes)} mutants of {len(SEEDS)} files in {seconds:.0f} s: "
        f"{codes.pop('parsed', 0)} parsed, {sum(codes.values())} failed cleanly "
        f"({', '.join(f'{code} {n}' for code, n in codes.most_common())}); "
        f"{len(deaths)} children died, {len(bugs)} surprised; slowest {slowest.seconds:.1f} s "
        f"({slowest.name}); peak memory of a child {peak_mb} MB",
        *(str(record.__dict__["detail"])[-600:] for record in bugs[:20]),
    ):
        report(line)
    assert set(codes) <= CODES
    assert len(outcomes) == n_each * len(SEEDS)
    assert slowest.seconds < TIMEOUT_SECONDS + 5
    # A crash of foreign code is the child's; one of our own readers is a bug to be mended.
    assert len(deaths) <= len(outcomes) * 0.01
    assert not bugs


ARCHIVED = {name: (DATA / name).read_bytes() for name in ("guide.md", "page.html", "report.docx")}
TARRED = tar_bytes({**ARCHIVED, "deep/notes.txt": b"Notes of the keeper.\n" * 300})
ARCHIVES = {
    "mutant.zip": (ZIP, zip_bytes({**ARCHIVED, "inner.zip": zip_bytes({"a.txt": b"x" * 5000})})),
    "mutant.tar.gz": (GZIP, gzip.compress(TARRED)),
}
"""Archives to be broken; of the packed TAR also what is in it, behind a valid checksum."""
ARCHIVE_CODES = {
    "bomb", "damaged", "encrypted", "memory", "no_text", "timeout", "truncated", "unsafe_path",
}  # fmt: skip
BOUNDS = Bounds(max_files=100, max_bytes=20 * 2**20)


def unpack(pool: ParserPool, name: str, seed: str) -> Outcome:
    """Break an archive and unpack it; what comes out is bounded and has names that are names."""
    media_type, content = ARCHIVES[name]
    if media_type == GZIP and seed.endswith(("1", "3", "5", "7", "9")):
        content = gzip.compress(mutant(seed, TARRED))
    else:
        content = mutant(seed, content)
    begin = time.monotonic()
    n_files = n_bytes = 0
    try:
        for path, pieces in pool.members(io.BytesIO(content), name, media_type, BOUNDS):
            assert path, seed
            assert not path.startswith("/"), seed
            assert ".." not in path.split("/"), seed
            n_files += 1
            n_bytes += sum(map(len, pieces))
    except DocumentError as exc:
        code = exc.code if str(exc).endswith(".") else f"no sentence: {exc}"
        return Outcome(seed, code, time.monotonic() - begin)
    assert n_files <= BOUNDS.max_files, seed
    assert n_bytes <= BOUNDS.max_bytes, seed
    return Outcome(seed, "unpacked", time.monotonic() - begin)


def test_mutants_of_archives(
    pytestconfig: pytest.Config,
    caplog: pytest.LogCaptureFixture,
    report: Callable[[str], None],
) -> None:
    """No mutant of an archive crashes or hangs the server, or unpacks to more than it may."""
    n_each = 2 * pytestconfig.getoption("mutants")
    caplog.set_level(logging.WARNING)
    pool = ParserPool(TIMEOUT_SECONDS, MEMORY_MB, processes=2)
    work = [(name, f"{name}-{n}") for n in range(n_each) for name in ARCHIVES]
    begin = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda item: unpack(pool, *item), work))
    pool.close()
    seconds = time.monotonic() - begin
    codes = Counter(outcome.code for outcome in outcomes)
    deaths = [r for r in caplog.records if r.message == "a parser process died"]
    bugs = [r for r in caplog.records if r.message == "a parser failed on a document"]
    for line in (
        f"{len(outcomes)} mutants of {len(ARCHIVES)} archives in {seconds:.0f} s: "
        f"{codes.pop('unpacked', 0)} unpacked, {sum(codes.values())} failed cleanly "
        f"({', '.join(f'{code} {n}' for code, n in codes.most_common())}); "
        f"{len(deaths)} children died, {len(bugs)} surprised",
        *(str(record.__dict__["detail"])[-600:] for record in bugs[:20]),
    ):
        report(line)
    assert set(codes) <= ARCHIVE_CODES
    assert max(outcome.seconds for outcome in outcomes) < TIMEOUT_SECONDS + 5
    assert not deaths
    assert not bugs
