"""What is asked: a mix of requests over an invented corpus, the same for the same seed.

Questions follow Zipf's law over ranks. The first `n_popular` ranks are questions that come again
and again, and are warmed up; beyond them the tail is so long that no question comes twice. So the
share of cached answers is `popular_share`, from the first second of a test to its last, and not an
accident of how long the test has run.
"""

from __future__ import annotations

import bisect
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["WRITES", "Mix", "Request", "Visitor", "corpus", "warm_up"]

WRITES = "load-writes"
"""The collection that is written to. A write makes every cached answer of its collection stale, so
in the collection that is asked, hits would measure the rate of writes and nothing else."""

VESSELS = [
    *("Petrel", "Curlew", "Gannet", "Fulmar", "Dunlin", "Plover", "Avocet", "Osprey", "Kestrel"),
    *("Merlin", "Puffin", "Shearwater", "Guillemot", "Razorbill", "Kittiwake", "Turnstone"),
]
ROUTES = [
    *("Tarn to Skerry", "Skerry to Hallow", "Hallow to Brae", "Brae to Sound", "Sound to Ness"),
    *("Ness to Voe", "Voe to Holm", "Holm to Tarn", "Tarn to Ness", "Skerry to Voe"),
]
MONTHS = [
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
]
FACTS = [
    "In {month} the {vessel} carried {n} passengers on the route from {route}.",
    "Her engine used {m} tonnes of fuel, which the chief engineer called ordinary for the season.",
    "Two crossings were cancelled because of wind above {w} knots.",
    "The master of the {vessel} reported a worn mooring line, and it was replaced the same day.",
    "Freight came to {f} tonnes, most of it building material and animal feed.",
    "The crew held a fire drill and a man overboard drill in {month}.",
    "On the quay at {port} the ticket machine was out of order for {h} hours.",
    "Passengers wrote {c} letters, and each was answered within ten days.",
]
PARAGRAPHS = 4


@dataclass(frozen=True, slots=True)
class Mix:
    """Weights of the kinds of requests, and how often a question is a popular one."""

    ask: float = 60.0
    search: float = 25.0
    upload: float = 4.0
    delete: float = 3.0
    list: float = 6.0
    health: float = 2.0
    popular_share: float = 0.7
    n_popular: int = 100
    zipf: float = 1.0
    think_seconds: float = 0.0
    stream_share: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 0:
                raise ValueError(f"{item.name}={getattr(self, item.name)!r} must not be negative")
        if not sum(self.weights.values()):
            raise ValueError("every weight is 0: nothing would be asked")
        if not (0 <= self.popular_share <= 1 and 0 <= self.stream_share <= 1):
            raise ValueError("popular_share and stream_share are shares, 0 to 1")

    @property
    def weights(self) -> dict[str, float]:
        """The kinds and their weights."""
        return {kind: getattr(self, kind) for kind in KINDS}

    @classmethod
    def parse(cls, text: str) -> Mix:
        """`ask=80,search=20,upload=0,popular_share=.5`; what isn't named keeps its default."""
        given: dict[str, float] = {}
        known = {item.name: item.type for item in fields(cls)}
        for pair in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, value = pair.partition("=")
            if name not in known:
                raise ValueError(f"{name!r} is not of the mix; it has {', '.join(known)}")
            try:
                given[name] = int(value) if known[name] == "int" else float(value)
            except ValueError:
                raise ValueError(f"{name}={value!r} is not a number") from None
        return cls(**given)  # type: ignore[arg-type]


