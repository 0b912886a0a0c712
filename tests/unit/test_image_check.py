"""The image check: what it says of our files, and that each of its checks can fail."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from imagecheck import compose, dockerfile, environment, image, kubernetes, rebuild, runner, sbom
from imagecheck.checkpoints import ALL, LEVELS, Checkpoint
from imagecheck.subject import Check, Entry, Subject, ToolError, entries, parse_dockerfile, run

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "Dockerfile", "docker-compose.yml", ".dockerignore", ".gitignore", ".gitattributes",
    ".env.example", "requirements.txt", "src/ragdock/settings.py", "renovate.json", ".ci/run",
)  # fmt: skip
STAGE = "FROM ${BASE} AS final\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the files that are checked, to be broken."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_our_files_hold_what_the_table_says() -> None:
    """Without tools and engine, every checkpoint of the table is a pass or an exception."""
    outcomes = runner.run_all(Subject(ROOT), ALL, {"files"})
    assert [(o.checkpoint.id, o.problems) for o in outcomes if o.problems] == []


def test_there_are_68_checkpoints() -> None:
    """A1-A29, B1-B5, C1-C20, D1-D14, each with a check or a test that holds it, even exceptions."""
    expected = [f"{k}{n}" for k, last in zip("ABCD", (29, 5, 20, 14), strict=True)
                for n in range(1, last + 1)]  # fmt: skip
    assert [each.id for each in ALL] == expected
    assert len(ALL) == 68
    assert all(each.how for each in ALL)


def test_the_tests_that_the_table_names_exist() -> None:
    """A checkpoint that leaves something to a container test names one that is there."""
    written = {
        name
        for path in (ROOT / "tests/container").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert {name for each in ALL for name in each.tests} <= written


DOCKERFILE = "Dockerfile"
COMPOSE = "docker-compose.yml"
ENV = ".env.example"
# Check, file, pattern, what replaces it, part of what is said.
BROKEN: list[tuple[Check, str, str, str, str]] = [
    (dockerfile.stages, DOCKERFILE, r"\A.*\Z", "FROM python:3.11\nCMD ['x']\n", "one stage only"),
    (dockerfile.stages, DOCKERFILE, r"^USER 1000:1000\nEXPOSE", "RUN apt-get install gcc\nEXPOSE",
     "runs `apt-get install`"),
    (dockerfile.base_tag, DOCKERFILE, r"python:3\.11-slim-bookworm", "python:latest", "latest"),
    (dockerfile.base_tag, DOCKERFILE, r"python:3\.11-slim-bookworm", "python:3.11", "version and"),
    (dockerfile.base_digest, DOCKERFILE, r"@sha256:\w+", "", "no digest"),
    (dockerfile.base_digest, "renovate.json", r"\A.*\Z", "", "neither"),
    (dockerfile.base_argument, DOCKERFILE, r"^FROM \$\{BASE\} AS app", "FROM debian:12 AS app",
     "debian:12"),
    (dockerfile.order, DOCKERFILE, r"^COPY requirements\.txt \./", "COPY src requirements.txt ./",
     "src is copied before"),
    (dockerfile.lock, "requirements.txt", r"^anyio==\S+", "anyio", "anyio"),
    (dockerfile.lock, "requirements.txt", r" \\\n    --hash=\S+", "", "no hash"),
    (dockerfile.lock, DOCKERFILE, r"--require-hashes", "--upgrade", "without --require-hashes"),
    (dockerfile.no_cache, DOCKERFILE, r"PIP_NO_CACHE_DIR=1", "PIP_X=1", "PIP_NO_CACHE_DIR"),
    (dockerfile.no_secrets, DOCKERFILE, r"^ARG VERSION=", "ARG PYPI_TOKEN\nARG VERSION=",
     "PYPI_TOKEN"),
    (dockerfile.no_secrets, DOCKERFILE, r"HOME=/tmp", "REDIS_PASSWORD=x", "REDIS_PASSWORD"),
    (dockerfile.copy_lists, DOCKERFILE, r"^COPY src \./src", "COPY . .", "COPY . ."),
    (dockerfile.user, DOCKERFILE, r"^USER 1000:1000\nEXPOSE", "EXPOSE", "no USER"),
    (dockerfile.user, DOCKERFILE, r"^USER 1000:1000\nEXPOSE", "USER root\nEXPOSE", "USER root"),
    (dockerfile.ownership, DOCKERFILE, r"COPY --from=app --chown=0:0", "COPY --from=app",
     "without --chown"),
    (dockerfile.health_check, DOCKERFILE, r"^HEALTHCHECK .*\n.*\n", "", "no HEALTHCHECK"),
    (dockerfile.health_check, DOCKERFILE, r"CMD \[.*--health\"\]",
     "CMD curl http://localhost:8000/", "exec form"),
    (dockerfile.health_check, DOCKERFILE, r"CMD \[.*--health\"\]",
     'CMD ["curl", "http://localhost:8000/"]', "localhost"),
    (dockerfile.health_check, DOCKERFILE, r"--timeout=5s ", "", "--timeout="),
    (dockerfile.exec_form, DOCKERFILE, r"^CMD \[.*serve\"\]", "CMD python serve.py", "shell form"),
    (dockerfile.stop_signal, DOCKERFILE, r"^STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "SIGTERM"),
    (dockerfile.labels, DOCKERFILE, r"image\.source=", "image.url=", "source"),
    (dockerfile.no_add, DOCKERFILE, r"^COPY src \./src", "ADD src ./src", "ADD"),
    (dockerfile.apt, DOCKERFILE, r"--no-install-recommends ", "", "--no-install-recommends"),
    (dockerfile.apt, DOCKERFILE, r"^RUN apt-get update \\\n && ", "RUN ", "one RUN"),
    (dockerfile.apt, DOCKERFILE, r" && rm -rf /var/lib/apt/lists/\*", "", "lists"),
    (dockerfile.apt, DOCKERFILE, r"apt-get update", "apt-get update && apt-get -y upgrade",
     "upgrade"),
    (dockerfile.no_sudo, DOCKERFILE, r"y --no-install-recommends binutils",
     "y --no-install-recommends sudo", "sudo"),
    (dockerfile.no_sudo, DOCKERFILE, r"^EXPOSE 8000", "EXPOSE 22", "22"),
    (dockerfile.tls, DOCKERFILE, r"PIP_NO_INPUT=1", "PIP_TRUSTED_HOST=pypi.org", "TRUSTED_HOST"),
    (dockerfile.subset, DOCKERFILE, r"\A", "# syntax=docker/dockerfile:1\n", "frontend"),
    (dockerfile.subset, DOCKERFILE, r"^RUN python -m venv", "RUN --mount=type=cache,target=/r x",
     "BuildKit"),
    (dockerfile.subset, DOCKERFILE, r"^COPY --from=app", "COPY --link --from=app", "--link"),
    (dockerfile.subset, DOCKERFILE, r"^RUN python -m venv", "RUN <<EOF\nEOF\nRUN x", "heredocs"),
    (dockerfile.subset, DOCKERFILE, r"--start-period", "--start-interval", "Docker 25"),
    (dockerfile.fixed_times, DOCKERFILE, r"touch --no-deref", "true --no-deref", "times"),
    (environment.dockerignore, ".dockerignore", r"^\*\n", "", "isn't *"),
    (environment.dockerignore, ".dockerignore", r"^!src/ragdock", "!src/ragdock\n!tests", "!tests"),
    (environment.example, ENV, r"^#RAG_WORKERS=1\n", "", "RAG_WORKERS isn't"),
    (environment.example, ENV, r"\A", "#RAG_NOBODY=1\n", "RAG_NOBODY: nothing reads it"),
    (environment.plain, ENV, r"^#RAG_WORKERS=1", '#RAG_WORKERS="1"', "RAG_WORKERS"),
    (environment.plain, ENV, r"^#RAG_WORKERS=1", "#RAG_WORKERS=1 # one", "RAG_WORKERS"),
    (environment.plain, ENV, r"^#RAG_WORKERS=1", "#RAG_WORKERS=$N", "RAG_WORKERS"),
    (environment.ignored, ".gitignore", r"^\.env\n", "", ".gitignore lacks .env"),
    (environment.ignored, ENV, r"^#REDIS_PASSWORD=", "#REDIS_PASSWORD=hunter2", "REDIS_PASSWORD"),
    (environment.line_ends, ".gitattributes", r"eol=lf", "eol=crlf", "LF"),
    (environment.line_ends, ".ci/run", r"\n", "\r\n", "CR"),
    (compose.no_version, COMPOSE, r"^services:", 'version: "3.8"\nservices:', "version"),
    (compose.waits, COMPOSE, r"service_healthy", "service_started", "healthy"),
    (compose.waits, COMPOSE, r"^    healthcheck:\n(      .*\n)+", "", "no healthcheck"),
    (compose.ports, COMPOSE, r'expose: \["6379"\]', 'ports: ["6379:6379"]', "redis publishes"),
    (compose.ports, COMPOSE, r"\$\{WEB_BIND:-127\.0\.0\.1\}:", "", "every address"),
    (compose.ports, COMPOSE, r"WEB_BIND:-127\.0\.0\.1", "WEB_BIND:-0.0.0.0", "every address"),
    (compose.own_network, COMPOSE, r"^  networks: \[rag-network\]", "", "networks"),
    (compose.capabilities, COMPOSE, r"^  cap_drop: \[ALL\]", "", "cap_drop"),
    (compose.capabilities, COMPOSE, r"^  security_opt: .*", "", "no-new-privileges"),
    (compose.capabilities, COMPOSE, r'^    user: "999:1000"', "", "redis: no user"),
    (compose.read_only, COMPOSE, r"^  read_only: true", "", "read_only"),
    (compose.read_only, COMPOSE, r"/tmp:size=16m,", "/tmp:", "bounded"),
    (compose.limits, COMPOSE, r"^    mem_limit: 256m", "", "mem_limit"),
    (compose.limits, COMPOSE, r"--maxmemory 192mb", "--maxmemory 256mb", "75 %"),
    (compose.limits, COMPOSE, r"^    pids_limit: 128", "", "pids_limit"),
    (compose.restart, COMPOSE, r"^  restart: unless-stopped", "", "no restart"),
    (compose.log_rotation, COMPOSE, r"max-size: 10m, ", "", "log"),
    (compose.grace, COMPOSE, r"stop_grace_period: 20s", "stop_grace_period: 5s", "8 s"),
    (compose.first_process, COMPOSE, r"exec docker-entry", "docker-entry", "shell"),
    (compose.secrets, COMPOSE, r"REDIS_PASSWORD:-\}", "REDIS_PASSWORD:-hunter2}", "has a value"),
    (compose.secrets, COMPOSE, r".*REDIS_PASSWORD_FILE.*\n", "", "from a file"),
    (compose.tags, COMPOSE, r"redis:8[\w.-]*@sha256:\w+", "redis:latest", "redis:latest"),
    (compose.tags, COMPOSE, r"(redis:8[\w.-]*)@sha256:\w+", r"\1", "digest"),
    (compose.nothing_of_the_host, COMPOSE, r"^    pids_limit: 128", "    privileged: true",
     "privileged"),
    (compose.nothing_of_the_host, COMPOSE, r'"redis-data:/data"',
     '"/var/run/docker.sock:/var/run/docker.sock"', "docker.sock"),
    (compose.nothing_of_the_host, COMPOSE, r"^    pids_limit: 128", "    network_mode: host",
     "network_mode"),
    (compose.redis_volume, COMPOSE, r"^  redis-data:", "  other:", "redis-data"),
    (compose.redis_options, COMPOSE, r"--maxmemory-policy allkeys-lru", "", "--maxmemory-policy"),
    (compose.variables, COMPOSE, r"\$\{WEB_PORT:-8000\}", "${WEB_PORT}", "WEB_PORT"),
    (compose.profiles, COMPOSE, r"^    profiles: \[worker\]", "", "worker"),
    (compose.many, COMPOSE, r"^    pids_limit: 128", "    container_name: redis", "container_name"),
    (compose.many, COMPOSE, r"\$\{WEB_PORT:-8000\}:8000", "8000:8000", "fixed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "name", "pattern", "instead", "said"),
    BROKEN,
    ids=[f"{c.__module__.split('.')[1]}.{c.__name__}-{n}" for n, (c, *_) in enumerate(BROKEN)],
)
def test_a_broken_file_is_noticed(
    tree: Path, check: Check, name: str, pattern: str, instead: str, said: str
) -> None:
    """Each check of the files passes ours and names what was broken."""
    assert check(Subject(tree)) == []
    text = (tree / name).read_text(encoding="utf-8")
    flags = re.DOTALL if pattern == r"\A.*\Z" else re.MULTILINE
    changed = re.sub(pattern, instead, text, flags=flags)
    assert changed != text
    (tree / name).write_bytes(changed.encode())
    problems = check(Subject(tree))
    assert said in "\n".join(problems)


SOCKET = "/var/run/docker.sock:/var/run/docker.sock:ro"
EXPORTER: dict[str, Any] = {
    "profiles": ["monitoring"], "networks": ["monitoring"],
    "volumes": ["${DOCKER_SOCKET:-/var/run/docker.sock}:/var/run/docker.sock:ro"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changed", "is_fine"),
    [
        ("exporter", {}, True),
        ("web", {}, False),
        ("exporter", {"profiles": []}, False),
        ("exporter", {"networks": ["monitoring", "rag-network"]}, False),
        ("exporter", {"ports": ["9101:9101"]}, False),
        ("exporter", {"volumes": [SOCKET.removesuffix(":ro")]}, False),
        ("exporter", {"volumes": [{"source": "/etc", "target": "/x"}]}, False),
        ("exporter", {"volumes": ["${HOME_OF_ALL:-/home}:/home"]}, False),
    ],
)
def test_one_service_may_have_the_socket(name: str, changed: dict[str, Any], is_fine: bool) -> None:
    """The exporter alone, in its profile, on its own network, read-only and unpublished."""
    subject = Subject(ROOT)
    subject.__dict__["compose"] = {"services": {name: EXPORTER | changed}}
    assert (compose.nothing_of_the_host(subject) == []) is is_fine


def test_manifests_need_checks_once_they_come(tree: Path) -> None:
    """The exceptions for Kubernetes end when there are manifests."""
    assert kubernetes.absent(Subject(tree)) == []
    (tree / "deploy/k8s").mkdir(parents=True)
    assert "deploy/k8s" in kubernetes.absent(Subject(tree))[0]


def test_every_check_of_files_is_broken_once() -> None:
    """No check of the files is without a broken input above."""
    broken = {check for check, *_ in BROKEN} | {kubernetes.absent}
    assert {check for each in ALL for check in each.files} == broken


# ---- the image, as the engine and the export would show it --------------------------------------

# Put together, so that the search for secrets passes this file.
BEGIN = "-----BEGIN RSA " + "PRIVATE KEY-----"
PASSWD = "root:x:0:0::/root:/bin/bash\nragdock:x:1000:1000::/tmp:/usr/sbin/nologin\n"
GOOD = (
    Entry("/", 0o755, 0, 0, "5"),
    Entry("/data", 0o755, 1000, 1000, "5"),
    Entry("/tmp", 0o1777, 0, 0, "5"),
    Entry("/usr/bin/su", 0, 0, 0, "0"),
    Entry("/usr/local/bin/pip", 0, 0, 0, "0"),
    Entry("/etc/passwd", 0o644, 0, 0, "0", PASSWD),
    Entry("/etc/group", 0o644, 0, 0, "0", "root:x:0:\nragdock:x:1000:\n"),
    Entry("/etc/shadow", 0o640, 0, 42, "0", "root:*:19000:0:99999:7:::\n"),
    Entry("/app/src/ragdock/x.py", 0o644, 0, 0, "0", f"PEM = '{BEGIN}'"),
    Entry("/app/src/ragdock/__pycache__/x.cpython-311.pyc", 0o644, 0, 0, "0"),
)
BAD: list[tuple[Check, Entry, str]] = [
    (image.setuid, Entry("/usr/bin/mount", 0o4755, 0, 0, "0"), "/usr/bin/mount"),
    (image.setuid, Entry("/usr/bin/wall", 0o2755, 0, 5, "0"), "/usr/bin/wall"),
    (image.writable, Entry("/app/x.py", 0o644, 1000, 1000, "0"), "/app/x.py"),
    (image.writable, Entry("/opt/x", 0o666, 0, 0, "0"), "/opt/x"),
    (image.writable, Entry("/opt/d", 0o775, 0, 1000, "5"), "/opt/d"),
    (image.accounts, Entry("/etc/passwd", 0o644, 0, 0, "0", PASSWD + "toor:x:0:0::/:/bin/sh\n"),
     "id 0 twice"),
    (image.accounts, Entry("/etc/passwd", 0o644, 0, 0, "0", "root::0:0::/:/bin/sh\n"),
     "root has no password"),
    (image.accounts, Entry("/etc/shadow", 0o640, 0, 0, "0", "root::19000::::::\n"), "empty"),
    (image.no_tools, Entry("/usr/bin/gcc", 0o755, 0, 0, "0"), "/usr/bin/gcc"),
    (image.no_tools, Entry("/usr/local/bin/pip", 0o755, 0, 0, "0"), "/usr/local/bin/pip"),
    (image.no_tools, Entry("/root/.cache/pip/x", 0o644, 0, 0, "0"), "/root/.cache"),
    (image.no_left_overs, Entry("/app/.git/config", 0o644, 0, 0, "0"), "/app/.git/config"),
    (image.no_left_overs, Entry("/app/tour.ipynb", 0o644, 0, 0, "0"), "tour.ipynb"),
    (image.no_credentials, Entry("/app/.env", 0o600, 0, 0, "0"), "/app/.env"),
    (image.no_credentials, Entry("/root/.netrc", 0o600, 0, 0, "0"), ".netrc"),
    (image.no_credentials, Entry("/x", 0o644, 0, 0, "0", f"{BEGIN}\n"
     "MIIEpAIBAAKCAQEAxxxxxxxx"), "private key"),
    (image.compiled, Entry("/app/src/ragdock/y.py", 0o644, 0, 0, "0"), "y.py isn't compiled"),
]  # fmt: skip


def exported(*changed: Entry) -> Subject:
    """A subject whose root file system is GOOD, with some entries added or replaced."""
    found = {entry.path: entry for entry in (*GOOD, *changed)}
    subject = Subject(ROOT)
    subject.__dict__["rootfs"] = list(found.values())
    return subject


@pytest.mark.parametrize(("check", "entry", "said"), BAD, ids=lambda v: getattr(v, "path", None))
def test_a_bad_file_of_the_image_is_noticed(check: Check, entry: Entry, said: str) -> None:
    """Each check of the root file system passes a good one and names a bad entry."""
    assert check(exported()) == []
    assert said in "\n".join(check(exported(entry)))


CONFIG: dict[str, Any] = {
    "User": "1000:1000",
    "Cmd": ["python", "m3_1_dockerize.py", "--serve"],
    "StopSignal": "SIGTERM",
    "Healthcheck": {"Test": ["CMD", "python", "x.py"], "Timeout": 5_000_000_000},
    "Env": ["PYTHONUNBUFFERED=1", "PYTHONFAULTHANDLER=1"],
    "Labels": {f"org.opencontainers.image.{name}": "x" for name in dockerfile.LABELS},
}


@pytest.mark.parametrize(
    ("check", "changed", "said"),
    [
        (image.configured_user, {"User": ""}, "''"),
        (image.configured_user, {"User": "ragdock"}, "ragdock"),
        (image.configured_command, {"Cmd": ["/bin/sh", "-c", "x"]}, "/bin/sh"),
        (image.configured_command, {"StopSignal": "SIGKILL"}, "SIGTERM"),
        (image.configured_health, {"Healthcheck": None}, "Healthcheck"),
        (image.configured_health, {"Healthcheck": {"Test": ["CMD-SHELL", "x"]}}, "CMD-SHELL"),
        (image.configured_health, {"Healthcheck": {"Test": ["CMD", "curl"]}}, "curl"),
        (image.unbuffered, {"Env": []}, "PYTHONUNBUFFERED"),
        (image.fault_handler, {"Env": ["PYTHONHASHSEED=0"]}, "PYTHONHASHSEED"),
        (image.labelled, {"Labels": {}}, "source"),
    ],
)
def test_a_bad_configuration_is_noticed(check: Check, changed: dict[str, Any], said: str) -> None:
    """Each check of the image's configuration passes a good one and names what is wrong."""
    subject = Subject(ROOT)
    subject.__dict__["inspected"] = {"Config": CONFIG}
    assert check(subject) == []
    subject.__dict__["inspected"] = {"Config": CONFIG | changed}
    assert said in "\n".join(check(subject))


