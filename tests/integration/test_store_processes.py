"""Several processes read and write one store: no error, no delay, no wrong count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.types import JobState
from support.stores import DIM, found

SECONDS = 4.0
N_DOCUMENTS = 20

_PREFIX = """
import json, sys, time
from pathlib import Path
from ragdock.adapters.stores.sqlite import SqliteStore
from support.stores import EMBEDDER, commit, found, upload

store, me, seconds = SqliteStore(Path(sys.argv[1])), sys.argv[2], float(sys.argv[3])
others = sys.argv[4:]
board = Path(sys.argv[1]) / "board"
end = time.monotonic() + seconds
"""

_WRITER = (
    _PREFIX
    + f"""
# The board says what each writer has finished writing, before anybody is asked to find it.
done, latest = 0, {{}}
while time.monotonic() < end:
    done += 1
    name = f"{{me}}-{{done % {N_DOCUMENTS}}}"
    text = "\\n\\n".join(f"shared marker{{me}}x{{done}} piece{{n}}" for n in range(3))
    (mine,) = store.accept("c", [upload(name, text)])
    while store.job(mine.id).state not in ("done", "failed"):
        for job in store.claim(me, 3, 60.0):
            commit(store, job)
    assert store.job(mine.id).outcome == "indexed", store.job(mine.id)
    latest[name] = f"marker{{me}}x{{done}}"
    if done % 5 == 0:
        store.delete_document("c", name)
        del latest[name]
    temporary = board.with_name(f"board-{{me}}.tmp")
    temporary.write_text(json.dumps({{"name": name, "marker": latest.get(name), "n": done}}))
    temporary.replace(board.with_name(f"board-{{me}}"))
print(json.dumps({{"done": done, "latest": latest}}))
"""
)

_READER = (
    _PREFIX
    + """
checked = 0
vector = EMBEDDER.embed(["shared"])[0]
while time.monotonic() < end:
    with store.reader("c") as reader:
        lexical = reader.lexical("shared", 1000)
        dense = reader.dense(vector, 1000).hits
        hits = reader.hits([one.chunk_id for one in dense])
        n = reader.collection.n_chunks
    assert len(lexical) == len(dense) == len(hits) == n, (len(lexical), len(dense), len(hits), n)
    versions = {}
    for hit in hits.values():
        versions.setdefault(hit.document_id, []).append(hit.text.split()[1])
    assert all(len(v) == 3 and len(set(v)) == 1 for v in versions.values()), versions
    for writer in others:
        try:
            before = json.loads(board.with_name(f"board-{writer}").read_text())
        except FileNotFoundError:
            continue
        if before["marker"] is None:
            continue
        ids = found(store, before["marker"])
        dense_ids = found(store, before["marker"], side="dense", limit=3)
        after = json.loads(board.with_name(f"board-{writer}").read_text())
        # Within one turn of its writer the document may already have a newer version.
        if after["n"] < before["n"] + """
    + str(N_DOCUMENTS - 1)
    + """:
            assert before["name"] in ids, (before, after, ids)
            checked += 1
print(json.dumps({"checked": checked}))
"""
)


def test_processes_see_each_others_writes_at_once(tmp_path: Path) -> None:
    """Two writers and two readers for some seconds: every view is whole, every write is found."""
    store = SqliteStore(tmp_path)
    store.create_collection("c", "f", DIM)
    plans = [("w1", _WRITER), ("w2", _WRITER), ("r1", _READER), ("r2", _READER)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name, str(SECONDS), "w1", "w2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        for name, code in plans
    ]
    results = {}
    for (name, _), process in zip(plans, processes, strict=True):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        results[name] = json.loads(out)
    latest = {**results["w1"]["latest"], **results["w2"]["latest"]}
    documents = store.documents("c", limit=1000)
    assert {document.id for document in documents} == set(latest)
    assert store.collection("c").n_documents == len(latest)
    assert store.collection("c").n_chunks == 3 * len(latest)
    for name, marker in latest.items():
        assert found(store, marker) == [name] * 3
    assert set(store.queue_depth().values()) == {0}
    assert store.jobs(states=[JobState.DONE])
    assert results["r1"]["checked"] + results["r2"]["checked"] > 10
    store.close()


def test_processes_that_start_at_once_share_a_new_store(tmp_path: Path) -> None:
    """Several processes open an empty directory and create the same collection: one wins."""
    code = (
        "import sys; from pathlib import Path\n"
        "from ragdock.adapters.stores.sqlite import SqliteStore\n"
        "from ragdock.errors import ConflictError\n"
        "sys.stdin.readline()\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "try:\n    store.create_collection('c', 'f', 8); print('made')\n"
        "except ConflictError:\n    print('taken')\n"
        "assert store.collection('c').n_documents == 0\n"
        "store.close()\n"
    )
    for attempt in range(3):
        directory = tmp_path / str(attempt)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={"PYTHONPATH": ":".join(sys.path)},
            )
            for _ in range(4)
        ]
        outputs = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            outputs.append(out.strip())
        assert sorted(outputs) == ["made", "taken", "taken", "taken"]
        assert len(list((directory / "collections").glob("*.db"))) == 1
