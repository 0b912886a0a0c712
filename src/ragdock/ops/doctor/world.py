"""What a check may look at. A live world asks the machine; a recorded one is a file of answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["FileStat", "Space", "World", "WorldError"]


class WorldError(Exception):
    """Something could not be asked. `kind` is machine-readable; the text is for people.

    Kinds: `absent` (no such socket, file, host), `refused`, `denied` (permission), `timeout`,
    `unresolved` (a name without address), `unresolvable` (no name service at all), `status` (an
    answer that says no: `detail` has its text), `unsupported` (not on this kernel or machine).
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True)
class FileStat:
    """Of a path: type (`file`, `dir`, `socket`, `link`, `other`), owner, mode bits, size, age."""

    kind: str
    uid: int
    gid: int
    mode: int
    size_bytes: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class Space:
    """Of a file system: bytes and inodes, all and free (to a user who isn't root)."""

    size_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int


class World(Protocol):
    """Read-only questions, each bounded in time; all but `now` may raise `WorldError`.

    Paths are absolute. What a recorded world has no answer for is `absent`.
    """

    def engine(self, path: str) -> Any:
        """The JSON that `GET {path}` of the Engine API answers (`/info`, `/containers/json?all=1`).

        Answers that aren't JSON (`/logs`) are text.
        """
        ...

    def read(self, path: str) -> str:
        """A file's text: the first 256 KiB, undecodable bytes replaced."""
        ...

    def entries(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def link(self, path: str) -> str:
        """Where a symbolic link points (`/proc/1/fd/3` -> `socket:[123]`)."""
        ...

    def stat(self, path: str) -> FileStat:
        """Of what the path leads to."""
        ...

    def space(self, path: str) -> Space:
        """Of the file system on which the path lies."""
        ...

    def writable(self, path: str) -> bool:
        """Whether this process may make a file in the directory (tried: a file comes and goes)."""
        ...

    def environ(self) -> Mapping[str, str]:
        """The environment, values of secrets replaced by their length."""
        ...

    def identity(self) -> tuple[int, int, frozenset[int]]:
        """This process's effective user and group, and its other groups."""
        ...

    def redis(self, *command: str) -> Any:
        """What the Redis of the settings answers to a command that only reads.

        An error that Redis answers is a `WorldError` of kind `status` with its text.
        """
        ...

    def resolve(self, name: str) -> tuple[list[str], float]:
        """A host name's addresses, and the seconds that it took."""
        ...

    def connect(self, host: str, port: int) -> float:
        """Open a TCP connection and close it; the seconds that it took."""
        ...

    def listens(self, address: str, port: int) -> bool:
        """Whether binding the address and port on this machine fails because somebody has it."""
        ...

    def output(self, *command: str) -> str:
        """What a harmless command prints (`git rev-parse HEAD`, `docker-compose version`).

        One that fails is a `WorldError` of kind `status` with what it wrote to stderr.
        """
        ...

    def ragdock(self, query: str) -> Any:
        """What ragdock knows of itself, as JSON; a server may run meanwhile, and isn't held up.

        `settings` (secrets as whether they are set; wrong ones are a `WorldError` of kind `status`
        that says what is wrong), `store` (ledger, collections, keys), `files` (SQLite's own check
        of each, as far as time allows), `model`, `audit`, `health` (of the server at the loopback;
        `health 8001` of the one on that port).
        """
        ...

    def now(self) -> float:
        """Seconds since the epoch (of the recording)."""
        ...