def test_an_export_is_read_whole() -> None:
    """Paths get a leading slash, small files their text, large ones none."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("./etc/passwd", b"root"), ("big", b"x" * 300_000)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o4755
            archive.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        found = list(entries(archive))
    assert found[0] == Entry("/etc/passwd", 0o4755, 0, 0, "0", "root")
    assert (found[1].path, found[1].text) == ("/big", "")


# ---- builds, the bill of materials, the runner ----------------------------------------------


def test_layers_that_differ_are_named() -> None:
    """Two builds are equal but for BuildKit's empty layer; a layer that differs has its number."""
    one = rebuild.Build("BuildKit", ("sha256:a", rebuild.EMPTY_LAYER, "sha256:b"), 1)
    two = rebuild.Build("classic", ("sha256:a", "sha256:b"), 1)
    assert rebuild.differences(one, two) == []
    other = rebuild.Build("classic", ("sha256:a", "sha256:c"), 1)
    assert rebuild.differences(one, other) == ["layer 2 of 2: BuildKit sha256:b, classic sha256:c"]
    fewer = rebuild.Build("classic", ("sha256:a",), 1)
    assert rebuild.differences(one, fewer) == ["BuildKit made 2 layers, classic 1"]


def bill(**changed: Any) -> dict[str, Any]:
    """A bill of materials of one package of each kind."""
    numpy = {"type": "library", "name": "numpy", "version": "2.0", "purl": "pkg:pypi/numpy@2.0",
             "licenses": [{"expression": "BSD-3-Clause AND Zlib"}]} | changed  # fmt: skip
    debian = {"type": "library", "name": "dash", "version": "0.5", "purl": "pkg:deb/debian/dash"}
    python = {"type": "application", "name": "python", "version": "3.11.2"}
    return {"components": [numpy, debian, python, sbom.MODEL]}


