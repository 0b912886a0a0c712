#!/usr/bin/env python3
"""Smoke tests of the container set-up; needs nothing but Python 3.11.

    python tests_docker_sanity.py             check the files, and a running stack if one answers
    RAGDOCK_URL=http://host:8000 python tests_docker_sanity.py
    RAGDOCK_API_KEY=rdk_... python tests_docker_sanity.py     where keys are needed (read, write)

The static checks read Dockerfile, docker-compose.yml, .dockerignore, .env.example and the lock
file. The live checks want `docker compose up -d` (or `ragdock serve`): they look at its health, and
run `ragdock smoke`, which ingests a document, asks about it, checks the citation against the stored
text, deletes it and makes sure that it is gone. pytest collects this file as well.
Exit code: 0 when nothing failed (what was skipped is listed with its reason), 1 otherwise.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
import unittest
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
URL = os.environ.get("RAGDOCK_URL", "http://localhost:8000").rstrip("/")
KEY = os.environ.get("RAGDOCK_API_KEY", "").strip()
TIMEOUT_SECONDS = 60


# ---- static: the files --------------------------------------------------------------------------


def test_static_the_files_are_there() -> None:
    """Everything that `docker compose up` needs is in the checkout."""
    for name in (
        "Dockerfile",
        "docker-compose.yml",
        ".dockerignore",
        ".env.example",
        "requirements.txt",
        "m3_1_dockerize.py",
        "src/ragdock/__init__.py",
        "data/.gitkeep",
    ):
        assert (ROOT / name).is_file(), f"{name} is missing"


def test_static_the_image_is_built_in_stages_on_a_pinned_base() -> None:
    """Several stages, every one on the base that a digest pins, none on `latest`."""
    text = read("Dockerfile")
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    assert len(stages) >= 2, "one stage only: the build tools would be shipped"
    names = {name for _, name in stages}
    for base, name in stages:
        assert base == "${BASE}" or base in names, f"stage {name} is on {base}, not on the base"
    assert re.search(r"^ARG BASE=python:3\.11-\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert not text.startswith("# syntax="), "a syntax line would fetch a frontend first"


def test_static_the_image_runs_as_an_ordinary_user() -> None:
    """The last USER is numeric and not root; files copied in stay root's."""
    instructions = dockerfile()
    users = [rest for word, rest in instructions if word == "USER"]
    assert users, "no USER"
    assert users[-1] == "1000:1000", f"USER {users[-1]}"
    final = instructions[max(i for i, (word, _) in enumerate(instructions) if word == "FROM") :]
    copies = [rest for word, rest in final if word == "COPY"]
    assert copies
    assert all("--chown=0:0" in rest for rest in copies), copies


def test_static_the_image_has_a_health_check_and_exec_form_commands() -> None:
    """HEALTHCHECK and CMD are JSON arrays (no shell in between) and use the entry script."""
    words = dict(dockerfile())
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(words["CMD"]) == ["python", "m3_1_dockerize.py", "--serve"]
    check = words["HEALTHCHECK"]
    command = json.loads(check[check.index("CMD") + 3 :])
    assert command == ["python", "m3_1_dockerize.py", "--health"]
    assert "--timeout=" in check
    assert "--start-period=" in check
    assert not any(word == "ADD" for word, _ in dockerfile()), "ADD: use COPY"


def test_static_dependencies_are_locked_with_hashes() -> None:
    """requirements.txt pins each package and has hashes for it; the Dockerfile insists on them."""
    lock = read("requirements.txt")
    packages = re.split(r"\n(?=[a-z0-9])", lock)[1:]
    assert len(packages) > 20
    for package in packages:
        name = package.split("\n", 1)[0]
        assert re.match(r"^[a-z0-9._-]+(\[[a-z,]+\])?==\S+", name), name
        assert "--hash=sha256:" in package, f"{name} has no hash"
    assert "--require-hashes" in read("Dockerfile")


