"""What one request costs here: the constants of the sizing model, measured by kind.

A kind's latency alone is that of one visitor who asks nothing else; its processor time is what the
server's processes used meanwhile; what one process can't do side by side is bounded by what eight
visitors got out of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.mix import Mix, Request, Visitor
from loadtest.plain import Client
from loadtest.target import ROOT, Target

__all__ = ["Cost", "cost_of", "costs", "storage"]

KINDS = {
    "ask hit": "ask_popular",
    "ask miss": "ask_tail",
    "search hit": "search_popular",
    "search miss": "search_tail",
    "upload": "upload",
    "delete": "delete",
    "list": "list",
    "health": "health",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """One kind's. `client_ms` is the generator's own processor time, which is no server's."""

    n: int
    cpu_ms: float
    alone_ms: float
    scv: float
    serial_ms: float
    client_ms: float


def costs(
    target: Target, mix: Mix, seconds: float, kinds: Sequence[str] = tuple(KINDS)
) -> dict[str, Cost]:
    """Every kind's cost, `seconds` for each."""
    return {kind: cost_of(target, mix, kind, seconds) for kind in kinds}


def cost_of(target: Target, mix: Mix, kind: str, seconds: float) -> Cost:
    """One kind's cost: two thirds of the time one visitor, one third eight of them."""
    visitors = [Visitor(mix, number, f"cal-{time.monotonic_ns()}") for number in range(9)]
    if kind == "delete":
        # Something to delete; what isn't indexed yet is deleted as well.
        client = Client(target.url)
        uploads = [visitors[0].of("upload") for _ in range(30)]
        asyncio.run(_one_by_one(client, uploads))
    makes = [lambda visitor=visitor: visitor.of(KINDS[kind]) for visitor in visitors]
    before, client_before = target.facts(), time.process_time()
    alone = asyncio.run(_for(Client(target.url), makes[:1], seconds * 2 / 3))
    after, client_after = target.facts(), time.process_time()
    values = [record.service_ms for record in alone if record.ok]
    if not values:
        raise RuntimeError(f"no {kind} was answered: {alone[0].error if alone else 'none sent'}")
    mean = math.fsum(values) / len(values)
    # The highest percent is the machine's, not the server's: one pause of 50 ms makes an scv of 30.
    kept = sorted(values)[: max(1, math.ceil(0.99 * len(values)))]
    kept_mean = math.fsum(kept) / len(kept)
    scv = math.fsum((value - kept_mean) ** 2 for value in kept) / len(kept) / kept_mean**2
    cpu = (after.cpu_seconds - before.cpu_seconds) / len(values) * 1000
    started = time.monotonic()
    many = asyncio.run(_for(Client(target.url), makes[1:], seconds / 3))
    rate = sum(record.ok for record in many) / (time.monotonic() - started)
    return Cost(
        n=len(values),
        cpu_ms=cpu,
        alone_ms=mean,
        scv=scv,
        serial_ms=_serial_ms(target, visitors[0], kind, cpu, mean, 1000 / rate if rate else mean),
        client_ms=(client_after - client_before) / len(values) * 1000,
    )


def _serial_ms(
    target: Target, visitor: Visitor, kind: str, cpu_ms: float, alone_ms: float, bound_ms: float
) -> float:
    """What one process can't do side by side: at most `bound_ms`, what eight visitors showed.

    Less, where the processors gave out before the process did: the stages that run outside of the
    interpreter's lock (model, SQLite, scan) are told by the answers' timings. Of the extraction,
    which uses all processors, nine tenths at least are the model: of 160 ms of processor time for
    38 sentences of five passages, tokenising took 1 and choosing 2.
    """
    if not kind.endswith("miss"):
        return min(bound_ms, alone_ms, cpu_ms)
    sums: dict[str, float] = {}
    n = 8
    for _ in range(n):
        request = visitor.of(KINDS[kind])
        answer = target.ask(request.method, request.path, json.loads(request.body or b"{}"))
        for stage, ms in answer["timings_ms"].items():
            sums[stage] = sums.get(stage, 0.0) + ms / n
    released = sum(sums.get(stage, 0.0) for stage in ("embed", "lexical", "dense"))
    extract = sums.get("extract", 0.0)
    extract_cpu = max(0.0, cpu_ms - max(0.0, alone_ms - extract))
    # Never below a quarter of what isn't the extraction: timings on a busy machine are too long.
    least = 0.25 * (cpu_ms - extract_cpu) + 0.1 * extract_cpu
    return max(min(bound_ms, cpu_ms - released - 0.9 * extract_cpu), least)


async def _one_by_one(client: Client, requests: Sequence[Request]) -> None:
    for request in requests:
        await client.send(request)
    await client.close()


async def _for(client: Client, makes: Sequence[Callable[[], Request]], seconds: float) -> list[Any]:
    end = time.monotonic() + seconds

    async def visit(make: Callable[[], Request]) -> None:
        while time.monotonic() < end:
            await client.send(make())

    await asyncio.gather(*(visit(make) for make in makes))
    await client.close()
    return client.records


def storage(python: str = sys.executable) -> dict[str, float]:
    """Bytes on disk and in memory for a passage, by filling stores of several shapes."""
    done = subprocess.run(
        [python, "-m", "loadtest.storage"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'bench'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