@pytest.fixture
def one_package(tmp_path: Path) -> Subject:
    """An image with NumPy and dash."""
    lock = (
        "numpy==2.0 \\\n    --hash=sha256:0\npackaging==1 \\\n    --hash=sha256:0\n"
        "colorama==1 ; sys_platform == 'win32' \\\n    --hash=sha256:0\n"
        "async-timeout==1 ; python_full_version < '3.11' \\\n    --hash=sha256:0\n"
    )
    (tmp_path / "Dockerfile").write_text("RUN rm -rf packaging packaging-*\n", encoding="utf-8")
    (tmp_path / "requirements.txt").write_text(lock, encoding="utf-8")
    status = (
        "Package: dash\nStatus: install ok installed\nVersion: 0.5\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    subject = Subject(tmp_path)
    subject.__dict__["rootfs"] = [Entry("/var/lib/dpkg/status", 0o644, 0, 0, "0", status)]
    return subject


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"version": "2.1"}, "numpy 2.0 isn't in the bill"),
        ({"name": "scipy"}, "numpy 2.0 isn't in the bill"),
        ({"licenses": []}, "numpy: licence unknown"),
        ({"licenses": [{"license": {"id": "GPL-3.0-only"}}]}, "numpy: licence GPL-3.0-only"),
    ],
)
def test_the_bill_of_materials_is_checked(
    one_package: Subject, changed: dict[str, Any], said: str
) -> None:
    """A package of the lock that is missing, or under a licence that isn't permitted, is named."""
    problems = sbom.problems_of(bill(**changed), one_package)
    assert (said in "\n".join(problems)) if said else problems == []


