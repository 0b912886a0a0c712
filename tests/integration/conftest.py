"""Applications and servers that the integration tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from support.redis_server import RedisServer
from support.serving import serving


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an application that a module's tests share; each uses ids of its own."""
    with serving(tmp_path_factory.mktemp("api") / "data") as client:
        yield client


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis-compatible server, empty."""
    with RedisServer(tmp_path) as server:
        yield server
