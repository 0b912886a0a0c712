"""Rates over HTTP: allowed, refused with a time, told in headers, by the right address."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ragdock.api.addresses import client_address, limited_as, parse_networks
from ragdock.api.app import create_app
from ragdock.errors import ConfigurationError
from ragdock.services.limits import default_rates
from support.embedders import HashEmbedder
from support.redis_server import RedisServer
from support.serving import make_settings, serving
from support.web import assert_problem

pytestmark = pytest.mark.timing


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[TestClient]:
    """A server that gives each address five requests a minute."""
    with serving(tmp_path / "data", address_rate_per_minute=5) as client:
        yield client


def test_a_refusal_is_a_problem_with_a_time(limited: TestClient) -> None:
    """The sixth request of a minute gets 429, Retry-After and what is left; headers tell before."""
    for left in range(4, -1, -1):
        response = limited.get("/v1/collections")
        assert response.status_code == 200
        assert response.headers["ratelimit-policy"] == '"address";q=5;w=60'
        assert response.headers["ratelimit"].startswith(f'"address";r={left};t=')
    response = limited.get("/v1/collections")
    assert_problem(response, 429, "rate_limited", says="5 requests a minute from this address")
    assert 1 <= int(response.headers["retry-after"]) <= 13
    assert response.headers["ratelimit"].startswith('"address";r=0;t=')


def test_health_is_never_limited(limited: TestClient) -> None:
    """Who has used up everything still gets health, readiness and liveness."""
    while limited.get("/").status_code != 429:
        pass
    for path in ("/livez", "/readyz", "/health"):
        for _ in range(10):
            response = limited.get(path)
            assert response.status_code == 200
            assert "ratelimit" not in response.headers


def test_unknown_paths_and_wrong_bodies_count_too(limited: TestClient) -> None:
    """A scan of paths is limited like anything else."""
    found = [limited.get(f"/{number}").status_code for number in range(10)]
    assert found == [404] * 5 + [429] * 5


def test_development_has_no_limit_and_no_headers(tmp_path: Path) -> None:
    """Unset rates mean none in development, and 600 and 1200 elsewhere."""
    with serving(tmp_path / "data") as client:
        assert "ratelimit" not in client.get("/v1/collections").headers
    assert default_rates("development", None, None) == (0, 0)
    assert default_rates("production", None, None) == (600, 1200)
    assert default_rates("staging", 0, 7) == (0, 7)
    assert default_rates("development", 9, None) == (9, 0)


def test_two_servers_share_a_limit_in_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    """What one server granted, another doesn't grant again."""
    redis = {"redis_host": "127.0.0.1", "redis_port": redis_server.port}
    with (
        serving(tmp_path / "a", address_rate_per_minute=30, **redis) as one,
        serving(tmp_path / "b", address_rate_per_minute=30, **redis) as two,
    ):
        start = time.monotonic()
        codes = [client.get("/v1/collections").status_code for client in [one, two] * 25]
        refilled = (time.monotonic() - start) * 30 / 60
    assert 30 <= codes.count(200) <= 31 + refilled
    assert set(codes) == {200, 429}


def test_redis_may_die_without_an_error(tmp_path: Path, redis_server: RedisServer) -> None:
    """Killed half way: requests are answered or refused, and the fallback is counted."""
    redis = {"redis_host": "127.0.0.1", "redis_port": redis_server.port}
    with serving(tmp_path / "data", address_rate_per_minute=60, **redis) as client:
        start = time.monotonic()
        codes = [client.get("/v1/collections").status_code for _ in range(30)]
        redis_server.kill()
        codes += [client.get("/v1/collections").status_code for _ in range(60)]
        assert 60 <= codes.count(200) <= 61 + (time.monotonic() - start)
        assert set(codes) == {200, 429}


def scope(peer: str, *forwarded: str) -> dict[str, object]:
    """A request from a peer with these X-Forwarded-For headers."""
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"type": "http", "client": (peer, 1), "headers": headers}


