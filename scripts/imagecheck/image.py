"""Checks of the built image: its configuration, its files, its weight."""

from __future__ import annotations

import json
import re
from typing import Any

from imagecheck.dockerfile import LABELS, SECRET_NAME
from imagecheck.subject import Entry, Subject, run

UID = GID = 1000
# Over the base image, which users have already.
BUDGET_BYTES = 156_000_000
# Programs that run with the rights of somebody else: none.
SETUID_ALLOWED: frozenset[str] = frozenset()
WRITABLE_ALLOWED = ("/data",)
TOOLS = frozenset(
    {
        "gcc", "cc", "g++", "make", "ld", "strip", "git", "curl", "wget", "pip", "pip3", "uv",
        "sudo", "ssh", "sshd", "nc", "telnet",
    }
)  # fmt: skip
CREDENTIALS = re.compile(
    r"(^|/)(\.env[^/]*|\.netrc|\.pypirc|\.npmrc|\.git-credentials|\.docker/config\.json|id_(rsa|dsa|"
    r"ecdsa|ed25519)|credentials|[^/]+\.(key|p12|pfx|kdbx))$"
)
PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----\n[A-Za-z0-9+/=]{20,}")
UNWANTED = re.compile(r"(^|/)(\.git|tests_docker_sanity\.py|Dockerfile|docker-compose\.yml)(/|$)|"
                      r"^/app/(tests|docs|data|\.env)|^/app/.*\.ipynb$")  # fmt: skip


def configured_user(subject: Subject) -> list[str]:
    """The image says uid and gid, as numbers."""
    user = subject.config.get("User", "")
    return [] if re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) else [f"User is {user!r}"]


def configured_command(subject: Subject) -> list[str]:
    """CMD is the server itself, no shell, and the signal is SIGTERM."""
    words = [*(subject.config.get("Entrypoint") or ()), *(subject.config.get("Cmd") or ())]
    problems = [] if words and words[0] not in ("sh", "/bin/sh", "bash") else [f"starts {words}"]
    if subject.config.get("StopSignal") != "SIGTERM":
        problems.append("StopSignal isn't SIGTERM")
    return problems


def configured_health(subject: Subject) -> list[str]:
    """The probe is in exec form and may take less time than it is given."""
    check = subject.config.get("Healthcheck") or {}
    test = check.get("Test") or [""]
    problems = [] if test[0] == "CMD" else [f"Healthcheck {test}"]
    if {"curl", "wget", "sh"} & set(test):
        problems.append(f"Healthcheck needs {test}")
    return problems if check.get("Timeout") else [*problems, "Healthcheck has no timeout"]


def unbuffered(subject: Subject) -> list[str]:
    """Output is seen at once."""
    return _is_set(subject, "PYTHONUNBUFFERED", "1")


def fault_handler(subject: Subject) -> list[str]:
    """A crash leaves a traceback; the hash seed stays random."""
    problems = _is_set(subject, "PYTHONFAULTHANDLER", "1")
    if "PYTHONHASHSEED" in subject.environment:
        problems.append("PYTHONHASHSEED is set")
    return problems


def _is_set(subject: Subject, name: str, value: str) -> list[str]:
    found = subject.environment.get(name)
    return [] if found == value else [f"{name} is {found!r}"]


def labelled(subject: Subject) -> list[str]:
    """The labels are there."""
    found = subject.config.get("Labels") or {}
    prefix = "org.opencontainers.image"
    return [f"no label {prefix}.{n}" for n in LABELS if not found.get(f"{prefix}.{n}")]


def no_secret_values(subject: Subject) -> list[str]:
    """No variable of the image is named like a secret, nor does its history set one."""
    problems = [f"{n} is in the environment" for n in subject.environment if SECRET_NAME.search(n)]
    command = ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", subject.image]
    named = re.findall(r"\b([A-Z][A-Z0-9_]+)=\S", run(command).stdout)
    return problems + [f"{name} is in the history" for name in named if SECRET_NAME.search(name)]


# ---- files ----------------------------------------------------------------------------------


def setuid(subject: Subject) -> list[str]:
    """No file that changes who runs it."""
    found = {e.path for e in subject.rootfs if e.kind == "0" and e.mode & 0o6000}
    return [f"{path} is setuid or setgid" for path in sorted(found - SETUID_ALLOWED)]


def writable(subject: Subject) -> list[str]:
    """The account of the server may write its data and the temporary directories, nothing else."""
    return [
        f"{entry.path} is writable for {UID}"
        for entry in subject.rootfs
        if _may_write(entry) and entry.path not in WRITABLE_ALLOWED
    ]


