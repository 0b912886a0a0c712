"""Health checks that fail for reasons of their own, or pass for the wrong ones."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ragdock.ops.doctor.history import events_of, last_lines
from ragdock.ops.doctor.mending import override, up
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.stack import Container, each, items, numbers, seconds_of, texts
from ragdock.ops.doctor.world import World

__all__ = ["CHECKS"]

_NANO: Final = 1e9
_NO_TOOL: Final = re.compile(
    r"executable file not found|: not found|no such file or directory", re.IGNORECASE
)
_TOO_LONG: Final = re.compile(r"Health check exceeded timeout", re.IGNORECASE)
TIMES: Final = ["interval: 5s", "timeout: 5s", "retries: 3", "start_period: 30s"]
OURS: Final = 'test: ["CMD", "python", "m3_1_dockerize.py", "--health"]'
REDIS: Final = 'test: ["CMD-SHELL", "redis-cli ping | grep -q PONG"]'
_PASSWORD: Final = (
    "# Redis wants a password: put it in place of `changeme`, where redis-cli finds it too.",
    "echo REDIS_PASSWORD=changeme >> .env",
)
MANY_CHANGES: Final = 4


def _log(one: Container) -> list[dict[str, Any]]:
    return items(one.get("State", "Health", "Log"))


def _output(entry: dict[str, Any]) -> str:
    return " ".join(str(entry.get("Output") or "").split())[:300]


def _test(one: Container) -> str:
    return " ".join(texts(one.get("Config", "Healthcheck", "Test"))[1:])


def _restated(world: World, one: Container, *, secret: bool = False) -> tuple[str, ...]:
    """A health check that works, in an override; with the password of a Redis that wants one."""
    if one.is_ours:
        test = OURS
    elif one.service == "redis":
        test = REDIS
    else:
        return ("# Use a program in its health check that the image has.", up(world, one))
    lines = ["healthcheck:", f"  {test}", *(f"  {line}" for line in TIMES)]
    if secret and "REDISCLI_AUTH" not in one.environment():
        lines.append('environment: { REDISCLI_AUTH: "${REDIS_PASSWORD:-}" }')
    return override(world, one, lines)


def _more_time(world: World, one: Container, timeout: float) -> tuple[str, ...]:
    """The same health check, which may need its very words (a secret), with more time.

    It is told whole: Compose 1.29 replaces a health check, newer ones merge it.
    """
    test = json.dumps(texts(one.get("Config", "Healthcheck", "Test"))).replace("$", "$$")
    if "<redacted" in test:
        return ("# Raise `timeout` of its health check in docker-compose.yml.", up(world, one))
    interval = (numbers(one.get("Config", "Healthcheck", "Interval")) or 0.0) / _NANO
    times = [
        f"test: {test}",
        f"interval: {max(5.0, interval):g}s",
        f"timeout: {max(10.0, 2 * timeout):g}s",
        *TIMES[2:],
    ]
    return override(world, one, ["healthcheck:", *(f"  {line}" for line in times)])


def _has_its_tool(world: World, one: Container) -> Finding | None:
    """D43."""
    broken = [
        entry
        for entry in _log(one)
        if entry.get("ExitCode") in (-1, 126, 127) and _NO_TOOL.search(_output(entry))
    ]
    if not broken:
        return None
    return Finding(
        Status.FAIL,
        "its health check runs a program that the image hasn't",
        one.name,
        {"test": _test(one), "exit_code": broken[-1]["ExitCode"], "output": _output(broken[-1])},
        "Slim images have no curl and no wget; the check fails however well the service does.",
        _restated(world, one),
    )


def _has_time(world: World, one: Container) -> Finding | None:
    """D44."""
    late = [entry for entry in _log(one) if _TOO_LONG.search(_output(entry))]
    changes = [str(event.get("Action")) for event in events_of(world, one, "health_status")]
    flapping = len(changes) >= MANY_CHANGES and len(set(changes)) > 1
    unhealthy = one.get("State", "Health", "Status") == "unhealthy"
    started = seconds_of(one.get("State", "StartedAt")) or 0.0
    period = (numbers(one.get("Config", "Healthcheck", "StartPeriod")) or 0.0) / _NANO
    settled = [e for e in late if (seconds_of(e.get("Start")) or 0.0) > started + period]
    if not unhealthy and not flapping and not settled:
        return None
    if not late and not flapping:
        return None
    timeout = (numbers(one.get("Config", "Healthcheck", "Timeout")) or 0.0) / _NANO
    said = f"its health check is cut off after {timeout:g} s" if late else "its health flaps"
    return Finding(
        Status.FAIL if unhealthy or flapping else Status.WARN,
        said,
        one.name,
        {
            "test": _test(one),
            "timeout_seconds": timeout,
            "cut_off": len(late),
            "of": len(_log(one)),
            "changes_in_an_hour": len(changes),
            "output": _output(late[-1]) if late else "",
        },
        "A busy processor makes any probe slow: a limit of a second or two tells of load, not of "
        "health.",
        _more_time(world, one, timeout),
    )


def _passes(world: World, one: Container) -> Finding | None:
    """D44b."""
    if one.get("State", "Health", "Status") != "unhealthy":
        return None
    last = (_log(one) or [{}])[-1]
    if _NO_TOOL.search(_output(last)) or _TOO_LONG.search(_output(last)):
        return None  # D43 and D44 say more.
    return Finding(
        Status.FAIL,
        "is unhealthy",
        one.name,
        {
            "test": _test(one),
            "exit_code": last.get("ExitCode"),
            "output": _output(last),
            "streak": one.get("State", "Health", "FailingStreak"),
            "log": last_lines(world, one, 3),
        },
        "The service itself says so: read the output of its health check.",
        (f"docker logs --tail 50 {one.name}", f"docker restart {one.name}"),
    )


def _tells_the_truth(world: World, one: Container) -> Finding | None:
    """D49."""
    test = _test(one)
    if "redis-cli" not in test or "ping" not in test.lower() or "PONG" in test:
        return None
    refused = [entry for entry in _log(one) if "NOAUTH" in _output(entry)]
    return Finding(
        Status.FAIL if refused else Status.WARN,
        "its health check passes whatever Redis answers",
        one.name,
        {
            "test": test,
            "status": one.get("State", "Health", "Status"),
            "output": _output(refused[-1]) if refused else "",
        },
        "`redis-cli ping` exits with 0 even when it prints NOAUTH or an error.",
        (*(_PASSWORD if refused else ()), *_restated(world, one, secret=bool(refused))),
    )


def _is_checked(one: Container) -> bool:
    return one.running and bool(_log(one))


CHECKS: Final = (
    Check(
        "D43",
        "Health checks have the programs that they run",
        Scope.HOST,
        "unhealthy; curl: not found; exec: executable file not found in $PATH",
        each(_has_its_tool, "the program of each health check is there", _is_checked),
    ),
    Check(
        "D44",
        "Health checks have time enough",
        Scope.HOST,
        "Health check exceeded timeout (1s); healthy and unhealthy by turns",
        each(_has_time, "no health check was cut off", _is_checked),
    ),
    Check(
        "D44b",
        "Containers are healthy",
        Scope.HOST,
        "Up 5 minutes (unhealthy)",
        each(_passes, "no container is unhealthy", _is_checked),
    ),
    Check(
        "D49",
        "Redis's health check tells the truth",
        Scope.HOST,
        "healthy, but every command gets NOAUTH Authentication required.",
        each(_tells_the_truth, "what Redis answers is looked at", _is_checked),
    ),
)