TRUSTED = parse_networks("10.0.0.0/8, 2001:db8:1::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.5", ("1.2.3.4",), "203.0.113.5"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("1.2.3.4",), "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6, 1.2.3.4",), "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6, 1.2.3.4, 10.0.0.2",), "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6", "1.2.3.4"), "1.2.3.4"),
        ("10.0.0.1", ("1.2.3.4:5678",), "1.2.3.4"),
        ("10.0.0.1", ("[2a00::1]:80",), "2a00::1"),
        ("10.0.0.1", ("2a00::1",), "2a00::1"),
        ("10.0.0.1", ("nonsense",), "10.0.0.1"),
        ("10.0.0.1", ("1.2.3.4, nonsense, 10.0.0.2",), "10.0.0.2"),
        ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        ("::ffff:10.0.0.1", ("1.2.3.4",), "1.2.3.4"),
        ("2001:db8:1::7", ("1.2.3.4",), "1.2.3.4"),
    ],
)
def test_only_trusted_proxies_tell_addresses(
    peer: str, forwarded: tuple[str, ...], expected: str
) -> None:
    """The rightmost hop that is no trusted proxy is the client; left of it all is hearsay."""
    assert client_address(scope(peer, *forwarded), TRUSTED) == expected


def test_without_trusted_proxies_the_header_is_ignored(limited: TestClient) -> None:
    """A client can't get a new limit by writing another address."""
    codes = [
        limited.get("/", headers={"X-Forwarded-For": f"1.1.1.{number}"}).status_code
        for number in range(8)
    ]
    assert codes.count(429) == 3


def test_an_ipv6_client_is_its_64() -> None:
    """All addresses of a /64 are one client; mapped IPv4 addresses are themselves."""
    assert limited_as("2001:db8::1") == limited_as("2001:db8::ffff:2") == "2001:db8::/64"
    assert limited_as("2001:db8:0:1::1") != limited_as("2001:db8::1")
    assert limited_as("::ffff:192.0.2.1") == limited_as("192.0.2.1") == "192.0.2.1"
    assert limited_as("fe80::1%eth0") == "fe80::/64"
    assert limited_as("unknown") == "unknown"


def test_a_wrong_network_is_told_at_the_start(tmp_path: Path) -> None:
    """RAG_TRUSTED_PROXIES must hold networks."""
    settings = make_settings(tmp_path, trusted_proxies="10.0.0.0/8, proxy.local")
    with pytest.raises(ConfigurationError, match=r"RAG_TRUSTED_PROXIES.*'proxy.local'"):
        create_app(settings, embedder=HashEmbedder())


def test_guessing_keys_is_slowed_down_and_locks_nobody_out(tmp_path: Path) -> None:
    """After ten wrong keys an address gets 429, but a key that was right from there still works."""
    right = {"Authorization": "Bearer " + "r" * 40}
    with serving(tmp_path / "data", admin_key="r" * 40) as client:
        assert client.get("/v1/collections", headers=right).status_code == 200
        codes = []
        for number in range(15):
            wrong = {"Authorization": f"Bearer wrong-{number}-{'w' * 40}"}
            response = client.get("/v1/collections", headers=wrong)
            codes.append(response.status_code)
        assert codes == [401] * 11 + [429] * 4
        assert_problem(response, 429, "rate_limited", says="keys that are unknown")
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/v1/collections", headers=right).status_code == 200
        assert client.get("/v1/collections").status_code == 401
        assert client.get("/health").status_code == 200


def test_keys_have_rates_of_their_own(tmp_path: Path) -> None:
    """A key is counted by itself, told in the headers beside its address."""
    headers = {"Authorization": "Bearer " + "r" * 40}
    with serving(
        tmp_path / "data", admin_key="r" * 40, rate_per_minute=3, address_rate_per_minute=100
    ) as client:
        answers = [client.get("/v1/collections", headers=headers) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
        assert_problem(answers[-1], 429, "rate_limited", says="this key")
        assert answers[0].headers["ratelimit-policy"] == '"address";q=100;w=60, "key";q=3;w=60'
        assert answers[-1].headers["ratelimit"].split(", ")[1].startswith('"key";r=0;t=')
        assert client.get("/v1/collections").status_code == 401
