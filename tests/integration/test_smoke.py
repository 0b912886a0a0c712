"""`ragdock smoke` against real servers, whole ones and ones that a proxy breaks on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from ragdock.api.app import create_app
from ragdock.cli.main import main
from ragdock.errors import InputError
from ragdock.ops.smoke import STEPS, Report, Status, smoke
from support.embedders import HashEmbedder
from support.llm_server import LlmServer
from support.lying_proxy import Exchange, Lie, LyingProxy
from support.models import model_dir
from support.ports import free_port
from support.raw_server import RawServer, make_certificate, response
from support.redis_server import RedisServer
from support.serving import ROOT, ServerProcess, make_settings

pytestmark = pytest.mark.timing

ADMIN_KEY = "an-admin-key-for-smoke-tests-0123456789"


@contextmanager
def running(data_dir: Path, **fields: Any) -> Iterator[str]:
    """A server on loopback in this process; its address."""
    app = create_app(make_settings(data_dir, **fields), embedder=HashEmbedder())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server ended while starting"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that needs no key."""
    with running(tmp_path_factory.mktemp("smoke") / "data") as address:
        yield address


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server that wants keys, and its data directory."""
    data_dir = tmp_path_factory.mktemp("guarded") / "data"
    with running(data_dir, environment="production", admin_key=ADMIN_KEY) as address:
        yield address, data_dir


def make_key(data_dir: Path, name: str, *options: str) -> str:
    """A key by the command line, beside the running server."""
    done = subprocess.run(
        [sys.executable, "-m", "ragdock", "keys", "create", "--name", name, "--json",
         "--data-dir", str(data_dir), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        cwd=data_dir.parent, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return str(json.loads(done.stdout)["key"])


def held(url: str, key: str | None = None) -> list[tuple[str, int]]:
    """The collections of a server with their numbers of documents."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    found = httpx2.get(f"{url}/v1/collections", headers=headers).json()["collections"]
    return [(one["name"], one["n_documents"]) for one in found]


def statuses(report: Report) -> dict[str, str]:
    return {step.name: str(step.status) for step in report.steps}


def failure(report: Report, step: str) -> str:
    """The step failed, and is the first that did; what it says."""
    assert not report.ok
    assert report.failed, report
    assert report.failed[0].name == step, report.failed
    return report.failed[0].detail


def broken(
    url: str, *, before: Lie | None = None, after: Lie | None = None, **options: Any
) -> tuple[Report, LyingProxy]:
    """The smoke test through a proxy that lies."""
    with LyingProxy(url, before=before, after=after) as proxy:
        report = smoke(proxy.url, **{"timeout_seconds": 30, **options})
    return report, proxy


# ---- whole servers ---------------------------------------------------------------------------


def test_a_sound_server_passes_every_step(url: str) -> None:
    """All steps are ok, in order, each with its time, and nothing stays behind."""
    before = held(url)
    told = []
    report = smoke(url, on_step=told.append)
    assert report.ok, report
    assert [step.name for step in report.steps] == list(STEPS)
    assert statuses(report) == dict.fromkeys(STEPS, "ok")
    assert tuple(told) == report.steps
    assert all(step.seconds >= 0 for step in report.steps)
    assert report.left_behind == ()
    assert held(url) == before


def test_an_existing_collection_is_used_and_kept(url: str) -> None:
    """`--collection` adds a document of its own, removes it, and leaves the others alone."""
    httpx2.post(f"{url}/v1/collections", json={"name": "kept"}).raise_for_status()
    documents = [{"id": "mine", "text": "The cupboard of the hall is opened with a crowbar."}]
    httpx2.post(
        f"{url}/v1/documents?collection=kept&wait=true", json={"documents": documents}
    ).raise_for_status()
    report = smoke(url, collection="kept")
    assert report.ok, report
    assert dict(held(url))["kept"] == 1
    assert httpx2.get(f"{url}/v1/documents/mine?collection=kept").status_code == 200
    said = failure(smoke(url, collection="none-such"), "collection")
    assert "none-such" in said


