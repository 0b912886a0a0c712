"""The walk: every route, asked by everybody who may not, tells nothing and changes nothing.

A tenant asks for another tenant's collection and for one that doesn't exist, with the same real
request: status, headers and body must be the same. `ASKS` holds a valid request for each route; a
route that is missing there, or declares no right, fails the walk by its name.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from ragdock.api.app import create_app
from ragdock.api.auth import Guarded
from ragdock.api.feed import Feed
from ragdock.api.schemas import job_id
from ragdock.core.apikeys import make_token
from ragdock.services import limits
from ragdock.services.keys import Keys
from ragdock.types import FetchedFile, Right
from support.embedders import HashEmbedder
from support.serving import make_settings, serving
from support.web import add, inventory

ADMIN_KEY = "an-admin-key-of-the-walk-0123456789"
# Of one length, so that nothing but the words could differ.
HIDDEN, ABSENT, OWN = "secrets", "nowhere", "own-one"
HIDDEN_ID, OWN_ID = "hush.md", "calm.md"
MARKS = ("secrets", "hush", "quiet", "Zanzibar")
# What these open is about everybody: no tenant's key has them.
OF_ALL = (Right.METRICS, Right.ADMIN)
PLANS = "# Plans\n\nThe quiet plan is to open a branch in Zanzibar."


@dataclass(frozen=True)
class Ask:
    """A valid request. `$c`, `$d` and `$j` stand for a collection, a document and a job."""

    params: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    files: dict[str, Any] | None = None
    status: int = 200
    endless: bool = False
    hidden: int | None = 404
    """What a caller gets who asks it of a collection that isn't his; None: it names none."""


IN_COLLECTION = {"collection": "$c"}
QUESTION = "Where is the plan to open a branch?"
ASKS: dict[str, Ask | tuple[Ask, ...]] = {
    "GET /": Ask(hidden=None),
    "GET /health": Ask(hidden=None),
    "GET /livez": Ask(hidden=None),
    "GET /readyz": Ask(hidden=None),
    "GET /metrics": Ask(hidden=None),
    "GET /v1/collections": Ask(hidden=None),
    "GET /v1/collections/{name}": Ask(),
    "POST /v1/search": (
        Ask(body={"query": QUESTION, "collection": "$c"}),
        Ask(body={"query": QUESTION, "collection": "$c", "mode": "lexical", "top_k": 3}),
    ),
    "POST /v1/ask": (
        Ask(body={"question": QUESTION, "collection": "$c"}),
        Ask(body={"question": QUESTION, "collection": "$c", "stream": True}),
    ),
    "GET /v1/documents": Ask(params=IN_COLLECTION),
    "GET /v1/documents/{document_id}": Ask(params=IN_COLLECTION),
    "GET /v1/documents/{document_id}/text": Ask(params=IN_COLLECTION),
    "GET /v1/jobs": (Ask(params=IN_COLLECTION), Ask(hidden=None)),
    "GET /v1/jobs/{job_id}": Ask(),
    "GET /v1/jobs/events": Ask(params=IN_COLLECTION, endless=True),
    "GET /v1/jobs/{job_id}/events": Ask(),
    "POST /v1/jobs/{job_id}/retry": Ask(status=202),
    "POST /v1/jobs/{job_id}/cancel": Ask(status=409),  # It has failed: that is told to its owner.
    "POST /v1/urls": (
        Ask(params=IN_COLLECTION, body={"urls": ["http://docs.example/hush"]}, status=202),
        Ask(body={"urls": ["http://docs.example/hush"], "collection": "$c", "wait": True}),
    ),
    "POST /v1/documents": (
        Ask(params=IN_COLLECTION, body={"documents": [{"text": "More."}]}, status=202),
        Ask(body={"documents": [{"text": "More."}], "collection": "$c"}, status=202),
        Ask(
            params={**IN_COLLECTION, "wait": "true"},
            files={"file": ("hush.txt", b"More of it.")},
        ),
    ),
    "PUT /v1/documents/{document_id}": (
        Ask(params=IN_COLLECTION, body={"text": "Another text."}, status=202),
        Ask(params=IN_COLLECTION, files={"file": ("hush.txt", b"Another file.")}, status=202),
    ),
    "DELETE /v1/documents/{document_id}": Ask(params=IN_COLLECTION, status=204),
    "POST /v1/collections": Ask(body={"name": "$c"}, status=201, hidden=403),
    # Last: it takes the collection away.
    "DELETE /v1/collections/{name}": Ask(status=204),
}