def test_static_the_build_context_is_an_allow_list() -> None:
    """.dockerignore refuses everything, then admits what the Dockerfile copies."""
    lines = [x for x in read(".dockerignore").splitlines() if x and not x.startswith("#")]
    assert lines[0] == "*", lines[0]
    admitted = {line[1:] for line in lines if line.startswith("!")}
    assert "requirements.txt" in admitted
    assert not admitted & {".", "*", ".git", ".env", "data", "tests"}


def test_static_compose_has_web_and_redis() -> None:
    """Two services on rag-network; web waits for a healthy Redis; the volume is declared."""
    text = read("docker-compose.yml")
    web, redis = service("web"), service("redis")
    assert "rag-api:latest" in web
    assert re.search(r"^\s+build:", web, re.MULTILINE)
    assert re.search(r"redis: *\{ *condition: service_healthy *\}", web)
    assert ":8000" in web
    assert "./data:/data" in web
    assert "redis-data:/data" in redis
    assert re.search(r"^ +redis-data:", text[text.index("\nvolumes:") :], re.MULTILINE)
    assert re.search(r"rag-network:\n +driver: bridge", text)


def test_static_compose_is_hardened() -> None:
    """Both services: health check, limits, no capabilities, read-only root, rotated logs."""
    shared = read("docker-compose.yml").split("\nservices:")[0]
    for name in ("web", "redis"):
        text = service(name) + (shared if "<<: *hardening" in service(name) else "")
        for wanted in (
            "healthcheck:",
            "mem_limit:",
            "cpus:",
            "pids_limit:",
            "stop_grace_period:",
            "cap_drop: [ALL]",
            "read_only: true",
            "no-new-privileges:true",
            "max-size:",
            "restart:",
            "user:",
        ):
            assert wanted in text, f"{name}: no {wanted}"
        assert "privileged: true" not in text
        assert "docker.sock" not in text


def test_static_only_the_api_is_published_and_only_locally() -> None:
    """The API listens on 127.0.0.1 unless WEB_BIND says otherwise; Redis on no port of the host."""
    assert 'ports: ["${WEB_BIND:-127.0.0.1}:${WEB_PORT:-8000}:8000"]' in service("web")
    assert "ports:" not in service("redis")


def test_static_the_redis_image_is_pinned_and_bounded() -> None:
    """Redis comes by digest, with a memory bound and a policy for when it is reached."""
    redis = service("redis")
    assert re.search(r"redis:\d[\w.-]*@sha256:[0-9a-f]{64}", redis)
    assert "--maxmemory " in redis
    assert "--maxmemory-policy allkeys-lru" in redis


def test_static_the_example_environment_is_plain() -> None:
    """.env.example has no quotes, no comment after a value, no $ and no secret; .env is ignored."""
    for line in read(".env.example").splitlines():
        if re.match(r"#? ?$|# ", line):
            continue
        found = re.fullmatch(r"#?([A-Z][A-Z0-9_]*)=([^\s'\"$#]*)", line)
        assert found, line
        if re.search(r"(KEY|PASSWORD|SECRET|TOKEN)(?!S|_FILE)", found[1]):
            assert found[2] == "", f"{found[1]} has a value"
    assert re.search(r"^\.env$", read(".gitignore"), re.MULTILINE)


# ---- live: a running stack -----------------------------------------------------------------------


def test_live_health_tells_each_dependency() -> None:
    """/health is 200 and names the status of the store, the embedder and what else there is."""
    require_server()
    status, body = call("GET", "/health")
    assert status == 200, body
    assert body["status"] in ("ok", "degraded"), body
    names = {entry["name"] for entry in body["dependencies"]}
    assert {"store", "embedder"} <= names, names


