"""From upload to passages, part by part: what is searchable changes at the end, or not at all."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from ragdock.adapters.metrics.null import NullMetrics
from ragdock.adapters.parsers import plain_text
from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.adapters.parsers.parts import scanned
from ragdock.adapters.parsers.text_stream import TextStream
from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.adapters.tracing.null import NullTracer
from ragdock.core.media import PDF, PLAIN_TEXT
from ragdock.errors import ConflictError, DocumentError
from ragdock.services import pipeline
from ragdock.services.pipeline import Passages, Pipeline, passages
from ragdock.types import Job, JobStage, ParsedDocument, Upload
from support.embedders import HashEmbedder
from support.files import DATA
from support.stores import DIM, EMBEDDER, found, put

TEXT = "".join(f"Paragraph {n} speaks of heron{n} and of nothing else.\n\n" for n in range(300))


class TinyParts:
    """A parser of plain text whose parts are of at most 1,000 characters."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.fails_after = fails_after
        self.closed = 0

    def parts(
        self,
        content: BinaryIO,
        filename: str,
        media_type: str,
    ) -> Generator[ParsedDocument, None, None]:
        try:
            parts = scanned(TextStream(content), plain_text.Scanner(), 1000)
            for number, part in enumerate(parts):
                if number == self.fails_after:
                    raise DocumentError("It is damaged.", code="damaged")
                yield part
        finally:
            self.closed += 1

    def close(self) -> None:
        """Nothing to end."""


class Watched(SqliteStore):
    """A store that notes what it is told of a job's progress."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.told: list[tuple[JobStage, int]] = []

    def progress(self, job: Job, stage: JobStage, percent: int) -> None:
        self.told.append((stage, percent))
        super().progress(job, stage, percent)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Watched]:
    """A store with one collection."""
    with closing(Watched(tmp_path / "data")) as store:
        store.create_collection("c", "f", DIM)
        yield store


def pipeline_of(store: SqliteStore, parser: TinyParts | ParserPool) -> Pipeline:
    return Pipeline(store, parser, EMBEDDER, NullMetrics(), tracer=NullTracer(), chunk_tokens=40)


def claimed(store: SqliteStore, text: str, document_id: str = "d") -> Job:
    content = text.encode()
    upload = Upload(document_id, "d.txt", PLAIN_TEXT, content, str(hash(text)))
    store.accept("c", [upload])
    (job,) = store.claim("me", 1, 60.0)
    return job


def test_a_document_of_many_parts_is_found_whole(store: Watched) -> None:
    """All parts are searchable after `run`, with exact places, and the text is the file."""
    job = pipeline_of(store, TinyParts()).run(claimed(store, TEXT))
    assert job.outcome == "indexed"
    assert "".join(store.document_text("c", "d")) == TEXT
    for number in (0, 150, 299):
        with store.reader("c") as reader:
            (best, *_) = reader.lexical(f"heron{number}", 5)
            hit = reader.hits([best.chunk_id])[best.chunk_id]
        assert f"heron{number} " in hit.text
        assert TEXT[hit.start : hit.end] == hit.text


def test_nothing_shows_before_the_end(store: Watched) -> None:
    """While parts are staged, the former version is what is found."""
    pipeline_of(store, TinyParts()).run(claimed(store, "The former kestrel."))
    seen: list[tuple[bool, bool]] = []

    def look() -> bool:
        seen.append((bool(found(store, "kestrel")), bool(found(store, "heron0"))))
        return False

    pipeline_of(store, TinyParts()).run(claimed(store, TEXT), cancelled=look)
    assert len(seen) > 10
    assert set(seen) == {(True, False)}
    assert not found(store, "kestrel")
    assert found(store, "heron0")


def test_a_failure_in_a_later_part_changes_nothing(store: Watched) -> None:
    """A document that breaks in its third part leaves the former version; a retry starts anew."""
    pipeline_of(store, TinyParts()).run(claimed(store, "The former kestrel."))
    job = claimed(store, TEXT)
    with pytest.raises(DocumentError):
        pipeline_of(store, TinyParts(fails_after=3)).run(job)
    assert found(store, "kestrel")
    assert not found(store, "heron0")
    pipeline_of(store, TinyParts()).run(job)
    assert "".join(store.document_text("c", "d")) == TEXT
    assert len(found(store, "heron7")) == 1


def test_cancelling_stops_between_batches(store: Watched) -> None:
    """When the job is no longer wanted, the work ends, and so does the parser's."""
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 7

    parser = TinyParts()
    with pytest.raises(ConflictError) as caught:
        pipeline_of(store, parser).run(claimed(store, TEXT), cancelled=cancelled)
    assert caught.value.code == "cancelled"
    assert parser.closed == 1
    assert not found(store, "heron0")


