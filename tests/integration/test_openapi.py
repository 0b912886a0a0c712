"""The OpenAPI document is the truth: a fuzzed server keeps to it, and it names every limit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from starlette.testclient import TestClient

from support.serving import ServerProcess
from support.web import add

BUDGET_SECONDS = 30
EXAMPLES = 10
SEED = 20260101
ADMIN_KEY = "an-admin-key-for-the-fuzzer-0123456789"

# Valid forms hold files of any kind, as a schema sees it; what a file may be, only its bytes tell.
# Wrong keys are limited to a few a minute, so some get 429 where the check wants 401; that every
# route refuses them is what test_tenancy_walk.py walks.
CONFIGURATION = """
[checks.ignored_auth]
enabled = false

[[operations]]
include-path = ["/v1/documents", "/v1/documents/{document_id}"]
include-method = ["POST", "PUT"]
checks.positive_data_acceptance.enabled = false
"""


def test_the_server_keeps_to_its_schema(tmp_path: Path) -> None:
    """Thousands of right and wrong requests: no 5xx, no undocumented status, type or body."""
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    server = ServerProcess(
        tmp_path / "data",
        RAG_MAX_QUEUE=1_000_000,
        RAG_WAIT_TIMEOUT_SECONDS=0.5,
        RAG_ADMIN_KEY=ADMIN_KEY,
    )
    with server:
        with server.client() as client:
            client.headers["X-API-Key"] = ADMIN_KEY
            add(client, "The last ferry leaves at eleven.", "ferry")
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run"),
                *(f"{server.url}/openapi.json", "--warnings", "off"),
                *("--header", f"Authorization: Bearer {ADMIN_KEY}"),
                *("--phases", "examples,coverage,fuzzing", "--seed", str(SEED)),
                *("--max-examples", str(EXAMPLES), "--max-time", str(BUDGET_SECONDS)),
                *("--generation-database", "none", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=3 * BUDGET_SECONDS,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        assert "Tested: 22" in run.stdout
        assert server.stop() == 0
    log = server.log.read_text()
    assert "failed unexpectedly" not in log
    assert '"level": "error"' not in log


def test_the_schema_documents_problems_and_headers(api: TestClient) -> None:
    """Every operation under /v1 documents its problems with their media type."""
    schema = api.get("/openapi.json").json()
    assert schema["components"]["schemas"]["Problem"]["required"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if not path.startswith("/v1"):
                continue
            assert operation["summary"], path
            assert "503" in operation["responses"], (path, method)
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]


def test_every_write_documents_its_idempotency_key(api: TestClient) -> None:
    """What the schema says of the header is what is enforced, and reads don't have it."""
    paths = api.get("/openapi.json").json()["paths"]
    operations = {(m.upper(), p): one for p, each in paths.items() for m, one in each.items()}
    with_key = {}
    for name, operation in operations.items():
        found = [p for p in operation.get("parameters", ()) if p["name"] == "Idempotency-Key"]
        if found:
            (with_key[name],) = found
            assert {"409", "422"} <= set(operation["responses"]), name
    reads = {("POST", "/v1/search"), ("POST", "/v1/ask")}
    writes = {name for name in operations if name[0] in ("POST", "PUT", "PATCH", "DELETE")} - reads
    assert set(with_key) == writes
    for (method, path), parameter in with_key.items():
        assert (parameter["in"], parameter["required"]) == ("header", False)
        schema = parameter["schema"]
        longest = "~" * schema["maxLength"]
        for key, is_right in (("!", True), (longest, True), (longest + "~", False), ("a b", False)):
            fits = len(key) <= schema["maxLength"] and re.search(schema["pattern"], key)
            assert bool(fits) == is_right
            url = path.replace("{", "no-such-").replace("}", "")
            answer = api.request(method, url, headers={"Idempotency-Key": key})
            assert ("idempotency-key" in answer.text) != is_right, (method, path, key)


def test_every_route_is_in_the_schema_or_hidden_on_purpose(api: TestClient) -> None:
    """Only the front door and the metrics are undocumented."""
    documented = set(api.get("/openapi.json").json()["paths"])
    assert documented == {
        *("/health", "/livez", "/readyz", "/v1/ask", "/v1/search", "/v1/jobs"),
        *("/v1/jobs/events", "/v1/jobs/{job_id}/events", "/v1/jobs/{job_id}/retry"),
        *(
            "/v1/jobs/{job_id}/cancel",
            "/v1/jobs/{job_id}",
            "/v1/collections",
            "/v1/collections/{name}",
            "/v1/documents",
        ),
        *("/v1/documents/{document_id}", "/v1/documents/{document_id}/text"),
        "/v1/urls",
    }