def asks(name: str) -> tuple[Ask, ...]:
    """The requests of a route; the test that needs a route which nobody described fails here."""
    assert name in ASKS, f"{name} is new: say in ASKS how it is asked, so that it can be walked"
    found = ASKS[name]
    return found if isinstance(found, tuple) else (found,)


def routes() -> dict[str, Guarded]:
    """Every route that the application serves, by method and path, FastAPI's own pages left out."""
    app = create_app(make_settings(Path("unused")), embedder=HashEmbedder())
    found = {}
    for route in app.routes:
        if isinstance(route, Guarded):
            found |= {f"{method} {route.path}": route for method in route.methods or ()}
        else:
            assert getattr(route, "path", "").startswith(("/docs", "/redoc", "/openapi.json"))
    return found


ROUTES = routes()
IN_ORDER = sorted(ROUTES, key=lambda name: list(ASKS).index(name) if name in ASKS else -1)


@dataclass
class World:
    """A server with keys on, two tenants, and what belongs to the one who is spied upon."""

    client: TestClient
    keys: dict[str, str | None]
    document: str
    job: Any
    absent_job: Any
    leaks: Counter[str]

    def send(
        self, name: str, ask: Ask, key: str | None, collection: str, **ids: Any
    ) -> httpx2.Response:
        """Send a route's request for this collection."""
        names = {"$c": collection, "$d": ids.get("document", self.document)}
        names["$j"] = ids.get("job", self.job)
        method, path = name.split(" ")
        for placeholder, value in (("name", "$c"), ("document_id", "$d"), ("job_id", "$j")):
            path = path.replace("{" + placeholder + "}", str(names[value]))
        assert "{" not in path, f"{path}: the walk doesn't know what to put there"
        with streams_cut_short(self.client) if ask.endless else nullcontext():
            response = self.client.request(
                method,
                path,
                params=filled(ask.params, names),
                json=filled(ask.body, names),
                files=ask.files,
                headers={"X-Request-ID": "walk"} | ({"X-API-Key": key} if key is not None else {}),
            )
        self.leaks["requests"] += 1
        return response

    def fail_one(self, key: str) -> None:
        """A document of the hidden collection that can't be read: its job may be retried."""
        client = self.client_as(key)
        files = {"file": ("hush-bad.txt", b"\xef\xbb\xbf\xc3\x28")}
        path = f"/v1/documents/bad?collection={HIDDEN}&wait=true"
        assert client.put(path, files=files).status_code == 422
        self.job = client.get("/v1/jobs", params={"status": "failed"}).json()["jobs"][0]["id"]

    def everything(self) -> Any:
        """All that the server holds, as the admin sees it."""
        return inventory(self.client_as(self.keys["admin"]))

    def client_as(self, key: str | None) -> TestClient:
        """The client, sending this key."""
        other = TestClient(self.client.app)
        if key is not None:
            other.headers["Authorization"] = f"Bearer {key}"
        return other


@contextmanager
def streams_cut_short(client: TestClient) -> Iterator[None]:
    """Streams that begin meanwhile end soon: who is let in, rightly or not, gets an answer."""
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.2):
            client.portal.call(end_streams, client.app.state.feed)  # type: ignore

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        yield
    finally:
        over.set()
        cutting.join()


async def end_streams(feed: Feed) -> None:
    """End the streams that are open; the feed goes on."""
    for queue in list(feed._listeners):
        feed._end(queue)


def filled(value: Any, names: dict[str, Any]) -> Any:
    """The value with its placeholders replaced."""
    if isinstance(value, dict):
        return {key: filled(inner, names) for key, inner in value.items()}
    return names.get(value, value) if isinstance(value, str) else value


