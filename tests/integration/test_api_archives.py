"""Archives through the API: uploads that become the documents in them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ragdock.core.keys import member_id
from support.files import docx_bytes, paragraph, pdf_bytes, tar_bytes, zip_bytes
from support.serving import ServerProcess, serving, until

DOCX = docx_bytes(paragraph("The harbour master keeps the tide tables."))
PDF = pdf_bytes("Lanterns are lit at dusk.")
FILES: dict[str, bytes | str] = {
    "guide.md": "# Guide\n\nThe cormorant nests on the mole.",
    "deep/lanterns.pdf": PDF,
    "deep/er/harbour.docx": DOCX,
    "inner.zip": zip_bytes({"notes/inner.txt": "The pelican sleeps in the inner basin."}),
    "photo.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "blank.txt": " \n",
    "__MACOSX/._guide.md": "litter",
}
LONG_WORD = "m" * 80
"""Makes text that is large in bytes, so that it goes by the disk, and soon indexed."""
PATHS = ("guide.md", "deep/lanterns.pdf", "deep/er/harbour.docx", "inner.zip/notes/inner.txt")


def put(
    api: TestClient,
    key: str,
    content: bytes,
    name: str = "a.zip",
    status: int = 200,
    **options: str,
) -> Any:
    """Upload and wait; the answer's only document, or the problem."""
    files = {"file": (name, content)}
    answer = api.put(f"/v1/documents/{key}", params={"wait": True, **options}, files=files)
    assert answer.status_code == status, answer.text
    body = answer.json()
    return body["documents"][0] if "documents" in body else body


def names(api: TestClient, key: str, collection: str = "default") -> dict[str, str]:
    """File name and id of the documents that came in the archive of that id."""
    listed = api.get("/v1/documents", params={"collection": collection, "limit": 1000}).json()
    return {
        one["filename"]: one["id"] for one in listed["documents"] if one["id"].startswith(f"{key}~")
    }


def found(api: TestClient, word: str) -> list[str]:
    """The file names that a word is found in."""
    answer = api.post("/v1/search", json={"query": word, "mode": "lexical"})
    return [hit["filename"] for hit in answer.json()["hits"]]


def test_a_zip_becomes_its_documents(api: TestClient) -> None:
    """Every readable file is a document named by its path; those of an inner archive too."""
    done = put(api, "mixed", zip_bytes(FILES))
    assert (done["status"], done["outcome"], done["error"]) == ("done", "expanded", None)
    assert names(api, "mixed") == {path: member_id("mixed", path) for path in PATHS}
    for word, path in zip(("cormorant", "lanterns", "harbour", "pelican"), PATHS, strict=True):
        assert path in found(api, word)
    document = api.get(f"/v1/documents/{member_id('mixed', 'guide.md')}").json()
    assert document["metadata"] == {"archive": "a.zip"}
    assert document["title"] == "Guide"


def test_jobs_tell_where_they_come_from(api: TestClient) -> None:
    """The jobs of an archive's files name its job, and can be asked for by it."""
    done = put(api, "parents", zip_bytes({"a.txt": "one", "b.txt": "two"}))
    archive = api.get(f"/v1/jobs/{done['job_id']}").json()
    assert (archive["outcome"], archive["parent_id"]) == ("expanded", None)
    jobs = api.get("/v1/jobs", params={"parent_id": done["job_id"]}).json()["jobs"]
    assert {job["filename"] for job in jobs} == {"a.txt", "b.txt"}
    assert {job["parent_id"] for job in jobs} == {done["job_id"]}
    assert {job["status"] for job in jobs} == {"done"}
    assert api.get("/v1/jobs", params={"parent_id": "job_none"}).json()["jobs"] == []


@pytest.mark.parametrize(
    ("name", "content", "path"),
    [
        ("x.tar", tar_bytes({"a/b.md": "walrus"}), "a/b.md"),
        ("x.tar.gz", gzip.compress(tar_bytes({"a/b.md": "walrus"})), "a/b.md"),
        ("x.tgz", gzip.compress(tar_bytes({"a/b.md": "walrus"})), "a/b.md"),
        ("x.tar.bz2", bz2.compress(tar_bytes({"a/b.md": "walrus"})), "a/b.md"),
        ("x.txz", lzma.compress(tar_bytes({"a/b.md": "walrus"})), "a/b.md"),
        ("notes.md.gz", gzip.compress(b"walrus"), "notes.md"),
        ("notes.md.bz2", bz2.compress(b"walrus"), "notes.md"),
        ("notes.md.xz", lzma.compress(b"walrus"), "notes.md"),
    ],
)
def test_every_kind_of_archive(api: TestClient, name: str, content: bytes, path: str) -> None:
    """TAR, TAR packed in any way, and single packed files are archives."""
    done = put(api, f"kind-{name}", content, name)
    assert done["outcome"] == "expanded"
    assert list(names(api, f"kind-{name}")) == [path]


