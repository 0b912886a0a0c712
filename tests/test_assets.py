"""The files at the root: they exist, parse, and say what was promised about the container."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragdock.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "M3_1_Containerization_with_Docker.ipynb"
LOCKS = sorted([ROOT / "requirements.txt", *ROOT.glob("requirements/*.txt")])
# Words of names whose values must never be baked into a layer.
SECRET = re.compile(r"(?i)(password|passwd|secret|token|api_?key|credential|private)")

ROOT_FILES = (
    ".dockerignore",
    ".env.example",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "M3_1_Containerization_with_Docker.ipynb",
    "Makefile",
    "NOTICE",
    "README.md",
    "docker-compose.yml",
    "m3_1_dockerize.py",
    "pyproject.toml",
    "requirements.txt",
    "tests_docker_sanity.py",
)


def text_of(name: str) -> str:
    """A root file's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """Every file of the repository, or of the unpacked archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        skip = {".git", ".venv", ".cache", "models", "data", "__pycache__"}
        found = [path for path in ROOT.rglob("*") if not skip & set(path.parts)]
    else:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return sorted(path for path in found if path.is_file())


TRACKED = tracked()


@cache
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, joined over line ends, without comments."""
    lines = [line for line in text_of("Dockerfile").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def arguments(word: str, *, last_stage: bool = False) -> list[str]:
    """What stands after an instruction, everywhere or in the last stage."""
    found = instructions()
    if last_stage:
        start = max(index for index, (name, _) in enumerate(found) if name == "FROM")
        found = found[start:]
    return [rest for name, rest in found if name == word]


@cache
def compose() -> dict[str, Any]:
    """The compose file as Compose reads it before interpolation."""
    loaded = yaml.safe_load(text_of("docker-compose.yml"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", ROOT_FILES)
def test_root_files_exist(name: str) -> None:
    """Each file that the request names is there and holds something."""
    assert (ROOT / name).stat().st_size > 0


# ---- Dockerfile ------------------------------------------------------------------------------


def test_the_image_has_stages_and_a_pinned_base() -> None:
    """Several stages, all from one base, which is python:3.11-slim-bookworm pinned by digest."""
    bases = arguments("FROM")
    assert len(bases) >= 3
    assert {base.split()[0] for base in bases} <= {
        "${BASE}",
        *(base.split()[-1] for base in bases),
    }
    declared = [argument for argument in arguments("ARG") if argument.startswith("BASE=")]
    assert len(declared) == 1
    assert re.fullmatch(r"BASE=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", declared[0])


def test_the_build_fetches_no_frontend() -> None:
    """No `# syntax=` line: it makes a build without a registry fail before it starts."""
    assert not re.search(r"(?im)^\s*#\s*syntax\s*=", text_of("Dockerfile"))


def test_the_build_stays_in_the_subset_of_docker_20() -> None:
    """No heredoc, no `COPY --link`, no `--start-interval`: Docker 20.10 builds this file."""
    for word, rest in instructions():
        assert not re.search(r"<<-?['\"]?[A-Z]+", rest), (word, rest)
        assert "--link" not in rest
        assert "--start-interval" not in rest


def test_the_image_runs_as_1000() -> None:
    """The last stage ends as user 1000:1000, in numbers, so that Kubernetes can check it."""
    assert arguments("USER", last_stage=True) == ["1000:1000"]


def test_the_probe_is_in_exec_form_and_needs_no_curl() -> None:
    """HEALTHCHECK runs `m3_1_dockerize.py --health` without a shell."""
    (check,) = arguments("HEALTHCHECK", last_stage=True)
    options, _, command = check.partition("CMD")
    assert json.loads(command) == ["python", "m3_1_dockerize.py", "--health"]
    for option in ("--interval=", "--timeout=", "--start-period=", "--retries="):
        assert option in options


def test_the_server_is_process_one() -> None:
    """CMD is in exec form and runs `m3_1_dockerize.py --serve`; there is no shell in between."""
    (command,) = arguments("CMD", last_stage=True)
    assert json.loads(command) == ["python", "m3_1_dockerize.py", "--serve"]
    assert arguments("ENTRYPOINT") == []
    assert arguments("STOPSIGNAL", last_stage=True) == ["SIGTERM"]
    assert arguments("EXPOSE", last_stage=True) == ["8000"]


def test_no_secret_is_named_in_a_layer() -> None:
    """No ENV, ARG or LABEL has a name that sounds like a secret."""
    for word in ("ENV", "ARG", "LABEL"):
        for rest in arguments(word):
            names = re.findall(r"([A-Za-z_.]+)=", rest) or [rest.split("=")[0]]
            assert [name for name in names if SECRET.search(name)] == []


def test_packages_are_installed_by_hash_before_the_code_is_copied() -> None:
    """pip wants hashes and wheels; the lock is copied before the source, so that layers last."""
    installs = [rest for rest in arguments("RUN") if re.search(r"\binstall\b.*-r ", rest)]
    assert installs
    for rest in installs:
        assert "--require-hashes" in rest
        assert "--only-binary" in rest
    flat = [f"{word} {rest}" for word, rest in instructions()]
    lock = next(i for i, line in enumerate(flat) if line.startswith("COPY requirements.txt"))
    code = next(i for i, line in enumerate(flat) if re.match(r"COPY src \./src", line))
    assert lock < code


def test_everything_that_is_copied_is_named() -> None:
    """No `COPY . .` and no ADD: what is in the image is what the Dockerfile lists."""
    assert arguments("ADD") == []
    for rest in arguments("COPY"):
        sources = [part for part in rest.split()[:-1] if not part.startswith("--")]
        assert "." not in sources
        if "--from" not in rest:
            assert all((ROOT / source).exists() for source in sources), rest


def test_copied_files_are_let_through_by_dockerignore() -> None:
    """.dockerignore denies everything but what the Dockerfile copies, and keeps `.env` out."""
    lines = [
        line
        for line in text_of(".dockerignore").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for rest in arguments("COPY"):
        if "--from" in rest:
            continue
        for source in [part for part in rest.split()[:-1] if not part.startswith("--")]:
            assert any(
                source == name or source.startswith(f"{name}/") or name.startswith(f"{source}/")
                for name in allowed
            ), source
    assert not any(name.startswith((".env", "data", "tests", ".git")) for name in allowed)
    assert {"**/*.pem", "**/*.key", "**/.*"} <= set(lines)


# ---- Compose ---------------------------------------------------------------------------------


def test_compose_has_the_promised_parts() -> None:
    """Services web and redis (a worker on demand), volume redis-data, bridge rag-network."""
    started = {name for name, service in compose()["services"].items() if "profiles" not in service}
    assert started == {"web", "redis"}
    assert "redis-data" in compose()["volumes"]
    assert compose()["networks"]["rag-network"]["driver"] == "bridge"
    for service in compose()["services"].values():
        watches = service.get("profiles") == ["monitoring"]
        assert watches or service["networks"] == ["rag-network"]
    assert "redis-data:/data" in compose()["services"]["redis"]["volumes"]


def test_compose_keeps_to_what_every_version_reads() -> None:
    """No key that Compose 1.29 rejects and no `version` that Compose 2 warns about."""
    assert "version" not in compose()
    assert "name" not in compose()
    for service in compose()["services"].values():
        assert "start_interval" not in service["healthcheck"]
        assert "container_name" not in service
        assert not isinstance(service.get("env_file"), list | dict)


def test_compose_builds_the_image_of_the_quick_start() -> None:
    """`docker build -t rag-api:latest .` and `docker-compose up` mean the same image and base."""
    web = compose()["services"]["web"]
    assert web["image"] == "${WEB_IMAGE:-rag-api:latest}"
    assert web["build"]["context"] == "."
    (base,) = (a for a in arguments("ARG") if a.startswith("BASE="))
    assert web["build"]["args"]["BASE"] == f"${{BASE_IMAGE:-{base.removeprefix('BASE=')}}}"


def test_compose_publishes_the_api_on_loopback_and_redis_nowhere() -> None:
    """8000 is published on 127.0.0.1 unless told otherwise; 6379 only inside the network."""
    web, redis = compose()["services"]["web"], compose()["services"]["redis"]
    assert web["ports"] == ["${WEB_BIND:-127.0.0.1}:${WEB_PORT:-8000}:8000"]
    assert "ports" not in redis
    assert redis["expose"] == ["6379"]


def test_compose_passes_the_promised_environment() -> None:
    """ENVIRONMENT, REDIS_HOST, REDIS_PORT and USER_ID come from `.env`, each with a default."""
    web = compose()["services"]["web"]
    assert web["environment"]["ENVIRONMENT"] == "${ENVIRONMENT:-development}"
    assert web["environment"]["REDIS_HOST"] == "${REDIS_HOST:-redis}"
    assert web["environment"]["REDIS_PORT"] == "${REDIS_PORT:-6379}"
    assert web["user"] == "${USER_ID:-1000}:${GROUP_ID:-1000}"


def test_compose_passes_every_setting() -> None:
    """A variable in `.env` reaches the server, but for those that the image itself sets."""
    ours = {"RAG_HOST", "RAG_DATA_DIR", "RAG_MODEL_DIR"}
    assert variables() - ours == set(compose()["services"]["web"]["environment"])


@pytest.mark.parametrize("name", ["web", "redis"])
def test_every_service_is_hardened(name: str) -> None:
    """Read-only root, no capabilities, no new privileges, limits, rotated logs, a user, a probe."""
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    for limit in ("mem_limit", "cpus", "pids_limit", "stop_grace_period", "user"):
        assert service[limit]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert not {"privileged", "network_mode", "pid", "ipc"} & service.keys()
    assert not any("docker.sock" in volume for volume in service["volumes"])


def test_web_waits_for_a_healthy_redis() -> None:
    """Compose starts web when Redis answers PONG, which `redis-cli ping` alone can't tell."""
    services = compose()["services"]
    assert services["web"]["depends_on"]["redis"]["condition"] == "service_healthy"
    assert services["redis"]["healthcheck"]["test"][-1].endswith("redis-cli ping | grep -q PONG")
    assert services["web"]["healthcheck"]["test"] == [
        "CMD", "python", "m3_1_dockerize.py", "--health",
    ]  # fmt: skip


