"""Every wrong input: a problem document that says what is wrong, and nothing stored."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ragdock.api.middleware import Envelope
from support.serving import ServerProcess, serving, until
from support.web import assert_problem, inventory

DATA = Path(__file__).resolve().parents[1] / "data"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with small limits."""
    with serving(
        tmp_path_factory.mktemp("errors") / "data",
        max_upload_mb=1,
        max_request_mb=2,
        max_files=3,
        max_question_chars=100,
    ) as client:
        yield client


def form(name: str, content: bytes, media_type: str = "") -> dict[str, Any]:
    """One file of a form."""
    return {"file": (name, content, media_type) if media_type else (name, content)}


def test_an_empty_file_is_refused(strict: TestClient) -> None:
    """An empty file, or one of blanks, is a 422 `empty` that names it."""
    before = inventory(strict)
    for content in (b"", b" \n\t "):
        response = strict.post("/v1/documents", files=form("void.txt", content))
        assert_problem(response, 422, "empty", field="body.file", says="void.txt")
    for text in ("", " \n"):
        response = strict.post("/v1/documents", json={"documents": [{"text": text}]})
        assert response.status_code == 422
    assert inventory(strict) == before


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("utf8.txt", b"\xef\xbb\xbf\xc3\x28", "wrong_encoding"),
        ("nul.txt", b"text \x00\x00 more text", "binary"),
        ("enc.pdf", (DATA / "encrypted.pdf").read_bytes(), "encrypted"),
        ("cut.pdf", (DATA / "handbook.pdf").read_bytes()[:900], "truncated"),
        ("scan.pdf", (DATA / "scan.pdf").read_bytes(), "scanned"),
        ("bomb.docx", b"", "bomb"),
    ],
)
def test_unreadable_files_fail_with_a_reason(
    strict: TestClient, name: str, content: bytes, code: str
) -> None:
    """A file that can't become text is a 422 with its code; no document and no passage is kept."""
    before, _, _ = inventory(strict)
    response = strict.post(
        "/v1/documents?wait=true", files=form(name, content or bomb()), data={"id": f"bad-{name}"}
    )
    assert_problem(response, 422, code, field=name)
    after, _, jobs = inventory(strict)
    assert after == before
    (job,) = [job for job in jobs["jobs"] if job["filename"] == name]
    assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", code, 1)
    shown = strict.get(f"/v1/documents/bad-{name}").json()
    assert (shown["status"], shown["error"]["code"], shown["n_chunks"]) == ("failed", code, 0)
    assert strict.get(f"/v1/documents/bad-{name}/text").status_code == 404


