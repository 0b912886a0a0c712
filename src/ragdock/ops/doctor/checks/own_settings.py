"""Whether ragdock's settings can be read, fit each other, and fit where they are used."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.place import is_inside, our_servers
from ragdock.ops.doctor.reading import (
    fail,
    fields_of,
    memory,
    mib,
    ok,
    read_or,
    settings,
    warn,
)
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

MIB: Final = 2**20
BASE_MB: Final = 200
"""A server process with the local model; what a running one really has counts for more."""
REMOTE_BASE_MB: Final = 120
NEAR_SECONDS: Final = 7 * 86_400.0
_AGAIN: Final = "docker-compose up -d      # without Docker: start ragdock again"
_FORMER: Final = re.compile(r"RAG_(?:URL|API_KEY|TEST_\w+)")
# Read by others than the settings: compose.
_OTHERS: Final = frozenset({"RAG_IMAGE"})


def _readable(world: World) -> list[Finding]:
    """G01."""
    try:
        found = settings(world)
    except WorldError as exc:
        if exc.kind != "status":
            raise
        lines = [line for line in exc.detail.splitlines() if line.strip()]
        return [
            fail(
                line.split(". ")[0][:160],
                "The server doesn't start with it: " + line.rstrip(".") + ".",
                ("# correct it in .env or docker-compose.yml, then:", _AGAIN),
                re.split(r"[=:]", line)[0][:40],
                setting=line[:300],
            )
            for line in lines or ["the settings can't be read"]
        ]
    return ok(f"{len(found) - 1} settings are read and valid", environment=found["environment"])


def _fitting(world: World) -> list[Finding]:
    """G02."""
    found = settings(world)
    problems = [
        (fail if stops else warn)(
            said, cause, (f"# {remedy}", _AGAIN), subject, **{n: found.get(n) for n in names}
        )
        for stops, subject, said, cause, remedy, names in _contradictions(found)
    ]
    return problems or ok("the settings fit each other")


_Contradiction = tuple[bool, str, str, str, str, tuple[str, ...]]


def _contradictions(s: dict[str, Any]) -> Iterator[_Contradiction]:
    """Whether the server refuses it, the setting, what is wrong, why, the remedy, the fields."""
    yield from _of_models(s)
    yield from _of_limits(s)
    if s["cache_ttl_seconds"] == 0 and s["redis_host"]:
        yield (
            False, "RAG_CACHE_TTL_SECONDS", "Redis is set, but the cache is off",
            "With RAG_CACHE_TTL_SECONDS=0 nothing is cached, and Redis counts rates only.",
            "remove RAG_CACHE_TTL_SECONDS=0 or REDIS_HOST", ("cache_ttl_seconds", "redis_host"),
        )  # fmt: skip
    if s["redis_password"] and not s["redis_host"]:
        yield (
            False, "REDIS_PASSWORD", "REDIS_PASSWORD is set, but REDIS_HOST isn't",
            "Without REDIS_HOST no Redis is used at all.",
            "set REDIS_HOST, or remove REDIS_PASSWORD", ("redis_password", "redis_host"),
        )  # fmt: skip
    if s["fetch_hosts"] and not s["fetch_urls"]:
        yield (
            False, "RAG_FETCH_HOSTS", "RAG_FETCH_HOSTS is set, but RAG_FETCH_URLS isn't",
            "POST /v1/urls stays off, so the list has no effect.",
            "set RAG_FETCH_URLS=true, or remove RAG_FETCH_HOSTS", ("fetch_hosts", "fetch_urls"),
        )  # fmt: skip


def _of_models(s: dict[str, Any]) -> Iterator[_Contradiction]:
    if s["embedder"] == "openai":
        for field, name in (("embed_base_url", "BASE_URL"), ("embed_model", "MODEL")):
            if not s[field]:
                yield (
                    True, f"RAG_EMBED_{name}", f"RAG_EMBEDDER=openai needs RAG_EMBED_{name}",
                    "The server doesn't know whom to ask for embeddings and refuses to start.",
                    f"set RAG_EMBED_{name}, or remove RAG_EMBEDDER", ("embedder", field),
                )  # fmt: skip
    elif s["embed_base_url"] or s["embed_model"]:
        yield (
            False, "RAG_EMBEDDER", "RAG_EMBED_... is set, but the local model embeds",
            "RAG_EMBEDDER is minilm, which takes no endpoint and no model's name.",
            "set RAG_EMBEDDER=openai, or remove RAG_EMBED_*",
            ("embedder", "embed_base_url", "embed_model"),
        )  # fmt: skip
    if s["llm_base_url"] and not s["llm_model"]:
        yield (
            True, "RAG_LLM_MODEL", "RAG_LLM_BASE_URL needs RAG_LLM_MODEL",
            "An endpoint serves several models, so the server refuses to start.",
            "set RAG_LLM_MODEL", ("llm_base_url", "llm_model"),
        )  # fmt: skip
    if s["llm_model"] and not s["llm_base_url"]:
        yield (
            False, "RAG_LLM_BASE_URL", "RAG_LLM_MODEL is set, but no endpoint is",
            "Without RAG_LLM_BASE_URL answers are extractive.",
            "set RAG_LLM_BASE_URL, or remove RAG_LLM_MODEL", ("llm_base_url", "llm_model"),
        )  # fmt: skip


def _of_limits(s: dict[str, Any]) -> Iterator[_Contradiction]:
    for lower, upper, what in (
        ("max_upload_mb", "max_request_mb", "a file of the allowed size makes too large a request"),
        ("max_upload_mb", "max_queue_mb", "a file of the allowed size never fits into the queue"),
        ("top_k", "candidates", "more passages are wanted than are looked for"),
        ("max_files", "max_queue", "a full request never fits into the queue"),
        (
            "llm_timeout_seconds",
            "request_timeout_seconds",
            "the LLM may take longer than a request",
        ),
    ):
        if s[lower] > s[upper]:
            names = f"RAG_{lower.upper()}", f"RAG_{upper.upper()}"
            yield (
                False, names[0], f"{names[0]}={s[lower]} is above {names[1]}={s[upper]}",
                f"So {what}.", f"raise {names[1]} or lower {names[0]}", (lower, upper),
            )  # fmt: skip


def _known(world: World) -> list[Finding]:
    """G03."""
    known = set(settings(world)["variables"])
    named = set(world.environ())
    if not is_inside(world):
        text = read_or(world, f"{world.environ().get('PWD', '')}/.env")
        named |= set(re.findall(r"^(?:export\s+)?([A-Za-z_]\w*)\s*=", text, re.MULTILINE))
    unknown = sorted(
        name
        for name in named - known - _OTHERS
        if name.upper().startswith("RAG_") and not _FORMER.fullmatch(name)
    )
    problems = []
    for name in unknown:
        near = difflib.get_close_matches(name.upper(), known, 1, 0.75)
        problems.append(
            warn(
                f"{name} is no setting, so it has no effect",
                f"It may be meant to be {near[0]}." if near else "No setting's name is like it.",
                (f"# in .env: {near[0]}=..." if near else f"# remove {name} from .env", _AGAIN),
                name,
                variable=name,
                like=near[0] if near else None,
            )
        )
    return problems or ok("every RAG_ variable is a setting", count=len(known & named))


def _keys(world: World) -> list[Finding]:
    """G04."""
    s = settings(world)
    try:
        store = world.ragdock("store")
    except WorldError as exc:
        if exc.kind != "absent":
            raise
        store = {}
    usable = [at for at in store.get("keys_expire_at", []) if at > world.now()]
    n_keys = int(store.get("keys_for_ever", 0)) + len(usable)
    evidence = {
        "ENVIRONMENT": s["environment"],
        "keys": n_keys,
        "expired": len(store.get("keys_expire_at", [])) - len(usable),
        "RAG_ADMIN_KEY": "set" if s["admin_key"] else "not set",
    }
    make = (
        "docker-compose run --rm web ragdock keys create --name ops --rights admin",
        "docker-compose up -d",
        "# without Docker: ragdock keys create --name ops --rights admin",
    )
    if s["admin_key"] or store.get("keys_for_ever"):
        return ok(f"{n_keys} keys open it" if n_keys else "the admin key opens it", **evidence)
    if n_keys:
        if max(usable) - world.now() < NEAR_SECONDS:
            return [
                warn(
                    "the last API key expires within a week",
                    "After that nobody gets in; keys are renewed by making another one.",
                    make[:1],
                    "keys",
                    **evidence,
                )
            ]
        return ok(f"{n_keys} keys open it", **evidence)
    if s["environment"] != "development":
        return [
            fail(
                f"ENVIRONMENT={s['environment']} and no API key that is valid",
                "Outside of development a server without keys refuses to start, because it would "
                "be open to whoever reaches it.",
                make,
                "keys",
                **evidence,
            )
        ]
    if evidence["expired"]:
        return [
            fail(
                "every API key has expired",
                "Keys are needed since the first was made, and none is valid any more.",
                make[:1],
                "keys",
                **evidence,
            )
        ]
    return ok("development: no key is needed", **evidence)


def _memory(world: World) -> list[Finding]:
    """G16."""
    s = settings(world)
    limit = memory(world).limit_bytes
    if limit is None:
        return ok("no memory limit")
    limit_mb = limit // MIB
    sizes = [
        fields_of(read_or(world, f"/proc/{one.pid}/status").replace(":", "").replace(" kB", ""))
        for one in our_servers(world)
    ]
    each_mb = BASE_MB if s["embedder"] == "minilm" else REMOTE_BASE_MB
    each_mb = max([each_mb, *(size.get("VmRSS", 0) // 1024 for size in sizes)])
    wanted_mb = s["workers"] * (each_mb + s["cache_memory_mb"])
    parser_mb = s["parse_memory_mb"] or min(1024, max(128, limit_mb // 2))
    evidence = {
        "limit_mb": limit_mb,
        "RAG_WORKERS": s["workers"],
        "each_process_mb": each_mb,
        "RAG_CACHE_MEMORY_MB": s["cache_memory_mb"],
        "RAG_PARSE_MEMORY_MB": s["parse_memory_mb"],
    }
    if wanted_mb > limit_mb:
        fitting = max(1, limit_mb // (each_mb + s["cache_memory_mb"]))
        return [
            fail(
                f"{s['workers']} processes want about {wanted_mb} MB, the limit is {mib(limit)}",
                f"Each takes some {each_mb} MB and {s['cache_memory_mb']} MB of cache.",
                (
                    f"echo RAG_WORKERS={fitting} >> .env && docker-compose up -d",
                    f"# or: echo WEB_MEMORY={-(-wanted_mb * 3 // 2048)}g >> .env",
                ),
                "RAG_WORKERS",
                **evidence,
            )
        ]
    if parser_mb >= limit_mb:
        return [
            warn(
                f"RAG_PARSE_MEMORY_MB={parser_mb} lets a parser take all of {mib(limit)}",
                "A parser that grows is to be stopped by its own limit, not by the kernel's, "
                "which kills the server instead.",
                (f"# in .env: RAG_PARSE_MEMORY_MB={max(128, limit_mb // 2)}", _AGAIN),
                "RAG_PARSE_MEMORY_MB",
                **evidence,
            )
        ]
    return ok(f"{s['workers']} processes fit into {mib(limit)}", **evidence)


CHECKS: Final = (
    Check(
        "G01",
        "The settings can be read",
        Scope.BOTH,
        "ragdock ends with exit code 2 and names a variable",
        _readable,
    ),
    Check(
        "G02",
        "The settings fit each other",
        Scope.BOTH,
        "a setting seems to have no effect",
        _fitting,
    ),
    Check(
        "G03",
        "Every RAG_ variable is a setting",
        Scope.BOTH,
        "a setting has no effect, because its name is misspelt",
        _known,
    ),
    Check(
        "G04",
        "Who needs a key has one",
        Scope.BOTH,
        "the server wants an API key, or refuses every one",
        _keys,
    ),
    Check(
        "G16",
        "The processes fit into the memory limit",
        Scope.INSIDE,
        "exit 137 under load",
        _memory,
    ),
)
