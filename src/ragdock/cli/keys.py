"""`keys`: make, list and revoke API keys, in the data directory itself.

Not over HTTP: who can write the data directory can do everything anyway, and a server that starts
without a key has nobody who might ask it for one. A server that runs sees every change at once.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit, emit_json, emit_table, note
from ragdock.errors import InputError
from ragdock.types import ApiKey, Right

if TYPE_CHECKING:
    from ragdock.services.keys import Keys
    from ragdock.settings import Settings

__all__ = ["register"]

_SECONDS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the store lives [RAG_DATA_DIR].")
]


def register(app: typer.Typer) -> None:
    """Add this module's group of commands."""
    group = typer.Typer(
        help="Make, list and revoke API keys, in the data directory itself.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("create")(create)
    group.command("list")(list_keys)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys")


def create(
    name: Annotated[str, typer.Option("--name", "-n", help="What to call it, such as its user.")],
    rights: Annotated[
        str,
        typer.Option(
            "--rights", "--scopes", "-r", help="Of read, write, metrics, admin; comma-separated."
        ),
    ] = "read",
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", help="Only this collection; repeatable [all]."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", "-e", help="When: 12h, 90d, 1y, or 2027-01-31 [never]."),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option("--rate", min=0, help="Requests a minute, 0 without limit [the server's]."),
    ] = None,
    data_dir: DataDir = None,
    json_output: JsonOutput = False,
) -> None:
    """Make an API key and print it, once: what is stored can't be turned back into it."""
    wanted = _rights(rights)
    expires_at = None if expires is None else _instant(expires, time.time())
    with _open(data_dir) as keys, _recording(data_dir) as record:
        key, token = keys.create(
            name,
            rights=wanted,
            collections=collections or None,
            expires_at=expires_at,
            rate_per_minute=rate,
        )
        record("keys.create", 201, key.id)
    if json_output:
        emit_json({**_facts(key), "key": token})
        return
    emit(token)
    note(f"This key ({key.name!r}, id {key.id}) is shown this once. Keep it in a secret store.")


def list_keys(data_dir: DataDir = None, json_output: JsonOutput = False) -> None:
    """List the API keys, oldest first; their secrets are kept nowhere."""
    with _open(data_dir) as keys:
        found = [_facts(key) for key in keys.all()]
    if json_output:
        emit_json({"keys": found})
        return
    columns = ("id", "name", "state", "rights", "collections", "rate#", "expires", "last used")
    rows = [
        (
            key["id"],
            key["name"],
            key["state"],
            ",".join(key["rights"]),
            "(all)" if key["collections"] is None else ",".join(key["collections"]),
            key["rate_per_minute"],
            key["expires_at"],
            key["last_used_at"],
        )
        for key in found
    ]
    emit_table(columns, rows)


def revoke(
    id_or_name: Annotated[str, typer.Argument(metavar="ID|NAME", help="The key's id or name.")],
    data_dir: DataDir = None,
    json_output: JsonOutput = False,
) -> None:
    """Revoke an API key: running servers refuse it from the next request on."""
    with _open(data_dir) as keys, _recording(data_dir) as record:
        key = keys.revoke(id_or_name)
        record("keys.revoke", 200, key.id)
    if json_output:
        emit_json(_facts(key))
    else:
        emit(f"Revoked {key.name!r} ({key.id}).")


@contextmanager
def _open(data_dir: Path | None) -> Iterator[Keys]:
    from ragdock.bootstrap import open_keys

    with open_keys(_settings(data_dir)) as keys:
        yield keys


@contextmanager
def _recording(data_dir: Path | None) -> Iterator[Callable[[str, int, str], None]]:
    """What writes to the audit log: an action, its outcome as the API would say it, the key's id.

    Who did it is known as the operating system's user only, for a command needs no key.
    """
    from ragdock.bootstrap import open_audit
    from ragdock.logs import configure_logging
    from ragdock.services.audit import Caller

    settings = _settings(data_dir)
    if settings.audit == "log":
        # The result is a key, and stays alone on stdout.
        configure_logging(settings.log_level, settings.log_format, sys.stderr)
    caller = Caller("", None, f"cli, uid {os.getuid()}")
    with open_audit(settings) as audit:
        yield lambda action, status, key_id: audit.write(action, caller, status, target=key_id)


def _settings(data_dir: Path | None) -> Settings:
    from ragdock.settings import Settings

    return Settings.load(**({"data_dir": data_dir} if data_dir else {}))


def _rights(text: str) -> frozenset[Right]:
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in set(Right)]
    if unknown:
        raise InputError(
            f"--rights {text!r}: {unknown[0]!r} is none of read, write, metrics, admin."
        )
    return frozenset(map(Right, words))


def _instant(text: str, now: float) -> float:
    """`90d` from now, or the begin of a UTC day `2027-01-31`, in seconds since the epoch."""
    span = re.fullmatch(r"([1-9]\d{0,5})([mhdwy])", text)
    if span:
        return now + int(span[1]) * _SECONDS[span[2]]
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise InputError(
            f"--expires {text!r} is neither a span such as 12h, 90d or 1y nor a date such as "
            "2027-01-31."
        ) from None


def _facts(key: ApiKey) -> dict[str, Any]:
    if key.revoked_at is not None:
        state = "revoked"
    else:
        state = "active" if key.is_valid(time.time()) else "expired"
    return {
        "id": key.id,
        "name": key.name,
        "state": state,
        "rights": sorted(key.rights),
        "collections": None if key.collections is None else sorted(key.collections),
        "rate_per_minute": key.rate_per_minute,
        "created_at": _shown(key.created_at),
        "expires_at": _shown(key.expires_at),
        "revoked_at": _shown(key.revoked_at),
        "last_used_at": _shown(key.last_used_at),
    }


def _shown(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