def test_with_redis_it_passes(tmp_path: Path) -> None:
    """With Redis as its cache a server passes as well; with Redis gone it warns and still works."""
    with (
        RedisServer(tmp_path) as redis,
        running(tmp_path / "data", redis_host="127.0.0.1", redis_port=redis.port) as address,
    ):
        report = smoke(address)
        assert report.ok, report
        assert report.warned == ()
        redis.kill()
        time.sleep(1.1)  # A look at the dependencies is good for a second.
        report = smoke(address)
        assert report.ok, report
        (warned,) = report.warned
        assert warned.name == "health"
        assert "redis is down" in warned.detail


def test_several_processes_pass_without_redis(tmp_path: Path) -> None:
    """Each process has a cache of its own: one is met twice, and none tells of what is deleted."""
    server = ServerProcess(
        tmp_path / "data", hashed=False, RAG_WORKERS=2, RAG_MODEL_DIR=model_dir().resolve()
    )
    with server:
        report = smoke(server.url)
    assert report.ok, report
    assert report.warned == ()


@pytest.mark.parametrize(
    ("model", "warns"), [("ok", []), ("no_citation", []), ("http500", ["ask"])]
)
def test_with_an_llm_the_number_must_be_cited(tmp_path: Path, model: str, warns: list[str]) -> None:
    """An LLM's answer is held to the same; one that fails is a warning, its answer isn't cached."""
    with (
        LlmServer() as llm,
        running(tmp_path / "data", llm_base_url=llm.base_url, llm_model=model) as address,
    ):
        report = smoke(address)
    assert report.ok, report
    assert [step.name for step in report.warned if step.name != "health"] == warns
    assert statuses(report)["cache"] == ("skip" if warns else "ok")


def test_an_llm_that_does_not_answer_the_question_fails_the_step(tmp_path: Path) -> None:
    """An answer without the number is not an answer."""
    with (
        LlmServer() as llm,
        running(tmp_path / "data", llm_base_url=llm.base_url, llm_model="dont_know") as address,
    ):
        assert "lacks the number" in failure(smoke(address), "ask")


def test_a_cache_that_is_off_is_a_warning(tmp_path: Path) -> None:
    """Without a cache nothing is a hit: said once, and no failure; `skip` silences it."""
    with running(tmp_path / "data", cache_ttl_seconds=0) as address:
        report = smoke(address)
        assert report.ok
        assert [step.name for step in report.warned] == ["cache"]
        assert "RAG_CACHE_TTL_SECONDS" in report.warned[0].detail
        quiet = smoke(address, skip=["cache"])
    assert quiet.warned == ()
    assert statuses(quiet)["cache"] == "skip"


# ---- keys ------------------------------------------------------------------------------------


def test_keys_open_what_they_open(guarded: tuple[str, Path]) -> None:
    """`metrics`, or admin, sees the metrics; read and write suffice for the rest."""
    address, data_dir = guarded
    assert statuses(smoke(address, key=ADMIN_KEY)) == dict.fromkeys(STEPS, "ok")
    whole = make_key(data_dir, "whole", "--rights", "read,write,metrics")
    assert statuses(smoke(address, key=whole)) == dict.fromkeys(STEPS, "ok")
    report = smoke(address, key=make_key(data_dir, "both", "--rights", "read,write"))
    assert report.ok, report
    assert statuses(report) == dict.fromkeys(STEPS, "ok") | {"metrics": "skip"}
    (skipped,) = (step for step in report.steps if step.status is Status.SKIP)
    assert "`metrics`" in skipped.detail
    assert [name for name, _ in held(address, ADMIN_KEY)] == ["default"]


