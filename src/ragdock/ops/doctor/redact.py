"""Secrets are taken out of everything that the machine answers, before a check can see it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["Redactor", "is_secret", "mask", "masked_length"]

_SECRET_NAME: Final = re.compile(
    r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|(?:^|_)AUTH(?:$|_)", re.IGNORECASE
)
# Paths of secrets, and names that only sound like one.
_HARMLESS: Final = re.compile(
    r"_FILE$|^(?:RAGDOCK_KEY_FILE|PATH|GPG_KEY|SandboxKey|.*_KEYS?_(?:NAME|ID))$"
    # Counts that Redis tells of itself: `db0:keys=3`, `evicted_keys:12`, `keyspace_hits:7`.
    r"|^(?:keys|(?:evicted|expired)_keys|keyspace_\w+)$",
    re.IGNORECASE,
)
# Each begins where a word does and is bounded: a line of 256 KiB is no reason to think for hours.
_VALUE: Final = (
    r"""(?P<value><redacted [^>]{1,60}>|"[^"\n]{0,999}"|'[^'\n]{0,999}'|[^\s"',;&|)}\]]{1,999})"""
)
_ASSIGNED: Final = re.compile(
    r"""(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,99})"""
    rf"""(?P<between>["']?(?:=|:[ \t]{{0,9}})[ \t]{{0,9}}){_VALUE}"""
)
_FLAG: Final = re.compile(
    r"(?<![\w-])(?P<flag>--?(?:requirepass|masterauth|password|passwd|token|api-key|auth|a)[ =])"
    + _VALUE
)
_IN_URL: Final = re.compile(
    r"(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]{0,19}://[^\s:/@]{0,99}):(?P<value>[^\s@/]{1,999})@",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(
    r"(?P<scheme>\b(?:Bearer|Basic))[ ](?P<value>[A-Za-z0-9._~+/=-]{6,999})"
)
_SHAPED: Final = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|rdk_[a-z2-7]{8}_[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|"
    r"github_pat_\w{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[\w-]{30,}|"
    r"eyJ[\w-]{10,999}\.eyJ[\w-]{10,999}\.[\w-]{1,999})"
)
_MASK: Final = re.compile(r"<redacted (\d+)(?: [a-z ]+)?>")
SHORTEST: Final = 6
"""A value of fewer characters than this may be a word of every log, so it isn't looked for."""


def is_secret(name: str) -> bool:
    """Whether a variable or field of this name holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not _HARMLESS.search(name)


def mask(value: str) -> str:
    """What stands for a secret: its length, and what a parser of `.env` files might trip over."""
    if not value or _MASK.search(value) or value.startswith("$"):
        return value
    bare = value.strip("\r\"'")
    marks = [
        name
        for name, has in (
            ("quoted", value[:1] in "\"'" and bare != value),
            ("dollar", "$" in bare),
            ("comment", " #" in bare),
            ("return", value.endswith("\r")),
        )
        if has
    ]
    return f"<redacted {' '.join([str(len(bare)), *marks])}>"


def masked_length(value: str) -> int:
    """The length of a value, also of a masked one."""
    found = _MASK.fullmatch(value)
    return int(found[1]) if found else len(value)


class Redactor:
    """Knows the values of secrets that it has met, and takes them out of later answers too."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def learn(self, values: Iterable[str]) -> None:
        """Remember values that must not appear anywhere."""
        self._values |= {value for value in values if len(value) >= SHORTEST}

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The variables, with secrets masked."""
        self.learn(value for name, value in variables.items() if is_secret(name))
        return {
            name: mask(value) if is_secret(name) else self.text(value)
            for name, value in variables.items()
        }

    def text(self, text: str) -> str:
        """The text without secrets: assigned to a telling name, in a URL, of a telling shape."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, mask(value))
        text = _IN_URL.sub(lambda m: f"{m['scheme']}:{mask(m['value'])}@", text)
        text = _BEARER.sub(lambda m: f"{m['scheme']} {mask(m['value'])}", text)
        text = _FLAG.sub(lambda m: f"{m['flag']}{mask(m['value'])}", text)
        text = _ASSIGNED.sub(self._assigned, text)
        return _SHAPED.sub(lambda m: mask(m[0]), text)

    @staticmethod
    def _assigned(found: re.Match[str]) -> str:
        if not is_secret(found["name"]):
            return found[0]
        return f"{found['name']}{found['between']}{mask(found['value'])}"

    def answer(self, value: Any) -> Any:
        """A JSON answer without secrets. `Env` lists are learnt first: logs may repeat them."""
        self._learn_environments(value)
        return self._scrub(value)

    def _learn_environments(self, value: Any) -> None:
        for name, item in _pairs(value):
            if is_secret(name):
                self.learn([item])

    def _scrub(self, value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            head, equals, tail = value.partition("=")
            # A variable; a longer text that mentions a key somewhere before an = is none.
            if equals and head.isidentifier() and is_secret(head):
                return f"{head}={mask(tail)}"
            return mask(value) if is_secret(name) and " " not in name else self.text(value)
        if isinstance(value, list):
            return [self._scrub(item) for item in value]
        if isinstance(value, dict):
            return {str(key): self._scrub(item, str(key)) for key, item in value.items()}
        return value


def _pairs(value: Any) -> list[tuple[str, str]]:
    """Every `NAME=value` in lists called `Env` below the value."""
    found: list[tuple[str, str]] = []
    if isinstance(value, list):
        for item in value:
            found += _pairs(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "Env" and isinstance(item, list):
                found += [
                    (name, text)
                    for name, _, text in (str(line).partition("=") for line in item)
                    if text
                ]
            else:
                found += _pairs(item)
    return found
