"""`ragdock keys`, and how the client commands come by the key that they send."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from ragdock.bootstrap import open_keys
from ragdock.cli.main import app, main
from ragdock.core.apikeys import KEY_PATTERN, make_token
from ragdock.settings import Settings
from ragdock.types import Principal
from scripted_server import ScriptedServer, problem, scripted_server

Run = Callable[..., tuple[int, str, str]]
DAY_SECONDS = 86_400
TOKEN = make_token(b"abcde", b"s" * 32)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in this process: (exit code, out, err)."""
    monkeypatch.setenv("RAG_DATA_DIR", str(tmp_path / "data"))

    def call(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(argv)
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        monkeypatch.setenv("RAGDOCK_URL", running.url)
        running.on("GET", "/v1/collections", {"collections": []})
        yield running


def who(data_dir: Path, token: str) -> Principal | None:
    """Whom a server on this directory would see."""
    with open_keys(Settings.load(data_dir=data_dir)) as keys:
        return keys.authenticate(token)


def listed(run: Run) -> list[dict[str, object]]:
    code, out, err = run("keys", "list", "--json")
    assert (code, err) == (0, "")
    return list(json.loads(out)["keys"])


# ---- keys ------------------------------------------------------------------------------------


def test_a_key_is_printed_once_and_works(run: Run, tmp_path: Path) -> None:
    """stdout is the key and nothing else, so that a script can keep it; the rest is on stderr."""
    code, out, err = run(
        *("keys", "create", "--name", "web", "--rights", "read,write", "--rate", "600"),
        *("--collection", "a", "--collection", "b", "--expires", "90d"),
    )
    assert code == 0
    assert re.fullmatch(KEY_PATTERN + "\n", out)
    assert "this once" in err
    assert out.strip() not in err
    principal = who(tmp_path / "data", out.strip())
    assert principal is not None
    assert (principal.name, principal.rate_per_minute) == ("web", 600)
    assert sorted(principal.rights) == ["read", "write"]
    assert principal.collections == {"a", "b"}
    (key,) = listed(run)
    assert (key["state"], key["collections"]) == ("active", ["a", "b"])
    expires = datetime.fromisoformat(str(key["expires_at"])).timestamp()
    assert abs(expires - time.time() - 90 * DAY_SECONDS) < 60


def test_lists_never_hold_a_secret(run: Run) -> None:
    """Neither the table nor the JSON has the key, its secret or its hash."""
    _, out, _ = run("keys", "create", "--name", "web", "--json")
    made = json.loads(out)
    assert made["rights"] == ["read"]
    _, table, _ = run("keys", "list")
    assert table.splitlines()[1].split("\t")[:5] == [made["id"], "web", "active", "read", "(all)"]
    assert set(listed(run)[0]) == set(made) - {"key"}
    assert made["key"][13:] not in table


def test_a_revoked_key_opens_nothing(run: Run, tmp_path: Path) -> None:
    """`revoke` takes the name or the id, and says which key it was."""
    tokens = [run("keys", "create", "--name", name)[1].strip() for name in ("one", "two")]
    assert run("keys", "revoke", "one")[1].startswith("Revoked 'one'")
    assert run("keys", "revoke", tokens[1][4:12], "--json")[0] == 0
    assert [who(tmp_path / "data", token) for token in tokens[:1]] != [None]  # Development.
    assert [key["state"] for key in listed(run)] == ["revoked", "revoked"]
    code, _, err = run("keys", "revoke", "one")
    assert (code, "no key 'one'" in err) == (2, True)


def test_making_and_revoking_are_recorded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit log tells which key was made and revoked by whom, and nothing of its secret."""
    token = run("keys", "create", "--name", "web", "--rights", "admin")[1].strip()
    run("keys", "list")
    run("keys", "revoke", "web")
    assert run("keys", "revoke", "web")[0] == 2
    _, out, _ = run("audit", "--json", "--action", "keys")
    records = [json.loads(line) for line in out.splitlines()]
    key_id = token[4:12]
    who = f"cli, uid {os.getuid()}"
    assert [
        (r["action"], r["status"], r["target"], r["address"], "request_id" in r) for r in records
    ] == [("keys.create", 201, key_id, who, False), ("keys.revoke", 200, key_id, who, False)]
    assert token[13:] not in out
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    for audit, n_lines in (("log", 1), ("off", 0)):
        monkeypatch.setenv("RAG_AUDIT", audit)
        made, err = run("keys", "create", "--name", audit)[1:]
        assert re.fullmatch(KEY_PATTERN + "\n", made)
        assert err.count("keys.create") == n_lines
    assert len(run("audit", "--json")[1].splitlines()) == len(records)


def test_a_data_directory_can_be_named(run: Run, tmp_path: Path) -> None:
    """--data-dir wins over RAG_DATA_DIR, and is made when it isn't there."""
    elsewhere = tmp_path / "elsewhere" / "data"
    run("keys", "create", "--name", "web", "--data-dir", str(elsewhere))
    assert (elsewhere / "catalogue.db").exists()
    assert listed(run) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rights", "read,delete"), "'delete' is none of"),
        (("--rights", ","), "needs a right"),
        (("--expires", "soon"), "'soon' is neither"),
        (("--expires", "0d"), "neither"),
        (("--expires", "2020-01-01"), "expired already"),
        (("--rights", "admin", "-c", "a"), "all collections"),
        (("--rights", "metrics", "-c", "a"), "all collections"),
        (("-c", "No Such"), "'No Such'"),
    ],
)
def test_a_wrong_option_is_exit_2_and_makes_nothing(
    run: Run, options: tuple[str, ...], says: str
) -> None:
    """What won't do is named, with the remedy, and no key is stored."""
    code, out, err = run("keys", "create", "--name", "web", *options)
    assert (code, out) == (2, "")
    assert says in err
    assert listed(run) == []