def test_a_missing_right_is_named(guarded: tuple[str, Path]) -> None:
    """401 tells what to set, 403 which right the key lacks and which step wanted it."""
    address, data_dir = guarded
    said = failure(smoke(address), "collection")
    assert "401" in said
    assert "RAGDOCK_API_KEY" in said
    assert "--key-file" in said
    said = failure(smoke(address, key="rdk_wrong"), "collection")
    assert "mistyped, expired, revoked" in said
    reader = make_key(data_dir, "reader", "--rights", "read")
    said = failure(smoke(address, key=reader), "collection")
    assert "403" in said
    assert "`write`" in said
    assert "--collection NAME" in said
    said = failure(smoke(address, key=reader, collection="default"), "ingest")
    assert "`write`" in said
    writer = make_key(data_dir, "writer", "--rights", "write")
    report = smoke(address, key=writer)
    said = failure(report, "wait")
    assert "`read`" in said
    assert [name for name, _ in held(address, ADMIN_KEY)] == ["default"]


def test_a_tenants_key_uses_its_collection(guarded: tuple[str, Path]) -> None:
    """A key that may make no collection tests with `--collection`, and is told of it without."""
    address, data_dir = guarded
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    httpx2.post(f"{address}/v1/collections", json={"name": "shop"}, headers=admin)
    key = make_key(data_dir, "tenant", "--rights", "read,write", "--collection", "shop")
    assert "--collection NAME" in failure(smoke(address, key=key), "collection")
    report = smoke(address, key=key, collection="shop")
    assert report.ok, report
    httpx2.delete(f"{address}/v1/collections/shop", headers=admin)


# ---- broken on purpose -----------------------------------------------------------------------


def shifted(exchange: Exchange) -> None:
    if exchange.path == "/v1/ask":
        body = exchange.json
        for citation in body["citations"]:
            citation["start"] += 1
        exchange.json = body


def test_wrong_spans_fail_the_citation(url: str) -> None:
    """A citation that points one character further is caught, with both texts."""
    report, _ = broken(url, after=shifted)
    said = failure(report, "citation")
    assert "is not what stands at 1-" in said
    assert [step.name for step in report.failed] == ["citation"]


def test_quotations_of_another_text_fail_the_search(url: str) -> None:
    """A passage that isn't what is stored there is caught where it is found."""

    def forged(exchange: Exchange) -> None:
        if exchange.path == "/v1/search":
            body = exchange.json
            for hit in body["hits"]:
                hit["text"] = hit["text"].replace("cupboard", "larder")
            exchange.json = body

    report, _ = broken(url, after=forged)
    assert "larder" in failure(report, "search")


def test_uncited_answers_fail_the_ask(url: str) -> None:
    """The right number without a citation is not enough."""

    def stripped(exchange: Exchange) -> None:
        if exchange.path == "/v1/ask":
            exchange.json = exchange.json | {"citations": []}

    report, _ = broken(url, after=stripped)
    assert "cites nothing" in failure(report, "ask")


def test_deletes_that_do_not_delete_are_caught(url: str) -> None:
    """204 and the document is still there: `gone` and `stale` fail, the trace is cleaned up."""

    def pretended(exchange: Exchange) -> bool:
        if exchange.method == "DELETE" and "/documents/" in exchange.path:
            exchange.status = 204
            return True
        return False

    before = held(url)
    report, _ = broken(url, before=pretended)
    assert "can still be read" in failure(report, "gone")
    assert [step.name for step in report.failed] == ["gone", "stale"]
    assert held(url) == before


def test_a_search_that_keeps_what_was_deleted_is_caught(url: str) -> None:
    """The document is gone and an old list of hits still tells of it."""
    kept: dict[str, bytes] = {}

    def remembered(exchange: Exchange) -> None:
        if exchange.path == "/v1/search":
            exchange.content = kept.setdefault("hits", exchange.content)

    report, _ = broken(url, after=remembered)
    assert "a search still finds" in failure(report, "gone")