def test_debian_and_the_model_belong_to_the_bill(one_package: Subject) -> None:
    """A bill without Debian's packages, or without the model, is incomplete."""
    whole = bill()["components"]
    assert "dash 0.5" in sbom.problems_of({"components": [whole[0], *whole[2:]]}, one_package)[0]
    assert "model" in sbom.problems_of({"components": whole[:3]}, one_package)[0]


@pytest.mark.parametrize(
    ("marker", "python", "expected"),
    [
        ("", "3.11.2", True),
        ("python_full_version < '3.11.3'", "3.11.2", True),
        ("python_full_version < '3.11.3'", "3.11.16", False),
        ("sys_platform == 'win32'", "3.11.2", False),
        ("sys_platform != 'win32'", "3.11.2", True),
        ("python_full_version >= '3.12' and sys_platform == 'emscripten'", "3.13.0", False),
        ("platform_system == 'Windows' or sys_platform == 'linux'", "3.11.2", True),
    ],
)
def test_markers_of_the_lock_are_understood(marker: str, python: str, expected: bool) -> None:
    """What uv writes behind a package decides whether the image has it."""
    assert sbom.holds(marker, python) is expected


MIT_CLASSIFIER = "Classifier: License :: OSI Approved :: MIT License\n"


def test_licences_come_from_the_metadata() -> None:
    """Expression, then a known identifier, then the classifiers of a package's METADATA."""
    texts = {
        "one": "Name: one\nLicense-Expression: MIT OR Apache-2.0\n",
        "two": "Name: Two\nLicense: ISC\n",
        "three": "Name: three\nLicense: see file\n" + MIT_CLASSIFIER,
        "four": "Name: four\n",
    }
    path = "/opt/venv/lib/python3.11/site-packages/{}-1.dist-info/METADATA"
    subject = exported(*(Entry(path.format(n), 0o644, 0, 0, "0", t) for n, t in texts.items()))
    expected = {"one": "MIT OR Apache-2.0", "two": "ISC", "three": "MIT", "four": ""}
    assert sbom.licences_declared(subject) == expected


