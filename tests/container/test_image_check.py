"""The image check against a real engine: our image passes, and what is broken is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import BASE_IMAGES, COMPOSE_PROGRAMS, IMAGE, ROOT, copy_context, docker, make, run
from imagecheck import environment, image, live, platforms, programs, rebuild, runner, sbom
from imagecheck.checkpoints import ALL
from imagecheck.subject import Check, Subject

TOOLS = ROOT / ".cache/image-tools"
# Of the right form, worth nothing, and put together so that the search for secrets passes this.
TOKEN = "ghp_" + "J8fK2mQ9xZ4vB7nL1wR6tY3sD5gH0pCaEeUi"
BAD_IMAGE = f"""FROM {IMAGE}
USER 0
ARG PYPI_TOKEN=x
ENV REDIS_PASSWORD=hunter2
RUN cp /usr/bin/env /usr/bin/other && chmod 4755 /usr/bin/other && echo {TOKEN} > /app/notes.txt
RUN dd if=/dev/zero of=/big bs=1M count=60
RUN rm /big
HEALTHCHECK --interval=1s CMD true
CMD ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
"""


@pytest.fixture(scope="session")
def tools() -> Path:
    """The programs of requirements/image.txt, as `make image-check` installs them."""
    make(".cache/image-tools/.done")
    return TOOLS / "bin"


@pytest.fixture(scope="module")
def subject(image: str, tools: Path, compose_programs: None) -> Subject:
    """Our checkout and the image built from it."""
    composes = {version: command[0] for version, command in COMPOSE_PROGRAMS.items()}
    base = BASE_IMAGES.get("BASE_IMAGE", "")
    return Subject(ROOT, image, tools, composes, base)


@pytest.fixture(scope="module")
def bad_image(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """An image with all that an image shouldn't have."""
    context = tmp_path_factory.mktemp("bad")
    (context / "Dockerfile").write_text(BAD_IMAGE, encoding="utf-8")
    tag = f"{IMAGE}-bad"
    docker("build", "-q", "-t", tag, context)
    yield Subject(ROOT, tag, subject.tools)
    docker("rmi", tag)


@pytest.fixture
def tree(subject: Subject, tmp_path: Path) -> Subject:
    """A copy of the files, to be broken."""
    root = copy_context(tmp_path / "tree")
    for name in (".env.example", ".gitleaks.toml"):
        shutil.copy2(ROOT / name, root / name)
    return Subject(root, subject.image, subject.tools, subject.composes, subject.base)


def test_every_checkpoint_is_as_the_table_says(
    subject: Subject, report: Callable[[str], None]
) -> None:
    """Files, programs, image and a running container: nothing fails, and the table is generated."""
    outcomes = runner.run_all(subject, ALL, {"files", "programs", "image"})
    report(f"image check: {runner.summary(outcomes)}")
    report(image.size_line(subject))
    assert [(o.checkpoint.id, o.problems) for o in outcomes if o.problems] == []


def test_two_builds_without_a_cache_have_the_same_layers(
    subject: Subject, report: Callable[[str], None]
) -> None:
    """BuildKit and the classic builder, without cache, give the layers of the image under test."""
    # Kept, because test_stack.py builds with the classic builder again.
    builds = rebuild.build_twice(subject, keep=True)
    for each in builds:
        report(f"built without cache by {each.builder} in {each.seconds:.0f} s")
    assert rebuild.compare(subject, builds) == []


def test_an_unsettled_time_is_noticed(tree: Subject) -> None:
    """A layer that keeps the time of its build differs in the next one."""
    (tree.root / "Dockerfile").write_text(
        f"FROM {tree.image}\nUSER 0\nRUN date +%N > /now\n", encoding="utf-8"
    )
    problems = rebuild.compare(tree, rebuild.build_twice(tree))
    assert any("BuildKit" in each and "classic" in each for each in problems)


