"""The audit log: every write and each key's use, by whom and from where, and no content."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ragdock.adapters.audit.jsonl import JsonlAudit
from ragdock.cli.main import main
from support.serving import serving

KEY = "admin-key-" + "k" * 40
AUTH = {"Authorization": f"Bearer {KEY}"}
WRONG = {"Authorization": "Bearer rd_wrong_" + "w" * 40}


def records(data: Path) -> list[dict[str, Any]]:
    """What was recorded."""
    files = sorted((data / "audit").glob("audit-*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def test_writes_and_key_use_are_recorded_without_content(tmp_path: Path) -> None:
    """Each write has a line when it is answered: who, from where, what, with which outcome."""
    data = tmp_path / "data"
    with serving(data, admin_key=KEY) as client:
        client.headers.update(AUTH)
        client.post("/v1/collections", json={"name": "notes"})
        body = {"documents": [{"id": "a", "text": "CANARY one"}, {"id": "b", "text": "CANARY 2"}]}
        made = client.post("/v1/documents?collection=notes&wait=true", json=body)
        assert made.status_code == 200
        assert records(data)[-1]["request_id"] == made.headers["x-request-id"]
        client.put("/v1/documents/a?collection=notes", json={"text": "CANARY three"})
        client.post("/v1/ask", json={"question": "CANARY?", "collection": "notes"})
        client.post("/v1/search", json={"query": "CANARY"})
        client.get("/v1/documents?collection=notes")
        client.delete("/v1/documents/b?collection=notes")
        client.delete("/v1/documents/none")
        client.delete("/v1/collections/notes")
        for _ in range(3):
            assert client.get("/v1/collections", headers=WRONG).status_code == 401
        del client.headers["Authorization"]
        assert client.get("/v1/collections").status_code == 401
        assert client.delete("/v1/collections/notes").status_code == 401
    found = [
        (r["action"], r["status"], r.get("collection"), r.get("documents")) for r in records(data)
    ]
    assert found == [
        ("keys.use", 201, None, None),
        ("collections.create", 201, "notes", None),
        ("documents.create", 200, "notes", ["a", "b"]),
        ("documents.replace", 202, "notes", ["a"]),
        ("documents.delete", 204, "notes", ["b"]),
        ("documents.delete", 404, "default", ["none"]),
        ("collections.delete", 204, "notes", None),
        ("keys.refused", 401, None, None),
    ]
    for record in records(data)[:-1]:
        assert (record["key_id"], record["key"]) == ("admin", "RAG_ADMIN_KEY")
        assert record["address"] == "testclient"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
    text = json.dumps(records(data))
    assert "CANARY" not in text
    assert KEY not in text
    assert "rd_wrong" not in text
    assert (data / "audit").stat().st_mode & 0o077 == 0


def test_off_and_log_write_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """RAG_AUDIT=log makes log lines of the same records, off makes nothing."""
    caplog.set_level("INFO", logger="ragdock.audit")
    for audit, n_lines in (("off", 0), ("log", 1)):
        caplog.clear()
        data = tmp_path / audit
        with serving(data, audit=audit) as client:
            client.post("/v1/collections", json={"name": "notes"})
        lines = [record for record in caplog.records if record.name == "ragdock.audit"]
        assert len(lines) == n_lines
        assert not (data / "audit").exists()
    assert lines[0].__dict__["audit_action"] == "collections.create"
    assert lines[0].__dict__["audit_collection"] == "notes"


def test_an_audit_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on; failures are counted, and logged once."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "audit").write_text("not a directory")
    with serving(data) as client:
        for name in ("a", "b", "c"):
            assert client.post("/v1/collections", json={"name": name}).status_code == 201
        assert "rag_audit_failures_total 3.0" in client.get("/metrics").text
    assert len([r for r in caplog.records if "audit records" in r.getMessage()]) == 1


def write_many(directory: str, who: int) -> None:
    """Append records, as a server process does."""
    audit = JsonlAudit(Path(directory))
    for number in range(300):
        audit.write({"who": who, "n": number, "text": "x" * 500})


def test_lines_of_processes_never_mix(tmp_path: Path) -> None:
    """Four processes append to one file: every line is whole, none is lost."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(tmp_path), n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [json.loads(li) for p in tmp_path.glob("*.jsonl") for li in p.read_text().splitlines()]
    assert len({(line["who"], line["n"]) for line in lines}) == len(lines) == 1200


def test_files_are_by_day_bounded_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day has its file, a large day several; after 90 days, or a gigabyte, the oldest go."""
    monkeypatch.setattr("ragdock.adapters.audit.jsonl.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("ragdock.adapters.audit.jsonl.MAX_TOTAL_BYTES", 6000)
    now = 1_700_000_000.0
    audit = JsonlAudit(tmp_path, clock=lambda: now)
    for _ in range(30):
        audit.write({"text": "x" * 80})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:2] == ["audit-20231114-1.jsonl", "audit-20231114-2.jsonl"]
    assert "audit-20231114.jsonl" in names
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    now += 86_400
    for _ in range(200):
        audit.write({"text": "x" * 80})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8000
    assert "audit-20231114.jsonl" not in {path.name for path in tmp_path.iterdir()}
    now += 91 * 86_400
    audit.write({"text": "later"})
    assert [path.name for path in tmp_path.iterdir()] == ["audit-20240214.jsonl"]
    audit.close()


def test_files_belong_to_whom_the_data_belong(tmp_path: Path) -> None:
    """What root writes by a command, a server of another user can go on with."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 12_345, 54_321)
    owner = tmp_path.stat()
    audit = JsonlAudit(tmp_path / "audit")
    audit.write({"action": "keys.create"})
    audit.close()
    (file,) = (tmp_path / "audit").iterdir()
    for path in (tmp_path / "audit", file):
        assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid)
        assert path.stat().st_mode & 0o077 == 0


def test_the_command_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ragdock audit` filters by time, key and action; a torn line is left out."""
    audit = JsonlAudit(tmp_path / "audit")
    base = {"status": 200, "key": "app", "key_id": "k1", "address": "192.0.2.1"}
    audit.write({"time": "2020-01-01T00:00:00.000Z", "action": "documents.delete", **base})
    audit.write({"time": "2999-01-01T00:00:00.000Z", "action": "documents.delete", **base})
    audit.write({"time": "2999-01-02T00:00:00.000Z", "action": "keys.use", **base, "key": "bob"})
    audit.close()
    (path,) = (tmp_path / "audit").iterdir()
    with path.open("a") as file:
        file.write('{"time": "2999-01-03T00')

    def shown(*options: str) -> list[str]:
        with pytest.raises(SystemExit) as left:
            main(["audit", "--data-dir", str(tmp_path), "--json", *options])
        assert not left.value.code
        return [json.loads(li)["action"] for li in capsys.readouterr().out.splitlines()]

    assert shown("--since", "2019-01-01") == ["documents.delete"] * 2 + ["keys.use"]
    assert shown() == ["documents.delete", "keys.use"]
    assert shown("--key", "bob") == ["keys.use"]
    assert shown("--action", "documents") == ["documents.delete"]
    assert shown("--action", "document") == []
    with pytest.raises(SystemExit) as left:
        main(["audit", "--data-dir", str(tmp_path), "--since", "yesterday"])
    assert left.value.code == 2