def masked(response: httpx2.Response, *words: str) -> tuple[int, dict[str, str], str]:
    """What can be compared: status, headers, body, without the words and this moment's numbers."""
    text = response.text
    for word in words:
        text = text.replace(word, "*" * len(word))
    text = re.sub(r'"(latency_ms|total|uptime_seconds)": ?[0-9.e-]+', r'"\1":0', text)
    return response.status_code, dict(response.headers), text


class OnePage:
    """A web of one page, whatever is asked for."""

    def fetch(self, url: str, write: Callable[[bytes], None], deadline: float) -> FetchedFile:
        """The page."""
        write(b"A page.")
        return FetchedFile("page", url, "page.txt", "text/plain")


@contextmanager
def walked(data_dir: Path) -> Iterator[TestClient]:
    """A server where keys are on, every route is too, and nobody is too fast."""
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(
            data_dir,
            fetcher=OnePage(),
            environment="production",
            admin_key=ADMIN_KEY,
            fetch_urls=True,
            rate_per_minute=0,
            address_rate_per_minute=0,
        ) as client,
    ):
        patch.setattr(limits, "FAILURES_PER_MINUTE", 1_000_000)
        yield client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Tenant `hidden` has a collection with a document and jobs; the others have keys."""
    data_dir = tmp_path_factory.mktemp("walk") / "data"
    with walked(data_dir) as client:
        made: Keys = client.app.state.services.keys  # type: ignore[attr-defined]
        keys: dict[str, str | None] = {"none": None, "admin": ADMIN_KEY, "garbage": "x" * 62}
        keys["unknown"] = make_token(b"abcde", b"s" * 32)
        everything = (Right.READ, Right.WRITE)
        for name, rights, collections in (
            ("hidden", everything, [HIDDEN]),
            ("other", everything, [OWN, "own-two"]),
            ("revoked", everything, None),
            ("expired", everything, None),
            ("metrics", (Right.METRICS,), None),
            *((f"without {right}", {*Right} - {right, Right.ADMIN}, None) for right in Right),
        ):
            expires_at = made._clock() + 0.001 if name == "expired" else None
            _, keys[name] = made.create(
                name, rights=rights, collections=collections, expires_at=expires_at
            )
        made.revoke("revoked")
        absent = job_id(client.app.state.services.ids, 999_999)  # type: ignore[attr-defined]
        world = World(client, keys, HIDDEN_ID, None, absent, Counter())
        admin = world.client_as(ADMIN_KEY)
        for name in (HIDDEN, OWN):
            assert admin.post("/v1/collections", json={"name": name}).status_code == 201
        add(admin, PLANS, HIDDEN_ID, collection=HIDDEN, filename=HIDDEN_ID)
        add(admin, "An ordinary text.", OWN_ID, collection=OWN, filename=OWN_ID)
        world.fail_one(ADMIN_KEY)
        # What he asks is in the cache, where somebody else could find it.
        for route in ("POST /v1/search", "POST /v1/ask"):
            for ask in asks(route):
                for _ in range(2):
                    assert world.send(route, ask, ADMIN_KEY, HIDDEN).status_code == 200
        yield world


def test_every_route_declares_its_right() -> None:
    """A route says what it needs; who forgot it isn't admitted, and can't even be served."""
    assert [name for name, route in ROUTES.items() if not route.is_declared] == []
    public = {name for name, route in ROUTES.items() if route.is_public}
    assert public == {"GET /", "GET /health", "GET /livez", "GET /readyz"}


def test_what_writes_needs_the_right_to_write() -> None:
    """`read` is enough for GET and for the two questions that are asked by POST, and no more."""
    for name, route in ROUTES.items():
        if not name.startswith("GET ") and name not in ("POST /v1/search", "POST /v1/ask"):
            assert not route.is_public, name
            assert route.right in (Right.WRITE, Right.ADMIN), name


@pytest.mark.parametrize("name", IN_ORDER)
def test_openapi_tells_the_right(world: World, name: str) -> None:
    """Each guarded operation names both ways to send a key, the right, and its refusals."""
    route, (method, path) = ROUTES[name], name.split(" ")
    schema = world.client.get("/openapi.json").json()
    if not route.include_in_schema:
        assert path not in schema["paths"]
        return
    operation = schema["paths"][path][method.lower()]
    if route.is_public:
        assert "security" not in operation
        assert "x-required-right" not in operation
        return
    assert operation["x-required-right"] == route.right.value
    schemes = [scheme for alternative in operation["security"] for scheme in alternative]
    assert set(schemes) == set(schema["components"]["securitySchemes"]) == {"bearer", "header"}
    assert {"401", "403"} <= set(operation["responses"])


@pytest.mark.parametrize("name", IN_ORDER)
def test_without_a_valid_key_nothing_is_told(world: World, name: str) -> None:
    """No key is 401; garbage, unknown, expired and revoked keys get the very same 401."""
    route, before = ROUTES[name], world.everything()
    for ask in asks(name):
        answers = {
            who: masked(world.send(name, ask, world.keys[who], HIDDEN))
            for who in ("none", "garbage", "unknown", "expired", "revoked")
        }
        if route.is_public:
            assert len({json.dumps(answer) for answer in answers.values()}) == 1
            assert answers["none"][0] == 200
            assert name != "GET /health" or json.loads(answers["none"][2]) == {"status": "ok"}
            continue
        for who, (status, headers, text) in answers.items():
            assert status == 401, (name, who, text)
            assert headers["www-authenticate"] == 'Bearer realm="ragdock"'
            body = json.loads(text)
            assert body["code"] == ("missing_key" if who == "none" else "unauthorized")
            body["code"] = "-"
            assert body == json.loads(answers["none"][2]) | {"code": "-"}
            assert headers.keys() == answers["none"][1].keys()
        del answers["none"]
        assert len({json.dumps(answer) for answer in answers.values()}) == 1
    assert world.everything() == before


@pytest.mark.parametrize("name", IN_ORDER)
def test_without_the_right_it_is_forbidden(world: World, name: str) -> None:
    """A key that has every right but the one needed gets 403, which names it, and does nothing."""
    route, before = ROUTES[name], world.everything()
    if route.is_public:
        return
    for ask in asks(name):
        bodies = []
        for collection in (HIDDEN, ABSENT):
            key = world.keys[f"without {route.right.value}"]
            response = world.send(name, ask, key, collection)
            assert response.status_code == 403, (name, response.text)
            assert response.json()["code"] == "forbidden"
            assert f"`{route.right.value}`" in response.json()["detail"]
            bodies.append(masked(response))
        assert bodies[0] == bodies[1]
    assert world.everything() == before


@pytest.mark.parametrize("name", IN_ORDER)
def test_a_metrics_key_opens_the_metrics_alone(world: World, name: str) -> None:
    """Prometheus's key gets `/metrics`, what everybody gets, and 403 for everything else."""
    route, before = ROUTES[name], world.everything()
    may = route.is_public or name == "GET /metrics"
    assert may is not name.split(" ")[1].startswith("/v1")
    for ask in asks(name):
        for collection in (HIDDEN, ABSENT):
            response = world.send(name, ask, world.keys["metrics"], collection)
            assert response.status_code == (200 if may else 403), (name, response.text)
            leaked = [mark for mark in MARKS if mark in response.text.replace(collection, "")]
            assert leaked == [], (name, response.text)
    assert world.everything() == before