def test_links_are_passed_over(api: TestClient) -> None:
    """A link to a file of the server is no document, and the files beside it are."""
    link = tarfile.TarInfo("passwd.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    put(api, "links", gzip.compress(tar_bytes({"a.txt": "fine"}, link)), "x.tar.gz")
    assert list(names(api, "links")) == ["a.txt"]


def locked_zip() -> bytes:
    content = bytearray(zip_bytes({"secret.txt": b"x"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def nested_zip() -> bytes:
    return zip_bytes({"b.zip": zip_bytes({"c.zip": zip_bytes({"a.txt": "too deep"})})})


BAD = {
    "unsafe_path": ("x.tar.gz", gzip.compress(tar_bytes({"../x.txt": "x"})), "../x.txt"),
    "encrypted": ("x.zip", locked_zip(), "secret.txt"),
    "nested": ("x.zip", nested_zip(), "b.zip/c.zip"),
    "damaged": ("x.zip", zip_bytes({"a.txt": "x" * 5000})[:-30], "damaged"),
    "no_text": ("x.zip", zip_bytes({"a.png": b"\x89PNG" + bytes(50)}), "None of"),
    "bomb": ("x.zip", zip_bytes({"a.txt": bytes(12 * 2**20)}), "RAG_MAX_ARCHIVE_MB"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server that takes 10 files and 10 MB of an archive."""
    directory = tmp_path_factory.mktemp("small") / "data"
    with serving(directory, max_archive_files=10, max_archive_mb=10) as client:
        yield client


@pytest.mark.parametrize("code", BAD)
def test_bad_archives_say_why(small: TestClient, code: str) -> None:
    """What makes an archive unsafe or unreadable refuses it as a whole, with a reason."""
    name, content, told = BAD[code]
    problem = put(small, f"bad-{code}", content, name, status=422)
    assert problem["code"] == code
    assert told in problem["detail"]
    assert names(small, f"bad-{code}") == {}
    spooled = list((Path(small.app.state.services.settings.data_dir) / "contents").iterdir())  # type: ignore[attr-defined]
    assert all(path.stat().st_size for path in spooled)


def test_inner_archives_share_the_bounds(small: TestClient) -> None:
    """Files and bytes are counted over an archive and all archives in it."""
    many = zip_bytes({f"{n}.zip": zip_bytes({f"{m}.txt": "x" for m in range(3)}) for n in range(3)})
    problem = put(small, "many", many, status=422)
    assert (problem["code"], "RAG_MAX_ARCHIVE_FILES" in problem["detail"]) == ("bomb", True)
    assert problem["detail"].startswith("In its file 2.zip: ")
    large = zip_bytes({f"{n}.zip": zip_bytes({"a.txt": b"x " * 2**21}) for n in range(3)})
    assert put(small, "large", large, status=422)["code"] == "bomb"


def test_a_new_version_replaces_the_old(api: TestClient) -> None:
    """Files that changed are read anew, those that are gone are deleted, others stay."""
    put(
        api, "again", zip_bytes({"stays.txt": "stays", "changes.txt": "gannet", "goes.txt": "ibis"})
    )
    before = names(api, "again")
    version = api.get(f"/v1/documents/{before['stays.txt']}").json()["version"]
    put(api, "again", zip_bytes({"stays.txt": "stays", "changes.txt": "tern", "new.txt": "new"}))
    assert set(names(api, "again")) == {"stays.txt", "changes.txt", "new.txt"}
    assert api.get(f"/v1/documents/{before['stays.txt']}").json()["version"] == version
    assert (found(api, "gannet"), found(api, "ibis"), found(api, "tern")) == (
        [],
        [],
        ["changes.txt"],
    )


def test_a_document_becomes_an_archive_and_back(api: TestClient) -> None:
    """What is written under an id is what stands under it, whichever it was before."""
    put(api, "turns", b"The bittern booms.", "a.txt")
    put(api, "turns", zip_bytes({"a.txt": "The bittern is silent.", "b.txt": "x"}))
    answer = api.get("/v1/documents/turns")
    assert (answer.status_code, answer.json()["code"]) == (404, "expanded")
    assert "turns~" in answer.json()["detail"]
    assert set(names(api, "turns")) == {"a.txt", "b.txt"}
    put(api, "turns", b"The bittern booms.", "a.txt")
    assert names(api, "turns") == {}
    assert api.get("/v1/documents/turns").json()["status"] == "done"


def test_deleting_an_archive_deletes_its_documents(api: TestClient) -> None:
    """The archive's id stands for all its files; a document of a like name stays."""
    put(api, "gone", zip_bytes({"a.txt": "dodo one", "b.txt": "dodo two"}))
    put(api, "gone~mine", b"not from an archive", "x.txt")
    put(api, f"gone~{'0' * 16}", b"not from an archive either", "y.txt")
    assert api.delete("/v1/documents/gone").status_code == 204
    assert set(names(api, "gone")) == {"x.txt", "y.txt"}
    assert found(api, "dodo") == []
    assert api.delete("/v1/documents/gone").status_code == 404
    put(api, "gone", zip_bytes({"a.txt": "dodo one"}))
    assert "a.txt" in names(api, "gone")


def test_members_stay_in_the_archive_s_collection(api: TestClient) -> None:
    """An archive in a collection makes documents there and nowhere else."""
    api.post("/v1/collections", json={"name": "attic"})
    put(api, "there", zip_bytes({"a.txt": "quetzal"}), collection="attic")
    assert list(names(api, "there", "attic")) == ["a.txt"]
    assert names(api, "there") == {}
    assert found(api, "quetzal") == []


def test_large_members_and_metadata(api: TestClient) -> None:
    """A file of some megabytes goes by the disk; the archive's metadata are its files'."""
    text = "".join(f"Line {n} of the almanac {LONG_WORD}.\n" for n in range(12_000))
    files = {"file": ("a.zip", zip_bytes({"almanac.txt": text, "b.txt": "b"}))}
    form = {"id": "large", "metadata": '{"team": "ops", "archive": "mine"}'}
    answer = api.post("/v1/documents", params={"wait": True}, files=files, data=form)
    assert answer.json()["documents"][0]["outcome"] == "expanded"
    key = member_id("large", "almanac.txt")
    document = until(lambda: api.get(f"/v1/documents/{key}").json())
    assert document["metadata"] == {"team": "ops", "archive": "a.zip"}
    assert api.get(f"/v1/documents/{key}/text").text == text


def test_the_longest_id(api: TestClient) -> None:
    """An archive with an id of 200 characters has members whose ids are ids, and go with it."""
    key = "k" * 200
    put(api, key, zip_bytes({"a.txt": "longest"}))
    member = member_id(key, "a.txt")
    assert len(member) == 200
    assert api.get(f"/v1/documents/{member}").json()["status"] == "done"
    assert api.delete(f"/v1/documents/{key}").status_code == 204
    assert api.get(f"/v1/documents/{member}").status_code == 404


@pytest.mark.parametrize("delay_seconds", [0.0, 0.1, 0.3, 0.8])
def test_a_crash_loses_and_doubles_nothing(tmp_path: Path, delay_seconds: float) -> None:
    """Killed at any moment of the work, the next server has just the archive's documents."""
    files: dict[str, bytes | str] = {f"{n}.txt": f"Note {n} of the log." for n in range(100)}
    files["inner.zip"] = zip_bytes({f"{n}.md": f"# Page {n}" for n in range(20)})
    files["large.txt"] = f"Line of the almanac {LONG_WORD}.\n" * 12_000
    server = ServerProcess(tmp_path / "data")
    with server, server.client() as client:
        sent = {"file": ("a.zip", zip_bytes(files))}
        assert client.put("/v1/documents/a", files=sent).status_code == 202
        time.sleep(delay_seconds)
        server.kill()
    with server, server.client() as client:

        def is_idle() -> bool:
            # Counted at once: between two questions an archive would become its pending documents.
            queue = client.get("/health").json()["queue"]
            return not queue["pending"] + queue["processing"]

        until(is_idle, 180.0)
        listed = client.get("/v1/documents", params={"limit": 1000}).json()["documents"]
        names = [one["filename"] for one in listed]
        assert len(names) == len(set(names)) == 121
        assert {"0.txt", "inner.zip/19.md", "large.txt"} < set(names)
        assert {one["status"] for one in listed} == {"done"}
        (archive,) = client.get("/v1/jobs", params={"document_id": "a"}).json()["jobs"]
        assert archive["outcome"] == "expanded"
