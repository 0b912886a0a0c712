"""The image: what is in it, what is not, how large it is, and what a second build reuses."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import BASE_IMAGES, IMAGE, ROOT, build, copy_context, docker, inspect

# 150 MB, and 5 MB for OpenTelemetry (docs/decisions/0018-tracing.md).
BUDGET_BYTES = 155_000_000
HARDENED = ("--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")
CANARY = "canary-8c1f2e7d"


def python(image: str, code: str, *options: str) -> str:
    return docker("run", *HARDENED, *options, image, "python", "-c", code)


def layers(image: str) -> list[str]:
    # An image of labels alone has none.
    return list(inspect(image)["RootFS"].get("Layers", ()))


@pytest.fixture(scope="module")
def second_image(
    image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, float]]:
    """A build after an edit of one source file, with canaries in all that must stay outside."""
    context = copy_context(tmp_path_factory.mktemp("second") / "context")
    with (context / "src/ragdock/api/app.py").open("a", encoding="utf-8") as source:
        source.write("\nEDITED = True\n")
    for name in (
        ".env", ".git/config", "data/catalogue.sqlite", "tests/test_x.py", "tour.ipynb", "id.key",
        "src/ragdock/.env", "src/ragdock/api/server.pem", "src/ragdock/__pycache__/x.pyc",
        "scripts/other.py", "requirements/dev.txt",
    ):  # fmt: skip
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CANARY, encoding="utf-8")
    tag = f"{IMAGE}-second"
    seconds = build(context, tag)
    yield tag, seconds
    docker("rmi", tag)


def test_the_layers_over_the_base_stay_in_budget(image: str, report: Callable[[str], None]) -> None:
    """Dependencies, model and code weigh at most 156 MB over the base image."""
    history = docker("history", "--no-trunc", "--format", "{{json .}}", image)
    for line in history.splitlines():
        layer = json.loads(line)
        if not layer["Size"].startswith("0B"):
            report(f"layer {layer['Size']:>8}  {layer['CreatedBy'][:80]}")
    base = inspect(base_of(image))["Size"]
    total = inspect(image)["Size"]
    report(
        f"image {total / 1e6:.1f} MB = base {base / 1e6:.1f} + ours {(total - base) / 1e6:.1f} MB"
    )
    assert total - base <= BUDGET_BYTES


def base_of(image: str) -> str:
    """The local image that ours was built on."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    official = next(x[9:] for x in dockerfile.splitlines() if x.startswith("ARG BASE="))
    base = BASE_IMAGES.get("BASE_IMAGE", official)
    ours, theirs = layers(image), layers(base)
    assert ours[: len(theirs)] == theirs
    return base


def test_an_edit_of_the_code_reuses_every_other_layer(
    image: str, second_image: tuple[str, float], report: Callable[[str], None]
) -> None:
    """After an edit of one source file only the last layer, our code, is new."""
    tag, seconds = second_image
    report(f"image built again after an edit in {seconds:.0f} s")
    before, after = layers(image), layers(tag)
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


def test_nothing_ignored_gets_into_the_image(second_image: tuple[str, float]) -> None:
    """Canaries in .env, keys, tests and notebooks appear in no layer and not in the history."""
    tag, _ = second_image
    config = docker("history", "--no-trunc", tag) + json.dumps(inspect(tag))
    assert CANARY not in config
    # `docker save` holds every layer, also what a later one would hide.
    with subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        overlap = b""
        while part := saving.stdout.read(1 << 20):
            assert CANARY.encode() not in overlap + part
            overlap = part[-len(CANARY) :]
    assert saving.returncode == 0


def test_the_configuration_says_how_to_run_it(image: str) -> None:
    """Numeric user, exec-form command, SIGTERM, one port, no volume, unbuffered output."""
    config = inspect(image)["Config"]
    assert config["User"] == "1000:1000"
    assert config["Cmd"] == ["python", "m3_1_dockerize.py", "--serve"]
    assert not config.get("Entrypoint")
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert not config.get("Volumes")
    environment = dict(pair.split("=", 1) for pair in config["Env"])
    assert environment["PYTHONUNBUFFERED"] == environment["PYTHONFAULTHANDLER"] == "1"
    assert environment["RAG_HOST"] == "0.0.0.0"
    assert not [name for name in environment if "PASSWORD" in name or "KEY" in name.split("_")]
    assert config["Labels"]["org.opencontainers.image.title"] == "rag-api"