def bomb() -> bytes:
    """A DOCX of a hundred kilobytes that unpacks to 120 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", b"<w:document>" + b"a" * 120_000_000)
    return buffer.getvalue()


def test_one_megabyte_of_one_word(strict: TestClient) -> None:
    """A megabyte without a blank holds nothing to search; beside words it does no harm."""
    word = "x" * 1_000_000
    alone = strict.post("/v1/documents?wait=true", files=form("word.txt", word.encode()))
    assert_problem(alone, 422, "no_text", field="word.txt")
    text = f"The blob follows.\n\n{word}\n\nThe blob is over."
    strict.post(
        "/v1/documents?wait=true", files=form("blob.txt", text.encode()), data={"id": "blob"}
    ).raise_for_status()
    assert strict.get("/v1/documents/blob").json()["n_characters"] == len(text)
    assert strict.get("/v1/documents/blob/text").text == text
    hits = strict.post("/v1/search", json={"query": "is the blob over"}).json()["hits"]
    assert "over" in hits[0]["text"]
    assert strict.delete("/v1/documents/blob").status_code == 204


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd", "a/b.txt", "..", "\x1b[2J.txt"]
)
def test_file_names_that_are_paths_are_refused(strict: TestClient, name: str) -> None:
    """A file name is a plain name: anything else is a 422 `bad_filename`, nothing is written."""
    before = inventory(strict)
    body = {"documents": [{"text": "x", "filename": name}]}
    response = strict.post("/v1/documents", json=body)
    assert_problem(response, 422, "bad_filename", field="body.documents.0.filename")
    if "\x1b" not in name:  # A client escapes control characters in a form.
        response = strict.post("/v1/documents", files=form(name, b"x"))
        assert_problem(response, 422, "bad_filename", field="body.file", says="plain name")
    assert inventory(strict) == before


def test_a_file_over_the_limit_is_413(strict: TestClient) -> None:
    """A file above RAG_MAX_UPLOAD_MB is refused by name, size and setting, as a form or as JSON."""
    before = inventory(strict)
    big = b"a" * (2**20 + 1)
    response = strict.post("/v1/documents", files=form("big.txt", big))
    assert_problem(response, 413, "too_large", field="body.file", says="RAG_MAX_UPLOAD_MB")
    response = strict.post("/v1/documents", json={"documents": [{"text": big.decode()}]})
    assert_problem(response, 413, "too_large", field="body.documents.0.text")
    response = strict.put("/v1/documents/big", json={"text": big.decode()})
    assert_problem(response, 413, "too_large", field="body.text")
    assert inventory(strict) == before


def test_a_body_over_the_limit_is_413(strict: TestClient) -> None:
    """A body above RAG_MAX_REQUEST_MB is refused by its declared length, and by its bytes."""
    before = inventory(strict)
    declared = strict.post("/v1/documents", content=b"a" * (2 * 2**20 + 1), headers=JSON)
    assert_problem(declared, 413, "too_large", says="RAG_MAX_REQUEST_MB")

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"a" * 65536

    for headers in (JSON, {"Content-Type": "multipart/form-data; boundary=x"}):
        chunked = strict.post("/v1/documents", content=chunks(), headers=headers)
        assert_problem(chunked, 413, "too_large", says="RAG_MAX_REQUEST_MB")
    small = strict.post("/v1/search", content=b'"' + b"a" * 2**20 + b'"', headers=JSON)
    assert_problem(small, 413, "too_large", says="1 MiB")
    assert inventory(strict) == before


def test_a_real_connection_survives_a_refused_body(tmp_path: Path) -> None:
    """Over a socket a too large body is answered, not reset, and the connection goes on."""
    server = ServerProcess(tmp_path / "data", RAG_MAX_REQUEST_MB=1)
    big = b"a" * 20_000_000
    with server, server.client() as client:
        for content in (big, (big[:65536] for _ in range(300))):
            response = client.post("/v1/documents", content=content, headers=JSON)
            assert_problem(response, 413, "too_large")
            assert client.get("/livez").status_code == 200
        assert server.stop() == 0


def test_too_many_files_are_refused(strict: TestClient) -> None:
    """More documents than RAG_MAX_FILES in one request are a 422, as a form or as JSON."""
    before = inventory(strict)
    files = [("file", (f"{n}.txt", b"x")) for n in range(4)]
    response = strict.post("/v1/documents", files=files)
    assert_problem(response, 422, "too_many_files", field="body", says="RAG_MAX_FILES")
    body = {"documents": [{"text": f"{n}"} for n in range(4)]}
    response = strict.post("/v1/documents", json=body)
    assert_problem(response, 422, "too_many_files", field="body", says="RAG_MAX_FILES")
    assert inventory(strict) == before


NOWHERE = [
    ("GET", "/v1/collections/nowhere", None),
    ("DELETE", "/v1/collections/nowhere", None),
    ("GET", "/v1/documents?collection=nowhere", None),
    ("GET", "/v1/documents/a?collection=nowhere", None),
    ("GET", "/v1/documents/a/text?collection=nowhere", None),
    ("DELETE", "/v1/documents/a?collection=nowhere", None),
    ("GET", "/v1/jobs?collection=nowhere", None),
    ("POST", "/v1/documents?collection=nowhere", {"documents": [{"text": "x"}]}),
    ("POST", "/v1/documents", {"documents": [{"text": "x"}], "collection": "nowhere"}),
    ("PUT", "/v1/documents/a?collection=nowhere", {"text": "x"}),
    ("POST", "/v1/search", {"query": "x", "collection": "nowhere"}),
    ("POST", "/v1/ask", {"question": "x", "collection": "nowhere"}),
    ("POST", "/v1/ask", {"question": "x", "collection": "nowhere", "stream": True}),
]


@pytest.mark.parametrize(("method", "path", "body"), NOWHERE)
def test_an_unknown_collection_is_404(
    strict: TestClient, method: str, path: str, body: object
) -> None:
    """Every route says which collection there isn't, and makes none."""
    before = inventory(strict)
    response = strict.request(method, path, json=body)
    assert_problem(response, 404, "collection_not_found", field="collection", says="nowhere")
    assert inventory(strict) == before


