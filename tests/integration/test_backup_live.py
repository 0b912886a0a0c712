"""Backups of a real server under load, by the real command line, put back and asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2

from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.core.names import BACKUP_STAMP
from support.serving import ROOT, ServerProcess, until
from support.stores import DIM, put

N_WRITERS = 3


def ragdock(data_dir: Path, *argv: str, stdin: bytes | None = None) -> tuple[int, bytes, str]:
    """Run a command: (exit code, stdout, stderr)."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAG_", "REDIS_"))}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "ragdock", *argv],
        env={**kept, "PYTHONPATH": path, "RAG_DATA_DIR": str(data_dir)},
        cwd=data_dir.parent,
        input=stdin,
        capture_output=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr.decode()


class Writers:
    """Clients that add, replace and delete documents, and note what was acknowledged."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._acknowledged: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(N_WRITERS)
        ]
        self.errors: list[str] = []

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def acknowledged(self) -> dict[str, int]:
        """Each document's number in its latest acknowledged write."""
        with self._lock:
            return dict(self._acknowledged)

    def _write(self, me: int) -> None:
        with self._server.client() as client:
            number = 0
            while not self._stop.is_set():
                number += 1
                # A third of the writes replace a document, the others are new.
                name = f"w{me}-{number if number % 3 else number // 2}"
                text = f"marker{me}x{number} of {name}. " + "Filler about harbours. " * 20
                body = {"documents": [{"id": name, "text": text, "metadata": {"n": number}}]}
                try:
                    reply = client.post("/v1/documents", json=body)
                except httpx2.TransportError as exc:
                    self.errors.append(str(exc))
                    continue
                if reply.status_code != 202:
                    self.errors.append(f"{reply.status_code} {reply.text}")
                    continue
                with self._lock:
                    self._acknowledged[name] = number


def _documents(server: ServerProcess) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with server.client() as client:
        after: str | None = None
        while True:
            params = {"limit": 100, **({"after": after} if after else {})}
            page = client.get("/v1/documents", params=params).json()
            found |= {one["id"]: one for one in page["documents"]}
            after = page["next"]
            if after is None:
                return found


def _drained(server: ServerProcess) -> bool:
    with server.client() as client:
        queue = client.get("/health").json()["queue"]
        return not queue["pending"] and not queue["processing"]


def test_a_backup_under_writes_is_whole(tmp_path: Path) -> None:
    """Whatever was acknowledged before the backup began is found in the restored server."""
    (tmp_path / "data").mkdir()
    with ServerProcess(tmp_path / "data") as server, Writers(server) as writers:
        until(lambda: len(writers.acknowledged()) > 60)
        before = writers.acknowledged()
        file = tmp_path / "file.tar.gz"
        code, _, err = ragdock(tmp_path / "data", "backup", str(file))
        assert code == 0, err
        until(lambda: len(writers.acknowledged()) > len(before) + 5)
        code, _, err = ragdock(tmp_path / "data", "verify")
        assert code == 0, err
    assert not writers.errors
    code, out, err = ragdock(tmp_path, "verify", str(file), "--json")
    assert code == 0, err
    assert json.loads(out)["ok"]

    (tmp_path / "again").mkdir()
    code, _, err = ragdock(tmp_path / "again", "restore", str(file))
    assert code == 0, err
    code, _, err = ragdock(tmp_path / "again", "verify")
    assert code == 0, err
    with ServerProcess(tmp_path / "again") as server:
        until(lambda: _drained(server), 60)
        there = _documents(server)
        lost = [
            name
            for name, number in before.items()
            if name not in there or there[name]["metadata"]["n"] < number
        ]
        failed = [name for name, one in there.items() if one["status"] != "done"]
        print(  # noqa: T201
            f"{len(before)} acknowledged before the backup, {len(there)} restored, "
            f"{len(lost)} lost, {len(failed)} failed"
        )
        assert not lost
        assert not failed
        with server.client() as client:
            for name in list(before)[::10]:
                marker = f"marker{name[1]}x{there[name]['metadata']['n']}"
                body = {"query": marker, "mode": "lexical"}
                hits = client.post("/v1/search", json=body).json()["hits"]
                assert [hit["document_id"] for hit in hits] == [name]
    code, _, err = ragdock(tmp_path / "again", "verify")
    assert code == 0, err


def test_backups_go_through_pipes(tmp_path: Path) -> None:
    """`-` writes to stdout and reads from stdin; faults and refusals have their exit codes."""
    store = SqliteStore(tmp_path / "data")
    store.create_collection("c", "f", DIM)
    put(store, "a", "apples and pears")
    store.close()
    stamp = tmp_path / "data" / BACKUP_STAMP
    assert not stamp.exists()
    code, out, err = ragdock(tmp_path / "data", "backup", "-")
    assert (code, "1 collection, 1 documents" in err) == (0, True)
    assert stamp.exists()  # Of which /metrics tells the time.
    code, _, err = ragdock(tmp_path / "again", "restore", "-", stdin=out)
    assert code == 0, err
    assert ragdock(tmp_path / "again", "verify", "--quick")[0] == 0
    code, _, err = ragdock(tmp_path / "again", "restore", "-", stdin=out)
    assert (code, "--force" in err) == (2, True)
    code, said, _ = ragdock(tmp_path / "again", "restore", "-", "--force", "--json", stdin=out)
    assert Path(json.loads(said)["aside"]).is_dir()
    code, _, err = ragdock(tmp_path / "new", "restore", "-", stdin=out[:-3_000])
    assert (code, "cut short" in err) == (1, True)
    (file,) = (tmp_path / "again" / "collections").glob("*.db")
    file.unlink()
    code, said, _ = ragdock(tmp_path / "again", "verify")
    assert (code, "file_missing" in said.decode()) == (1, True)
