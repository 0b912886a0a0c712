"""The running server and the documents that wait for it."""

from __future__ import annotations

from typing import Any, Final

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.owners import ports_of
from ragdock.ops.doctor.place import Process, is_inside, servers_over
from ragdock.ops.doctor.reading import fail, mib, ok, read_or, settings, skip, warn
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

MIB: Final = 2**20
STUCK_SECONDS: Final = 120.0
NEAR: Final = 0.8


def _store(world: World) -> dict[str, Any]:
    found = world.ragdock("store")
    if not isinstance(found, dict) or "pending" not in found:
        raise WorldError("unsupported", "the store's schema isn't this release's: see G18")
    return found


def _worked(world: World) -> list[Finding]:
    """G09."""
    s, store = settings(world), _store(world)
    n_waiting = int(store["pending"]) + int(store["processing"])
    evidence = {
        "RAG_INGEST": s["ingest"],
        "workers_alive": store["workers"],
        "pending": store["pending"],
        "processing": store["processing"],
    }
    if store["workers"] or (s["ingest"] and not n_waiting):
        return ok(f"{store['workers']} workers live, {n_waiting} documents wait", **evidence)
    fix: tuple[str, ...]
    if s["ingest"]:
        over = servers_over(world, str(s["data_dir"]))
        if any(server.role == "serve" for server in over):
            cause = "The server processes documents itself, and none of its workers lives."
        else:
            cause = "No server runs over this data directory."
        fix = ("docker-compose up -d web      # without Docker: ragdock serve",)
    else:
        cause = "RAG_INGEST=false leaves the work to `ragdock worker`, and none is running."
        fix = (
            "docker-compose --profile worker up -d",
            "# without Docker: ragdock worker",
            "# or let the server do it: RAG_INGEST=true",
        )
    report = fail if n_waiting else warn
    said = f"{n_waiting} documents wait and nobody processes them"
    if not n_waiting:
        said = "nobody would process an upload"
    return [report(said, cause, fix, "worker", **evidence)]


def _failed(world: World) -> list[Finding]:
    """G10."""
    store = _store(world)
    codes = [f"{n} {code or 'unknown'}" for code, n in store["failed_codes"].items()]
    evidence = {"failed": store["failed"], "codes": codes}
    if store["failed"]:
        return [
            warn(
                f"{store['failed']} documents were given up: {', '.join(codes[:3])}",
                "Each failed for good, or too often; its former version still serves if there was "
                "one.",
                (
                    "ragdock jobs ls --status failed      # says why, one a line",
                    "ragdock jobs retry --all-failed      # once the cause is gone",
                ),
                "jobs",
                **evidence,
            )
        ]
    return ok("no document was given up", **evidence)


def _stuck(world: World) -> list[Finding]:
    """G11."""
    store = _store(world)
    oldest = store["oldest_due_at"]
    age = max(0.0, world.now() - float(oldest)) if oldest is not None else 0.0
    retrying = [(str(code), int(n)) for code, n, _ in store["retrying"]]
    evidence = {
        "due": store["due"],
        "oldest_due_seconds": round(age, 1),
        "leased": store["leased"],
        "workers_alive": store["workers"],
        "retrying": [f"{n} {code}" for code, n in retrying],
    }
    if not store["workers"]:
        return skip("no worker lives: see G09")
    if store["due"] and not store["leased"] and age > STUCK_SECONDS:
        return [
            fail(
                f"{store['due']} documents wait since {age / 60:.0f} minutes, and none is in work",
                "A worker lives and takes none: it hangs, or can't write the store.",
                (
                    "docker-compose logs --tail 50 web",
                    "docker-compose restart web      # without Docker: start the server again",
                ),
                "queue",
                **evidence,
            )
        ]
    if retrying:
        what = ", ".join(f"{n} {code}" for code, n in retrying)
        return [
            warn(
                f"documents wait for another attempt: {what}",
                "What they need failed (a dependency is down, or the attempt crashed); they are "
                "tried again by themselves, at most every 5 minutes.",
                ("curl -s http://127.0.0.1:8000/health", "ragdock jobs ls --status pending"),
                "queue",
                **evidence,
            )
        ]
    return ok(f"{store['due']} documents wait, {store['leased']} are in work", **evidence)