WRONG = [
    ("/v1/search", {}, "body.query"),
    ("/v1/search", {"query": ""}, "body.query"),
    ("/v1/search", {"query": " \n\x00 "}, "body.query"),
    ("/v1/search", {"query": 3}, "body.query"),
    ("/v1/search", {"query": "x", "top_k": 0}, "body.top_k"),
    ("/v1/search", {"query": "x", "top_k": 101}, "body.top_k"),
    ("/v1/search", {"query": "x", "top_k": "5"}, "body.top_k"),
    ("/v1/search", {"query": "x", "top_k": 5.5}, "body.top_k"),
    ("/v1/search", {"query": "x", "top_k": True}, "body.top_k"),
    ("/v1/search", {"query": "x", "mode": "magic"}, "body.mode"),
    ("/v1/search", {"query": "x", "filters": []}, "body.filters"),
    ("/v1/search", {"query": "x", "filters": "year=2024"}, "body.filters"),
    ("/v1/search", {"query": "x", "collection": "No Such"}, "body.collection"),
    ("/v1/search", {"query": "x", "colection": "default"}, "body.colection"),
    ("/v1/search", [], "body"),
    ("/v1/ask", {"question": "x", "stream": "yes"}, "body.stream"),
    ("/v1/ask", {"question": None}, "body.question"),
    ("/v1/ask", {"query": "x"}, "body.question"),
    ("/v1/collections", {"name": "Upper"}, "body.name"),
    ("/v1/collections", {"name": "../up"}, "body.name"),
    ("/v1/collections", {"name": "a" * 64}, "body.name"),
    ("/v1/collections", {"name": "a\n"}, "body.name"),
    ("/v1/collections", {"name": "a", "dim": 3}, "body.dim"),
    ("/v1/documents", {"documents": []}, "body.documents"),
    ("/v1/documents", {"documents": [{}]}, "body.documents.0.text"),
    ("/v1/documents", {"documents": [{"text": 3}]}, "body.documents.0.text"),
    ("/v1/documents", {"documents": [{"text": "x", "title": "y"}]}, "body.documents.0.title"),
    ("/v1/documents", {"documents": [{"text": "a\x00b"}]}, "body.documents.0.text"),
    ("/v1/documents", {"documents": {"text": "x"}}, "body.documents"),
    *(
        ("/v1/documents", {"documents": [{"text": "x", "metadata": m}]}, f"body.documents.0.{f}")
        for m, f in [
            ([], "metadata"),
            ({"a": None}, "metadata.a"),
            ({"a": {"b": 1}}, "metadata.a"),
            ({"a": [1]}, "metadata.a"),
            ({"a": 2**53}, "metadata.a"),
            ({"a": "x" * 4097}, "metadata.a"),
            ({"a": ["x"] * 257}, "metadata.a"),
            ({"": 1}, "metadata..[key]"),
            ({f"k{n}": 1 for n in range(65)}, "metadata"),
        ]
    ),
]


@pytest.mark.parametrize(("path", "body", "field"), WRONG)
def test_wrong_fields_are_422(strict: TestClient, path: str, body: object, field: str) -> None:
    """A wrong, missing or unknown field is a 422 that names it, and nothing is stored."""
    before = inventory(strict)
    response = strict.post(path, json=body)
    found = assert_problem(response, 422, response.json()["code"], field=field)
    assert found["code"] in ("invalid_input", "binary")
    assert "Value error" not in response.text
    assert inventory(strict) == before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/documents?limit=0",
        "/v1/documents?limit=1001",
        "/v1/documents?collection=A",
        "/v1/jobs?status=lost",
        "/v1/collections/A",
        "/v1/documents/-a",
    ],
)
def test_wrong_parameters_are_422(strict: TestClient, path: str) -> None:
    """A parameter out of its range or pattern is a 422 that names it."""
    body = assert_problem(strict.get(path), 422, "invalid_input")
    assert body["errors"][0]["field"].split(".")[0] in ("query", "path")


@pytest.mark.parametrize(
    "path", ["/v1/jobs?before=0", "/v1/jobs?before=job_zzzzzzzzzzzzz", "/v1/jobs/x", "/v1/jobs/1"]
)
def test_wrong_job_ids_are_404(strict: TestClient, path: str) -> None:
    """An id that is none answers as one that is nobody's, so that none can be guessed."""
    assert_problem(strict.get(path), 404, "not_found")


