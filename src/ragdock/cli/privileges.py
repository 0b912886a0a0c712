"""Starting as root where a platform mounts volumes that belong to root, and not staying it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ragdock.errors import ConfigurationError

__all__ = ["RunAs", "become"]

RunAs: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="UID:GID",
        help="Started by root: give the data directory to this user, and go on as this user.",
    ),
]


def become(user: str, data_dir: Path) -> None:
    """Own the data directory and drop root for good; nothing for who is that user already.

    For volumes of Render, Railway and Fly, which are mounted when the image can't change them any
    more. Raises `ConfigurationError` when the user is root or can't be read, or the rights lack.
    """
    numbers = re.fullmatch(r"(\d{1,9}):(\d{1,9})", user)
    if numbers is None or "0" in numbers.groups():
        raise ConfigurationError(f"--run-as {user}: give two numbers from 1 on, such as 1000:1000.")
    uid, gid = (int(number) for number in numbers.groups())
    if (os.geteuid(), os.getegid()) == (uid, gid):
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        _give(data_dir, uid, gid)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError as exc:
        raise ConfigurationError(
            f"--run-as {user}: the process is user {os.geteuid()} and may not do that; start it "
            f"as root with the capabilities CHOWN, SETUID and SETGID, or as {user} without "
            "--run-as."
        ) from exc


def _give(data_dir: Path, uid: int, gid: int) -> None:
    """Only what belongs to others is touched, so a start with a million files stays quick."""
    for top, directories, files in os.walk(data_dir):
        for path in (Path(top), *(Path(top, name) for name in (*directories, *files))):
            found = path.lstat()
            if (found.st_uid, found.st_gid) != (uid, gid):
                os.lchown(path, uid, gid)
