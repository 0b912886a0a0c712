"""The challenges' checks: each looks at what was really reached, never at how.

`check(number, ...)` says "done" with what it saw, or "not yet" with what is missing; an answer that
is None is one that wasn't tried.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ragdock.cli.client import Api, path
from ragdock.core.sizing import Demand, plan
from ragdock.errors import InputError, RagdockError
from ragdock.ops.evaluate import evaluate
from ragdock.ops.sizing import shipped_constants
from ragdock.settings import Settings
from ragdock.tour.dockerfiles import faults

__all__ = ["CHECKS", "DEMAND", "ENDINGS", "Outcome", "check"]

DEMAND: Final = Demand(
    documents=20_000, mean_kb=6.0, asks_per_second=4.0, hit_share=0.4, target_p95_ms=2500.0
)
"""The corpus and the load of the sizing challenge."""

ENDINGS: Final[Mapping[str, tuple[str, signal.Signals | None]]] = {
    "ends by itself": ("exit 0", None),
    "SIGTERM, no handler": ("exec sleep 30", signal.SIGTERM),
    "SIGKILL": ("exec sleep 30", signal.SIGKILL),
    "no such program": ("exec no-such-program-here", None),
    "not executable": ("exec /etc/passwd", None),
}
"""Ways in which a container's process ends: a shell's line, and the signal that it gets."""

_MIN_DOCUMENTS: Final = 100
_MIN_QUERIES: Final = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a challenge is done, and what was seen or is missing."""

    done: bool
    said: str


class _NotYetError(Exception):
    """What is missing."""


def check(number: int, answer: Any = None, *, say: Callable[[str], None]) -> Outcome:
    """Look whether a challenge is done, and say it. Raises `InputError` for an unknown number."""
    if number not in CHECKS:
        raise InputError(
            f"There is no challenge {number}; there are {len(CHECKS)}.", field="number"
        )
    try:
        if answer is None:
            raise _NotYetError("put your answer in the place of None.")
        outcome = Outcome(True, CHECKS[number](answer))
    except _NotYetError as exc:
        outcome = Outcome(False, str(exc))
    except (RagdockError, OSError, TypeError, KeyError, ValueError) as exc:
        outcome = Outcome(False, f"the check couldn't use the answer ({exc}).")
    say(f"Challenge {number}: {'done' if outcome.done else 'not yet'}: {outcome.said}")
    return outcome


def _port(answer: str) -> str:
    """`answer` is the text of a `.env`."""
    values = dict(re.findall(r"^([A-Z_]+)=(\S*)$", answer, re.MULTILINE))
    odd = [line for line in answer.splitlines() if line.strip() and not re.match(r"[A-Z#]", line)]
    _need(not odd, f"a line of .env is NAME=value without spaces before it; yours: {odd[:1]}.")
    published = _filled("${WEB_BIND:-127.0.0.1}:${WEB_PORT:-8000}:8000", values)
    _need(
        published.split(":")[1:] == ["8080", "8000"],
        f"compose would publish {published}; it should be port 8080 of the host.",
    )
    _need(
        published.startswith("127.0.0.1:"),
        f"{published} is open to the network; the default, 127.0.0.1, needs no line.",
    )
    return f"compose publishes {published}, and no file of git has changed."


def _without_redis(answer: str) -> str:
    """`answer` is the URL of a server whose Redis is away."""
    with Api(answer) as api:
        status, health = api.health()
        redis = [one for one in health["dependencies"] if one["name"] == "redis"]
        _need(bool(redis), "this server was never told of a Redis (REDIS_HOST).")
        _need(redis[0]["status"] != "ok", "its Redis answers.")
        _need(status == 200, f"/health says {status}: it should still serve.")
        _need(health["status"] == "degraded", f"/health says {health['status']}, not degraded.")
        found = api.post(path("ask"), {"question": "Who is the managing director?"})
        _need(bool(found["grounded"]), "it serves, but has no document that answers (--samples).")
    return f"degraded with 200, and it still answers: {found['answer']}"