def test_live_a_document_goes_in_is_cited_and_goes() -> None:
    """`ragdock smoke`: ingest, search, ask, cite, cache, delete, and nothing tells of it."""
    require_server()
    # A collection of its own: what the user has stored can't get in the way, nor be touched.
    report = smoke_of()(URL, key=KEY or None, timeout_seconds=TIMEOUT_SECONDS)
    said = "\n".join(f"{x.status:<5} {x.name:<11} {x.detail}" for x in report.steps)
    assert report.ok, f"{said}\nleft behind: {', '.join(report.left_behind) or 'nothing'}"


def test_live_errors_are_problem_details() -> None:
    """What doesn't exist is a 404 with a problem document, not a page of HTML or a trace."""
    require_server()
    status, body = call("GET", f"/v1/documents/none-{uuid.uuid4().hex}")
    assert status == 404, body
    assert body["status"] == 404
    assert body["code"]
    assert body["request_id"]


# ---- helpers -------------------------------------------------------------------------------------


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", read("Dockerfile"), flags=re.MULTILINE)
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word
    ]


def service(name: str) -> str:
    """The text of one service of docker-compose.yml."""
    text = read("docker-compose.yml").split("\nservices:\n")[1]
    found = re.search(rf"^  {name}:\n((?:    .*\n|\n| *#.*\n)*)", text, re.MULTILINE)
    assert found, f"no service {name}"
    return found[1]


def call(method: str, path: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {} if data is None else {"Content-Type": "application/json"}
    if KEY:
        headers["Authorization"] = f"Bearer {KEY}"
    request = urllib.request.Request(URL + path, data, headers, method=method)
    # A proxy in the environment is not meant for a stack on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            return response.status, decode(response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, decode(error.headers, error.read())


def decode(headers: Any, content: bytes) -> Any:
    text = content.decode()
    return json.loads(text) if "json" in headers.get("Content-Type", "") else text


def smoke_of() -> Callable[..., Any]:
    """The smoke test of the checkout, which needs nothing but the standard library either."""
    source = str(ROOT / "src")
    if source not in sys.path:
        sys.path.insert(0, source)
    from ragdock.ops.smoke import smoke

    return smoke


def require_server() -> None:
    """Skip unless our server answers; one that was asked for by name must answer."""
    try:
        status, body = call("GET", "/livez")
        if (status, body) == (200, {"status": "ok"}):
            require_key()
            return
        reason = f"what answers at {URL} is not ragdock (GET /livez: {status})"
    except OSError as exc:
        reason = f"nothing answers at {URL} ({getattr(exc, 'reason', exc)})"
    if "RAGDOCK_URL" in os.environ:
        raise AssertionError(reason)
    raise unittest.SkipTest(f"{reason}; `docker compose up -d` starts it")


def require_key() -> None:
    """Say at once that the server wants a key, rather than in every check."""
    status, body = call("GET", "/v1/collections")
    if status in (401, 403):
        said = body["detail"] if isinstance(body, dict) else body
        raise AssertionError(f"{said} The checks send RAGDOCK_API_KEY, with read and write.")


def main() -> int:
    """Run all tests and print a table; returns the exit code."""
    tests = [(n, f) for n, f in list(globals().items()) if n.startswith("test_") and callable(f)]
    counts = {"ok": 0, "failed": 0, "skipped": 0}
    for name, function in tests:
        kind, title = name.removeprefix("test_").split("_", 1)
        started, detail = time.monotonic(), ""
        try:
            function()
            outcome = "ok"
        except unittest.SkipTest as exc:
            outcome, detail = "skipped", str(exc)
        except Exception:  # noqa: BLE001 # Whatever a check dies of is its result.
            outcome, detail = "failed", traceback.format_exc(limit=-1).rstrip()
        counts[outcome] += 1
        milliseconds = (time.monotonic() - started) * 1000
        print(f"{outcome:<8} {kind:<7} {title.replace('_', ' '):<66} {milliseconds:6.0f} ms")
        if detail:
            print("         " + detail.replace("\n", "\n         "))
    print(f"\n{len(tests)} checks: " + ", ".join(f"{n} {k}" for k, n in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
