"""What ragdock knows of itself, asked live: settings, store, files, model, audit log, health."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any, Final

from ragdock.errors import NotFoundError, RagdockError
from ragdock.ops.doctor.world import WorldError
from ragdock.settings import Settings

__all__ = ["ask"]

SECONDS: Final = 1.5
HEALTH_SECONDS: Final = 3.0
MAX_ANSWER_BYTES: Final = 65536
_PASSWORD: Final = re.compile(r"(://[^/@\s:]*:)[^/@\s]*(@)")


def ask(query: str) -> Any:
    """The answer to a query of `World.ragdock`, as JSON. Raises `WorldError`.

    `health` asks the port of the settings, `health 8001` another one.
    """
    query, _, port = query.partition(" ")
    questions = {
        "settings": _settings,
        "store": _store,
        "files": _files,
        "model": _model,
        "audit": _audit,
        "health": _health,
    }
    if query not in questions:
        raise WorldError("unsupported", f"there is no such question: {query}")
    try:
        return questions[query](Settings.load(port=int(port)) if port else Settings.load())
    except NotFoundError as exc:
        raise WorldError("absent", str(exc)) from exc
    except RagdockError as exc:
        raise WorldError("status", str(exc)) from exc
    except PermissionError as exc:
        raise WorldError("denied", f"{exc.filename}: {exc.strerror}") from exc
    except OSError as exc:
        raise WorldError("absent", f"{exc.filename}: {exc.strerror}") from exc


def _settings(settings: Settings) -> dict[str, Any]:
    """By field; secrets are whether they are set, paths are absolute."""
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if "SecretStr" in str(type(settings).model_fields[name].annotation):
            found[name] = value is not None
        elif isinstance(value, Path):
            found[name] = str(value.absolute())
        elif isinstance(value, str):
            found[name] = _PASSWORD.sub(r"\1***\2", value)
        else:
            found[name] = value
    found["variables"] = sorted(variables_of(type(settings)))
    return found


def variables_of(cls: type[Settings]) -> set[str]:
    """The names that the settings are read from, those of files of secrets included."""
    found = set()
    for field in cls.model_fields.values():
        names = {str(name) for name in getattr(field.validation_alias, "choices", ())}
        found |= names
        if "SecretStr" in str(field.annotation):
            found |= {f"{name}_FILE" for name in names}
    return found


def _store(settings: Settings) -> Any:
    # Imported when asked: the store's libraries take longer to load than most checks to run.
    from ragdock.bootstrap import Survey

    return Survey(settings, seconds=SECONDS).store()


def _files(settings: Settings) -> Any:
    from ragdock.bootstrap import Survey

    return Survey(settings, seconds=SECONDS).files()


def _model(settings: Settings) -> Any:
    from ragdock.bootstrap import Survey

    return Survey(settings, seconds=SECONDS).model()


def _audit(settings: Settings) -> dict[str, Any]:
    """The directory of the audit log, and the file that the next record goes to."""
    directory = settings.data_dir.absolute() / "audit"
    day = time.strftime("%Y%m%d", time.gmtime())
    files = sorted(directory.glob(f"audit-{day}*.jsonl"))
    return {"directory": str(directory), "file": str(files[-1]) if files else None}


def _health(settings: Settings) -> dict[str, Any]:
    """What the server at the loopback answers: `status` (of HTTP), `seconds` and `body`."""
    address = f"127.0.0.1:{settings.port}"
    lines = ["GET /health HTTP/1.0", f"Host: {address}", "Accept: application/json"]
    key = settings.metrics_key or settings.admin_key
    if key is not None:
        lines.append(f"Authorization: Bearer {key.get_secret_value()}")
    started = time.monotonic()
    try:
        answer = _exchange(settings.port, "\r\n".join([*lines, "", ""]).encode())
    except TimeoutError as exc:
        raise WorldError("timeout", f"{address}: no answer in {HEALTH_SECONDS:g} s") from exc
    except ConnectionRefusedError as exc:
        raise WorldError("refused", f"{address}: nothing listens there") from exc
    except OSError as exc:
        raise WorldError("refused", f"{address}: {exc.strerror or exc}") from exc
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    try:
        status, report = int(words[1]), json.loads(body)
    except (IndexError, ValueError) as exc:
        raise WorldError("unsupported", f"{address}: what answers there isn't ragdock") from exc
    return {
        "status": status,
        "seconds": round(time.monotonic() - started, 3),
        "body": report if isinstance(report, dict) else {},
    }


def _exchange(port: int, request: bytes) -> bytes:
    deadline = time.monotonic() + HEALTH_SECONDS
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=HEALTH_SECONDS) as connection:
        connection.sendall(request)
        while len(answer) < MAX_ANSWER_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            piece = connection.recv(8192)
            if not piece:
                break
            answer += piece
    return answer
