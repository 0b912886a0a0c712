"""The mix as a Locust user: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000`.

Environment: LOADTEST_MIX (`ask=80,think_seconds=2`), LOADTEST_RUN (a word that makes questions
and documents of this run its own), LOADTEST_KEY_FILE (an API key). With LOADTEST_STEPS (users and
seconds, `1:8,2:8`) it walks up the steps and quits; LOADTEST_RECORDS then gets every request, for
the report. Without think time, users are requests in flight.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from locust import FastHttpUser, LoadTestShape, events, task

from loadtest.mix import Mix, Visitor
from loadtest.plain import answer_record
from loadtest.records import Record, save

MIX = Mix.parse(os.environ.get("LOADTEST_MIX", "think_seconds=1"))
RUN = os.environ.get("LOADTEST_RUN", str(os.getpid()))
KEY_FILE = os.environ.get("LOADTEST_KEY_FILE")
STEPS = [
    (int(users), float(seconds))
    for users, _, seconds in (
        step.partition(":") for step in os.environ.get("LOADTEST_STEPS", "").split(",") if step
    )
]
NUMBERS = itertools.count()
RECORDS: list[Record] = []
SPANS: list[tuple[int, float]] = []


class Reader(FastHttpUser):
    """A visitor of the mix."""

    connection_timeout = 30.0
    network_timeout = 30.0

    def on_start(self) -> None:
        """Take a number; no two users share one."""
        self.visitor = Visitor(MIX, next(NUMBERS), RUN)
        key = Path(KEY_FILE).read_text(encoding="utf-8").strip() if KEY_FILE else ""
        self.headers = {"authorization": f"Bearer {key}"} if key else {}

    def wait_time(self) -> float:
        """How long it reads."""
        return self.visitor.think_seconds()

    @task
    def visit(self) -> None:
        """One request of the mix."""
        request = self.visitor.next()
        headers = dict(self.headers)
        if request.body is not None:
            headers["content-type"] = "application/json"
        sent = time.monotonic()
        with self.client.request(
            request.method,
            request.path,
            data=request.body,
            headers=headers,
            name=request.kind,
            catch_response=True,
        ) as response:
            if response.status_code in request.good:
                response.success()
            elif not response.status_code:
                response.failure(f"no answer: {response.error}")
            if STEPS:
                RECORDS.append(_record(request, response, sent))


def _record(request: Any, response: Any, sent: float) -> Record:
    status = int(response.status_code or 0)
    if not status:
        text = str(response.error).lower()
        code = next((word for word in ("refused", "timeout") if word in text), "reset")
        code = "timeout" if "timed out" in text else code
        return answer_record(request, 0, {}, b"", code, sent, sent)
    headers = {name.lower().encode(): value.encode() for name, value in response.headers.items()}
    return answer_record(request, status, headers, response.content or b"", "", sent, sent)


if STEPS:

    class Steps(LoadTestShape):
        """So many users for so long, one step after the other."""

        def tick(self) -> tuple[int, float] | None:
            """The users of now; None ends the test."""
            left = self.get_run_time()
            for users, seconds in STEPS:
                if left < seconds:
                    if not SPANS or SPANS[-1][0] != users:
                        SPANS.append((users, time.monotonic()))
                    return users, 1000.0
                left -= seconds
            return None

    @events.quitting.add_listener
    def _write(**_: object) -> None:
        path = Path(os.environ["LOADTEST_RECORDS"])
        save(path, RECORDS)
        path.with_suffix(".steps").write_text(json.dumps(SPANS), encoding="utf-8")