def test_images_are_pinned_by_digest() -> None:
    """Redis is named with version and digest."""
    image = compose()["services"]["redis"]["image"]
    assert re.search(r":-redis:\d+\.\d+\.\d+-alpine[\d.]+@sha256:[0-9a-f]{64}\}$", image)


def test_running_requests_end_before_the_container_is_killed() -> None:
    """Compose's grace period is longer than the server's own deadline."""
    grace = compose()["services"]["web"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings.model_fields["shutdown_seconds"].default


def test_redis_is_bounded_below_its_memory_limit() -> None:
    """maxmemory is below the container's limit, and the policy may evict anything."""
    redis = compose()["services"]["redis"]
    command = " ".join(redis["command"])
    (maxmemory,) = re.findall(r"--maxmemory (\d+)mb", command)
    assert int(maxmemory) <= 0.8 * int(redis["mem_limit"].removesuffix("m"))
    assert "--maxmemory-policy allkeys-lru" in command
    assert "--appendonly yes" in command


# ---- .env --------------------------------------------------------------------------------------


def variables() -> set[str]:
    """Every variable that Settings reads."""
    found = set()
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        assert alias is not None
        assert not isinstance(alias, str)
        found.add(str(alias.choices[0]))  # type: ignore[union-attr]
    return found


def example() -> dict[str, str]:
    """The variables of .env.example, commented out or not."""
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text_of(".env.example"), re.MULTILINE))


