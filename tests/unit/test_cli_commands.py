"""The client commands against a real server on loopback that answers from a script."""

from __future__ import annotations

import http.server
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ragdock import __version__
from ragdock.cli.main import main
from scripted_server import Reply, Request, ScriptedServer, problem, scripted_server

Run = Callable[..., tuple[int, str, str]]

CITATION = {
    "marker": 1,
    "document_id": "weather.md",
    "filename": "weather.md",
    "page": None,
    "page_label": None,
    "start": 10,
    "end": 40,
    "quote": "Below 80 metres no ship\nleaves the berth.",
    "score": 0.8,
}
ANSWER = {
    "question": "q",
    "collection": "default",
    "answer": "Below 80 metres. [1]",
    "citations": [CITATION],
    "grounded": True,
    "generator": "extractive",
    "fallback_reason": None,
    "cache": "miss",
    "timings_ms": {},
}
HIT = {
    "document_id": "report.pdf",
    "filename": "report.pdf",
    "title": "Report",
    "page": 2,
    "page_label": None,
    "start": 5,
    "end": 9,
    "text": "a [b]\x1b[31mred\tfuse",
    "metadata": {},
    "scores": {"lexical": 3.5, "dense": None, "fused": 0.75},
}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def run(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a command line in this process against the scripted server: (exit code, out, err)."""
    monkeypatch.setenv("RAGDOCK_URL", server.url)

    def call(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(argv)
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def in_terminal(*argv: str, timeout_seconds: float = 20.0) -> tuple[int, str]:
    """Runs the command line in a pseudo-terminal, as a person sees it: (exit code, screen)."""
    master, slave = pty.openpty()
    source = str(Path(__file__).parents[2] / "src")
    process = subprocess.Popen(
        [sys.executable, "-m", "ragdock", *argv],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "PYTHONPATH": source, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    screen = b""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                screen += os.read(master, 65536)
            except OSError:  # Linux says EIO when the other side has closed.
                break
        elif process.poll() is not None:
            break
    os.close(master)
    return process.wait(timeout=5), screen.decode()


# The whole


def test_version_and_help(run: Run) -> None:
    """The version is printed in three ways, and help lists every command."""
    assert run("version") == (0, f"ragdock {__version__}\n", "")
    assert run("--version")[1] == f"ragdock {__version__}\n"
    assert json.loads(run("version", "--json")[1])["version"] == __version__
    code, out, _ = run("--help")
    assert code == 0
    for command in ("serve", "health", "ingest", "search", "ask", "collections", "documents"):
        assert re.search(rf"^  {command} ", out, re.MULTILINE)


def test_help_imports_nothing_heavy() -> None:
    """`ragdock --help` loads neither the HTTP client nor NumPy, Pydantic's settings or FastAPI."""
    code = (
        "import sys\n"
        "from ragdock.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'httpx2', 'numpy', 'pydantic_settings', 'fastapi', 'onnxruntime', 'rich.table'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)\n"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert done.returncode == 0, done.stderr


def test_wrong_usage_is_exit_2(run: Run) -> None:
    """Unknown options, modes, addresses and malformed pairs leave with 2 and say why."""
    assert run("search")[0] == 2
    assert run("search", "x", "--mode", "psychic")[0] == 2
    assert run("search", "x", "--top-k", "0")[0] == 2
    code, _, err = run("search", "x", "--url", "localhost:8000")
    assert code == 2
    assert "is not an address" in err
    code, _, err = run("search", "x", "--url", "http://h:99999")
    assert code == 2
    code, _, err = run("search", "x", "--filter", "year")
    assert code == 2
    assert "key=value" in err


def test_no_server_says_how_to_start_one(run: Run) -> None:
    """A refused connection is exit 1 with the remedy, and no traceback."""
    code, out, err = run("search", "x", "--url", "http://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert "No server answers at http://127.0.0.1:9" in err
    assert "ragdock serve" in err
    assert "Traceback" not in err


def test_problem_details_reach_the_user(run: Run, server: ScriptedServer) -> None:
    """Detail, field errors that say more, and the request id of an error stand on stderr."""
    server.on(
        "POST",
        "/v1/search",
        problem(
            422,
            "The request is invalid.",
            code="invalid_input",
            request_id="req-7",
            errors=[
                {"field": "body.filters.year", "message": "is not a number"},
                {"field": "body", "message": "The request is invalid."},
            ],
        ),
    )
    code, out, err = run("search", "x")
    assert (code, out) == (1, "")
    assert err == (
        "Error: The request is invalid.\n"
        "  body.filters.year: is not a number\n"
        "  request id: req-7\n"
    )


def test_a_foreign_server_is_recognised(run: Run, server: ScriptedServer) -> None:
    """HTML instead of JSON, with an error status or without, asks whether this is ragdock."""
    for status in (200, 502):
        server.on("POST", "/v1/search", Reply(b"<html>", status, media_type="text/html"))
        code, _, err = run("search", "x")
        assert code == 1
        assert "is this address a ragdock server?" in err


def test_a_proxy_of_the_environment_is_not_used_for_loopback(
    run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY doesn't keep the command line from this machine's own server."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.on("GET", "/v1/collections", {"collections": []})
    assert run("collections", "ls")[0] == 0


# health


HEALTH = {
    "status": "degraded",
    "version": "0.1.0",
    "environment": "production",
    "uptime_seconds": 61.5,
    "dependencies": [
        {"name": "store", "status": "ok", "latency_ms": 0.1, "required": True, "detail": None},
        {
            "name": "cache",
            "status": "down",
            "latency_ms": None,
            "required": False,
            "detail": "gone",
        },
    ],
    "queue": {"pending": 3, "processing": 0, "failed": 1},
}


def test_health_shows_every_dependency(run: Run, server: ScriptedServer) -> None:
    """A degraded server is exit 0; the table has a line for each dependency."""
    server.on("GET", "/health", HEALTH)
    code, out, _ = run("health")
    assert code == 0
    assert out.startswith("degraded: ragdock 0.1.0 at http://127.0.0.1")
    assert "store\tok\tyes\t0.1\t\n" in out
    assert "cache\tdown\tno\t-\tgone\n" in out
    assert "3 pending, 0 processing, 1 failed" in out


def test_unavailable_is_exit_1_with_the_report(run: Run, server: ScriptedServer) -> None:
    """503 shows the same report, as JSON too, and leaves with 1."""
    report = {**HEALTH, "status": "unavailable"}
    server.on("GET", "/health", Reply(report, 503))
    assert run("health")[0] == 1
    code, out, _ = run("health", "--json")
    assert code == 1
    assert json.loads(out) == report


def test_health_gives_up_after_its_timeout(run: Run, server: ScriptedServer) -> None:
    """A server that hangs is exit 1 after the given time."""

    def hang(_: Request) -> Reply:
        time.sleep(0.5)
        return Reply(HEALTH)

    server.on("GET", "/health", hang)
    code, _, err = run("health", "--timeout", "0.1")
    assert code == 1
    assert "silent for 0.1 seconds" in err


# search and ask


def search_reply(*hits: dict[str, Any]) -> dict[str, Any]:
    return {"query": "q", "hits": list(hits), "collection": "default", "mode": "hybrid"}


def test_search_sends_what_was_asked(run: Run, server: ScriptedServer) -> None:
    """Words, mode, number, collection and typed filters arrive in the body."""
    server.on("POST", "/v1/search", search_reply(HIT))
    code, _, _ = run(
        *("search", "red", "fuse", "--mode", "lexical", "-k", "3", "-c", "ships"),
        *("-f", "year=2024", "-f", 'tag="7"', "-f", "port=Ardwick", "-f", 'n={"gte": 2}'),
    )
    assert code == 0
    assert server.requests[0].json() == {
        "query": "red fuse",
        "mode": "lexical",
        "top_k": 3,
        "collection": "ships",
        "filters": {"year": 2024, "tag": "7", "port": "Ardwick", "n": {"gte": 2}},
    }


def test_search_prints_a_line_for_each_hit(run: Run, server: ScriptedServer) -> None:
    """In a pipe a hit is one tab-separated line, and escape sequences of documents are defused."""
    server.on("POST", "/v1/search", search_reply(HIT))
    _, out, _ = run("search", "fuse")
    assert out.splitlines() == [
        "rank\tscore\tlexical\tdense\tfile\tpage\tspan\ttext",
        "1\t0.750\t3.500\t-\treport.pdf\t2\t5-9\ta [b]\ufffd[31mred fuse",
    ]


def test_pages_are_shown_as_they_are_called(run: Run, server: ScriptedServer) -> None:
    """With the label comes the number in the file; a server of an earlier release sends none."""
    paged = {**CITATION, "page": 6, "page_label": "iv"}
    bare = {name: HIT[name] for name in HIT if name != "page_label"}
    server.on("POST", "/v1/search", search_reply({**HIT, "page_label": "A-3"}, bare))
    server.on("POST", "/v1/ask", {**ANSWER, "citations": [paged]})
    pages = [line.split("\t")[5] for line in run("search", "fuse")[1].splitlines()]
    assert pages == ["page", "A-3 (2)", "2"]
    assert "\tweather.md\tiv (6)\t10-40\t" in run("ask", "q")[1]


def test_namesakes_are_told_apart(run: Run, server: ScriptedServer) -> None:
    """Two documents with one file name are shown by their ids, the third by its name."""
    hits = [
        {**HIT, "document_id": "a:report.pdf"},
        {**HIT, "document_id": "b:report.pdf"},
        {**HIT, "document_id": "c:notes.md", "filename": "notes.md"},
    ]
    server.on("POST", "/v1/search", search_reply(*hits))
    files = [line.split("\t")[4] for line in run("search", "fuse")[1].splitlines()]
    assert files == ["file", "a:report.pdf", "b:report.pdf", "notes.md"]


def test_search_without_hits_says_so(run: Run, server: ScriptedServer) -> None:
    """Nothing found is exit 0, a remark on stderr and an empty stdout."""
    server.on("POST", "/v1/search", search_reply())
    code, out, err = run("search", "x")
    assert (code, out) == (0, "")
    assert "Nothing found" in err


def test_ask_prints_the_answer_and_its_evidence(run: Run, server: ScriptedServer) -> None:
    """The answer comes first, then file, page, span and quote of each citation."""
    server.on("POST", "/v1/ask", ANSWER)
    code, out, err = run("ask", "what visibility?", "--no-cache")
    assert (code, err) == (0, "")
    assert out == (
        "Below 80 metres. [1]\n\n"
        "cited\tfile\tpage\tspan\tquote\n"
        "[1]\tweather.md\t-\t10-40\tBelow 80 metres no ship leaves the berth.\n"
    )
    assert server.requests[0].headers["cache-control"] == "no-cache"
    assert server.requests[0].json() == {"question": "what visibility?", "collection": "default"}


def test_json_is_the_servers_answer(run: Run, server: ScriptedServer) -> None:
    """--json prints what the server said, on one line."""
    server.on("POST", "/v1/ask", ANSWER)
    server.on("POST", "/v1/search", search_reply(HIT))
    assert json.loads(run("ask", "q", "--json")[1]) == ANSWER
    assert json.loads(run("search", "q", "--json")[1])["hits"] == [HIT]


def stream(*events: tuple[str, dict[str, Any]]) -> Reply:
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return Reply(text.encode(), media_type="text/event-stream", close=True)


def test_streaming_shows_pieces_then_citations(run: Run, server: ScriptedServer) -> None:
    """Pieces make up the answer, which isn't repeated when the whole one comes."""
    pieces = [("delta", {"text": "Below 80 "}), ("delta", {"text": "metres. [1]"})]
    server.on("POST", "/v1/ask", stream(*pieces, ("done", ANSWER)))
    code, out, _ = run("ask", "q", "--stream")
    assert code == 0
    assert out.startswith("Below 80 metres. [1]\n\ncited\t")
    assert server.requests[0].json()["stream"] is True


def test_a_reset_starts_the_answer_again(run: Run, server: ScriptedServer) -> None:
    """When the model fails half way, that is said and the other answer follows."""
    events = [
        ("delta", {"text": "Perhaps"}),
        ("reset", {"reason": "cut"}),
        ("delta", {"text": ANSWER["answer"]}),
        ("done", {**ANSWER, "fallback_reason": "cut"}),
    ]
    server.on("POST", "/v1/ask", stream(*events))
    code, out, err = run("ask", "q", "--stream")
    assert code == 0
    assert out.startswith("Perhaps\nBelow 80 metres. [1]\n")
    assert "failed: cut" in err
    assert "Extractive answer" in err


def test_the_checked_answer_wins_over_the_draft(run: Run, server: ScriptedServer) -> None:
    """If the whole answer differs from the pieces shown, it is printed below them."""
    server.on("POST", "/v1/ask", stream(("delta", {"text": "80 [9]"}), ("done", ANSWER)))
    assert run("ask", "q", "--stream")[1].startswith("80 [9]\nBelow 80 metres. [1]\n")


def test_a_stream_that_fails_is_exit_1(run: Run, server: ScriptedServer) -> None:
    """An error event, an error status and an early end all fail with a reason."""
    failure = {"status": 503, "detail": "The embedder is down.", "request_id": "r1"}
    server.on("POST", "/v1/ask", stream(("error", failure)))
    code, _, err = run("ask", "q", "--stream")
    assert code == 1
    assert "The embedder is down." in err
    server.on("POST", "/v1/ask", problem(404, "No such collection."))
    assert "No such collection." in run("ask", "q", "--stream")[2]
    server.on("POST", "/v1/ask", stream(("delta", {"text": "Be"})))
    code, _, err = run("ask", "q", "--stream")
    assert code == 1
    assert "closed the stream early" in err


def test_a_terminal_gets_tables_and_a_stream(server: ScriptedServer) -> None:
    """On a terminal `ask` streams by itself, and `search` draws a table without obeying markup."""
    pieces = [("delta", {"text": "Below 80 metres. [1]"}), ("done", ANSWER)]
    server.on("POST", "/v1/ask", stream(*pieces))
    server.on("POST", "/v1/search", search_reply(HIT))
    code, screen = in_terminal("ask", "q", "--url", server.url)
    assert code == 0
    assert server.requests[0].json()["stream"] is True
    assert "Below 80 metres. [1]" in screen
    assert "─" in screen
    code, screen = in_terminal("search", "q", "--url", server.url)
    assert code == 0
    assert "a [b]\ufffd[31mred" in screen
    assert "\x1b[31m" not in screen


# collections, documents, jobs


COLLECTION = {
    "name": "ships",
    "n_documents": 2,
    "n_chunks": 9,
    "generation": 3,
    "fingerprint": "f",
    "created_at": "2026-11-01T10:00:00Z",
}


def test_collections(run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections are listed, created, and dropped only after a yes."""
    server.on("GET", "/v1/collections", {"collections": [COLLECTION]})
    server.on("POST", "/v1/collections", Reply(COLLECTION, 201))
    server.on("GET", "/v1/collections/ships", COLLECTION)
    server.on("DELETE", "/v1/collections/ships", Reply(status=204))
    assert "ships\t2\t9\t3\t2026-11-01T10:00:00Z\n" in run("collections", "ls")[1]
    assert run("collections", "create", "ships")[1] == "Created the collection ships.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    assert run("collections", "drop", "ships")[0] == 1
    assert not [request for request in server.requests if request.method == "DELETE"]
    assert run("collections", "drop", "ships", "--yes")[1] == "Dropped the collection ships.\n"
    assert server.requests[-1].method == "DELETE"


def document(document_id: str) -> dict[str, Any]:
    return {
        "id": document_id,
        "filename": f"{document_id}.md",
        "status": "done",
        "n_chunks": 2,
        "n_pages": 0,
        "size_bytes": 10,
        "updated_at": "2026-11-01T10:00:00Z",
        "metadata": {"year": 2024},
    }


def test_documents_are_listed_page_by_page(run: Run, server: ScriptedServer) -> None:
    """Listing follows `next` up to the limit and says when there are more."""

    def page(request: Request) -> Reply:
        start = int(request.query.get("after", "0"))
        size = int(request.query["limit"])
        ids = range(start + 1, min(start + size, 250) + 1)
        following = str(ids[-1]) if ids[-1] < 250 else None
        return Reply({"documents": [document(str(number)) for number in ids], "next": following})

    server.on("GET", "/v1/documents", page)
    _, out, err = run("documents", "ls", "--limit", "120")
    assert len(out.splitlines()) == 121
    assert "There are more: --after 120" in err
    assert [request.query["limit"] for request in server.requests] == ["100", "20"]
    found = json.loads(run("documents", "ls", "--limit", "1000", "--json")[1])
    assert (len(found["documents"]), found["next"]) == (250, None)


def test_a_document_is_shown_and_its_text_is_exact(run: Run, server: ScriptedServer) -> None:
    """`show` flattens metadata; `text` writes the bytes as they are, offsets depend on it."""
    text = "page 1\x0cpage 2\nend"
    server.on("GET", "/v1/documents/a@b", document("a@b"))
    server.on("GET", "/v1/documents/a@b/text", Reply(text.encode(), media_type="text/plain"))
    assert "metadata.year\t2024\n" in run("documents", "show", "a@b")[1]
    assert run("documents", "text", "a@b")[1] == text


def test_removing_goes_on_after_a_missing_document(run: Run, server: ScriptedServer) -> None:
    """One missing id is reported and exit 1; the others are removed."""
    server.on("DELETE", "/v1/documents/a", Reply(status=204))
    server.on("DELETE", "/v1/documents/c", Reply(status=204))
    code, out, err = run("documents", "rm", "a", "b", "c")
    assert code == 1
    assert out == "Removed a.\nRemoved c.\n"
    assert err.startswith("Error: b: ")


def job(job_id: int, status: str, **members: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "collection": "default",
        "document_id": f"d{job_id}",
        "filename": f"d{job_id}.md",
        "status": status,
        "outcome": "indexed" if status == "done" else None,
        "attempt": 1,
        "error": None,
        "updated_at": "2026-11-01T10:00:00Z",
        **members,
    }


def test_jobs(run: Run, server: ScriptedServer) -> None:
    """Jobs are filtered by the server and listed with their errors."""
    error = {"code": "encrypted", "message": "The PDF is encrypted."}
    failed = job(7, "failed", error=error)
    server.on("GET", "/v1/jobs", {"jobs": [failed], "next": None})
    server.on("GET", "/v1/jobs/7", failed)
    _, out, _ = run("jobs", "ls", "--status", "failed")
    assert "7\td7\td7.md\tfailed\t-\t1\tThe PDF is encrypted.\t" in out
    assert server.requests[0].query == {"status": "failed", "limit": "20"}
    assert "error.code\tencrypted\n" in run("jobs", "show", "7")[1]


# ingest


class Ledger:
    """A scripted queue: each job needs `n_polls` looks before it is finished."""

    def __init__(self, server: ScriptedServer, n_polls: int = 2) -> None:
        self.uploads: dict[str, Request] = {}
        self.failing: dict[str, dict[str, str]] = {}
        self._jobs: list[str] = []
        self._polls: dict[int, int] = {}
        self._n_polls = n_polls
        server.on("PUT", "/v1/documents/", self.put)
        server.on("GET", "/v1/jobs/", self.look)

    def put(self, request: Request) -> Reply:
        document_id = request.path.rsplit("/", 1)[1]
        self.uploads[document_id] = request
        self._jobs.append(document_id)
        accepted = {
            "id": document_id,
            "filename": document_id,
            "status": "pending",
            "job_id": len(self._jobs),
            "outcome": None,
            "error": None,
        }
        return Reply({"documents": [accepted]}, 202)

    def look(self, request: Request) -> Reply:
        number = int(request.path.rsplit("/", 1)[1])
        self._polls[number] = self._polls.get(number, 0) + 1
        if self._polls[number] < self._n_polls:
            return Reply(job(number, "processing"))
        error = self.failing.get(self._jobs[number - 1])
        return Reply(job(number, "failed" if error else "done", error=error))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "a.md").write_text("alpha", encoding="utf-8")
    (tmp_path / "docs" / "deep" / "b.txt").write_text("beta", encoding="utf-8")
    (tmp_path / "docs" / "tool.exe").write_bytes(b"MZ")
    (tmp_path / "docs" / ".secret.md").write_text("hidden", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ingest_sends_a_folder_and_waits(run: Run, server: ScriptedServer, folder: Path) -> None:
    """Every supported file is PUT under its path's id, with metadata, and followed to its end."""
    ledger = Ledger(server)
    code, out, err = run("ingest", "docs", "-m", "year=2024", "-m", "tag=x", "-c", "ships")
    assert (code, err) == (0, "")
    assert out == "2 documents in 'ships': 2 indexed\nskipped 1 hidden, 1 unsupported .exe\n"
    assert sorted(ledger.uploads) == ["docs:a.md", "docs:deep:b.txt"]
    upload = ledger.uploads["docs:deep:b.txt"]
    assert upload.query == {"collection": "ships"}
    assert b'filename="b.txt"' in upload.body
    assert b"\r\n\r\nbeta\r\n" in upload.body
    assert b'"source_path": "deep/b.txt", "year": 2024, "tag": "x"}' in upload.body
    keys = [request.headers["idempotency-key"] for request in ledger.uploads.values()]
    assert len(set(keys)) == 2


def test_ingest_does_not_wait_when_told(run: Run, server: ScriptedServer, folder: Path) -> None:
    """--no-wait leaves as soon as the server has accepted everything."""
    Ledger(server, n_polls=10**9)
    code, out, _ = run("ingest", "docs", "--no-wait")
    assert code == 0
    assert "2 pending" in out
    assert not [request for request in server.requests if request.method == "GET"]


def test_a_failed_document_is_exit_1(run: Run, server: ScriptedServer, folder: Path) -> None:
    """The file and the reason stand on stderr, the others are indexed."""
    ledger = Ledger(server)
    ledger.failing["docs:a.md"] = {"code": "encrypted", "message": "It is encrypted."}
    code, out, err = run("ingest", "docs")
    assert code == 1
    assert err == "Error: docs/a.md: It is encrypted.\n"
    assert "1 failed, 1 indexed" in out or "1 indexed, 1 failed" in out


def test_a_refused_upload_does_not_stop_the_others(
    run: Run, server: ScriptedServer, folder: Path
) -> None:
    """415 for one file is reported as JSON too, and the other file is still indexed."""
    Ledger(server)
    server.on(
        "PUT",
        "/v1/documents/docs:a.md",
        problem(415, "Not readable.", code="unsupported_media_type"),
    )
    code, out, err = run("ingest", "docs", "--json")
    report = json.loads(out)
    assert code == 1
    assert report["n_failed"] == 1
    states = {item["id"]: item["status"] for item in report["documents"]}
    assert states == {"docs:a.md": "failed", "docs:deep:b.txt": "done"}
    assert report["documents"][0]["error"]["code"] == "unsupported_media_type"
    assert {item["reason"] for item in report["skipped"]} == {"hidden", "unsupported"}
    assert err == "Error: docs/a.md: Not readable.\n"


def test_a_busy_server_is_asked_again(run: Run, server: ScriptedServer, folder: Path) -> None:
    """503 with Retry-After delays the upload and loses nothing."""
    ledger = Ledger(server)
    refusals = iter([503, 429])

    def put(request: Request) -> Reply:
        status = next(refusals, None)
        if status is not None:
            refusal = problem(status, "Later.", code="queue_full")
            return Reply(refusal.body, status, {"retry-after": "0"}, refusal.media_type)
        return ledger.put(request)

    server.on("PUT", "/v1/documents/", put)
    code, out, _ = run("ingest", "docs")
    assert code == 0
    assert "2 indexed" in out
    tries = [request for request in server.requests if request.path.endswith("docs:a.md")]
    assert len(tries) == 3
    assert len({request.headers["idempotency-key"] for request in tries}) == 1
    assert all(b"\r\n\r\nalpha\r\n" in request.body for request in tries)


def test_a_missing_collection_ends_at_once(run: Run, server: ScriptedServer, folder: Path) -> None:
    """404 stops the run with one message, not one for each file."""
    server.on(
        "PUT", "/v1/documents/", problem(404, "No collection 'x'.", code="collection_not_found")
    )
    code, out, err = run("ingest", "docs", "-c", "x")
    assert (code, out, err) == (1, "", "Error: No collection 'x'.\n")
    assert len(server.requests) == 1


def test_losing_the_server_says_what_was_accepted(
    run: Run, server: ScriptedServer, folder: Path
) -> None:
    """When the connection breaks while waiting, the accepted documents are counted."""
    Ledger(server)
    server.on("GET", "/v1/jobs/", Reply(b"short", headers={"content-length": "99"}, close=True))
    code, _, err = run("ingest", "docs")
    assert code == 1
    assert "2 documents were accepted and will still be indexed." in err


def test_stdin_is_a_document(run: Run, server: ScriptedServer, folder: Path) -> None:
    """- sends standard input under the given name."""
    ledger = Ledger(server)
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ragdock", "ingest", "-", "--filename", "note.md"),
            *("--id", "my-note", "--json"),
        ],
        input=b"from a pipe",
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source, "RAGDOCK_URL": server.url},
    )
    assert done.returncode == 0, done.stderr
    assert b"from a pipe" in ledger.uploads["my-note"].body
    assert b'filename="note.md"' in ledger.uploads["my-note"].body
    assert json.loads(done.stdout)["documents"][0]["outcome"] == "indexed"


def test_an_id_goes_with_one_document(run: Run, folder: Path) -> None:
    """--id with a folder or with two documents is wrong usage."""
    for items in (["docs"], ["-", "http://a.example/"]):
        code, _, err = run("ingest", *items, "--id", "x")
        assert code == 2
        assert "--id goes with one document" in err


def test_a_dry_run_sends_nothing(run: Run, server: ScriptedServer, folder: Path) -> None:
    """What would be sent and skipped is listed, as a table and as JSON, without any request."""
    code, out, _ = run("ingest", "docs", "https://a.example/x?y=z", "--dry-run")
    assert code == 0
    assert "send\tdocs:deep:b.txt\tdocs/deep/b.txt\n" in out
    assert "\thttps://a.example/x\n" in out
    assert "would skip 1 hidden, 1 unsupported .exe" in out
    report = json.loads(run("ingest", "docs/**/*.txt", "--dry-run", "--json")[1])
    assert report["would_send"] == [{"id": "docs:deep:b.txt", "path": "docs/deep/b.txt"}]
    assert server.requests == []


def test_several_uploads_run_at_once(run: Run, server: ScriptedServer, folder: Path) -> None:
    """--concurrency uploads are under way together, and the report keeps the files' order."""
    for number in range(12):
        (folder / "docs" / f"c{number:02}.md").write_text(f"text {number}", encoding="utf-8")
    ledger = Ledger(server, n_polls=1)
    lock, now, most = threading.Lock(), 0, 0

    def put(request: Request) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
            return ledger.put(request)

    server.on("PUT", "/v1/documents/", put)
    code, out, _ = run("ingest", "docs", "--concurrency", "3", "--json")
    assert code == 0
    report = json.loads(out)
    assert [item["path"] for item in report["documents"]] == [
        "docs/a.md",
        *(f"docs/c{number:02}.md" for number in range(12)),
        "docs/deep/b.txt",
    ]
    assert report["counts"] == {"indexed": 14}
    assert most == 3


def test_a_large_file_is_never_whole_in_memory(server: ScriptedServer, tmp_path: Path) -> None:
    """A file of 300 MB is sent by a process that may hold far less, and arrives whole."""
    with (tmp_path / "large.md").open("wb") as file:
        file.truncate(300_000_000)
    received = 0

    class Sink(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            nonlocal received
            left = int(self.headers["content-length"])
            while left:
                piece = self.rfile.read(min(left, 2**20))
                left -= len(piece)
                received += len(piece)
            body = json.dumps(
                {
                    "documents": [
                        {
                            "id": "large.md",
                            "filename": "large.md",
                            "status": "done",
                            "job_id": 1,
                            "outcome": "indexed",
                            "error": None,
                        }
                    ]
                }
            ).encode()
            self.send_response(202)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Sink) as sink:
        thread = threading.Thread(target=sink.handle_request)
        thread.start()
        code = (
            "import re, sys; from ragdock.cli.main import main\n"
            "try:\n    main(sys.argv[1:])\nexcept SystemExit as left:\n"
            # Not ru_maxrss, which begins with what the process that forked it had.
            "    status = open('/proc/self/status').read()\n"
            "    print(left.code, int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)\n"
        )
        url = f"http://127.0.0.1:{sink.server_address[1]}"
        done = subprocess.run(
            [sys.executable, "-c", code, "ingest", str(tmp_path / "large.md"), "--url", url],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )
        thread.join()
    exit_code, peak_mib = done.stdout.split()[-2:]
    assert (exit_code, received > 300_000_000) == ("0", True)
    assert int(peak_mib) < 150


@pytest.fixture
def site() -> Iterator[ScriptedServer]:
    """Somebody's web site."""
    with scripted_server() as running:
        running.on("GET", "/guide", Reply(b"<h1>Guide", media_type="text/html; charset=utf-8"))
        running.on("GET", "/old", Reply(b"", 302, {"location": "/guide"}))
        running.on("GET", "/loop", Reply(b"", 302, {"location": "/loop"}))
        polish = "Zażółć".encode("iso-8859-2")
        running.on("GET", "/pl.txt", Reply(polish, media_type="text/plain; charset=iso-8859-2"))
        running.on("GET", "/empty", Reply(b"", media_type="text/plain"))
        yield running


def test_urls_are_fetched_by_the_client(
    run: Run, server: ScriptedServer, site: ScriptedServer
) -> None:
    """The server gets the content as a file, named and typed, with its source but no query."""
    ledger = Ledger(server)
    code, out, err = run("ingest", f"{site.url}/old?token=s3cret", f"{site.url}/pl.txt")
    assert (code, err) == (0, "")
    assert out.startswith("2 documents in 'default': 2 indexed")
    guide, polish = ledger.uploads.values()
    assert b'filename="guide.html"' in guide.body
    assert b"<h1>Guide" in guide.body
    assert f'"source_url": "{site.url}/old"'.encode() in guide.body
    assert b"s3cret" not in guide.body
    assert "Zażółć".encode() in polish.body
    assert guide.path.rsplit("/", 1)[1].startswith("127.0.0.1-old-token-s3cret-")


def test_urls_that_fail_are_told_one_by_one(
    run: Run, server: ScriptedServer, site: ScriptedServer
) -> None:
    """Missing, looping, empty and unreachable pages are exit 1 with a reason; others are sent."""
    Ledger(server)
    urls = [f"{site.url}/{name}" for name in ("guide", "missing", "loop", "empty")]
    code, out, err = run("ingest", *urls, "http://127.0.0.1:9/x", "--json")
    assert code == 1
    reasons = {
        item["path"].rpartition("/")[2]: (item["error"] or {}).get("message", "")
        for item in json.loads(out)["documents"]
    }
    assert reasons["guide"] == ""
    assert "status 404" in reasons["missing"]
    assert "redirects more than 5 times" in reasons["loop"]
    assert "empty" in reasons["empty"]
    assert "can't be fetched" in reasons["x"]
    assert err.count("Error: ") == 4
    code, _, err = run("ingest", "http://user:secret@a.example/")
    assert code == 2
    assert "holds a user name" in err


def test_pages_that_never_end_are_cut(
    run: Run, server: ScriptedServer, site: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and time of a URL are limited."""
    Ledger(server)
    site.on("GET", "/big", Reply(b"x" * 5_000_000, media_type="text/plain"))
    monkeypatch.setattr("ragdock.cli.web.MAX_BYTES", 2**20)
    assert "larger than 1 MiB" in run("ingest", f"{site.url}/big")[2]
    monkeypatch.setattr("ragdock.cli.web.TIMEOUT_SECONDS", 0.0)
    assert "took longer than 0 seconds" in run("ingest", f"{site.url}/guide")[2]


def test_only_folders_are_watched(run: Run, folder: Path) -> None:
    """Files, URLs, dry runs and ids by content don't go with --watch."""
    for options in (
        ("docs/a.md",),
        ("http://a.example/",),
        ("docs", "--dry-run"),
        ("docs", "--id-from", "content"),
    ):
        code, _, err = run("ingest", *options, "--watch")
        assert code == 2
        assert "--watch follows folders" in err


def test_nothing_to_send_is_exit_1(run: Run, server: ScriptedServer, folder: Path) -> None:
    """A folder without a supported file fails and says what was skipped."""
    (folder / "bin").mkdir()
    (folder / "bin" / "x.exe").write_bytes(b"MZ")
    code, out, _ = run("ingest", "bin")
    assert code == 1
    assert "nothing sent" in out
    assert "1 unsupported .exe" in out


def test_a_missing_file_is_exit_2(run: Run, folder: Path) -> None:
    """A path that doesn't exist is wrong usage."""
    code, _, err = run("ingest", "nowhere")
    assert code == 2
    assert "nowhere doesn't exist" in err


def test_progress_is_drawn_on_a_terminal(server: ScriptedServer, folder: Path) -> None:
    """A person sees a bar for sending and one for indexing, and the summary at the end."""
    Ledger(server, n_polls=4)
    code, screen = in_terminal("ingest", str(folder / "docs"), "--url", server.url)
    assert code == 0
    assert "indexing" in screen
    assert "2 documents in 'default': 2 indexed" in screen


# serve


def test_serve_reports_a_wrong_setting(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bad variable is exit 2 and named, before anything starts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAG_TOP_K", "many")
    code, _, err = run("serve")
    assert code == 2
    assert "RAG_TOP_K='many'" in err