@pytest.mark.parametrize("raw", [b"{", b"", b"\xff\xfe", b'{"a": 1,}', b"[" * 5000, b'{"q\xff":1}'])
def test_invalid_json_is_400(strict: TestClient, raw: bytes) -> None:
    """A body that is no JSON is a 400; an absent one is a 422 where FastAPI reads it."""
    before = inventory(strict)
    for path in ("/v1/search", "/v1/ask", "/v1/documents", "/v1/collections"):
        response = strict.post(path, content=raw, headers=JSON)
        if not raw and path == "/v1/collections":
            assert_problem(response, 422, "invalid_input", field="body")
        else:
            assert_problem(response, 400, response.json()["code"])
            assert response.json()["code"] in ("invalid_json", "bad_request")
    assert inventory(strict) == before


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", "image/png", ""])
def test_another_media_type_is_415(strict: TestClient, media_type: str) -> None:
    """A body that is neither a form nor JSON is a 415 that says what is accepted."""
    before = inventory(strict)
    headers = {"Content-Type": media_type}
    for method, path in (("POST", "/v1/documents"), ("PUT", "/v1/documents/a")):
        response = strict.request(method, path, content=b"hello", headers=headers)
        assert_problem(response, 415, "unsupported_media_type", says="multipart/form-data")
    assert inventory(strict) == before


def test_a_format_that_cant_be_read_is_415(strict: TestClient) -> None:
    """An image is refused before anything is stored, whatever it is called."""
    before = inventory(strict)
    png = b"\x89PNG\r\n\x1a\n" + bytes(100)
    for name in ("photo.png", "photo.txt"):
        response = strict.post("/v1/documents", files=form(name, png, "image/png"))
        assert_problem(response, 415, "unsupported_media_type", field="body.file", says=name)
    assert inventory(strict) == before


FORMS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"file": ("a.txt", b"x")}, {"metadata": "{"}, "body.metadata"),
    ({"file": ("a.txt", b"x")}, {"metadata": "[1]"}, "body.metadata"),
    ({"file": ("a.txt", b"x")}, {"metadata": "[" * 60_000}, "body.metadata"),
    ({"file": ("a.txt", b"x")}, {"metadata": '{"a": NaN}'}, "body.metadata.a"),
    ({"file": ("a.txt", b"x")}, {"metadata": '{"a": "\\ud800"}'}, "body.metadata.a"),
    ({"file": ("a.txt", b"x")}, {"metadata": '{"a": 1e400}'}, "body.metadata.a"),
    ({"file": ("a.txt", b"x")}, {"metdata": "{}"}, "body.metdata"),
    ({"document": ("a.txt", b"x")}, {}, "body.document"),
    ({"metadata": ("m.json", b"{}")}, {}, "body.metadata"),
    ({"file": ("", b"x")}, {}, "body.file"),
]


@pytest.mark.parametrize(("files", "data", "field"), FORMS)
def test_wrong_forms_are_422(
    strict: TestClient, files: dict[str, Any], data: dict[str, str], field: str
) -> None:
    """A form with a wrong part is a 422 that names it, and nothing is stored."""
    before = inventory(strict)
    response = strict.post("/v1/documents", files=files, data=data)
    assert_problem(response, 422, "invalid_input", field=field)
    assert inventory(strict) == before


def test_broken_forms_are_refused(strict: TestClient) -> None:
    """A body that only claims to be a form is a client's error, never a server's."""
    before = inventory(strict)
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        for raw in (b"", b"--x", b"junk", b"--x\r\nContent-Disposition: form-data\r\n\r\nx"):
            headers = {"Content-Type": content_type}
            response = strict.post("/v1/documents", content=raw, headers=headers)
            assert response.status_code in (400, 422), response.text
            assert_problem(response, response.status_code, response.json()["code"], field=None)
    assert inventory(strict) == before


def test_several_files_with_one_id_are_refused(strict: TestClient) -> None:
    """An id goes with one file, and PUT takes exactly one."""
    before = inventory(strict)
    files = [("file", ("a.txt", b"x")), ("file", ("b.txt", b"y"))]
    response = strict.post("/v1/documents", files=files, data={"id": "one"})
    assert_problem(response, 422, "invalid_input", field="body.file", says="one file")
    assert_problem(
        strict.put("/v1/documents/a", files=files), 422, "invalid_input", says="exactly one file"
    )
    assert inventory(strict) == before


def test_an_oversize_question_is_422(strict: TestClient) -> None:
    """A question above RAG_MAX_QUESTION_CHARS is refused with its length and the setting."""
    for path, name in (("/v1/ask", "question"), ("/v1/search", "query")):
        response = strict.post(path, json={name: "x" * 101})
        assert_problem(
            response, 422, f"{name}_too_long", field=f"body.{name}", says="RAG_MAX_QUESTION_CHARS"
        )