def test_the_report_and_the_bill_are_written(tmp_path: Path) -> None:
    """The report has a line for each component; the bill is JSON."""
    paths = sbom.write(bill(), tmp_path / "dist")
    assert [path.name for path in paths] == ["sbom.cdx.json", "licences.md"]
    assert "| Python | numpy | 2.0 | BSD-3-Clause AND Zlib |" in paths[1].read_text("utf-8")


def test_a_check_that_cannot_run_fails() -> None:
    """What wasn't looked at didn't pass, and the summary counts it; shared checks run once."""
    runs: list[str] = []

    def absent(subject: Subject) -> list[str]:
        runs.append("run")
        raise ToolError("no such program")

    def fine(subject: Subject) -> list[str]:
        return []

    checkpoints = [
        Checkpoint("A1", "one", programs=(absent,)),
        Checkpoint("A2", "two", programs=(absent,), exception="why"),
        Checkpoint("A3", "three", files=(fine,), builds=(absent,)),
        Checkpoint("A4", "four", files=(fine,), exception="why"),
    ]
    outcomes = runner.run_all(Subject(ROOT), checkpoints, set(LEVELS) - {"builds"})
    assert [o.status for o in outcomes] == ["FAIL", "FAIL", "pass", "exception"]
    assert runner.summary(outcomes) == "1 of 4 pass, 1 exceptions, 2 fail; left out: builds"
    assert runs == ["run"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/nowhere/at/all"], "No such file"),
        (["sleep", "5"], "timed out"),
        (["sh", "-c", "echo why >&2; exit 3"], "exit 3\n\nwhy"),
    ],
)
def test_a_program_that_breaks_off_is_an_error(command: list[str], said: str) -> None:
    """A missing, slow or failing program says so in one kind of error."""
    with pytest.raises(ToolError) as caught:
        run(command, timeout_seconds=0.5)
    assert said in str(caught.value)


def test_a_dockerfile_is_parsed() -> None:
    """Comments and continued lines are understood; numbers are those of the first line."""
    found = parse_dockerfile("# a\nFROM x AS y\n\nrun a \\\n# why\n  && b\n")
    assert [(i.word, i.rest, i.line) for i in found] == [
        ("FROM", "x AS y", 2), ("RUN", "a && b", 4),
    ]  # fmt: skip


def shipped(text: str) -> list[str]:
    subject = Subject(ROOT)
    subject.__dict__["instructions"] = parse_dockerfile(text)
    return [each.rest for each in subject.shipped()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS x\nRUN 1\nFROM x AS y\nRUN 2\n", ["1", "2"]),
        ("FROM a AS x\nRUN 1\nFROM a AS y\nRUN 2\n", ["2"]),
    ],
)
def test_what_ships_is_the_last_stage_and_those_below(text: str, expected: list[str]) -> None:
    """A stage that only lends files isn't held to what the image is held to."""
    assert shipped(text) == expected