@pytest.mark.parametrize(("text", "days"), [("1440m", 1), ("24h", 1), ("2w", 14), ("1y", 365)])
def test_spans_of_every_unit(run: Run, text: str, days: int) -> None:
    """Minutes, hours, days, weeks and years count from now."""
    _, out, _ = run("keys", "create", "--name", "web", "--expires", text, "--json")
    expires = datetime.fromisoformat(json.loads(out)["expires_at"]).timestamp()
    assert abs(expires - time.time() - days * DAY_SECONDS) < 60


def test_a_date_is_the_begin_of_that_day(run: Run) -> None:
    """2099-12-31 expires as that day begins, in UTC."""
    _, out, _ = run("keys", "create", "--name", "web", "--expires", "2099-12-31", "--json")
    expires = datetime.fromisoformat(json.loads(out)["expires_at"])
    assert expires == datetime(2099, 12, 31, tzinfo=UTC)


# ---- clients ---------------------------------------------------------------------------------


def test_clients_send_the_key_of_the_variable(
    run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAGDOCK_API_KEY goes as a bearer token; without it no such header is sent."""
    assert run("collections", "ls")[0] == 0
    monkeypatch.setenv("RAGDOCK_API_KEY", f" {TOKEN}\n")
    assert run("collections", "ls")[0] == 0
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == [None, f"Bearer {TOKEN}"]


def test_a_key_file_wins_over_the_variable(
    run: Run, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--key-file, or RAGDOCK_KEY_FILE, names a file whose one line is the key."""
    file = tmp_path / "key"
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv("RAGDOCK_API_KEY", "x" * 40)
    run("collections", "ls", "--key-file", str(file))
    monkeypatch.setenv("RAGDOCK_KEY_FILE", str(file))
    run("collections", "ls")
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Bearer {TOKEN}"] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "doesn't hold a key"),
        ("two words", "doesn't hold a key"),
        (TOKEN[:-3], "checksum"),
        (TOKEN.replace("c3Nz", "c3Nx", 1), "checksum"),
        (None, "can't be read"),
    ],
)
def test_a_file_without_a_whole_key_is_told_before_anything_is_sent(
    run: Run, server: ScriptedServer, tmp_path: Path, content: str | None, says: str
) -> None:
    """An empty file, a cut or mistyped key, a missing file: exit 2 and no request."""
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    code, out, err = run("collections", "ls", "--key-file", str(file))
    assert (code, out) == (2, "")
    assert says in err
    assert content is None or not content or content not in err
    assert server.requests == []


def test_a_refusal_says_where_the_key_is_looked_for(run: Run, server: ScriptedServer) -> None:
    """401 is exit 1, with what the server said and the two ways to give a key."""
    server.on("GET", "/v1/collections", problem(401, "This needs a key.", code="unauthorized"))
    code, _, err = run("collections", "ls")
    assert code == 1
    assert "This needs a key." in err
    assert "RAGDOCK_API_KEY" in err
    assert "--key-file" in err


def test_health_without_a_key_shows_the_verdict(run: Run, server: ScriptedServer) -> None:
    """A server that tells strangers its status only is shown as that."""
    server.on("GET", "/health", {"status": "ok"})
    code, out, _ = run("health")
    assert (code, out) == (0, f"ok: ragdock at {server.url}; the details need a key\n")


def commands(group: typer.Typer) -> Iterator[Callable[..., object]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance)


def test_every_command_that_calls_a_server_takes_a_key_file() -> None:
    """--url and --key-file come together, and no command takes a key itself."""
    seen = 0
    for callback in commands(app):
        parameters = inspect.signature(callback).parameters
        assert ("url" in parameters) == ("key_file" in parameters), callback
        if "url" in parameters:
            assert not {"key", "api_key"} & set(parameters)
            seen += 1
    assert seen >= 12