def test_lone_surrogates_are_refused(strict: TestClient) -> None:
    """Half a character, as JSON can spell it, is a client's error wherever it stands."""
    before = inventory(strict)
    bodies = [
        ("/v1/search", '{"query": "\\ud800"}'),
        ("/v1/search", '{"query": "x", "filters": {"a": "\\ud800"}}'),
        ("/v1/search", '{"query": "x", "filters": {"\\ud800": 1}}'),
        ("/v1/search", '{"query": "x", "\\ud800": 1}'),
        ("/v1/documents", '{"documents": [{"text": "\\ud800"}]}'),
        ("/v1/documents", '{"documents": [{"text": "x", "metadata": {"a": "\\udfff"}}]}'),
    ]
    for path, raw in bodies:
        response = strict.post(path, content=raw, headers=JSON)
        assert response.status_code in (400, 422), response.text
        assert_problem(response, response.status_code, response.json()["code"])
    assert inventory(strict) == before


def test_unknown_routes_and_methods(strict: TestClient) -> None:
    """Unknown paths are a 404 and unknown methods a 405 with `Allow`, as problems."""
    assert_problem(strict.get("/v2/ask"), 404, "not_found")
    response = strict.get("/v1/ask")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert strict.patch("/v1/documents/a").headers["allow"] == "DELETE, GET, PUT"
    assert_problem(strict.delete("/health"), 405, "method_not_allowed")


def test_request_ids_are_echoed_or_made(strict: TestClient) -> None:
    """A sane X-Request-ID comes back; any other is replaced."""
    good = "trace-1.2:3_A"
    assert strict.get("/livez", headers={"X-Request-ID": good}).headers["x-request-id"] == good
    for bad in ("", "a b", "x" * 65, "a\tb", '"><script>'):
        made = strict.get("/livez", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert made != bad
        assert len(made) == 16
    response = strict.get("/nowhere", headers={"X-Request-ID": good})
    assert response.json()["request_id"] == good


def test_security_headers_are_on_every_answer(strict: TestClient) -> None:
    """Good, bad and unknown: every answer forbids sniffing, framing and referrers."""
    for path in ("/", "/livez", "/v1/collections", "/nowhere", "/v1/jobs/x", "/metrics"):
        headers = strict.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


def test_an_unexpected_error_is_500_without_internals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is a 500 that shows nothing of the inside; the log has the cause and the request id."""
    with serving(tmp_path / "data", raises=False) as client:
        services = client.app.state.services  # type: ignore[attr-defined]

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("secret path /srv/data")

        services.store.state_key = broken
        for stream in (False, True):
            response = client.post("/v1/ask", json={"question": "x", "stream": stream})
            assert_problem(response, 500, "internal")
            assert "secret" not in response.text
            assert "RuntimeError" not in response.text
        services.answerer._retriever.retrieve = broken
        del services.store.state_key
        response = client.post("/v1/ask", json={"question": "x", "stream": True})
        assert_problem(response, 500, "internal")
    assert "secret path" in caplog.text


def test_an_error_within_a_stream_is_an_event(tmp_path: Path) -> None:
    """What fails after the first piece ends the stream with an error event, without internals."""
    with serving(tmp_path / "data", raises=False) as client:
        services = client.app.state.services  # type: ignore[attr-defined]

        def broken(*_: object) -> None:
            raise RuntimeError("secret")

        services.answerer._count = broken
        response = client.post("/v1/ask", json={"question": "x", "stream": True})
        assert response.status_code == 200
        last = response.text.strip().split("\n\n")[-1]
        assert last.startswith("event: error\ndata: ")
        assert json.loads(last.split("data: ")[1])["code"] == "internal"
        assert "secret" not in response.text


def test_bodies_together_are_bounded(tmp_path: Path) -> None:
    """Large bodies at once are refused beyond four times the limit, and room comes back."""
    with serving(tmp_path / "data", max_request_mb=1) as client:
        envelope = client.app.middleware_stack  # type: ignore[attr-defined]
        while not isinstance(envelope, Envelope):
            envelope = envelope.app
        assert envelope.take(4 * 2**20)
        body = {"documents": [{"text": "x"}]}
        for send in ({"json": body}, {"content": iter([json.dumps(body).encode()])}):
            headers = JSON if "content" in send else None
            response = client.post("/v1/documents", headers=headers, **send)
            assert_problem(response, 503, "overloaded")
            assert response.headers["retry-after"] == "1"
        assert client.get("/v1/jobs").json()["jobs"] == []
        envelope.take(-4 * 2**20)
        assert client.post("/v1/documents", json=body).status_code == 202
        until(lambda: envelope._total_bytes == 0)
