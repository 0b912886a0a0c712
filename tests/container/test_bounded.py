"""Bounded memory: large files go into a container of 512 MB, which answers all the while.

Minutes long, so only `make test-bounded` runs it. `make bounded` runs the first test at full size,
which takes MiniLM hours; RAGDOCK_BOUNDED_TEXT_MB and RAGDOCK_BOUNDED_PAGES set the sizes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from harness import container, data_directory, logs, wait_for

from support.bounded import LIMIT_MB, Memory, embeddings_process, measure, pid_of
from support.ports import free_port

pytestmark = pytest.mark.slow


@contextmanager
def small_server(image: str, data: Path, **environment: str) -> Iterator[tuple[str, Memory]]:
    """The image as compose runs it, in 512 MB, on the host's network."""
    port = free_port()
    settings = {"PORT": str(port), "RAG_HOST": "127.0.0.1", **environment}
    arguments: list[str] = []
    for name, value in settings.items():
        arguments += ["-e", f"{name}={value}"]
    with container(
        "--network=host", f"--memory={LIMIT_MB}m", f"--memory-swap={LIMIT_MB}m", "--read-only",
        "--tmpfs=/tmp:size=16m", "--cap-drop=ALL", "-v", f"{data}:/data", *arguments, image,
    ) as name:  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for("the server", lambda: httpx2.get(f"{url}/readyz").status_code == 200, 120)
            yield url, Memory(pid_of(name))
        except BaseException:
            print(logs(name))  # noqa: T201  # pytest shows it with the failure.
            raise


def sizes(text_mb: int, n_pages: int) -> tuple[int, int]:
    """What the environment says, or these."""
    return (
        int(os.environ.get("RAGDOCK_BOUNDED_TEXT_MB", text_mb)),
        int(os.environ.get("RAGDOCK_BOUNDED_PAGES", n_pages)),
    )


def test_real_model(image: str, tmp_path: Path, report: Callable[[str], None]) -> None:
    """With MiniLM in the container: no process killed, every query answered, all is found."""
    text_mb, n_pages = sizes(4, 300)
    data = data_directory(tmp_path / "data")
    with small_server(image, data) as (url, memory):
        assert memory.limit_mb == LIMIT_MB
        measured = measure(url, memory, tmp_path, text_mb=text_mb, n_pages=n_pages, hours=24.0)
        assert memory.n_killed == 0
    for line in measured.lines:
        report(f"512 MB, MiniLM: {line}")
    require(measured.found, measured.n_pages["handbook.pdf"], n_pages)


def test_full_size(image: str, tmp_path: Path, report: Callable[[str], None]) -> None:
    """200 MB of text and 5,000 pages, embedded elsewhere: the server's memory is the same."""
    text_mb, n_pages = sizes(200, 5000)
    data = data_directory(tmp_path / "data")
    with (
        embeddings_process() as embeddings,
        small_server(
            image,
            data,
            RAG_EMBEDDER="openai",
            RAG_EMBED_BASE_URL=embeddings,
            RAG_EMBED_MODEL="hash",
            RAG_EMBED_API_KEY="",
        ) as (url, memory),
    ):
        measured = measure(url, memory, tmp_path, text_mb=text_mb, n_pages=n_pages)
        assert memory.n_killed == 0
    for line in measured.lines:
        report(f"512 MB, stub: {line}")
    require(measured.found, measured.n_pages["handbook.pdf"], n_pages)
    percents = measured.percents["prose.txt"]
    assert percents == sorted(percents)
    assert len(set(percents)) > 10


def require(found: dict[str, bool], n_pages: int, expected_pages: int) -> None:
    assert all(found.values()), found
    assert n_pages == expected_pages