def test_the_metrics_name_nothing_of_anybodys(world: World) -> None:
    """No collection, document, question, key or its name, after all that the others did."""
    client = world.client_as(world.keys["metrics"])
    keys = world.client.app.state.services.keys.all()  # type: ignore[attr-defined]
    names = {word for key in keys for word in (key.id, key.name)} - {"metrics"}
    words = {*MARKS, OWN, OWN_ID, HIDDEN_ID, ABSENT, QUESTION, "own-two", *names}
    for path in ("/metrics", "/health"):
        # Comments explain the metrics, in common words.
        text = re.sub(r"^#.*\n", "", client.get(path).text, flags=re.MULTILINE)
        assert len(text) > 200, text
        assert [word for word in words if re.search(rf"\b{re.escape(word)}\b", text)] == []


@pytest.mark.parametrize("name", IN_ORDER)
def test_another_tenants_collection_is_absent(world: World, name: str) -> None:
    """The hidden and the absent answer the same to the byte; nothing is told, nothing changed."""
    route, before = ROUTES[name], world.everything()
    other = world.keys["other"]
    for ask in asks(name):
        hidden = world.send(name, ask, other, HIDDEN)
        absent = world.send(name, ask, other, ABSENT, job=world.absent_job)
        # A document's id can be his own as well, and must not open the other's collection.
        own_id = world.send(name, ask, other, HIDDEN, document=OWN_ID)
        words = (HIDDEN, ABSENT)
        assert masked(hidden, *words) == masked(absent, *words), name
        assert masked(own_id, *words, OWN_ID, HIDDEN_ID) == masked(
            absent, *words, OWN_ID, HIDDEN_ID
        ), name
        for response in (hidden, absent, own_id):
            told = response.text.replace(HIDDEN, "") if ask.hidden else response.text
            leaked = [mark for mark in MARKS if mark in told]
            world.leaks["leaks"] += len(leaked)
            assert leaked == [], (name, response.text)
        if ask.hidden is not None:
            assert hidden.status_code == ask.hidden, (name, hidden.text)
            if ask.hidden == 404:
                # What the admin gets for it is what absent means.
                admin = world.send(name, ask, world.keys["admin"], ABSENT, job=world.absent_job)
                assert masked(admin, *words) == masked(absent, *words), name
        elif route.is_public or route.right not in OF_ALL:
            assert hidden.status_code == 200, (name, hidden.text)
        else:
            assert hidden.status_code == 403, (name, hidden.text)
    assert world.everything() == before