KINDS = ("ask", "search", "upload", "delete", "list", "health")


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `good` are the statuses that are no error."""

    kind: str
    method: str
    path: str
    body: bytes | None = None
    good: tuple[int, ...] = (200,)

    def head(self, host: str, key: str | None = None) -> bytes:
        """The request's bytes as HTTP/1.1."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: {host}"]
        if key:
            lines.append(f"authorization: Bearer {key}")
        if self.body is not None:
            lines += ["content-type: application/json", f"content-length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + (self.body or b"")


@dataclass(slots=True)
class Visitor:
    """One visitor's endless requests; no two of a run share a tail question or a document."""

    mix: Mix
    number: int
    run: str = "0"
    _random: random.Random = field(init=False)
    _kinds: list[str] = field(init=False)
    _cumulative: list[float] = field(init=False)
    _ranks: list[float] = field(init=False)
    _counter: Iterator[int] = field(init=False)
    _uploaded: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.mix.seed} {self.run} {self.number}")
        self._kinds = list(self.mix.weights)
        self._cumulative = list(itertools.accumulate(self.mix.weights.values()))
        self._ranks = list(
            itertools.accumulate(rank**-self.mix.zipf for rank in range(1, self.mix.n_popular + 1))
        )
        self._counter = itertools.count(1)

    def think_seconds(self) -> float:
        """How long the visitor reads before the next request: exponential."""
        mean = self.mix.think_seconds
        return self._random.expovariate(1 / mean) if mean else 0.0

    def next(self) -> Request:
        """The next request."""
        at = self._random.random() * self._cumulative[-1]
        kind = self._kinds[bisect.bisect_right(self._cumulative, at)]
        if kind == "delete" and not self._uploaded:
            kind = "upload" if self.mix.upload else "ask"
        return getattr(self, f"_{kind}")()  # type: ignore[no-any-return]

    def of(self, kind: str) -> Request:
        """The next request of a kind."""
        return getattr(self, f"_{kind}")()  # type: ignore[no-any-return]

    def question(self) -> str:
        """A popular question by Zipf's law, or one of the tail that nobody asks again."""
        if self._random.random() < self.mix.popular_share and self._ranks:
            at = self._random.random() * self._ranks[-1]
            return popular_question(bisect.bisect_right(self._ranks, at))
        return self.tail_question()

    def tail_question(self) -> str:
        """A question that has an answer in the corpus, and that has not been asked before."""
        vessel, route, month = (self._random.choice(names) for names in (VESSELS, ROUTES, MONTHS))
        name = f"{self.run}-{self.number}-{next(self._counter)}"
        return f"How many passengers did the {vessel} carry from {route} in {month}? ({name})"

    def _ask(self) -> Request:
        body: dict[str, Any] = {"question": self.question()}
        if self._random.random() < self.mix.stream_share:
            body["stream"] = True
        return _post("ask", "/v1/ask", body)

    def _ask_tail(self) -> Request:
        return _post("ask", "/v1/ask", {"question": self.tail_question()})

    def _ask_popular(self) -> Request:
        rank = self._random.randrange(max(1, self.mix.n_popular))
        return _post("ask", "/v1/ask", {"question": popular_question(rank)})

    def _search(self) -> Request:
        return _post("search", "/v1/search", {"query": self.question()})

    def _search_tail(self) -> Request:
        return _post("search", "/v1/search", {"query": self.tail_question()})

    def _search_popular(self) -> Request:
        rank = self._random.randrange(max(1, self.mix.n_popular))
        return _post("search", "/v1/search", {"query": popular_question(rank)})

    def _upload(self) -> Request:
        name = f"load-{self.run}-{self.number}-{next(self._counter)}"
        self._uploaded.append(name)
        document = {"id": name, "text": document_text(self._random, 1)}
        body = {"collection": WRITES, "documents": [document]}
        return _post("upload", "/v1/documents", body, good=(200, 202))

    def _delete(self) -> Request:
        name = self._uploaded.pop(0) if self._uploaded else "load-absent"
        # 404: the document waits to be indexed; then its deletion waits for nothing.
        return Request("delete", "DELETE", f"/v1/documents/{name}?collection={WRITES}", None,
                       (204, 404))  # fmt: skip

    def _list(self) -> Request:
        return Request("list", "GET", "/v1/documents?limit=20")

    def _health(self) -> Request:
        return Request("health", "GET", "/readyz")


def popular_question(rank: int) -> str:
    """The question of a rank, 0 the most popular; the same in every run."""
    vessel = VESSELS[rank % len(VESSELS)]
    route = ROUTES[rank // len(VESSELS) % len(ROUTES)]
    month = MONTHS[(rank * 5) % len(MONTHS)]
    return f"How many passengers did the {vessel} carry from {route} in {month}? ({rank})"


def warm_up(mix: Mix) -> list[Request]:
    """Each popular question once, asked and searched."""
    texts = [popular_question(rank) for rank in range(mix.n_popular)]
    return [
        *(_post("ask", "/v1/ask", {"question": text}) for text in texts),
        *(_post("search", "/v1/search", {"query": text}) for text in texts),
    ]


def corpus(n_documents: int, seed: int = 0) -> list[dict[str, str]]:
    """Documents that the questions are about, some two passages each."""
    source = random.Random(f"corpus {seed}")
    return [
        {"id": f"log-{number:05}", "text": document_text(source, PARAGRAPHS)}
        for number in range(n_documents)
    ]


def document_text(source: random.Random, n_paragraphs: int) -> str:
    """A ship's report of some months."""
    vessel = source.choice(VESSELS)
    paragraphs = [f"Report of the {vessel}"]
    for _ in range(n_paragraphs):
        words = {
            "vessel": vessel,
            "route": source.choice(ROUTES),
            "port": source.choice(ROUTES).split()[0],
            "month": source.choice(MONTHS),
            "n": source.randint(200, 9000),
            "m": source.randint(5, 90),
            "w": source.randint(34, 60),
            "f": source.randint(3, 400),
            "h": source.randint(1, 40),
            "c": source.randint(2, 60),
        }
        sentences = [FACTS[0], *source.sample(FACTS[1:], 4)]
        paragraphs.append(" ".join(sentence.format(**words) for sentence in sentences))
    return "\n\n".join(paragraphs)


def _post(kind: str, path: str, body: object, good: tuple[int, ...] = (200,)) -> Request:
    return Request(kind, "POST", path, json.dumps(body).encode(), good)