def test_env_example_is_complete() -> None:
    """Every setting and every variable of the compose file stands in .env.example, and no other."""
    interpolated = set(re.findall(r"\$\{([A-Z_]+):?[-?]", text_of("docker-compose.yml")))
    assert example().keys() == variables() | interpolated


def test_env_example_shows_the_defaults() -> None:
    """What .env.example shows is the default of Settings or, where that differs, of Compose."""
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text_of("docker-compose.yml")))
    for field in Settings.model_fields.values():
        name = str(field.validation_alias.choices[0])  # type: ignore[union-attr]
        default = defaults.get(name) or field.default
        shown = example()[name]
        if default is None:
            assert shown == "", name
        elif isinstance(default, bool):
            assert shown == str(default).lower(), name
        elif isinstance(default, float):
            assert float(shown) == default, name
        else:
            assert shown == str(default), name


def test_env_example_describes_each_setting_as_the_code_does() -> None:
    """The comment above a variable is the description of its field."""
    text = text_of(".env.example")
    for field in Settings.model_fields.values():
        name = str(field.validation_alias.choices[0])  # type: ignore[union-attr]
        assert f"# {field.description}\n#{name}=" in text, name


def test_env_example_means_the_same_to_every_reader() -> None:
    """No quotes, no `$`, no trailing comment or blank: readers of `.env` disagree about those."""
    for name, value in example().items():
        assert not re.search(r"[\"'$\s]|\\", value), name


def test_env_is_ignored_by_git() -> None:
    """`.env` can't be committed by mistake."""
    assert ".env" in text_of(".gitignore").splitlines()