# Check, file, what is replaced, by what, part of what is said.
BROKEN: list[tuple[Check, str, str, str, str]] = [
    (programs.hadolint, "Dockerfile", "HEALTHCHECK --interval=5s --timeout=5s --start-period=30s "
     "--retries=3 \\\n    CMD [\"python\", \"m3_1_dockerize.py\", \"--health\"]\n", "", "DL3057"),
    (programs.hadolint, "Dockerfile", "image.source=", "image.url=", "DL3049"),
    (programs.hadolint, "Dockerfile", "COPY src ./src", "ADD src ./src", "DL3020"),
    (programs.trivy_files, "Dockerfile", "USER 1000:1000\nEXPOSE", "USER root\nEXPOSE", "DS-0002"),
    (programs.trivy_files, "Dockerfile", "EXPOSE 8000", "EXPOSE 22", "DS-0004"),
    (programs.leaks, "m3_1_dockerize.py", "\"\"\"", f'KEY = "{TOKEN}"\n"""', "gitleaks: m3_1"),
    (programs.leaks, "m3_1_dockerize.py", "\"\"\"", f'KEY = "{TOKEN}"\n"""', "trivy: m3_1"),
    (programs.compose_schema, "docker-compose.yml", "    ports:", "    portz:", "portz"),
    (programs.compose_lint, "docker-compose.yml", "    pids_limit: 128", "    privileged: true",
     "privileged"),
    (programs.compose_lint, "docker-compose.yml", 'expose: ["6379"]', 'ports: ["6379:6379"]',
     "CL-0005"),
    (programs.compose_config, "docker-compose.yml", "    ports:", "    portz:", "compose 1"),
    (programs.compose_config, "docker-compose.yml", "\nservices:", "\nversion: '3.8'\nservices:",
     "compose 5"),
    (platforms.both, "requirements.txt", "anyio==", "anyio==99", "requirements.txt on x86_64"),
    (environment.canaries, ".dockerignore", "**/.*\n", "", "src/ragdock/.env gets into"),
    (environment.canaries, ".dockerignore", "!src/ragdock", "!src", "src/other/x.py gets into"),
    (environment.canaries, ".dockerignore", "!m3_1_dockerize.py\n", "", "doesn't get into"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "name", "old", "new", "said"),
    BROKEN,
    ids=[f"{c.__name__}-{n}" for n, (c, *_) in enumerate(BROKEN)],
)
def test_a_broken_file_is_noticed(
    tree: Subject, check: Check, name: str, old: str, new: str, said: str
) -> None:
    """Each check of files that needs a program or the engine names what was broken."""
    path = tree.root / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert said in "\n".join(check(tree))


BAD: list[tuple[Check, str]] = [
    (image.configured_user, "User is '0'"),
    (image.configured_command, "starts ['sh'"),
    (image.configured_health, "CMD-SHELL"),
    (image.no_secret_values, "REDIS_PASSWORD is in the environment"),
    (image.no_secret_values, "PYPI_TOKEN is in the history"),
    (image.setuid, "/usr/bin/other is setuid"),
    (image.size, "our layers weigh"),
    (programs.structure, "Metadata Test"),
    (programs.efficiency, "efficiency"),
    (programs.trivy_image, "app/notes.txt"),
    (live.gets_healthy, "exit code is 0 where nothing listens"),
    (live.first_process, "process 1 is 'sh'"),
    (live.first_process, "doesn't catch SIGTERM"),
    (live.stops, "exit code 137"),
]


@pytest.mark.parametrize(("check", "said"), BAD, ids=[f"{c.__name__}-{n}" for n, (c, _) in
                                                      enumerate(BAD)])  # fmt: skip
def test_a_bad_image_is_noticed(
    bad_image: Subject, check: Check, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check of the image names what is wrong with a bad one."""
    monkeypatch.setattr(live, "GRACE_SECONDS", 2)
    assert said in "\n".join(check(bad_image))


def test_a_writable_root_is_noticed(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without --read-only and as root, the container can write, and the check says so."""
    monkeypatch.setattr(live, "HARDENED", ("--user", "0", "--network", "none"))
    monkeypatch.setattr(live, "_seen", {})
    assert live.root_is_read_only(subject) == ["the root is writable"]


def test_a_package_that_is_missing_in_the_bill_is_noticed(tree: Subject) -> None:
    """A package of the lock that the image doesn't have is named, and the bill is written."""
    with (tree.root / "requirements.txt").open("a", encoding="utf-8") as lock:
        lock.write("nowhere==1.0 \\\n    --hash=sha256:0\n")
    assert sbom.complete(tree) == ["nowhere 1.0 isn't in the bill of materials"]
    assert (tree.root / "dist/sbom.cdx.json").stat().st_size > 100_000


def test_every_check_can_fail() -> None:
    """No check that needs programs, an engine or builds is without a test that sees it fail."""
    seen = {check for check, *_ in [*BROKEN, *BAD]}
    here = {live.root_is_read_only, sbom.complete, rebuild.reproduce}
    # Broken in tests/unit/test_image_check.py, by entries of a root file system and configurations.
    unit = {
        image.writable, image.accounts, image.no_tools, image.no_left_overs, image.no_credentials,
        image.compiled, image.unbuffered, image.fault_handler, image.labelled,
    }  # fmt: skip
    checks = {c for each in ALL for c in (*each.programs, *each.image, *each.builds)}
    assert checks == seen | here | unit


def test_the_command_prints_the_count(subject: Subject) -> None:
    """`scripts/image_check.py` ends with the count and exits with 1 when something failed."""
    command = [subject.tools / "python", ROOT / "scripts/image_check.py", "--levels", "files,image"]
    done = run([*command, "--image", subject.image, "--only", "A10,A15,C5"], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 3 pass, 1 exceptions, 0 fail" in done.stdout
    done = run([*command, "--image", subject.base or "redis", "--only", "A10"], check=False)
    assert done.returncode == 1
    assert "A10  FAIL" in done.stdout
