#!/usr/bin/env python3
"""Rate-limited load: 10,000 requests from 8 clients against 2 servers that share one Redis.

    PYTHONPATH=src:tests python bench/ratelimit.py [--requests 10000] [--rate 3000] [--kill]

Each client is a process with a connection to each server in turn. Right is what one limiter would
have said to the same requests: a minute's at once, and then the rate. The run fails when it is more
than 1 % from that, when a refusal has no `Retry-After`, or when anything but 200 and 429 was
answered. With `--kill` Redis is killed half way: then each server goes on alone from what it knew,
so what comes after is bounded by twice the rate.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ragdock.core.gcra import Limit, take
from support.redis_server import RedisServer
from support.serving import ServerProcess

KEY = "bench-" + "k" * 40
BODY = json.dumps({"question": "How long does the lamp burn?"})
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
TOLERANCE = 0.01


def client(ports: list[int], n_requests: int, start: Any, results: Any, done: Any) -> None:
    """Send requests one after the other, to the servers in turn."""
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=30) for port in ports]
    answers: list[tuple[float, float, int, bool]] = []
    start.wait()
    for number in range(n_requests):
        connection = connections[number % len(ports)]
        sent = time.monotonic()
        connection.request("POST", "/v1/ask", BODY, HEADERS)
        response = connection.getresponse()
        response.read()
        wait = response.headers.get("Retry-After", "")
        tells = wait.isdigit() and int(wait) >= 1
        answers.append((sent, time.monotonic(), response.status, tells))
        if number % 50 == 0:
            with done.get_lock():
                done.value += 50
    results.put(answers)


def run(n_requests: int, n_clients: int, rate: int, *, kill: bool) -> bool:
    """One run; whether it kept its promises."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with RedisServer(directory) as redis:
            environment: dict[str, Any] = {
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": redis.port,
                # On a machine that does much else, 250 ms may pass without a turn.
                "RAG_REDIS_TIMEOUT_SECONDS": 2,
                "RAG_ADMIN_KEY": KEY,
                "RAG_RATE_PER_MINUTE": rate,
                "RAG_ADDRESS_RATE_PER_MINUTE": 0,
            }
            servers = [ServerProcess(directory / f"data{n}", **environment) for n in range(2)]
            with servers[0], servers[1]:
                return _measured(servers, redis, n_requests, n_clients, rate, kill=kill)


def _measured(
    servers: list[ServerProcess],
    redis: RedisServer,
    n_requests: int,
    n_clients: int,
    rate: int,
    *,
    kill: bool,
) -> bool:
    context = multiprocessing.get_context("spawn")
    start, results, done = context.Event(), context.Queue(), context.Value("i", 0)
    ports = [server.port for server in servers]
    each = n_requests // n_clients
    clients = [
        # Half of them begin with the second server.
        context.Process(target=client, args=(ports[:: 1 - 2 * (n % 2)], each, start, results, done))
        for n in range(n_clients)
    ]
    for process in clients:
        process.start()
    time.sleep(3)
    if kill:
        threading.Thread(target=_kill_half_way, args=(redis, done, n_requests), daemon=True).start()
    start.set()
    answers = [results.get(timeout=600) for _ in clients]
    for process in clients:
        process.join()
    alone = sum(_counter(server, "rag_rate_limit_fallback_total") for server in servers)
    print(f"verdicts without redis: {alone:.0f}")
    return _report(answers, rate, kill=kill)


def _counter(server: ServerProcess, name: str) -> float:
    with server.client() as client:
        text = client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return sum(float(line.split()[-1]) for line in lines)


def _kill_half_way(redis: RedisServer, done: Any, n_requests: int) -> None:
    while done.value < n_requests // 2:
        time.sleep(0.001)
    redis.kill()
    print(f"redis killed after {done.value} requests")


def _report(answers: list[Any], rate: int, *, kill: bool) -> bool:
    every = sorted((answer for client in answers for answer in client), key=lambda a: a[1])
    begun, times = min(a[0] for a in every), sorted(a[1] - a[0] for a in every)
    by_status = Counter(a[2] for a in every)
    without = sum(a[2] == 429 and not a[3] for a in every)
    allowed, expected = by_status[200], _ideal([a[1] for a in every], rate)
    error = allowed / expected - 1
    print(f"{sum(by_status.values())} requests from {len(answers)} clients to 2 servers in "
          f"{every[-1][1] - begun:.1f} s, p50 {times[len(times) // 2] * 1000:.2f} ms, "
          f"p99 {times[len(times) * 99 // 100] * 1000:.2f} ms")  # fmt: skip
    print(f"by status: {dict(sorted(by_status.items()))}")
    print(f"refusals without Retry-After: {without}")
    print(f"limit: {rate} a minute at once and {rate / 60:g} a second: of these {expected}")
    print(f"allowed: {allowed} ({100 * error:+.2f} %)")
    kept = set(by_status) <= {200, 429} and without == 0
    if kill:
        most = rate * (1 + TOLERANCE + (every[-1][1] - begun) / 30)
        return kept and expected * (1 - TOLERANCE) <= allowed <= most
    return kept and abs(error) <= TOLERANCE


def _ideal(times: list[float], rate: int) -> int:
    """How many of the requests one limiter would have allowed that all of them had come to.

    Not a rate times the seconds: while clients start or are slow, a full bucket gets no fuller.
    """
    limit, tat, allowed = Limit("key", "all", rate), 0.0, 0
    for now in times:
        tat, verdict = take(tat, now, limit, 1)
        allowed += verdict.granted
    return allowed


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=int, default=3000)
    parser.add_argument("--kill", action="store_true", help="kill Redis half way")
    options = parser.parse_args()
    kept = run(options.requests, options.clients, options.rate, kill=options.kill)
    print("kept" if kept else "BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