# ---- locks, licences, data files -------------------------------------------------------------


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_pin_and_hash_every_package(path: Path) -> None:
    """Each requirement of a lock has one exact version and at least one SHA-256."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", path.read_text(encoding="utf-8"))
    packages = [block for block in blocks if re.match(r"[A-Za-z0-9]", block)]
    assert packages
    for block in packages:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+", block), block.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
    assert "file:" not in path.read_text(encoding="utf-8")


def test_the_runtime_lock_has_every_dependency() -> None:
    """Each dependency of pyproject.toml is pinned in requirements.txt."""
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    wanted = {re.split(r"[<>=\[;]", item)[0] for item in project["dependencies"]}
    pinned = set(re.findall(r"^([A-Za-z0-9._-]+)==", text_of("requirements.txt"), re.MULTILINE))
    assert wanted <= pinned


def test_onnxruntime_stays_below_the_release_that_reports() -> None:
    """ONNX Runtime 1.29 and later carry a telemetry client; the lock holds an earlier one."""
    (version,) = re.findall(r"^onnxruntime==(\d+\.\d+)", text_of("requirements.txt"), re.MULTILINE)
    assert tuple(map(int, version.split("."))) < (1, 29)


def test_the_licence_is_apache_2() -> None:
    """LICENSE is the full text, and NOTICE names the model's licence and hashes."""
    licence = text_of("LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    build = text_of("src/ragdock/adapters/embedders/minilm_build.py")
    hashes = re.findall(r'_SHA256: Final = "([0-9a-f]{64})"', build)
    assert len(hashes) == 2
    for sha256 in hashes:
        assert sha256 in text_of("NOTICE")


DATA_FILES = [path for path in TRACKED if path.suffix in (".json", ".jsonl", ".toml", ".yml",
                                                          ".yaml", ".ipynb")]  # fmt: skip


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_data_files_parse(path: Path) -> None:
    """Every JSON, JSON Lines, YAML, TOML and notebook file can be read."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".json", ".ipynb"):
        json.loads(text)
    elif path.suffix == ".jsonl":
        assert all(json.loads(line) is not None for line in text.splitlines())
    elif path.suffix == ".toml":
        tomllib.loads(text)
    else:
        assert list(yaml.safe_load_all(text))


def texts() -> list[tuple[Path, bytes]]:
    """Every text file with its bytes."""
    found = [(path, path.read_bytes()) for path in TRACKED]
    return [(path, content) for path, content in found if b"\0" not in content[:8192]
            and path.suffix not in (".pdf", ".docx")]  # fmt: skip


def test_line_ends_are_lf() -> None:
    """No text file has a carriage return before a line end, and each ends in one."""
    wrong = [
        str(path.relative_to(ROOT))
        for path, content in texts()
        if b"\r\n" in content or (content and not content.endswith(b"\n"))
    ]
    assert wrong == []


def test_nothing_names_the_machine_it_was_written_on() -> None:
    """No file holds the path of somebody's home or of a build machine."""
    machine = re.compile(rb"(?<![\w.$}-])/(?:work|home/[a-z]+)/|/tmp/(?:w|venv)\b")
    wrong = [
        f"{path.relative_to(ROOT)}: {found.group().decode()}"
        for path, content in texts()
        if path.name != Path(__file__).name
        for found in [machine.search(content)]
        if found
    ]
    assert wrong == []


def test_scripts_can_be_started() -> None:
    """Every shell script has a shebang, stops at errors, and is executable."""
    scripts = [path for path in TRACKED if path.suffix == ".sh"]
    assert scripts
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#!"), path
        assert "set -euo pipefail" in text, path
        assert path.stat().st_mode & 0o111, path


# ---- notebook --------------------------------------------------------------------------------


def notebook() -> dict[str, Any]:
    """The notebook as JSON."""
    loaded = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def source_of(cell: dict[str, Any]) -> str:
    """A cell's text, which the format keeps as one string or as lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def test_the_notebook_is_valid() -> None:
    """It follows nbformat 4.5: versions, metadata, cells with unique ids and the right fields."""
    book = notebook()
    assert book["nbformat"] == 4
    assert book["nbformat_minor"] >= 5
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in book["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert isinstance(cell["metadata"], dict)
        if cell["cell_type"] == "code":
            assert cell.keys() == {
                "cell_type", "id", "metadata", "source", "outputs", "execution_count",
            }  # fmt: skip
            ast.parse(source_of(cell))
        else:
            assert cell["cell_type"] == "markdown"
            assert cell.keys() == {"cell_type", "id", "metadata", "source"}


@pytest.mark.parametrize(
    "section",
    ["Why Docker", "Decision card", "Scaling guide", "Troubleshooting", "Challenges", "Next steps"],
)
def test_the_notebook_has_its_sections(section: str) -> None:
    """The notebook has the decision card, the scaling guide, the challenges and the rest."""
    headings = re.findall(
        r"(?m)^#+ (.+)$",
        "\n".join(source_of(c) for c in notebook()["cells"] if c["cell_type"] == "markdown"),
    )
    assert any(section.lower() in heading.lower() for heading in headings)


def test_the_notebook_defines_nothing() -> None:
    """It calls the package; what it shows is not a second implementation."""
    for cell in notebook()["cells"]:
        if cell["cell_type"] == "code":
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(
                source_of(cell))))  # fmt: skip


def test_the_notebook_keeps_no_outputs() -> None:
    """Outputs are made by running it; kept ones would grow old and tell of a machine."""
    for cell in notebook()["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
