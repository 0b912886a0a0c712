"""What is wrong with a Dockerfile for production, in ten rules that need no tool."""

from __future__ import annotations

import json
import re

__all__ = ["faults"]

Instruction = tuple[str, str]


def faults(text: str) -> list[str]:
    """What is left to mend, in the order of the file; empty when all rules hold."""
    instructions = _instructions(text)
    froms = [at for at, (word, _) in enumerate(instructions) if word == "FROM"]
    if not froms:
        return ["there is no FROM"]
    final = instructions[froms[-1] :]
    rules = (
        ("one stage: what builds ships as well", len(froms) >= 2),
        ("a base without a version", all(_pinned(instructions[at][1]) for at in froms)),
        ("the source is copied before the packages are installed", _in_order(instructions)),
        ("packages without hashes (--require-hashes)", _hashed(instructions)),
        ("a secret in ENV or ARG", not any(_secret(one) for one in instructions)),
        ("ADD where COPY would do", all(word != "ADD" for word, _ in instructions)),
        ("no numeric user that isn't root at the end", _unprivileged(final)),
        ("no HEALTHCHECK in exec form", _checked(final)),
        ("CMD not in exec form: a shell gets the SIGTERM", _exec_form(final)),
        ("PYTHONUNBUFFERED isn't set: the log comes late", _unbuffered(instructions)),
    )
    return [fault for fault, holds in rules if not holds]


def _instructions(text: str) -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"[ \t]*\\\n[ \t]*", " ", text)
    found = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            found.append((word.upper(), rest.strip()))
    return found


def _pinned(rest: str) -> bool:
    image = rest.split()[0] if rest else ""
    # A variable is pinned where it is set; a name without tag or digest is an earlier stage.
    if image.startswith("$") or re.fullmatch(r"[a-z][a-z0-9_-]*", image):
        return not image.startswith(("python", "debian", "ubuntu", "alpine"))
    return "@sha256:" in image or bool(re.search(r":\d[\w.-]*$", image))


def _in_order(instructions: list[Instruction]) -> bool:
    """Whether nothing but requirement files is copied before `pip install`, in its stage."""
    installs = [at for at, (word, rest) in enumerate(instructions) if _installs(word, rest)]
    if not installs:
        return False
    for at in installs:
        for word, rest in reversed(instructions[:at]):
            if word == "FROM":
                break
            sources = [one for one in rest.split()[:-1] if not one.startswith("--")]
            if word == "COPY" and any("requirements" not in one for one in sources):
                return False
    return True


def _installs(word: str, rest: str) -> bool:
    return word == "RUN" and bool(re.search(r"\bpip3?\b.*\binstall\b|\buv (pip|sync)\b", rest))


def _hashed(instructions: list[Instruction]) -> bool:
    installs = [rest for word, rest in instructions if _installs(word, rest)]
    return bool(installs) and all("--require-hashes" in rest for rest in installs)


def _secret(instruction: Instruction) -> bool:
    word, rest = instruction
    found = re.search(r"(?:KEY|TOKEN|SECRET|PASSWORD)\w*[= ](\S+)", rest, re.IGNORECASE)
    return word in ("ENV", "ARG") and found is not None


def _unprivileged(final: list[Instruction]) -> bool:
    users = [rest for word, rest in final if word == "USER"]
    return bool(users) and re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]) is not None


def _checked(final: list[Instruction]) -> bool:
    return any(word == "HEALTHCHECK" and _is_list(rest.partition("CMD")[2]) for word, rest in final)


def _exec_form(final: list[Instruction]) -> bool:
    commands = [rest for word, rest in final if word in ("CMD", "ENTRYPOINT")]
    return bool(commands) and all(map(_is_list, commands))


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def _unbuffered(instructions: list[Instruction]) -> bool:
    return any(
        word == "ENV" and re.search(r"PYTHONUNBUFFERED[= ][\"']?[1-9a-z]", rest)
        for word, rest in instructions
    )