def test_a_stale_cache_is_caught(url: str) -> None:
    """An answer from before the deletion fails `stale`, which says that a cache has it."""
    kept: dict[bytes, Any] = {}

    def remembered(exchange: Exchange) -> None:
        if exchange.path == "/v1/ask":
            if exchange.body in kept:
                exchange.json = kept[exchange.body] | {"cache": "hit"}
            else:
                kept[exchange.body] = exchange.json

    report, _ = broken(url, after=remembered)
    said = failure(report, "stale")
    assert "a stale cache still tells" in said
    assert [step.name for step in report.failed] == ["stale"]


def test_a_cache_that_answers_something_else_is_caught(url: str) -> None:
    """A hit must be the answer that was kept."""

    def other(exchange: Exchange) -> None:
        if exchange.path == "/v1/ask" and exchange.json["cache"] == "hit":
            exchange.json = exchange.json | {"answer": "Another one. [1]"}

    report, _ = broken(url, after=other)
    assert "another one" in failure(report, "cache").lower()


def test_metrics_that_do_not_move_are_caught(url: str) -> None:
    """Counters that stand still fail `metrics`, by name; `--skip metrics` leaves it out."""
    kept: dict[str, bytes] = {}

    def frozen(exchange: Exchange) -> None:
        if exchange.path == "/metrics":
            exchange.content = kept.setdefault("metrics", exchange.content)

    report, _ = broken(url, after=frozen)
    said = failure(report, "metrics")
    assert "rag_answers_total" in said
    assert "rag_ingest_documents_total" in said
    kept.clear()
    report, _ = broken(url, after=frozen, skip=["metrics"])
    assert report.ok


def test_a_job_that_never_ends_is_told_with_its_state(tmp_path: Path) -> None:
    """A queue that stands still ends the run in time: the job, its state, and who should work."""
    with running(tmp_path / "data", ingest=False) as address:
        started = time.monotonic()
        report = smoke(address, timeout_seconds=4)
        assert time.monotonic() - started < 5
        said = failure(report, "wait")
        assert "is still pending" in said
        assert "RAG_INGEST" in said
        assert [step.name for step in report.steps][-2:] == ["wait", "cleanup"]
        assert held(address) == [("default", 0)]
        # The same in a collection that stays: the job must not bring the document back.
        smoke(address, collection="default", timeout_seconds=4)
        jobs = httpx2.get(f"{address}/v1/jobs?collection=default").json()["jobs"]
        assert {job["status"] for job in jobs} <= {"cancelled", "done"}


def test_a_failed_job_is_told_with_its_error(url: str) -> None:
    """A job that failed is its error's code and message."""

    def failed(exchange: Exchange) -> None:
        if exchange.path.startswith("/v1/jobs/"):
            error = {"code": "embedder_unavailable", "message": "The embedder is away."}
            exchange.json = exchange.json | {"status": "failed", "error": error}

    report, _ = broken(url, after=failed)
    assert "embedder_unavailable: The embedder is away." in failure(report, "wait")


def test_an_unhealthy_server_is_told_with_what_is_down(url: str) -> None:
    """503 of /health names the dependency and its reason, and nothing is made."""

    def down(exchange: Exchange) -> None:
        if exchange.path == "/health":
            exchange.status = 503
            part = {"name": "embedder", "status": "down", "detail": "no model"}
            exchange.json = {"status": "unavailable", "dependencies": [part]}

    report, proxy = broken(url, after=down)
    assert "embedder is down (no model)" in failure(report, "health")
    assert not any(method == "POST" for method, _ in proxy.seen)
    assert statuses(report)["cleanup"] == "skip"