def _may_write(entry: Entry) -> bool:
    if entry.kind not in "05" or (entry.kind == "5" and entry.mode & 0o1000):
        return False
    # The owner can give itself the right to write.
    if entry.uid == UID:
        return True
    return bool(entry.mode & 0o002 or (entry.gid == GID and entry.mode & 0o020))


def accounts(subject: Subject) -> list[str]:
    """No two accounts, nor groups, share an id; none has an empty password."""
    problems = []
    for path in ("/etc/passwd", "/etc/group"):
        lines = [line.split(":") for line in subject.file(path).splitlines() if line]
        if not lines:
            problems.append(f"{path} is empty")
        ids = [line[2] for line in lines]
        problems += [f"{path}: id {n} twice" for n in sorted({n for n in ids if ids.count(n) > 1})]
        problems += [f"{path}: {line[0]} has no password" for line in lines if not line[1]]
    # An absent field in shadow is a login without a password.
    for line in subject.file("/etc/shadow").splitlines():
        fields = line.split(":")
        if len(fields) > 1 and not fields[1]:
            problems.append(f"/etc/shadow: {fields[0]} has an empty password")
    return problems


def no_tools(subject: Subject) -> list[str]:
    """No compiler, package installer or download program that can be run; no cache."""
    problems = []
    for entry in subject.rootfs:
        directory, _, name = entry.path.rpartition("/")
        runs = (entry.kind == "0" and entry.mode & 0o111) or entry.kind == "2"
        if directory.endswith("bin") and name in TOOLS and runs:
            problems.append(f"{entry.path} is in the image")
        if re.search(
            r"^/root/\.cache|/site-packages/pip/__init__|^/var/lib/apt/lists/.+_", entry.path
        ):
            problems.append(f"{entry.path} is left over")
    return problems


def no_left_overs(subject: Subject) -> list[str]:
    """No tests, notebooks, environment files or repositories of the checkout."""
    return [f"{e.path} is in the image" for e in subject.rootfs if UNWANTED.search(e.path)]


def no_credentials(subject: Subject) -> list[str]:
    """No file named like a credential, and no private key in any small file."""
    problems = []
    for entry in subject.rootfs:
        if entry.kind == "0" and CREDENTIALS.search(entry.path):
            problems.append(f"{entry.path} may hold a credential")
        if PRIVATE_KEY.search(entry.text):
            problems.append(f"{entry.path} holds a private key")
    return problems


def compiled(subject: Subject) -> list[str]:
    """Each of our modules has its bytecode: a read-only container can't write it."""
    paths = {entry.path for entry in subject.rootfs}
    ours = [p for p in paths if p.startswith("/app/src/ragdock/") and p.endswith(".py")]
    problems = [] if ours else ["no module of ours in /app/src"]
    for path in sorted(ours):
        directory, _, name = path.rpartition("/")
        if not any(
            f"{directory}/__pycache__/{name.removesuffix('.py')}.cpython-{version}.pyc" in paths
            for version in ("311", "312", "313")
        ):
            problems.append(f"{path} isn't compiled")
    return problems


# ---- weight ---------------------------------------------------------------------------------


def layers(image: dict[str, Any]) -> list[str]:
    return list(image.get("RootFS", {}).get("Layers") or ())


def base_bytes(subject: Subject) -> int:
    """The size of the local image whose layers ours begin with, and that has most of them."""
    names = set(run(["docker", "images", "-q", "--no-trunc"]).stdout.split())
    ours = layers(subject.inspected)
    found = [(0, 0)]
    for image in json.loads(run(["docker", "image", "inspect", *sorted(names)]).stdout):
        theirs = layers(image)
        below = len(theirs) < len(ours) and ours[: len(theirs)] == theirs
        # What was built from our stages begins like ours as well, and bears our variables.
        variables = " ".join(image["Config"].get("Env") or ())
        if below and theirs and "RAG_DATA_DIR" not in variables:
            found.append((len(theirs), int(image["Size"])))
    return max(found)[1]


def size(subject: Subject) -> list[str]:
    """Our layers stay within the budget."""
    ours = int(subject.inspected["Size"]) - base_bytes(subject)
    if ours <= BUDGET_BYTES:
        return []
    return [f"our layers weigh {ours / 1e6:.1f} MB of {BUDGET_BYTES / 1e6:.0f}"]


def size_line(subject: Subject) -> str:
    base, total = base_bytes(subject), int(subject.inspected["Size"])
    return (
        f"{subject.image}: {total / 1e6:.1f} MB = base {base / 1e6:.1f} + ours "
        f"{(total - base) / 1e6:.1f} MB (budget {BUDGET_BYTES / 1e6:.0f})"
    )
