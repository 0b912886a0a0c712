"""Reindexing beside a real server, under queries and writes, killed on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_backup_live import ragdock

from support.rehearsal import Plan, rehearse
from support.serving import ServerProcess

PLANS = {
    "another size of passages": Plan(60, 6, 40, new_dim=64, new_chunk_tokens=40, n_kills=1),
    "another embedder": Plan(60, 6, 40, new_dim=32, new_chunk_tokens=64, n_kills=1),
}


@pytest.mark.parametrize("name", PLANS)
def test_reindexing_disturbs_nobody(tmp_path: Path, name: str) -> None:
    """No query fails or finds a mixture, no acknowledged write is lost, and both indexes answer."""
    plan = PLANS[name]
    report = rehearse(tmp_path, plan)
    print(report)  # noqa: T201
    assert not report.errors
    # Where the machine is fast, a run was done before it was killed, and the last finds it so.
    assert report.reindex["action"] in ("reindexed", "none")
    assert (report.kills, report.answers["mixed"]) == (1, 0)
    assert report.answers["old"] > 0
    assert report.answers["new"] > 0
    assert not report.lost
    assert report.went_back == 0
    assert report.acknowledged > 5
    code, out, err = ragdock(tmp_path / "data", "verify")
    assert code == 0, out.decode() + err


def test_a_start_with_other_settings_names_the_command(tmp_path: Path) -> None:
    """The server says how to index anew, and does so for the collection that is in the way."""
    (tmp_path / "data").mkdir()
    with ServerProcess(tmp_path / "data") as server, server.client() as client:
        text = {"documents": [{"id": "a", "text": "apples and pears"}]}
        assert client.post("/v1/documents", params={"wait": True}, json=text).status_code == 200
    other = ServerProcess(tmp_path / "data", hashed=32)
    with pytest.raises(AssertionError, match="ragdock reindex default"):
        other.start()