def test_what_cannot_be_cleaned_up_is_named(url: str) -> None:
    """A collection that can't be dropped is left behind, named with the command that drops it."""

    def kept(exchange: Exchange) -> bool:
        if exchange.method == "DELETE" and "/collections/" in exchange.path:
            exchange.status = 204
            return True
        return False

    report, _ = broken(url, before=kept)
    assert "still there" in failure(report, "cleanup")
    (trace,) = report.left_behind
    assert f"ragdock collections drop {report.collection} --yes" in trace
    httpx2.delete(f"{url}/v1/collections/{report.collection}").raise_for_status()


def test_a_collection_whose_making_was_not_heard_of_is_removed(url: str) -> None:
    """The answer is lost, the collection is there: it goes all the same."""

    def lost(exchange: Exchange) -> bool:
        if exchange.method == "POST" and exchange.path == "/v1/collections":
            exchange.forward()
            exchange.status, exchange.content = 504, b"gateway"
            return True
        return False

    before = held(url)
    report, _ = broken(url, before=lost)
    assert "504" in failure(report, "collection")
    assert held(url) == before


# ---- the network -----------------------------------------------------------------------------


def test_nothing_listens(url: str) -> None:
    """The address and the remedy are said."""
    said = failure(smoke(f"http://127.0.0.1:{free_port()}"), "connect")
    assert "nothing listens at" in said
    assert "ragdock serve" in said


def test_another_server_is_not_taken_for_ragdock() -> None:
    """A page, another API's JSON, garbage and a redirect are each told apart."""
    for answer, expected in (
        (response(b"<html>hello</html>", headers="Content-Type: text/html\r\n"), "not ragdock"),
        (response(b'{"status":"up"}', headers="Content-Type: application/json\r\n"), "not ragdock"),
        (response(b"gone", status="404 Not Found"), "not ragdock (GET /livez: 404)"),
        (b"220 mail.example.org ESMTP\r\n\r\n", "is this ragdock?"),
        (
            response(status="301 Moved", headers="Location: https://there/livez\r\n"),
            "https://there",
        ),
        (response(b"login", status="401 No"), "something in front of it"),
    ):
        with RawServer(lambda _, answer=answer: [answer]) as server:
            report = smoke(f"http://127.0.0.1:{server.port}", key="secret-key")
        assert expected in failure(report, "connect")
        assert "secret-key" not in str(report)


def test_certificates_and_protocols_are_told(tmp_path: Path, url: str) -> None:
    """An untrusted certificate, TLS where plain HTTP is spoken, and the other way round."""
    server_context, _ = make_certificate(tmp_path, "localhost")
    with RawServer(lambda _: [response()], context=server_context) as server:
        said = failure(smoke(f"https://127.0.0.1:{server.port}"), "connect")
        assert "isn't trusted" in said
        assert "SSL_CERT_FILE" in said
        assert "https://" in failure(smoke(f"http://127.0.0.1:{server.port}"), "connect")
    said = failure(smoke(url.replace("http:", "https:")), "connect")
    assert "TLS" in said
    assert "plain http" in said


def test_a_silent_server_takes_no_longer_than_the_timeout() -> None:
    """A server that takes the request and says nothing ends the run in time."""
    released = threading.Event()

    def silent(_: bytes) -> Iterator[bytes]:
        released.wait(5)
        yield b""

    with RawServer(silent) as server:
        started = time.monotonic()
        said = failure(smoke(f"http://127.0.0.1:{server.port}", timeout_seconds=1), "connect")
        assert time.monotonic() - started < 2
        released.set()
    assert "did not answer in time" in said


def limited(n_times: int, pause: str, status: int = 429) -> Callable[[Exchange], bool]:
    def refuse(exchange: Exchange) -> bool:
        if exchange.path == "/v1/ask" and exchange.n_seen < n_times:
            exchange.status = status
            exchange.headers = {"Retry-After": pause, "Content-Type": "application/problem+json"}
            exchange.json = {"detail": "Too many requests.", "code": "rate_limited"}
            return True
        return False

    return refuse


