"""What must survive: a killed server, a lost or frozen Redis, a stop in mid-request."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import (
    IMAGE,
    Stack,
    ask,
    container,
    data_directory,
    docker,
    inspect,
    put_text,
    run,
    wait_for,
)

N_DOCUMENTS = 200
GRACE_SECONDS = 20


def test_no_acknowledged_document_is_lost(stack: Stack, report: Callable[[str], None]) -> None:
    """SIGKILL amid 200 documents: after the restart every acknowledged one is found."""
    acknowledged: list[str] = []
    started = threading.Event()

    def ingest() -> None:
        with stack.client() as client:
            for first in range(0, N_DOCUMENTS, 5):
                documents = [fact(number) for number in range(first, first + 5)]
                try:
                    response = client.post("/v1/documents", json={"documents": documents})
                except httpx2.HTTPError:
                    return
                assert response.status_code == 202, response.text
                acknowledged.extend(entry["id"] for entry in response.json()["documents"])
                started.set()

    before = inspect(stack.container("web"))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(ingest)
        assert started.wait(30)
        time.sleep(0.5)
        kill_hard(stack, before)
        sending.result()
    n_before = len(acknowledged)
    assert n_before > 0
    stack.wait_healthy()
    assert inspect(stack.container("web"))["RestartCount"] == before["RestartCount"] + 1
    with stack.client() as client:
        done = wait_for("all jobs to end", lambda: finished(client, acknowledged), 120)
        assert done == {"done"}
        missing = [number for number in acknowledged if not is_found(client, number)]
    report(f"SIGKILL: {n_before} of {N_DOCUMENTS} documents acknowledged, {len(missing)} lost")
    assert missing == []


def fact(number: int) -> dict[str, str]:
    text = f"The locker called kestrel{number:03d} opens with the code {7919 * (number + 3)}."
    return {"id": f"locker-{number:03d}", "filename": f"locker-{number:03d}.txt", "text": text}


def kill_hard(stack: Stack, state: dict[str, Any]) -> None:
    """SIGKILL from outside of Docker, as the kernel would: then the restart policy applies."""
    pid, identifier = state["State"]["Pid"], state["Id"]
    cgroup = Path(f"/proc/{pid}/cgroup")
    if cgroup.exists() and identifier in cgroup.read_text(encoding="ascii"):
        os.kill(pid, 9)
        return
    pytest.skip("the engine's processes can't be seen from here")


def finished(client: httpx2.Client, wanted: list[str]) -> set[str]:
    states = {}
    after = ""
    while True:
        page = client.get("/v1/documents", params={"limit": "100", "after": after}).json()
        states.update({entry["id"]: entry["status"] for entry in page["documents"]})
        if not page["next"]:
            break
        after = page["next"]
    found = {states.get(identifier, "unknown") for identifier in wanted}
    return set() if found & {"pending", "processing"} else found


def is_found(client: httpx2.Client, identifier: str) -> bool:
    number = int(identifier.rsplit("-", 1)[1])
    body = {"query": f"kestrel{number:03d}", "top_k": 1, "mode": "lexical"}
    response = client.post("/v1/search", json=body)
    assert response.status_code == 200, response.text
    return [hit["document_id"] for hit in response.json()["hits"]] == [identifier]


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_without_redis_every_request_is_answered(
    stack: Stack, how: str, report: Callable[[str], None]
) -> None:
    """Redis killed or frozen under load: no request fails, /health says degraded, then ok again."""
    with stack.client() as client:
        put_text(client, "lamp", "The lamp of the northern pier burns for sixteen hours a night.")
    redis = stack.container("redis")
    stop = threading.Event()
    latencies: list[float] = []

    def load(worker: int) -> None:
        with stack.client() as client:
            number = 0
            while not stop.is_set():
                number += 1
                began = time.monotonic()
                # A new question each time, so that the cache is asked and written.
                ask(client, f"How long does the lamp burn at night? {worker} {number}")
                latencies.append(time.monotonic() - began)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(load, worker) for worker in range(3)]
        try:
            time.sleep(1)
            docker(how, redis)
            with stack.client() as client:
                degraded = wait_for("degraded", lambda: health_is(client, "degraded"), 20)
            time.sleep(2)
            assert [d["status"] for d in degraded["dependencies"] if d["name"] == "redis"] == [
                "down"
            ]
        finally:
            docker("unpause" if how == "pause" else "start", redis)
        with stack.client() as client:
            wait_for("ok again", lambda: health_is(client, "ok"), 30)
        stop.set()
        for each in asking:
            each.result()
    slowest = max(latencies)
    report(f"redis {how}: {len(latencies)} questions, 0 failed, slowest {slowest:.2f} s")


def health_is(client: httpx2.Client, status: str) -> dict[str, Any] | None:
    response = client.get("/health")
    # Degraded is still able to serve.
    assert response.status_code == 200, response.text
    body = dict(response.json())
    return body if body["status"] == status else None


def test_a_stop_lets_running_requests_end(stack: Stack, report: Callable[[str], None]) -> None:
    """`docker stop` amid uploads: one is answered, one without end is cut, the exit code is 0."""
    body = json.dumps({"documents": [{"id": "late", "text": "The late ferry leaves at 23:40."}]})
    slow = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    begin_upload(slow, body)
    hanging = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    begin_upload(hanging, body)
    web = stack.container("web")
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        stopping = pool.submit(docker, "stop", "-t", str(GRACE_SECONDS), web)
        time.sleep(1.5)
        slow.send(body[10:].encode())
        assert slow.getresponse().status in (200, 202)
        stopping.result()
        seconds = time.monotonic() - started
    hanging.close()
    state = inspect(web)["State"]
    report(f"docker stop with requests in flight: {seconds:.1f} s, exit {state['ExitCode']}")
    assert state["ExitCode"] == 0
    assert seconds < GRACE_SECONDS - 2
    docker("start", web)
    stack.wait_healthy()
    with stack.client() as client:
        wait_for("the document", lambda: client.get("/v1/documents/late").status_code == 200)


def test_a_stop_during_the_start_is_heard(image: str, report: Callable[[str], None]) -> None:
    """A container that is stopped while it still starts ends at once, not by SIGKILL."""
    with container("--read-only", "--tmpfs", "/tmp", "--tmpfs", "/data:uid=1000", image) as name:
        time.sleep(0.3)
        started = time.monotonic()
        docker("stop", "-t", str(GRACE_SECONDS), name)
        seconds = time.monotonic() - started
        code = inspect(name)["State"]["ExitCode"]
    report(f"docker stop during the start: {seconds:.1f} s, exit {code}")
    assert code == 0
    assert seconds < GRACE_SECONDS - 2


def begin_upload(connection: http.client.HTTPConnection, body: str) -> None:
    connection.putrequest("POST", "/v1/documents")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:10].encode())
    time.sleep(0.2)


def test_two_processes_never_serve_a_stale_answer(stack: Stack) -> None:
    """With two server processes and Redis, no answer is older than the last acknowledged write."""
    stack.write_env(RAG_WORKERS="2")
    stack.up()
    question = "What is the password of the harbour office?"
    words = ["cormorant", "gannet", "puffin", "razorbill"]
    hits = 0
    with stack.client() as writer:
        for word in words:
            put_text(writer, "harbour", f"The password of the harbour office is {word}.")
            for _ in range(20):
                # A new connection each time, so that both processes are asked.
                with stack.client(headers={"Connection": "close"}) as client:
                    answer = ask(client, question)
                assert word in answer["answer"], answer
                hits += answer["cache"] == "hit"
        assert writer.delete("/v1/documents/harbour").status_code == 204
        for _ in range(10):
            with stack.client(headers={"Connection": "close"}) as client:
                assert not any(word in ask(client, question)["answer"] for word in words)
    assert hits > len(words) * 10


def test_it_works_without_any_network(image: str, tmp_path: Path) -> None:
    """`--network none` and no Redis: it starts, ingests and answers."""
    data = data_directory(tmp_path / "data")
    hardened = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
    with container(*hardened, "--network", "none", "-v", f"{data}:/data", image) as name:
        wait_for(
            "the container to be healthy",
            lambda: inspect(name)["State"]["Health"]["Status"] == "healthy",
        )
        answer = json.loads(docker("exec", "-i", name, "python", "-", stdin=OFFLINE))
    assert "0417" in answer["answer"]
    assert answer["citations"]


OFFLINE = """
import json, urllib.request
def call(path, body):
    request = urllib.request.Request("http://127.0.0.1:8000" + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))
text = "The code of the bicycle shed is 0417."
call("/v1/documents?wait=true", {"documents": [{"id": "shed", "text": text}]})
print(json.dumps(call("/v1/ask", {"question": "What is the code of the bicycle shed?"})))
"""


def test_an_unwritable_volume_is_explained(image: str, tmp_path: Path) -> None:
    """A data directory of another owner stops the start with its path, the uid and the chown."""
    data = data_directory(tmp_path / "data", uid=0)
    done = run(
        ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "-v", f"{data}:/data", image],
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "/data" in said
    assert "1000" in said
    assert "chown" in said
    assert "Traceback" not in said


def test_a_taken_port_inside_is_explained(stack: Stack, tmp_path: Path) -> None:
    """A second server on the same port ends at once and names the port."""
    web = stack.container("web")
    done = run(
        ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/data:uid=1000",
         "--network", f"container:{web}", IMAGE],
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "8000" in said
    assert "Traceback" not in said