@pytest.mark.parametrize("name", IN_ORDER)
def test_who_may_gets_an_answer(tmp_path: Path, name: str) -> None:
    """The same requests succeed for the tenant they belong to: the walk refuses valid ones."""
    for number, ask in enumerate(asks(name)):
        data_dir = tmp_path / f"data{number}"
        with walked(data_dir) as client:
            keys: Keys = client.app.state.services.keys  # type: ignore[attr-defined]
            _, key = keys.create("tenant", rights=(Right.READ, Right.WRITE), collections=[HIDDEN])
            world = World(client, {}, HIDDEN_ID, None, None, Counter())
            if name != "POST /v1/collections":
                tenant = world.client_as(key)
                assert tenant.post("/v1/collections", json={"name": HIDDEN}).status_code == 201
                add(tenant, PLANS, HIDDEN_ID, collection=HIDDEN, filename=HIDDEN_ID)
                world.fail_one(key)
            is_operators = ROUTES[name].right in OF_ALL and not ROUTES[name].is_public
            response = world.send(name, ask, ADMIN_KEY if is_operators else key, HIDDEN)
            assert response.status_code == ask.status, (name, response.text)


def test_lists_are_the_same_whatever_others_do(world: World) -> None:
    """Another tenant's writes change nothing that a tenant can read, not a number of it."""
    admin, other = world.client_as(ADMIN_KEY), world.client_as(world.keys["other"])

    def seen() -> list[Any]:
        paths = ("/v1/collections", "/v1/jobs", f"/v1/documents?collection={OWN}", "/health",
                 f"/v1/collections/{OWN}", f"/v1/documents/{OWN_ID}?collection={OWN}")  # fmt: skip
        return [other.get(path).json() for path in paths]

    before = seen()
    add(admin, "Hush: one more plan for Zanzibar.", "more.md", collection=HIDDEN)
    admin.put(f"/v1/documents/bad?collection={HIDDEN}&wait=true",
              files={"file": ("bad.txt", b"\xef\xbb\xbf\xc3\x28")})  # fmt: skip
    assert seen() == before
    assert [found["name"] for found in before[0]["collections"]] == [OWN]
    assert {job["collection"] for job in before[1]["jobs"]} == {OWN}
    assert admin.delete(f"/v1/documents/more.md?collection={HIDDEN}").status_code == 204