def test_a_rate_limit_is_waited_for_within_bounds(url: str) -> None:
    """429 is asked again after Retry-After; one that exceeds the time fails with both numbers."""
    report, _ = broken(url, before=limited(1, "1"))
    assert report.ok, report
    (ask,) = (step for step in report.steps if step.name == "ask")
    assert "waited 1 s" in ask.detail
    assert ask.seconds >= 1
    started = time.monotonic()
    report, _ = broken(url, before=limited(99, "3600"))
    assert time.monotonic() - started < 10
    said = failure(report, "ask")
    assert "the rate limit" in said
    assert "3600 s" in said


def test_a_lasting_503_is_not_waited_for_all_the_time(url: str) -> None:
    """503 with a long Retry-After is an outage, said at once."""
    report, _ = broken(url, before=limited(99, "20", 503), timeout_seconds=120)
    assert "it is unavailable" in failure(report, "ask")
    assert report.seconds < 20


def test_addresses_that_cannot_be_meant_are_refused() -> None:
    """No scheme, another scheme, a password in the address, an unknown step to skip."""
    for address in ("127.0.0.1:8000", "ftp://x", "http://", "http://x:port", "http://u:p@x/"):
        with pytest.raises(InputError):
            smoke(address)
    with pytest.raises(InputError, match="cache, metrics"):
        smoke("http://127.0.0.1:1", skip=["delete"])


# ---- the command -----------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(argv)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_the_command_prints_each_step(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each step with its time, the verdict on stderr; JSON for programs."""
    code, out, err = run(capsys, "smoke", url)
    assert code == 0, out
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[1] for line in lines] == list(STEPS)
    assert {line[0] for line in lines} == {"ok"}
    assert all(line[2].endswith(" ms") for line in lines)
    assert err.startswith(f"{url}: works; 14 steps in ")
    code, out, _ = run(capsys, "smoke", url, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["ok"] is True
    assert [step["name"] for step in report["steps"]] == list(STEPS)


def test_the_command_takes_the_key_where_the_others_do(
    guarded: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RAGDOCK_URL, RAGDOCK_API_KEY and --key-file mean what they mean to every command."""
    address, _ = guarded
    monkeypatch.setenv("RAGDOCK_URL", address)
    assert run(capsys, "smoke")[0] == 1
    monkeypatch.setenv("RAGDOCK_API_KEY", ADMIN_KEY)
    assert run(capsys, "smoke")[0] == 0
    monkeypatch.delenv("RAGDOCK_API_KEY")
    (tmp_path / "key").write_text(f"{ADMIN_KEY}\n", encoding="utf-8")
    assert run(capsys, "smoke", "--key-file", str(tmp_path / "key"))[0] == 0


def test_exit_codes(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """0 works, 1 failed (or warned, with --strict), 2 can't be meant."""
    assert run(capsys, "smoke", f"http://127.0.0.1:{free_port()}")[0] == 1
    assert run(capsys, "smoke", "nowhere")[0] == 2
    assert run(capsys, "smoke", url, "--skip", "delete")[0] == 2
    with running(tmp_path / "data", cache_ttl_seconds=0) as address:
        assert run(capsys, "smoke", address)[0] == 0
        assert run(capsys, "smoke", address, "--strict")[0] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM in the middle leave nothing behind and say that they were heard."""
    with running(tmp_path / "data", ingest=False) as address:
        process = subprocess.Popen(
            [sys.executable, "-m", "ragdock", "smoke", address],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while len(held(address)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130, out + err
        assert "interrupted" in err
        assert "Traceback" not in err
        assert "ok\tcleanup" in out
        assert held(address) == [("default", 0)]


def test_it_runs_with_nothing_installed(url: str) -> None:
    """The module is standard library only: a bare Python runs it."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "from ragdock.ops.smoke import smoke\n"
        f"report = smoke({url!r})\n"
        "foreign = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(report.ok, sorted(foreign))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == "True ['__main__', 'ragdock']", ran.stdout + ran.stderr