def _full(world: World) -> list[Finding]:
    """G15."""
    s, store = settings(world), _store(world)
    n_open = int(store["pending"]) + int(store["processing"])
    parts = {
        "RAG_MAX_QUEUE": n_open / s["max_queue"],
        "RAG_MAX_QUEUE_MB": int(store["queue_bytes"]) / (s["max_queue_mb"] * MIB),
    }
    name, share = max(parts.items(), key=lambda part: part[1])
    evidence = {
        "unfinished": n_open,
        "RAG_MAX_QUEUE": s["max_queue"],
        "unfinished_bytes": store["queue_bytes"],
        "RAG_MAX_QUEUE_MB": s["max_queue_mb"],
    }
    said = f"{n_open} unfinished documents, {mib(int(store['queue_bytes']))}"
    if share >= NEAR:
        return [
            (fail if share >= 1 else warn)(
                f"the queue is {share:.0%} full: {said}",
                "Above its limit uploads get 503 `queue_full`. Documents arrive faster than they "
                "are embedded.",
                (
                    f"# in .env: a larger {name}, or more CPUs: WEB_CPUS, RAG_WORKERS",
                    "docker-compose up -d",
                    "ragdock jobs drain      # returns when nothing is unfinished",
                ),
                name,
                **evidence,
            )
        ]
    return ok(said, **evidence)


def _health(world: World) -> list[Finding]:
    """G12."""
    told = int(settings(world)["port"])
    over = servers_over(world, str(settings(world)["data_dir"]))
    running = [one for one in over if one.role == "serve"]
    inside = is_inside(world)
    port = told if inside else _port(world, running, told)
    try:
        answer = world.ragdock("health" if port == told else f"health {port}")
    except WorldError as exc:
        return _silent(world, exc, port, running=bool(running), inside=inside)
    body = answer["body"]
    down = [one for one in body.get("dependencies", []) if one.get("status") != "ok"]
    evidence = {
        "http_status": answer["status"],
        "status": body.get("status"),
        "seconds": answer["seconds"],
        "down": [f"{one.get('name')}: {one.get('detail')}" for one in down],
    }
    if answer["status"] == 200 and body.get("status") == "ok":
        return ok(f"the server on port {port} is healthy", **evidence)
    names = ", ".join(str(one.get("name")) for one in down) or "it doesn't say what to this caller"
    logs = (
        "docker-compose logs --tail 50 web" if inside else "# look at the server's log",
        f"curl -s http://127.0.0.1:{port}/health      # with a key: what is down",
    )
    if answer["status"] == 200 and body.get("status") == "degraded":
        return [
            warn(
                f"the server serves, degraded: {names}",
                "Something optional is down; answers come all the same, slower or simpler.",
                logs,
                "health",
                **evidence,
            )
        ]
    return [
        fail(
            f"the server answers /health with {answer['status']}: {names}",
            "Something that it needs is down, or another program has the port.",
            logs,
            "health",
            **evidence,
        )
    ]


def _port(world: World, running: list[Process], told: int) -> int:
    """Where the server really listens: whoever asks needn't know its `--port` or `PORT`."""
    ports = {port for one in running for port in ports_of(world, one.pid)}
    return told if told in ports or len(ports) != 1 else ports.pop()


def _silent(
    world: World, exc: WorldError, port: int, *, running: bool, inside: bool
) -> list[Finding]:
    evidence = {"port": port, "kind": exc.kind, "error": exc.detail}
    main = read_or(world, "/proc/1/cmdline").split("\0")
    if not running and not (inside and "--serve" in main):
        return skip(f"no server runs here ({exc.detail})")
    return [
        fail(
            f"the server runs and doesn't answer on port {port}",
            "It hangs, or is too busy to answer."
            if exc.kind == "timeout"
            else "It is still starting, or listens on another port (PORT).",
            (
                "docker-compose logs --tail 50 web" if inside else "# look at the server's log",
                "docker-compose restart web" if inside else f"# is PORT={port} what it was told?",
            ),
            f"port {port}",
            **evidence,
        )
    ]


CHECKS: Final = (
    Check(
        "G09",
        "Somebody processes documents",
        Scope.BOTH,
        "uploads stay pending",
        _worked,
    ),
    Check(
        "G10",
        "No document was given up",
        Scope.BOTH,
        "documents that were uploaded aren't found",
        _failed,
    ),
    Check(
        "G11",
        "The queue moves",
        Scope.BOTH,
        "uploads stay pending although a worker runs",
        _stuck,
    ),
    Check(
        "G12",
        "The server answers and is healthy",
        Scope.BOTH,
        '503, or "status":"degraded"',
        _health,
    ),
    Check(
        "G15",
        "The queue has room",
        Scope.BOTH,
        "503 queue_full",
        _full,
    ),
)