def test_the_health_check_needs_no_shell_and_no_curl(image: str) -> None:
    """The image probes itself with Python, in exec form, and waits longer than the probe does."""
    check = inspect(image)["Config"]["Healthcheck"]
    assert check["Test"] == ["CMD", "python", "m3_1_dockerize.py", "--health"]
    assert check["Timeout"] == 5_000_000_000
    assert float(python(image, PROBE_TIMEOUT)) < 5


PROBE_TIMEOUT = "from ragdock.cli import probe; print(probe.DEFAULT_TIMEOUT_SECONDS)"


def test_it_runs_without_rights(image: str) -> None:
    """As uid and gid 1000, without capabilities, it can write to /tmp and /data alone."""
    found = json.loads(python(image, RIGHTS))
    assert found["ids"] == [1000, 1000, 1000, 1000]
    assert int(found["capabilities"], 16) == 0
    assert found["writable"] == ["/data"]
    assert found["home"] == "/tmp"


RIGHTS = """
import json, os
status = dict(l.split(":", 1) for l in open("/proc/self/status"))
writable = []
# Read-only as it is mounted, the owner's bits still say who could write if it weren't.
for top, directories, files in os.walk("/"):
    if top == "/":
        directories[:] = [d for d in directories if d not in ("proc", "sys", "dev", "tmp")]
    for name in [*directories, *files]:
        path = os.path.join(top, name)
        try:
            info = os.lstat(path)
        except OSError:
            continue
        if (info.st_uid == 1000 or info.st_mode & 0o002) and info.st_mode & 0o170000 != 0o120000:
            if not info.st_mode & 0o1000:
                writable.append(path)
print(json.dumps({
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()],
    "capabilities": status["CapEff"].strip(),
    "writable": writable,
    "home": os.path.expanduser("~"),
}))
"""


def test_it_carries_no_tools_and_no_setuid_programs(image: str) -> None:
    """No compiler, no pip, no cache of pip, and no file that changes who runs it."""
    absent = "gcc cc make git curl wget pip pip3 uv sudo strip"
    found = docker("run", *HARDENED, image, "sh", "-c", f"command -v {absent}; true")
    assert found == ""
    setuid = docker(
        "run", "--rm", "-u", "0", image, "find", "/", "-xdev", "-perm", "/6000", "-type", "f"
    )
    assert setuid == ""
    assert python(image, "import importlib.util as u; print(u.find_spec('pip'))") == "None"
    listed = docker("run", "--rm", "-u", "0", image, "sh", "-c", "ls -d /root/.cache || true")
    assert listed == ""


def test_accounts_are_unique_and_locked(image: str) -> None:
    """No two accounts share an id and none has an empty password."""
    exported = docker("create", image)
    try:
        users = archive_member(exported, "/etc/passwd")
        shadow = archive_member(exported, "/etc/shadow")
    finally:
        docker("rm", exported)
    ids = [line.split(":")[2] for line in users.splitlines()]
    assert len(ids) == len(set(ids))
    assert all(line.split(":")[1] for line in shadow.splitlines())


def archive_member(name: str, path: str) -> str:
    raw = subprocess.run(["docker", "cp", f"{name}:{path}", "-"], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(raw.stdout)) as archive:
        member = archive.extractfile(Path(path).name)
        assert member is not None
        return member.read().decode()


def test_what_the_server_loads_is_compiled(image: str, report: Callable[[str], None]) -> None:
    """A read-only container can't write bytecode, so the image brings what the server imports."""
    loaded = json.loads(python(image, UNCOMPILED))
    report(f"modules loaded {loaded['modules']}, of them not compiled {len(loaded['missing'])}")
    assert len(loaded["missing"]) <= 5, loaded["missing"]


UNCOMPILED = """
import json, os, sys
import ragdock.api.app, ragdock.bootstrap
modules = [m for m in sys.modules.values() if getattr(m, "__cached__", None)]
missing = [m.__name__ for m in modules if not os.path.exists(m.__cached__)]
print(json.dumps({"modules": len(modules), "missing": missing}))
"""


def test_the_probe_is_cheap(image: str, report: Callable[[str], None]) -> None:
    """The health check loads neither the package's heavy parts nor the standard library's."""
    code = (
        "import sys, time; t = time.perf_counter(); sys.argv = ['x']; import m3_1_dockerize;"
        " m3_1_dockerize.main(['--health', '--timeout', '1']);"
        " print(time.perf_counter() - t, [m for m in sys.modules if m in"
        " ('ssl', 'http.client', 'urllib.request', 'asyncio', 'pydantic', 'numpy', 'typer')])"
    )
    seconds, loaded = python(image, code).split(" ", 1)
    report(f"health probe: {float(seconds) * 1000:.0f} ms in Python (nobody listening)")
    assert loaded == "[]"
