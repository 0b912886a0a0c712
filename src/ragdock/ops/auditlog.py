"""Reading the audit log's files."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ragdock.errors import InputError

__all__ = ["audit_directory", "read_audit", "since_when"]

_AGO: Final = re.compile(r"(\d+)([smhdw])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def audit_directory(data_dir: Path) -> Path:
    """Where a data directory keeps its audit log."""
    return data_dir / "audit"


def since_when(text: str, *, now: float | None = None) -> str:
    """`90m`, `7d`, `2026-11-22` or `2026-11-22T10:00` (UTC) as the start of a record's `time`."""
    ago = _AGO.fullmatch(text.strip())
    if ago:
        seconds = int(ago[1]) * _UNIT_SECONDS[ago[2]]
        then = datetime.fromtimestamp((time.time() if now is None else now) - seconds, UTC)
    else:
        try:
            then = datetime.fromisoformat(text.strip())
        except ValueError:
            raise InputError(
                f"{text!r} is no time; give 90m, 7d, 2026-11-22 or 2026-11-22T10:00 (UTC)."
            ) from None
        then = then.replace(tzinfo=UTC) if then.tzinfo is None else then.astimezone(UTC)
    return then.strftime("%Y-%m-%dT%H:%M:%S")


def read_audit(
    directory: Path, *, since: str = "", key: str | None = None, action: str | None = None
) -> Iterator[dict[str, Any]]:
    """The records, oldest first. `key` is a key's name or id, `action` a whole one or its start.

    A torn line (of a disk that was full) is left out.
    """
    day = since[:10].replace("-", "")
    for path in sorted(directory.glob("audit-*.jsonl"), key=_order):
        if path.name[6:14] < day:
            continue
        with path.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and _wanted(record, since, key, action):
                    yield record


def _wanted(record: dict[str, Any], since: str, key: str | None, action: str | None) -> bool:
    return (
        str(record.get("time", "")) >= since
        and (key is None or key in (record.get("key"), record.get("key_id")))
        and (action is None or f"{record.get('action', '')}.".startswith(f"{action}."))
    )


def _order(path: Path) -> tuple[str, int]:
    day, _, part = path.stem.removeprefix("audit-").partition("-")
    return day, int(part) if part.isdigit() else 0
