"""A world that is a file of answers, and the recorder that makes such a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from ragdock.errors import InputError
from ragdock.ops.doctor.world import FileStat, Space, World, WorldError

__all__ = ["RecordedWorld", "Recorder", "read_recording", "write_recording"]

FORMAT: Final = "ragdock.doctor.recording/1"
_ERROR: Final = "!"

T = TypeVar("T")


class RecordedWorld:
    """Answers from a recording: `{method: {arguments joined by spaces: answer}}`.

    An answer that is an error stands as `{"!": [kind, detail]}`. What isn't there is `absent`.
    """

    def __init__(self, recording: Mapping[str, Any]) -> None:
        self._recording = recording

    def _answer(self, method: str, *arguments: object) -> Any:
        answers = self._recording.get(method)
        key = " ".join(str(argument) for argument in arguments)
        if not isinstance(answers, dict) or key not in answers:
            raise WorldError("absent", f"not recorded: {method} {key}")
        found = answers[key]
        if isinstance(found, dict) and found.keys() == {_ERROR}:
            raise WorldError(*found[_ERROR])
        return found

    def engine(self, path: str) -> Any:
        """As recorded."""
        return self._answer("engine", path)

    def read(self, path: str) -> str:
        """As recorded."""
        return str(self._answer("read", path))

    def entries(self, path: str) -> list[str]:
        """As recorded."""
        return list(self._answer("entries", path))

    def link(self, path: str) -> str:
        """As recorded."""
        return str(self._answer("link", path))

    def stat(self, path: str) -> FileStat:
        """As recorded."""
        return FileStat(**self._answer("stat", path))

    def space(self, path: str) -> Space:
        """As recorded."""
        return Space(**self._answer("space", path))

    def writable(self, path: str) -> bool:
        """As recorded."""
        return bool(self._answer("writable", path))

    def environ(self) -> Mapping[str, str]:
        """As recorded; empty when it isn't."""
        found = self._recording.get("environ")
        return dict(found) if isinstance(found, dict) else {}

    def identity(self) -> tuple[int, int, frozenset[int]]:
        """As recorded."""
        if "identity" not in self._recording:
            raise WorldError("absent", "not recorded: identity")
        user, group, groups = self._recording["identity"]
        return int(user), int(group), frozenset(groups)

    def redis(self, *command: str) -> Any:
        """As recorded."""
        return self._answer("redis", *command)

    def resolve(self, name: str) -> tuple[list[str], float]:
        """As recorded."""
        addresses, seconds = self._answer("resolve", name)
        return list(addresses), float(seconds)

    def connect(self, host: str, port: int) -> float:
        """As recorded."""
        return float(self._answer("connect", host, port))

    def listens(self, address: str, port: int) -> bool:
        """As recorded."""
        return bool(self._answer("listens", address, port))

    def output(self, *command: str) -> str:
        """As recorded."""
        return str(self._answer("output", *command))

    def ragdock(self, query: str) -> Any:
        """As recorded."""
        return self._answer("ragdock", query)

    def now(self) -> float:
        """The time of the recording; 0 when it isn't there."""
        return float(self._recording.get("now", 0.0))


class Recorder:
    """Asks another world, at most once for each question, and remembers what it answered."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._answers: dict[str, dict[str, Any]] = {}
        self._now = world.now()

    def recording(self) -> dict[str, Any]:
        """All answers so far, as `RecordedWorld` takes them."""
        user, group, groups = self._world.identity()
        return {
            "format": FORMAT,
            "now": self._now,
            "identity": [user, group, sorted(groups)],
            "environ": dict(self._world.environ()),
            **self._answers,
            # What other programs have open is nobody's business; only sockets lead to a port.
            "link": {
                path: target
                for path, target in self._answers.get("link", {}).items()
                if "/fd/" not in path or str(target).startswith("socket:")
            },
        }

    def _ask(self, method: str, ask: Callable[[], Any], *arguments: object) -> Any:
        answers = self._answers.setdefault(method, {})
        key = " ".join(str(argument) for argument in arguments)
        if key not in answers:
            try:
                answers[key] = ask()
            except WorldError as exc:
                answers[key] = {_ERROR: [exc.kind, exc.detail]}
        found = answers[key]
        if isinstance(found, dict) and found.keys() == {_ERROR}:
            raise WorldError(*found[_ERROR])
        return found

    def engine(self, path: str) -> Any:
        """Asked once."""
        return self._ask("engine", lambda: self._world.engine(path), path)

    def read(self, path: str) -> str:
        """Asked once."""
        return str(self._ask("read", lambda: self._world.read(path), path))

    def entries(self, path: str) -> list[str]:
        """Asked once."""
        return list(self._ask("entries", lambda: self._world.entries(path), path))

    def link(self, path: str) -> str:
        """Asked once."""
        return str(self._ask("link", lambda: self._world.link(path), path))

    def stat(self, path: str) -> FileStat:
        """Asked once."""
        return FileStat(**self._ask("stat", lambda: asdict(self._world.stat(path)), path))

    def space(self, path: str) -> Space:
        """Asked once."""
        return Space(**self._ask("space", lambda: asdict(self._world.space(path)), path))

    def writable(self, path: str) -> bool:
        """Asked once."""
        return bool(self._ask("writable", lambda: self._world.writable(path), path))

    def environ(self) -> Mapping[str, str]:
        """Of the world."""
        return self._world.environ()

    def identity(self) -> tuple[int, int, frozenset[int]]:
        """Of the world."""
        return self._world.identity()

    def redis(self, *command: str) -> Any:
        """Asked once."""
        return self._ask("redis", lambda: self._world.redis(*command), *command)

    def resolve(self, name: str) -> tuple[list[str], float]:
        """Asked once."""
        addresses, seconds = self._ask("resolve", lambda: list(self._world.resolve(name)), name)
        return list(addresses), float(seconds)

    def connect(self, host: str, port: int) -> float:
        """Asked once."""
        return float(self._ask("connect", lambda: self._world.connect(host, port), host, port))

    def listens(self, address: str, port: int) -> bool:
        """Asked once."""
        ask = lambda: self._world.listens(address, port)  # noqa: E731 - as short as its siblings
        return bool(self._ask("listens", ask, address, port))

    def output(self, *command: str) -> str:
        """Asked once."""
        return str(self._ask("output", lambda: self._world.output(*command), *command))

    def ragdock(self, query: str) -> Any:
        """Asked once."""
        return self._ask("ragdock", lambda: self._world.ragdock(query), query)

    def now(self) -> float:
        """The time when recording began: one run has one now."""
        return self._now


def read_recording(path: Path) -> RecordedWorld:
    """The world of a file. Raises `InputError` when the file isn't a recording."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"{path} can't be read as a recording: {exc}.", field="FILE") from exc
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} is no recording of the doctor's.", field="FILE")
    return RecordedWorld(found)


def write_recording(recording: Mapping[str, Any], path: Path) -> None:
    """Write what `read_recording` reads. Raises `InputError` when the file can't be written."""
    text = json.dumps(recording, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InputError(f"{path} can't be written: {exc.strerror}.", field="FILE") from exc