def test_jobs_of_several_collections_come_in_one_order(world: World) -> None:
    """A tenant's job list merges its collections newest first, and pages without gaps."""
    admin, other = world.client_as(ADMIN_KEY), world.client_as(world.keys["other"])
    assert admin.post("/v1/collections", json={"name": "own-two"}).status_code == 201
    for number in range(6):
        add(admin, f"Text {number}.", f"n{number}", collection=(OWN, "own-two")[number % 2])
        add(admin, f"Hush {number}.", f"n{number}", collection=HIDDEN)
    whole = other.get("/v1/jobs").json()["jobs"]
    assert [job["document_id"] for job in whole[:6]] == [
        f"n{number}" for number in range(5, -1, -1)
    ]
    pages, before = [], None
    while True:
        page = other.get("/v1/jobs", params={"limit": 2} | ({"before": before} if before else {}))
        pages += page.json()["jobs"]
        before = page.json()["next"]
        if before is None:
            break
    assert pages == whole


def test_a_tenant_creates_only_what_is_his(world: World) -> None:
    """A name outside of the key is 403 whether it exists or not; `default` is like any other."""
    other = world.client_as(world.keys["other"])
    for name in (HIDDEN, ABSENT, "default"):
        response = other.post("/v1/collections", json={"name": name})
        assert response.status_code == 403
        assert response.json()["code"] == "forbidden"
    missing = other.delete("/v1/collections/default")
    assert missing.json()["code"] == "collection_not_found"
    assert other.get("/v1/documents").status_code == 404
    admin = world.client_as(ADMIN_KEY)
    assert admin.delete("/v1/collections/default").json()["code"] == "conflict"


def test_a_forgotten_right_is_told_by_name() -> None:
    """An application with a route that declares nothing can't be made; the error names it."""
    from ragdock.api.routes import jobs

    @jobs.router.get("/forgotten")
    async def forgotten() -> None:
        """A new route."""

    try:
        with pytest.raises(TypeError, match="GET /v1/jobs/forgotten declares no right"):
            create_app(make_settings(Path("unused")), embedder=HashEmbedder())
    finally:
        jobs.router.routes.pop()


class SpyCache:
    """Notes the keys that are asked for."""

    def __init__(self, app: FastAPI) -> None:
        self.keys: list[tuple[str, str]] = []
        cache = app.state.services.retriever._cache._cache
        for method in ("get", "peek", "set"):
            self._spy(cache, method)

    def _spy(self, cache: Any, method: str) -> None:
        real = getattr(cache, method)

        def spied(key: str, *rest: Any) -> Any:
            self.keys.append((method, key))
            return real(key, *rest)

        setattr(cache, method, spied)


def test_no_cache_key_is_shared_between_collections(tmp_path: Path) -> None:
    """The same questions in two collections ask the cache for disjoint sets of keys.

    So neither an answer, nor a search, nor a question's vector is ever a hit because of what
    somebody else asked, and there is nothing for a clock to find.
    """
    with serving(tmp_path / "data") as client:
        spy = SpyCache(client.app)  # type: ignore[arg-type]
        asked: dict[str, set[str]] = {}
        for name in (HIDDEN, OWN):
            client.post("/v1/collections", json={"name": name}).raise_for_status()
            add(client, PLANS, HIDDEN_ID, collection=name)
            spy.keys.clear()
            for _ in range(2):
                for route in ("POST /v1/search", "POST /v1/ask"):
                    for ask in asks(route):
                        body = filled(ask.body, {"$c": name})
                        client.post(route.split(" ")[1], json=body).raise_for_status()
            asked[name] = {key for _, key in spy.keys}
            kinds = {key.split(":")[2] for key in asked[name]}
            assert kinds == {"search", "answer", "embedding"}
        assert asked[HIDDEN].isdisjoint(asked[OWN])
        assert len(asked[HIDDEN]) == len(asked[OWN]) >= 4
        vectors = client.app.state.services.retriever._vectors  # type: ignore[attr-defined]
        assert len(vectors) == 2


def test_the_walk_is_complete(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Every described route exists, and the sum is printed."""
    assert set(ASKS) == set(ROUTES)
    guarded = [route for route in ROUTES.values() if not route.is_public]
    assert world.leaks["leaks"] == 0
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(ROUTES)} routes ({len(guarded)} guarded) x {len(world.keys)} keys, "
            f"{world.leaks['requests']} requests, {world.leaks['leaks']} leaks\n"
        )