def _nothing_lost(answer: Mapping[str, Any]) -> str:
    """`answer` has `url`, `acknowledged` (ids) and `exit_code` of the server that was killed."""
    ids = list(dict.fromkeys(answer["acknowledged"]))
    _need(answer["exit_code"] in (-9, 137), "the server wasn't killed by SIGKILL (-9, or 137).")
    _need(
        len(ids) >= _MIN_DOCUMENTS,
        f"{len(ids)} documents were acknowledged; send at least {_MIN_DOCUMENTS}.",
    )
    with Api(answer["url"]) as api:
        queue = api.health()[1]["queue"]
        open_jobs = queue["pending"] + queue["processing"]
        _need(open_jobs == 0, f"{open_jobs} documents are still being worked on; try again soon.")
        found = set()
        after = None
        while True:
            page = api.get(path("documents"), {"limit": 100, "after": after})
            found |= {one["id"] for one in page["documents"] if one["status"] == "done"}
            after = page["next"]
            if after is None:
                break
    lost = [one for one in ids if one not in found]
    _need(not lost, f"{len(lost)} acknowledged documents are not there, e.g. {lost[:3]}.")
    return f"{len(ids)} were acknowledged, {len(ids)} are there after the kill."


def _dockerfile(answer: str) -> str:
    """`answer` is the text of a Dockerfile."""
    found = faults(answer)
    _need(not found, f"{len(found)} things are left: " + "; ".join(found) + ".")
    return "every rule holds."


def _exit_codes(answer: Mapping[str, int]) -> str:
    """`answer` has an exit code, as `docker inspect` shows it, for each of `ENDINGS`."""
    missing = [name for name in ENDINGS if name not in answer]
    _need(not missing, f"no code for {missing}.")
    seen = {name: _ended(*ending) for name, ending in ENDINGS.items()}
    wrong = [name for name, code in seen.items() if answer[name] != code]
    _need(not wrong, f"wrong: {', '.join(wrong)} (the check really ended such processes).")
    return ", ".join(f"{name} {code}" for name, code in seen.items())


def _sized(answer: Mapping[str, float]) -> str:
    """`answer` has `cpus` and `memory_mb` of one machine that is enough, and not twice enough."""
    found = plan(DEMAND, shipped_constants())
    cpus, memory_mb = answer["cpus"], answer["memory_mb"]
    _need(cpus >= found.cpus, f"{cpus} processors don't keep the target.")
    _need(cpus <= 2 * found.cpus, f"{cpus} processors are more than twice what it takes.")
    needed = found.memory.needed_mb
    _need(memory_mb >= needed, f"{memory_mb} MB end in exit code 137.")
    _need(memory_mb <= 4 * needed, f"{memory_mb} MB are more than four times what it takes.")
    return f"the smallest: {found.cpus} processors, a limit of {found.memory.limit_mb} MB."


def _evaluated(answer: Path | str) -> str:
    """`answer` is a folder with a test set in BEIR's form."""
    report = evaluate(Path(answer), Settings.load())
    _need(
        report.n_queries >= _MIN_QUERIES,
        f"{report.n_queries} questions say little; write at least {_MIN_QUERIES}.",
    )
    hybrid = next(mode for mode in report.modes if mode.mode == "hybrid")
    return (
        f"{report.n_queries} questions on {report.n_documents} documents: recall@10 "
        f"{hybrid.recall_10:.2f}, nDCG@10 {hybrid.ndcg_10:.2f}."
    )


def _out_of_memory(answer: str) -> str:
    """`answer` is the name or id of a container that has ended."""
    done = subprocess.run(  # noqa: S603
        ["docker", "inspect", "--format", "{{json .State}}", answer],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    _need(done.returncode == 0, f"docker inspect says: {done.stderr.strip()}")
    state = json.loads(done.stdout)
    _need(state["Status"] == "exited", f"the container is {state['Status']}.")
    _need(state["ExitCode"] == 137, f"its exit code is {state['ExitCode']}, not 137.")
    _need(state["OOMKilled"], "137, but it was not memory: OOMKilled is false.")
    return "exit code 137, OOMKilled true."


CHECKS: Final[Mapping[int, Callable[[Any], str]]] = {
    1: _port,
    2: _without_redis,
    3: _nothing_lost,
    4: _dockerfile,
    5: _exit_codes,
    6: _sized,
    7: _evaluated,
    8: _out_of_memory,
}


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _NotYetError(otherwise)


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Compose's `${NAME:-default}`."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: values.get(found[1]) or found[2], text)


def _ended(line: str, by: signal.Signals | None) -> int:
    """The code that Docker would show for a process 1 that ended so: 128 + n for signal n."""
    process = subprocess.Popen(  # noqa: S603 (our own lines)
        ["/bin/sh", "-c", line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if by is not None:
        process.send_signal(by)
    code = process.wait(40)
    return 128 - code if code < 0 else code
