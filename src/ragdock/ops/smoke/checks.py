"""The steps of the smoke test, each a promise and the look at whether it is kept."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from ragdock.ops.smoke import counts
from ragdock.ops.smoke.model import Said, Status, StepError
from ragdock.ops.smoke.wire import Answer, OutOfTimeError, Server, path

__all__ = ["Checks"]

CACHE_TRIES: Final = 8
"""Processes without Redis keep their own answers: one of them has to be met twice."""
METRICS_SECONDS: Final = 2.0
"""A request is counted after it was answered."""
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0
_FINISHED: Final = ("done", "failed", "cancelled")


class Checks:
    """Each `check_*` is a step of `STEPS`: it raises `StepError` or says what it found.

    `traces` are the things made and not yet seen to be gone, each with the command that removes it.
    """

    def __init__(self, server: Server, name: str, collection: str | None) -> None:
        self.server = server
        self.name = name
        self.collection = collection or name
        self.traces: list[str] = []
        self._is_own = collection is None
        # Seven digits: nobody guesses them, and nothing else in the collection says them.
        self._number = str(1_000_000 + secrets.randbelow(9_000_000))
        self._sentence = f"The cupboard of {name} is opened with the number {self._number}."
        self._question = f"With which number is the cupboard of {name} opened?"
        self._health: dict[str, Any] = {}
        self._job_id = ""
        self._text: str | None = None
        self._answers: list[dict[str, Any]] = []
        self._is_deleted = False
        self._counts: counts.Counts | str = "not read"

    def check_connect(self) -> Said:
        """Something listens, and it is ragdock."""
        answer = self.server.ask("GET", "/livez", patient=False)
        if answer.status != 200 or answer.body != {"status": "ok"}:
            if answer.status in (301, 302, 303, 307, 308, 401, 403):
                raise StepError(f"GET /livez: {self.server.refusal(answer, 'read')}")
            raise StepError(
                f"what answers at {self.server.url} is not ragdock (GET /livez: {answer.status})"
            )
        return Said()

    def check_health(self) -> Said:
        """It can serve."""
        answer = self.server.ask("GET", "/health", patient=False)
        body = self._health = answer.object("status")
        parts = body.get("dependencies") or []
        down = [
            f"{part['name']} is down" + (f" ({part['detail']})" if part.get("detail") else "")
            for part in parts
            if part.get("status") != "ok"
        ]
        hint = "" if parts else "; what is down, it tells a key that sees all collections"
        said = ", ".join([str(body["status"]), *down]) + ("" if body["status"] == "ok" else hint)
        if answer.status != 200:
            raise StepError(f"GET /health: {answer.status} {said}")
        if body["status"] != "ok":
            return Said(said, Status.WARN)
        if "version" in body:
            said = f"ok: ragdock {body['version']}, {body.get('environment')}"
        return Said(said)

    def check_collection(self) -> Said:
        """A collection to work in."""
        self._counts = counts.read(self.server)
        if not self._is_own:
            self.server.expect("GET", path("collections", self.collection))
            return Said(f"{self.collection!r} is used, with a document of its own")
        # Noted before it is asked for: an answer that is lost doesn't mean that nothing was made.
        self.traces.append(
            f"the collection {self.collection!r} "
            f"(`ragdock collections drop {self.collection} --yes --url {self.server.url}`)"
        )
        answer = self.server.ask("POST", path("collections"), {"name": self.collection})
        if answer.status == 201:
            return Said(f"{self.collection!r} is made")
        if 400 <= answer.status < 500:
            self.traces.clear()
        advice = (
            " A key that may not make collections can name one that is there: --collection NAME."
            if answer.status == 403
            else ""
        )
        raise StepError(f"POST /v1/collections: {self.server.refusal(answer, 'write')}{advice}")

    def check_ingest(self) -> Said:
        """A document is accepted."""
        document = {
            "id": self.name,
            "filename": f"{self.name}.txt",
            "text": f"{self._sentence}\nIt stands in the hall, and is painted green.\n",
        }
        if not self._is_own:
            self.traces.append(
                f"the document {self.name!r} in {self.collection!r} (`ragdock documents rm "
                f"{self.name} --collection {self.collection} --url {self.server.url}`)"
            )
        route = path("documents", collection=self.collection)
        answer = self.server.expect(
            "POST", route, {"documents": [document]}, status=(200, 202), needs="write"
        )
        accepted = answer.object("documents")["documents"]
        if len(accepted) != 1 or "job_id" not in accepted[0]:
            raise StepError(f"one document was sent, and {accepted!r} came back")
        self._job_id = str(accepted[0]["job_id"])
        return Said(f"accepted as {self._job_id}")

    def check_wait(self) -> Said:
        """Its job ends well."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        job: dict[str, Any] = {}
        while True:
            try:
                answer = self.server.expect("GET", path("jobs", self._job_id))
                job = answer.object("status")
                if job["status"] in _FINISHED:
                    break
                self.server.deadline.sleep(pause_seconds)
            except OutOfTimeError as exc:
                raise StepError(f"{self._standing(job)}; {exc}") from exc
            pause_seconds = min(1.5 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        if job["status"] != "done":
            raise StepError(f"the job {self._job_id} is {job['status']}{_error(job)}")
        return Said(f"{job.get('outcome') or 'done'}")

    def check_search(self) -> Said:
        """A search finds it, where it says."""
        hits = [hit for hit in self._hits() if hit.get("document_id") == self.name]
        if not hits:
            raise StepError(f"{self._question!r} doesn't find the document that was just indexed")
        route = path("documents", self.name, "text", collection=self.collection)
        stored = self.server.expect("GET", route).body
        if not isinstance(stored, str) or self._sentence not in stored:
            raise StepError(f"the stored text isn't what was sent: {_short(stored)}")
        self._text = stored
        for hit in hits:
            _require_span(stored, hit, "text", "the passage found")
        if not any(self._number in hit["text"] for hit in hits):
            raise StepError(f"the passage found lacks the number: {_short(hits[0]['text'])}")
        return Said(f"{len(hits)} of its passages, at the right place")

    def check_ask(self) -> Said:
        """A question is answered from it, and the answer is cited."""
        answer = self._asked()
        said = f"{answer['generator']}: {_short(answer['answer'])}"
        if self._number not in _digits(answer["answer"]):
            raise StepError(f"the answer lacks the number {self._number}; {said}")
        ours = self._cited(answer)
        if not answer["grounded"] or not ours:
            raise StepError(f"the answer is right, and cites nothing for it; {said}")
        if not any(self._number in str(citation.get("quote")) for citation in ours):
            raise StepError(f"no citation quotes the number: {_short(ours[0].get('quote'))}")
        if not any(f"[{citation.get('marker')}]" in answer["answer"] for citation in ours):
            raise StepError(f"no marker in the answer names the citation; {said}")
        self._answers.append(answer)
        if answer.get("fallback_reason"):
            reason = f"the LLM failed ({answer['fallback_reason']}), the answer is an extract"
            return Said(f"{reason}; {said}", Status.WARN)
        return Said(said)

    def check_citation(self) -> Said:
        """The citation's span is its quotation, in the stored text."""
        if not self._answers:
            return Said("there is no answer", Status.SKIP)
        if self._text is None:
            return Said("the stored text is not known", Status.SKIP)
        ours = self._cited(self._answers[0])
        for citation in ours:
            _require_span(self._text, citation, "quote", "the citation")
        spans = ", ".join(f"{citation['start']}-{citation['end']}" for citation in ours)
        return Said(f"characters {spans}")

    def check_cache(self) -> Said:
        """The same question again is answered from the cache, and alike."""
        if not self._answers:
            return Said("there is no answer", Status.SKIP)
        if self._answers[0].get("fallback_reason"):
            return Said("an answer that the LLM failed to write isn't kept", Status.SKIP)
        for n_asked in range(1, CACHE_TRIES + 1):
            answer = self._asked()
            if answer["cache"] != "hit":
                # Another process computed its own, which an LLM may word in another way.
                self._answers.append(answer)
                continue
            if _essence(answer) not in [_essence(known) for known in self._answers]:
                raise StepError(f"the cached answer is another one: {_short(answer['answer'])}")
            after = "" if n_asked == 1 else f", at ask {n_asked}: several processes?"
            return Said(f"hit{after}")
        return Said(
            f"never a hit in {CACHE_TRIES} asks; is the cache off (RAG_CACHE_TTL_SECONDS=0), or "
            "are there many replicas without Redis?",
            Status.WARN,
        )

    def check_delete(self) -> Said:
        """The document is deleted."""
        route = path("documents", self.name, collection=self.collection)
        self.server.expect("DELETE", route, status=(204,), needs="write")
        self._is_deleted = True
        return Said()

    def check_gone(self) -> Said:
        """It can neither be read nor found."""
        if not self._is_deleted:
            return Said("it wasn't deleted", Status.SKIP)
        for route in (("documents", self.name), ("documents", self.name, "text")):
            answer = self.server.ask("GET", path(*route, collection=self.collection))
            if answer.status == 200:
                raise StepError(f"the deleted document can still be read (GET {path(*route)})")
            if answer.status != 404:
                raise StepError(f"GET {path(*route)}: {self.server.refusal(answer, 'read')}")
        if any(self._tells(hit, "text") for hit in self._hits()):
            raise StepError("a search still finds the deleted document")
        return Said("404, and no hit")

    def check_stale(self) -> Said:
        """No answer knows it, neither from a cache nor anew."""
        if not self._is_deleted:
            return Said("it wasn't deleted", Status.SKIP)
        # As often as it took to meet the processes that have kept the answer.
        for _ in range(len(self._answers) + 1):
            answer = self._asked()
            if self._number in _digits(answer["answer"]) or any(
                self._tells(citation, "quote") for citation in answer["citations"]
            ):
                source = "a stale cache" if answer["cache"] == "hit" else "a new answer"
                raise StepError(
                    f"{source} still tells of the deleted document (cache: {answer['cache']}): "
                    f"{_short(answer['answer'])}"
                )
        return Said(_short(answer["answer"]))

    def check_metrics(self) -> Said:
        """The metrics have counted this."""
        if isinstance(self._counts, str):
            return Said(self._counts, Status.SKIP)
        parts = {part.get("name") for part in self._health.get("dependencies") or []}
        wanted = counts.wanted(ingests="worker" in parts, answered=bool(self._answers))
        waited_seconds = 0.0
        while True:
            after = counts.read(self.server)
            if isinstance(after, str):
                raise StepError(f"/metrics could be read before, and not now: {after}")
            still = [name for name in wanted if after[name] <= self._counts[name]]
            if not still:
                break
            if waited_seconds >= METRICS_SECONDS:
                raise StepError(
                    f"not counted: {', '.join(still)}. Behind a balancer each replica counts for "
                    "itself, and this can't be told: --skip metrics"
                )
            self.server.deadline.sleep(0.25)
            waited_seconds += 0.25
        moved = {name: after[name] - self._counts[name] for name in wanted}
        return Said(", ".join(f"{name} +{delta:g}" for name, delta in moved.items()))

    def check_cleanup(self) -> Said:
        """Nothing is left behind."""
        if not self._is_own:
            return self._clean_up_document()
        route = path("collections", self.collection)
        self.server.expect("DELETE", route, status=(204, 404), needs="write")
        answer = self.server.ask("GET", route)
        if answer.status == 200:
            raise StepError(f"the collection {self.collection!r} was dropped and is still there")
        self.traces.clear()
        return Said(f"the collection {self.collection!r} is removed")

    def _clean_up_document(self) -> Said:
        if self._job_id and not self._is_deleted:
            # What is still to be indexed would come back after the deletion.
            self.server.ask("POST", path("jobs", self._job_id, "cancel"))
        route = path("documents", self.name, collection=self.collection)
        self.server.expect("DELETE", route, status=(204, 404), needs="write")
        answer = self.server.ask("GET", route)
        if answer.status == 200 and answer.object("status")["status"] != "cancelled":
            raise StepError(f"the document {self.name!r} was deleted and is still there")
        self.traces.clear()
        return Said(f"the document {self.name!r} is removed")

    def _hits(self) -> list[dict[str, Any]]:
        body = {"query": self._question, "collection": self.collection, "top_k": 20}
        found = self.server.expect("POST", path("search"), body).object("hits")["hits"]
        return [dict(hit) for hit in found]

    def _asked(self) -> dict[str, Any]:
        body = {"question": self._question, "collection": self.collection}
        answer: Answer = self.server.expect("POST", path("ask"), body)
        return answer.object("answer", "citations", "grounded", "generator", "cache")

    def _cited(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        return [dict(c) for c in answer["citations"] if c.get("document_id") == self.name]

    def _tells(self, evidence: dict[str, Any], member: str) -> bool:
        return evidence.get("document_id") == self.name or self._number in str(evidence.get(member))

    def _standing(self, job: dict[str, Any]) -> str:
        """Where a job stands that doesn't end, and why, as far as anybody tells."""
        if not job:
            return f"nothing is known of the job {self._job_id}"
        said = f"the job {self._job_id} is still {job['status']}"
        details = [
            f"{name} {job[name]}" for name in ("stage", "percent", "attempt", "next_attempt_at")
            if job.get(name)
        ]  # fmt: skip
        if details:
            said += f" ({', '.join(details)})"
        said += _error(job)
        queue = self._health.get("queue") or {}
        if queue:
            said += "; the queue was " + ", ".join(f"{n} {state}" for state, n in queue.items())
        if job["status"] == "pending":
            said += "; does anybody process documents (RAG_INGEST, `ragdock worker`)?"
        return said


def _error(job: dict[str, Any]) -> str:
    error = job.get("error") or {}
    return f": {error.get('code')}: {error.get('message')}" if error else ""


def _require_span(text: str, evidence: dict[str, Any], member: str, what: str) -> None:
    start, end, quoted = evidence.get("start"), evidence.get("end"), evidence.get(member)
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        raise StepError(f"{what} has no span in the stored text: {start}-{end} of {len(text)}")
    if text[start:end] != quoted:
        raise StepError(
            f"{what} is not what stands at {start}-{end} of the stored text: it says "
            f"{_short(quoted)}, there stands {_short(text[start:end])}"
        )


def _essence(answer: dict[str, Any]) -> tuple[Any, ...]:
    return answer["answer"], answer["citations"], answer["grounded"]


def _digits(text: object) -> str:
    """The text without what an LLM puts between the digits of a number."""
    return re.sub(r"(?<=\d)[ ,.'\u00a0\u2009\u202f](?=\d)", "", str(text))


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return repr(line if len(line) <= 120 else f"{line[:119]}…")