def test_progress_ascends(store: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger hears of a job's way from 0 to 99, never backwards."""
    monkeypatch.setattr(pipeline, "PROGRESS_SECONDS", 0.0)
    pipeline_of(store, TinyParts()).run(claimed(store, TEXT))
    percents = [percent for _, percent in store.told]
    assert percents == sorted(percents)
    assert percents[0] < 10
    assert 80 < percents[-1] < 100
    assert {stage for stage, _ in store.told} == set(JobStage)


def test_progress_is_told_once_a_second(store: Watched) -> None:
    """A document that is done in no time costs no write of progress."""
    pipeline_of(store, TinyParts()).run(claimed(store, TEXT))
    assert len(store.told) <= 5


def test_an_empty_document_is_refused(store: Watched) -> None:
    """A document in which there is nothing to search says so."""
    with pytest.raises(DocumentError) as caught:
        pipeline_of(store, TinyParts()).run(claimed(store, " \n"))
    assert caught.value.code == "no_text"


def test_scanned_pages_are_told(store: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how many pages of a document could not be read, and of which job."""
    content = (DATA / "partly_scanned.pdf").read_bytes()
    store.accept("c", [Upload("d", "d.pdf", PDF, content, "0")])
    (job,) = store.claim("me", 1, 60.0)
    with closing(ParserPool(20.0, 512)) as parser:
        assert pipeline_of(store, parser).run(job).outcome == "indexed"
    (record,) = (record for record in caplog.records if "pictures" in record.message)
    assert (record.__dict__["job_id"], record.__dict__["pages"]) == (job.id, 1)


def test_lead_and_numbers_go_on() -> None:
    """Passages of later parts have the first sentence as context, and numbers that go on."""
    parts = list(scanned(TextStream(io.BytesIO(TEXT.encode())), plain_text.Scanner(), 1000))
    cutter = Passages(HashEmbedder(DIM), 40)
    chunks = [chunk for part in parts for chunk in cutter.of(part)]
    assert len(parts) > 10
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.context for chunk in chunks[1:]} == {
        "Paragraph 0 speaks of heron0 and of nothing else."
    }


def test_small_documents_are_cut_as_ever() -> None:
    """What comes in one part has the passages of the whole."""
    (part,) = scanned(TextStream(io.BytesIO(TEXT.encode())), plain_text.Scanner())
    assert Passages(EMBEDDER, 40).of(part) == passages(part, EMBEDDER, 40)


def test_a_parser_that_dies_in_the_middle(store: Watched) -> None:
    """A child killed after some parts fails the document, and the next document has another."""
    pool = ParserPool(timeout_seconds=30.0, memory_mb=512)
    put(store, "d", "The former kestrel.")
    job = claimed(store, "Words of a long text. " * 100_000)
    n_asked = 0

    def kill() -> bool:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 3:
            time.sleep(0.2)
            os.kill(next(iter(pool._busy)).pid, signal.SIGSEGV)
        return False

    with pytest.raises(DocumentError) as caught:
        pipeline_of(store, pool).run(job, cancelled=kill)
    assert caught.value.code == "damaged"
    assert found(store, "kestrel")
    assert not pool._busy
    again = pipeline_of(store, pool).run(job)
    assert again.outcome == "indexed"
    pool.close()
