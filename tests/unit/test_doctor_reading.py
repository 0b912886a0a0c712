"""The doctor's small readers: compose files by outline, archives, times, and lines that mend."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ragdock.ops.doctor.mending import override, set_variables
from ragdock.ops.doctor.outline import children, outline
from ragdock.ops.doctor.recorded import RecordedWorld
from ragdock.ops.doctor.stack import Container, dig, seconds_of
from ragdock.ops.doctor.tar import file_in, first_member

ROOT = Path(__file__).resolve().parents[2]


def keys(value: object, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every path of keys in what a YAML reader made of a file."""
    if isinstance(value, dict):
        below = [keys(item, (*above, str(key))) for key, item in value.items()]
        return {(*above, str(key)) for key in value}.union(*below)
    return set()


def test_the_outline_sees_the_keys_that_a_yaml_reader_sees() -> None:
    """Of our own compose file: only what stands in braces or comes from an anchor is missed."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    seen = {line.path for line in outline(text)}
    wanted = keys(yaml.safe_load(text))
    top = {path for path in wanted if len(path) <= 2}
    assert top <= seen
    assert {path for path in seen if "-" not in path and "<<" not in path} <= wanted


def test_comments_quotes_and_blocks_hide_nothing_and_add_nothing() -> None:
    """A `#` in quotes is text, a block scalar's lines are no keys, list items keep their list."""
    text = (
        "services:  # all\n"
        '  web:\n    image: "a#b"\n    command: |\n      name: not-a-key\n'
        "    env_file:\n    - one.env\n    - path: two.env\n      required: false\n"
        "  'db':\n    image: x\n"
    )
    lines = outline(text)
    assert {line.path: line.value for line in lines}["services", "web", "image"] == '"a#b"'
    assert not any("name" in line.path for line in lines)
    assert [line.value for line in children(lines, "services", "web", "env_file")] == [
        "one.env",
        "path: two.env",
    ]
    assert [line.path[-1] for line in children(lines, "services")] == ["web", "db"]


@given(st.text(max_size=300))
def test_no_text_breaks_the_outline(text: str) -> None:
    """Whatever stands in a file."""
    assert isinstance(outline(text), list)


def archive(name: str, content: bytes, **fields: object) -> str:
    """A tar archive of one member, as the engine's answer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue().decode("latin-1")


def test_a_file_comes_out_of_an_archive() -> None:
    """Content and mode, also behind an extended header; links and directories are told apart."""
    assert file_in(archive("entrypoint.sh", b"#!/bin/sh\r\n", mode=0o755)) == "#!/bin/sh\r\n"
    long = first_member(archive("d/" * 80 + "ü.sh", b"x" * 600, mode=0o644))
    assert long is not None
    assert (long.kind, long.mode, len(long.content)) == ("0", 0o644, 600)
    link = first_member(archive("sh", b"", type=tarfile.SYMTYPE, linkname="/bin/dash"))
    assert link is not None
    assert (link.kind, link.target) == ("2", "/bin/dash")
    assert file_in(archive("d", b"", type=tarfile.DIRTYPE)) is None


@given(st.text(max_size=700))
def test_no_text_breaks_the_archive_reader(text: str) -> None:
    """What is no archive has no member."""
    assert first_member(text) is None


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T01:00:00.500000000+01:00", 0.5),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        ("soon", None),
        ("2026-13-45T99:00:00Z", None),
    ],
)
def test_times_of_the_engine(stamp: str, seconds: float | None) -> None:
    """Nanoseconds, offsets, and the year 1 that means never."""
    assert seconds_of(stamp) == seconds


def test_digging_survives_every_shape() -> None:
    """A key that isn't there, or a value of another kind, is None."""
    assert dig({"a": [{"b": 1}]}, "a", 0, "b") == 1
    for path in (("x",), ("a", "b"), ("a", 5), ("a", 0, "b", "c")):
        assert dig({"a": [{"b": 1}]}, *path) is None


# ---- lines that mend -----------------------------------------------------------------------------


def stack(tmp_path: Path, dotenv: str) -> tuple[RecordedWorld, Container]:
    """A world with a folder, and a container of its compose project."""
    (tmp_path / ".env").write_text(dotenv)
    world = RecordedWorld(
        {
            "environ": {"PWD": str(tmp_path)},
            "read": {f"{tmp_path}/.env": dotenv},
            "output": {"docker-compose version --short": "1.29.2"},
        }
    )
    prefix = "com.docker.compose."
    labels = {
        f"{prefix}project": "rag",
        f"{prefix}service": "web",
        f"{prefix}project.working_dir": str(tmp_path),
        f"{prefix}project.config_files": "docker-compose.yml",
    }
    return world, Container({"Config": {"Labels": labels}})


def paste(lines: tuple[str, ...], folder: Path) -> None:
    """Run all but the last line, which would start containers."""
    assert lines[-1].startswith("docker-compose -p rag up -d")
    subprocess.run(["sh", "-ec", "\n".join(lines[:-1])], cwd=folder, check=True)


@pytest.mark.parametrize("dotenv", ["", "A=1\n", "A=1"])
def test_a_variable_gets_a_line_of_its_own(tmp_path: Path, dotenv: str) -> None:
    """Also when the file's last line has no end."""
    world, container = stack(tmp_path, dotenv)
    paste(set_variables(world, container, WEB_PORT=8001, USER_ID=7), tmp_path)
    lines = [line for line in (tmp_path / ".env").read_text().splitlines() if line]
    assert lines == [*dotenv.split(), "WEB_PORT=8001", "USER_ID=7"]


def test_two_overrides_lie_side_by_side(tmp_path: Path) -> None:
    """Each is a file of valid YAML, the last COMPOSE_FILE names both, and yours is untouched."""
    (tmp_path / "docker-compose.yml").write_text("services: {}\n")
    world, container = stack(tmp_path, "")
    paste(override(world, container, ["init: true"]), tmp_path)
    paste(override(world, container, ["shm_size: 256m"]), tmp_path)
    last = (tmp_path / ".env").read_text().splitlines()[-1]
    names = last.removeprefix("COMPOSE_FILE=").split(":")
    assert names == [
        "docker-compose.yml",
        "docker-compose.doctor-web-init.yml",
        "docker-compose.doctor-web-shm_size.yml",
    ]
    assert yaml.safe_load((tmp_path / names[1]).read_text()) == {
        "services": {"web": {"init": True}}
    }
    assert (tmp_path / "docker-compose.yml").read_text() == "services: {}\n"
