"""`--run-as`: who may become whom. tests/container has a volume that belongs to root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragdock.cli.privileges import become
from ragdock.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
UID = 54321


def test_who_is_that_user_already_goes_on(tmp_path: Path) -> None:
    """The same command works where the platform starts the image as its own user."""
    if os.geteuid() == 0:
        code = (
            "import os, sys; from pathlib import Path; from ragdock.cli.privileges import become\n"
            f"os.setgid({UID}); os.setuid({UID}); become('{UID}:{UID}', Path('/nonexistent'))"
        )
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, check=True
        )
    else:
        become(f"{os.geteuid()}:{os.getegid()}", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("user", ["0:0", "1000:0", "root", "1000", "-1:5", ""])
def test_users_that_are_none_are_refused(tmp_path: Path, user: str) -> None:
    """Root, names and halves are refused before anything is changed."""
    with pytest.raises(ConfigurationError, match="--run-as"):
        become(user, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_who_lacks_the_rights_is_told_which(tmp_path: Path) -> None:
    """A process without root says what it needs."""
    code = (
        "import os, sys; from pathlib import Path; from ragdock.cli.privileges import become\n"
        "from ragdock.errors import ConfigurationError\n"
        "if os.geteuid() == 0: os.setgid(54322); os.setuid(54322)\n"
        "try: become('54321:54321', Path('/tmp'))\n"
        "except ConfigurationError as exc: print(exc)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CHOWN, SETUID and SETGID" in ran.stdout
