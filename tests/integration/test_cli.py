"""The command line against the real server: uvicorn, the store and the worker, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ragdock.api.app import create_app
from ragdock.cli.main import main
from ragdock.ops.evaluate import evaluate
from ragdock.samples import sample_files, sample_questions
from ragdock.settings import Settings
from support.embedders import HashEmbedder
from support.files import zip_bytes

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

FERRY = "# Ferry\n\nThe ferry to Vessey leaves at nine in the morning from the north pier.\n"
LIGHT = "# Light\n\nThe lighthouse keeper of Orrin is called Magnus and keeps seven goats.\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server with an embedder that needs no model."""
    settings = Settings.load(
        data_dir=tmp_path_factory.mktemp("data"), port=0, min_score=0.2, redis_host=None
    )
    config = uvicorn.Config(
        create_app(settings, embedder=HashEmbedder()), port=0, log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server ended while starting"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in this process against the real server: (exit code, out, err)."""
    monkeypatch.setenv("RAGDOCK_URL", url)

    def call(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(argv)
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "ferry.md").write_text(FERRY, encoding="utf-8")
    (tmp_path / "docs" / "deep" / "light.md").write_text(LIGHT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def collection(run: Run, request: pytest.FixtureRequest) -> Iterator[str]:
    """A collection of the test's own."""
    name = request.node.name.replace("_", "-")[:60].lower()
    assert run("collections", "create", name)[0] == 0
    yield name
    assert run("collections", "drop", name, "--yes")[0] == 0


def loaded(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def test_ingest_search_ask(run: Run, folder: Path, collection: str) -> None:
    """A folder becomes searchable, and an answer's citation quotes the file it came from."""
    code, out, err = run("ingest", "docs", "-c", collection, "-m", "port=Vessey")
    assert (code, err) == (0, "")
    assert out == f"2 documents in {collection!r}: 2 indexed\n"

    found = loaded(run("search", "lighthouse keeper goats", "-c", collection, "--json"))
    assert found["hits"][0]["document_id"] == "docs:deep:light.md"
    metadata = found["hits"][0]["metadata"]
    assert metadata.pop("source_root").startswith("docs-")
    assert metadata == {"port": "Vessey", "source_path": "deep/light.md"}
    nothing = loaded(run("search", "goats", "-c", collection, "-f", "port=Ardwick", "--json"))
    assert nothing["hits"] == []

    question = ("ask", "When does the ferry to Vessey leave?", "-c", collection)
    answer = loaded(run(*question, "--json"))
    assert answer["grounded"]
    citation = answer["citations"][0]
    assert citation["filename"] == "ferry.md"
    assert FERRY[citation["start"] : citation["end"]] == citation["quote"]
    code, out, _ = run(*question)
    assert code == 0
    assert "nine in the morning" in out
    assert f"\tferry.md\t-\t{citation['start']}-{citation['end']}\t" in out


def test_streamed_answers_equal_whole_ones(run: Run, folder: Path, collection: str) -> None:
    """--stream and --no-stream print the same, cached or not."""
    run("ingest", "docs", "-c", collection)
    question = ("ask", "When does the ferry to Vessey leave?", "-c", collection)
    whole = run(*question, "--no-stream", "--no-cache")
    assert run(*question, "--stream", "--no-cache") == whole
    assert run(*question, "--stream") == whole


def test_ingesting_again_replaces_and_doubles_nothing(
    run: Run, folder: Path, collection: str
) -> None:
    """Unchanged files are recognised, a changed one replaces its document."""
    run("ingest", "docs", "-c", collection)
    assert "2 unchanged" in run("ingest", "docs", "-c", collection)[1]
    (folder / "docs" / "ferry.md").write_text(FERRY.replace("nine", "ten"), encoding="utf-8")
    out = run("ingest", "docs", "-c", collection)[1]
    assert "1 indexed" in out
    assert "1 unchanged" in out
    assert len(loaded(run("documents", "ls", "-c", collection, "--json"))["documents"]) == 2
    assert "ten in the morning" in run("ask", "When does the ferry leave?", "-c", collection)[1]


def test_prune_deletes_what_vanished_and_nothing_else(
    run: Run, folder: Path, collection: str
) -> None:
    """Only documents that this folder's earlier runs made go; unchanged files aren't sent."""
    (folder / "other").mkdir()
    (folder / "other" / "keep.md").write_text("# Keep\n\nFrom another folder.\n", encoding="utf-8")
    run("ingest", "docs", "other", "-c", collection)
    (folder / "docs" / "byhand.md").write_text("# Hand\n\nSent by its name.\n", encoding="utf-8")
    run("ingest", "docs/byhand.md", "-c", collection)
    (folder / "docs" / "byhand.md").unlink()
    (folder / "docs" / "deep" / "light.md").rename(folder / "docs" / "moved.md")

    preview = loaded(run("ingest", "docs", "--prune", "--dry-run", "-c", collection, "--json"))
    assert preview["would_prune"] == ["docs:deep:light.md"]
    report = loaded(run("ingest", "docs", "--prune", "-c", collection, "--json"))
    assert report["pruned"] == ["docs:deep:light.md"]
    assert report["counts"] == {"indexed": 1, "unchanged": 1, "pruned": 1}
    listed = loaded(run("documents", "ls", "-c", collection, "--json"))["documents"]
    assert {item["id"] for item in listed} == {
        *("docs:byhand.md", "docs:ferry.md", "docs:moved.md", "other:keep.md")
    }
    # An ignored file is as good as gone.
    (folder / "docs" / ".ragdockignore").write_text("moved.md\n", encoding="utf-8")
    assert loaded(run("ingest", "docs", "--prune", "-c", collection, "--json"))["pruned"] == [
        "docs:moved.md"
    ]


def test_an_archive_shows_what_was_in_it(run: Run, folder: Path, collection: str) -> None:
    """The files of an archive are told beside it, stay while it stays, and go with it."""
    (folder / "docs" / "old.zip").write_bytes(zip_bytes({"a.md": "The mill.", "b/c.md": "A weir."}))
    sent = loaded(run("ingest", "docs", "--prune", "-c", collection, "--json"))
    assert sent["counts"] == {"indexed": 4, "expanded": 1}
    assert {"docs/old.zip/a.md", "docs/old.zip/b/c.md"} < {one["path"] for one in sent["documents"]}
    again = loaded(run("ingest", "docs", "--prune", "-c", collection, "--json"))
    assert again["counts"] == {"unchanged": 4, "expanded": 1}
    (folder / "docs" / "old.zip").unlink()
    last = loaded(run("ingest", "docs", "--prune", "-c", collection, "--json"))
    assert last["pruned"] == ["docs:old.zip"]
    listed = loaded(run("documents", "ls", "-c", collection, "--json"))
    names = {one["filename"] for one in listed["documents"]}
    assert names == {"ferry.md", "light.md"}


def test_an_empty_folder_prunes_nothing(run: Run, folder: Path, collection: str) -> None:
    """A disk that isn't mounted looks empty: that is refused, with the number at stake."""
    run("ingest", "docs", "-c", collection)
    (folder / "docs" / "ferry.md").unlink()
    (folder / "docs" / "deep" / "light.md").unlink()
    code, _, err = run("ingest", "docs", "--prune", "-c", collection)
    assert code == 2
    assert "would delete all 2 documents" in err
    assert len(loaded(run("documents", "ls", "-c", collection, "--json"))["documents"]) == 2


def test_a_folder_that_cannot_be_read_prunes_nothing_below_it(
    run: Run, folder: Path, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be seen isn't gone."""
    run("ingest", "docs", "-c", collection)
    system = os.scandir

    def scandir(path: Any) -> Any:
        # Permissions don't stop root, who runs the tests in containers.
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return system(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = loaded(run("ingest", "docs", "--prune", "-c", collection, "--json"))
    assert report["pruned"] == []
    assert {item["reason"] for item in report["skipped"]} == {"unreadable"}


def test_prune_with_a_named_source(
    run: Run, folder: Path, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--source makes the folder the same one in another place, as on another machine."""
    run("ingest", "docs", "-c", collection, "--source", "handbook")
    (folder / "elsewhere").mkdir()
    (folder / "docs").rename(folder / "elsewhere" / "docs")
    monkeypatch.chdir(folder / "elsewhere")
    (folder / "elsewhere" / "docs" / "ferry.md").unlink()
    options = ("--prune", "--source", "handbook", "-c", collection, "--json")
    report = loaded(run("ingest", "docs", *options))
    assert report["pruned"] == ["docs:ferry.md"]
    assert report["counts"] == {"unchanged": 1, "pruned": 1}


def test_content_ids_survive_a_move(run: Run, folder: Path, collection: str) -> None:
    """With --id-from content a moved file is the same document, and a changed one another."""
    run("ingest", "docs", "-c", collection, "--id-from", "content")
    (folder / "docs" / "ferry.md").rename(folder / "docs" / "boat.md")
    options = ("--id-from", "content", "--prune", "-c", collection, "--json")
    assert loaded(run("ingest", "docs", *options))["pruned"] == []
    (folder / "docs" / "boat.md").write_text(FERRY.replace("nine", "ten"), encoding="utf-8")
    assert len(loaded(run("ingest", "docs", *options))["pruned"]) == 1
    assert len(loaded(run("documents", "ls", "-c", collection, "--json"))["documents"]) == 2


def test_documents_are_listed_shown_and_removed(run: Run, folder: Path, collection: str) -> None:
    """ls, show, text and rm work on what was ingested; a removed document is found no more."""
    run("ingest", "docs", "-c", collection)
    _, out, _ = run("documents", "ls", "-c", collection)
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == [
        "docs:deep:light.md",
        "docs:ferry.md",
    ]
    assert "status\tdone\n" in run("documents", "show", "docs:ferry.md", "-c", collection)[1]
    assert run("documents", "text", "docs:ferry.md", "-c", collection)[1] == FERRY
    code, out, err = run("documents", "rm", "docs:ferry.md", "missing", "-c", collection)
    assert code == 1
    assert out == "Removed docs:ferry.md.\n"
    assert "missing" in err
    hits = loaded(run("search", "ferry", "-c", collection, "--json"))["hits"]
    assert "docs:ferry.md" not in {hit["document_id"] for hit in hits}


def test_jobs_tell_what_happened(run: Run, folder: Path, collection: str) -> None:
    """Every accepted document has a job with its outcome."""
    run("ingest", "docs", "-c", collection)
    jobs = loaded(run("jobs", "ls", "-c", collection, "--json"))["jobs"]
    assert [job["outcome"] for job in jobs] == ["indexed", "indexed"]
    assert "status\tdone\n" in run("jobs", "show", str(jobs[0]["id"]))[1]
    assert len(run("jobs", "ls", "-c", collection, "--limit", "1")[1].splitlines()) == 2


def test_jobs_are_followed_retried_cancelled_and_waited_for(
    run: Run, folder: Path, collection: str, tmp_path: Path
) -> None:
    """`watch` ends with its job, `drain` with all of them; what can't be done is an error."""
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 but not really")
    run("ingest", str(tmp_path / "broken.pdf"), "-c", collection)
    run("ingest", str(folder), "-c", collection)
    assert run("jobs", "drain", "-c", collection)[:2] == (0, "Nothing is unfinished.\n")
    failed = loaded(run("jobs", "ls", "-c", collection, "--status", "failed", "--json"))["jobs"]
    done = loaded(run("jobs", "ls", "-c", collection, "--status", "done", "--json"))["jobs"]
    code, out, _ = run("jobs", "watch", done[0]["id"])
    assert (code, out.split("\t")[:3]) == (0, [done[0]["id"], done[0]["document_id"], "done"])
    code, out, _ = run("jobs", "watch", failed[0]["id"], "--json")
    assert code == 1
    assert '"status": "failed"' in out
    _, out, _ = run("jobs", "retry", "--all-failed", "-c", collection)
    assert f"Will be done again: {failed[0]['id']}.\n" in out
    code, _, err = run("jobs", "cancel", done[0]["id"])
    assert code == 1
    assert "there is nothing left to cancel" in err
    assert run("jobs", "retry")[0] == 1


def test_errors_of_the_server_are_told(run: Run, folder: Path) -> None:
    """A missing collection, a taken name and a broken filter are exit 1 with the reason."""
    code, _, err = run("search", "x", "-c", "nowhere")
    assert code == 1
    assert "nowhere" in err
    assert "request id: " in err
    code, _, err = run("ingest", "docs", "-c", "nowhere")
    assert code == 1
    assert err.count("nowhere") == 1
    code, _, err = run("collections", "create", "default")
    assert code == 1
    code, _, err = run("collections", "drop", "default", "--yes")
    assert code == 1
    code, _, err = run("search", "x", "-f", 'year={"near": 3}')
    assert code == 1
    assert "near" in err


def test_health_lists_the_dependencies(run: Run) -> None:
    """A healthy server is exit 0 and names its store, embedder and worker."""
    code, out, _ = run("health")
    assert code == 0
    assert out.startswith("ok: ragdock")
    for name in ("store", "embedder"):
        assert f"\n{name}\tok\tyes\t" in out


# Evaluation


@pytest.fixture
def tiny_set(tmp_path: Path) -> Path:
    """Three documents, of which one is too long for one passage, and four queries."""
    long = "\n\n".join(f"Paragraph {number} is about harbours. " * 12 for number in range(30))
    documents = [
        {"_id": "f/1", "title": "Ferry", "text": "The ferry to Vessey leaves at nine."},
        {"_id": "l 2", "title": "Light", "text": "The keeper of Orrin keeps seven goats."},
        {"_id": "h", "title": "Harbours", "text": long},
    ]
    queries = [
        {"_id": "q1", "text": "when does the ferry to Vessey leave", "answers": ["at nine"]},
        {"_id": "q2", "text": "how many goats does the keeper keep", "answers": ["goats"]},
        {"_id": "q3", "text": "what are the paragraphs about", "answers": ["Things by the sea."]},
        {"_id": "q4", "text": "what is paragraph 3 about", "answers": ["Paragraph 29 is"]},
    ]
    (tmp_path / "set").mkdir()
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "set" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    qrels = "query-id\tcorpus-id\tscore\nq1\tf/1\t1\nq2\tl 2\t1\nq3\th\t1\nq4\th\t1\n"
    (tmp_path / "set" / "qrels.tsv").write_text(qrels, encoding="utf-8")
    return tmp_path / "set"


def test_eval_measures_the_real_pipeline(tiny_set: Path, tmp_path: Path) -> None:
    """All queries find their document; two of three gold answers that stand there are given."""
    settings = Settings.load(data_dir=tmp_path / "untouched", min_score=0.1)
    report = evaluate(tiny_set, settings, negatives=tiny_set, embedder=HashEmbedder())
    assert (report.n_documents, report.n_unreadable, report.n_queries) == (3, 0, 4)
    assert report.n_chunks > 3
    for mode in report.modes:
        assert mode.ndcg_10 == pytest.approx(1.0), mode.mode
        assert mode.recall_100 == pytest.approx(1.0)
        assert mode.latency.p50_ms > 0
    assert report.answers.answered == 1.0
    assert (report.answers.n_gold, report.answers.held) == (3, pytest.approx(2 / 3))
    assert report.refusals is not None
    assert report.refusals.refused == 0.0
    assert not (tmp_path / "untouched").exists()


# With the real model


@pytest.fixture(scope="module")
def model_dir() -> Path:
    directory = Settings.load().model_dir.resolve()
    if not (directory / "manifest.json").is_file():
        pytest.skip(f"no model in {directory}: run `make model` or set RAG_MODEL_DIR")
    return directory


@pytest.mark.model
def test_serve_with_samples_answers_from_the_command_line(model_dir: Path, tmp_path: Path) -> None:
    """`ragdock serve --samples` and `ragdock ask` are all that a first answer needs."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "RAG_MODEL_DIR": str(model_dir),
        "RAG_DATA_DIR": str(tmp_path / "data"),
        "RAG_LOG_LEVEL": "warning",
        "RAGDOCK_URL": "http://127.0.0.1:18697",
    }

    def ragdock(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ragdock", *argv],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )

    server = subprocess.Popen(
        [sys.executable, "-m", "ragdock", "serve", "--samples", "--port", "18697"],
        env=environment,
        cwd=tmp_path,
    )
    try:
        deadline = time.monotonic() + 60
        while ragdock("health").returncode:
            assert server.poll() is None
            assert time.monotonic() < deadline
        while (depth := json.loads(ragdock("health", "--json").stdout)["queue"])["pending"] or (
            depth["processing"]
        ):
            assert time.monotonic() < deadline
        documents = json.loads(ragdock("documents", "ls", "--json").stdout)["documents"]
        assert {item["id"] for item in documents} == {path.name for path in sample_files()}
        assert {item["status"] for item in documents} == {"done"}
        asked = sample_questions()[0]
        done = ragdock("ask", asked.question)
        assert done.returncode == 0, done.stderr
        assert asked.answers[0] in done.stdout
        assert f"\t{asked.file}\t" in done.stdout
    finally:
        server.terminate()
        # uvicorn ends in order and then raises the signal again, as a shell expects.
        assert server.wait(timeout=20) in (0, -signal.SIGTERM)


@pytest.mark.model
def test_the_samples_are_answered(model_dir: Path) -> None:
    """Nine of ten sample questions rank their document first and are answered rightly."""
    report = evaluate(None, Settings.load(model_dir=model_dir))
    hybrid = report.modes[0]
    assert hybrid.mode == "hybrid"
    assert hybrid.ndcg_10 >= 0.9
    assert report.answers.held is not None
    assert report.answers.held >= 0.9
    assert report.refusals is not None
    assert report.refusals.refused == 1.0
