"""What browsers are told: headers on every answer, CORS closed unless opened, docs or none."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ragdock.api.app import create_app
from ragdock.errors import ConfigurationError
from support.embedders import HashEmbedder
from support.serving import make_settings, serving

ORIGIN = "https://app.example.com"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
}


def assert_hardened(headers: Any) -> None:
    """Each header of an API's answer is there, once."""
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
    assert all("," not in headers[name] for name in ("cache-control", "x-frame-options"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/livez"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/collections"),
        ("GET", "/nowhere"),
        ("PATCH", "/v1/ask"),
        ("POST", "/v1/ask"),
        ("GET", "/openapi.json"),
    ],
)
def test_every_answer_is_hardened(api: TestClient, method: str, path: str) -> None:
    """Good or bad, an answer can't be sniffed, framed, stored or run."""
    headers = api.request(method, path).headers
    assert_hardened(headers)
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert "strict-transport-security" not in headers


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_docs_pages_may_run_their_own_scripts_only(api: TestClient, path: str) -> None:
    """Each script and style of the page is allowed by its policy, and no other inline script."""
    response = api.get(path)
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert "'unsafe-inline'" not in policy["script-src"]
    inline = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    assert inline or path == "/redoc"
    for script in inline:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy["script-src"]
    for source in re.findall(r'<script src="(https://[^/"]+)', response.text):
        assert source in policy["script-src"]
    for link in re.findall(r'rel="stylesheet" href="(https://[^/"]+)', response.text):
        assert link in policy["style-src"]
    assert_hardened(response.headers)


def test_docs_can_be_switched_off(tmp_path: Path) -> None:
    """RAG_DOCS=false leaves nothing: no pages, no schema, no mention."""
    with serving(tmp_path / "data", docs=False) as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
            assert client.get(path).status_code == 404
        assert set(client.get("/").json()) == {"name", "version", "health"}


def test_other_origins_are_not_let_in(api: TestClient) -> None:
    """Without RAG_CORS_ORIGINS no page of another origin can read an answer or send a key."""
    response = api.get("/v1/collections", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = api.options("/v1/ask", headers=PREFLIGHT)
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_listed_origins_are_let_in_and_no_others(tmp_path: Path) -> None:
    """Preflight and answers, refusals included, are for the listed origin; never credentials."""
    with serving(tmp_path / "data", cors_origins=f"{ORIGIN}, http://localhost:3000") as client:
        preflight = client.options("/v1/ask", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        allowed = preflight.headers["access-control-allow-headers"].lower()
        assert {"authorization", "content-type", "idempotency-key"} <= set(allowed.split(", "))
        refused = client.options("/v1/ask", headers=PREFLIGHT | {"Origin": "https://evil.example"})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        for method, path in (("GET", "/v1/collections"), ("GET", "/nowhere"), ("POST", "/v1/ask")):
            response = client.request(method, path, headers={"Origin": ORIGIN})
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "origin" in response.headers["vary"].lower()
            assert "Retry-After" in response.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in response.headers
            evil = client.request(method, path, headers={"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in evil.headers


def test_a_limit_is_told_to_pages_too(tmp_path: Path) -> None:
    """A page may read why it was refused: 429 has CORS headers; a preflight isn't counted."""
    with serving(tmp_path / "data", cors_origins=ORIGIN, address_rate_per_minute=2) as client:
        for _ in range(5):
            assert client.options("/v1/ask", headers=PREFLIGHT).status_code == 200
        codes = [client.get("/", headers={"Origin": ORIGIN}) for _ in range(3)]
        assert [response.status_code for response in codes] == [200, 200, 429]
        assert codes[-1].headers["access-control-allow-origin"] == ORIGIN


def test_any_origin_is_never_with_credentials(tmp_path: Path) -> None:
    """`*` opens the API to all pages, without cookies and without echoing the origin."""
    with serving(tmp_path / "data", cors_origins="*") as client:
        response = client.get("/", headers={"Origin": "https://evil.example", "Cookie": "a=b"})
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origins", ["app.example.com", "https://a.example/app", "null", "ftp://x"])
def test_a_wrong_origin_is_told_at_the_start(tmp_path: Path, origins: str) -> None:
    """What a browser would never send as an origin is a mistake in the settings."""
    with pytest.raises(ConfigurationError, match="RAG_CORS_ORIGINS"):
        create_app(make_settings(tmp_path, cors_origins=origins), embedder=HashEmbedder())


def test_hsts_is_for_tls_only(tmp_path: Path) -> None:
    """Only TLS here, or told by a trusted proxy, pins a browser to TLS."""
    sent = {"X-Forwarded-Proto": "https"}
    with serving(tmp_path / "a") as client:
        assert "strict-transport-security" not in client.get("/", headers=sent).headers
    with serving(tmp_path / "b", trusted_proxies="10.0.0.0/8") as client:
        assert "strict-transport-security" not in client.get("/", headers=sent).headers
        app = client.app
        with TestClient(app, client=("10.0.0.9", 1)) as proxied:
            headers = proxied.get("/", headers=sent).headers
            assert headers["strict-transport-security"].startswith("max-age=31536000")
            assert "strict-transport-security" not in proxied.get("/").headers
