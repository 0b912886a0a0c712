"""Checks of .dockerignore, .env.example, .gitattributes and the tree: checkpoints B."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from imagecheck.subject import Subject, run, scratch

# What must never be sent to a builder, beside all that git holds and the Dockerfile doesn't copy.
NEVER = (
    ".env", ".env.production", ".git/config", ".cache/x", ".venv/bin/python", "secrets/admin_key",
    "data/catalogue.sqlite", "models/model.onnx", "tests/test_x.py", "tour.ipynb", "id.key",
    "tls.pem", "src/ragdock/.env", "src/ragdock/api/server.pem", "src/ragdock/api/id.key",
    "src/ragdock/__pycache__/x.pyc", "src/ragdock/x.pyc", "src/ragdock/notes.ipynb",
    "scripts/other.py", "requirements/dev.txt", "requirements/image.txt", "src/other/x.py",
)  # fmt: skip
ASSIGNMENT = re.compile(r"#?([A-Z][A-Z0-9_]*)=(.*)")


def dockerignore(subject: Subject) -> list[str]:
    """Everything is refused first; what is admitted is copied by the Dockerfile."""
    lines = [line.strip() for line in subject.text(".dockerignore").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or lines[0] not in ("*", "**"):
        return ["the first pattern of .dockerignore isn't *"]
    copied = {
        name
        for each in subject.instructions
        if each.word == "COPY" and "--from" not in each.rest
        for name in each.rest.split()[:-1]
    }
    return [
        f"{line} is admitted, and nothing copies it"
        for line in lines
        if line.startswith("!") and not any(n == line[1:] or n.startswith(line[1:] + "/")
                                            or line[1:].startswith(n + "/") for n in copied)
    ]  # fmt: skip


def canaries(subject: Subject) -> list[str]:
    """A builder gets the files that the Dockerfile copies, and no canary laid in the others."""
    with scratch() as name:
        root = Path(name)
        real = [path for path in subject.tracked if not path.startswith(".git/")]
        for path in {*real, *NEVER}:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("canary", encoding="utf-8")
        shutil.copy2(subject.root / ".dockerignore", root / ".dockerignore")
        # Copied last, so that no rule hides it from the builder.
        (root / "Dockerfile").write_text('FROM scratch\nCOPY . /\nCMD ["-"]\n', encoding="utf-8")
        got = _context(root)
    problems = [f"{path} gets into the context" for path in sorted(got & set(NEVER))]
    needed = _needed(subject, real)
    problems += [f"{path} gets into the context" for path in sorted(got - needed - set(NEVER))]
    return problems + [f"{path} doesn't get into the context" for path in sorted(needed - got)]


def _needed(subject: Subject, files: list[str]) -> set[str]:
    """The files that the Dockerfile's COPY lines name."""
    sources = [
        source
        for each in subject.instructions
        if each.word == "COPY" and "--from" not in each.rest
        for source in each.rest.split()[:-1]
    ]
    below = {f for f in files for s in sources if f == s or f.startswith(f"{s.rstrip('/')}/")}
    return {path for path in below if not re.search(r"(^|/)\.|__pycache__|\.py[co]$", path)}


def _context(root: Path) -> set[str]:
    """The files that a builder sees of `root`."""
    image = run(["docker", "build", "-q", "--no-cache", root]).stdout.strip()
    name = run(["docker", "create", image]).stdout.strip()
    try:
        listed = subprocess.run(
            f"docker export {name} | tar -tf -", shell=True, capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip
    finally:
        run(["docker", "rm", "-v", name])
        run(["docker", "rmi", image])
    # Docker adds these to every container.
    added = re.compile(r"^(dev|proc|sys|etc)/|^\.dockerenv$|/$")
    return {line for line in listed.splitlines() if not added.search(line)}


def example(subject: Subject) -> list[str]:
    """.env.example names every variable that settings.py and compose read, and no other."""
    named = {m[1] for line in subject.text(".env.example").splitlines()
             if (m := ASSIGNMENT.fullmatch(line))}  # fmt: skip
    settings = subject.text("src/ragdock/settings.py")
    read = set(re.findall(r"_env\(\s*\"([A-Z][A-Z0-9_]*)\"", settings))
    # `$${X}` is the container's shell's, not compose's.
    composed = set(re.findall(r"(?<!\$)\$\{([A-Z]\w*)", subject.text("docker-compose.yml")))
    problems = [f"{name} isn't in .env.example" for name in sorted((read | composed) - named)]
    return problems + [f"{name}: nothing reads it" for name in sorted(named - read - composed)]


def plain(subject: Subject) -> list[str]:
    """Values that every reader of .env takes alike: no quotes, comments, $ or spaces; LF."""
    raw = subject.root / ".env.example"
    problems = ["CR in .env.example"] if raw.exists() and b"\r" in raw.read_bytes() else []
    for number, line in enumerate(subject.text(".env.example").splitlines(), 1):
        if not line.strip() or line.startswith("# "):
            continue
        found = ASSIGNMENT.fullmatch(line)
        if not found or re.search(r"[\s'\"$#`\\]", found[2]):
            problems.append(f"line {number}: {line.split('=')[0]} isn't plain NAME=value")
    return problems


def ignored(subject: Subject) -> list[str]:
    """.env and secrets are out of git; .env.example holds no secret."""
    lines = subject.text(".gitignore").splitlines()
    problems = [f".gitignore lacks {name}" for name in (".env", "/secrets/") if name not in lines]
    if ".env" in subject.tracked:
        problems.append(".env is in git")
    for line in subject.text(".env.example").splitlines():
        found = ASSIGNMENT.fullmatch(line)
        secret = found and re.search(r"(PASSWORD|SECRET|TOKEN|_KEY)$", found[1])
        if found and secret and found[2]:
            problems.append(f"{found[1]} has a value in .env.example")
    return problems


def line_ends(subject: Subject) -> list[str]:
    """.gitattributes asks for LF, and no script has anything else."""
    asked = re.search(
        r"^\*(\.sh)? text(=auto)? eol=lf$", subject.text(".gitattributes"), re.MULTILINE
    )
    problems = [] if asked else [".gitattributes doesn't ask for LF in scripts"]
    scripts = [
        n for n in subject.tracked if n.endswith((".sh", ".py", "Dockerfile")) or n == ".ci/run"
    ]
    return problems + [f"{n} has CR" for n in scripts if b"\r\n" in (subject.root / n).read_bytes()]
