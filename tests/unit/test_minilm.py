"""The local embedder: quality, determinism, queueing, and plain words about a missing model."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ragdock
from ragdock.adapters.embedders.minilm import MiniLmEmbedder
from ragdock.errors import ConfigurationError, EmbedderError
from support.models import model_dir

LONG = "Refunds are issued to the original payment method within fourteen days of receipt. " * 12


@pytest.fixture(scope="module")
def embedder() -> Iterator[MiniLmEmbedder]:
    """One model for the module."""
    embedder = MiniLmEmbedder(model_dir(), 2)
    yield embedder
    embedder.close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(model_dir(), tmp_path / "model"))


@pytest.mark.model
def test_cosines_are_the_published_ones(embedder: MiniLmEmbedder) -> None:
    """The model is all-MiniLM-L6-v2: cosines from sbert.net's quickstart, within int8's error."""
    a, b, c = embedder.embed(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    assert np.allclose([a @ b, a @ c, b @ c], [0.6660, 0.1046, 0.1411], atol=0.03)


@pytest.mark.model
def test_a_question_finds_its_passage(embedder: MiniLmEmbedder) -> None:
    """The passage that answers a question is nearer than passages that don't."""
    passages = embedder.embed(
        [
            "Items can be sent back within 30 days for a full refund.",
            "The office is closed on public holidays.",
            "Mitochondria produce most of the cell's ATP.",
        ]
    )
    questions = embedder.embed(
        ["how long do I have to return something?", "are you open at Easter?"], urgent=True
    )
    assert (questions @ passages.T).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.model
def test_the_id_names_the_weights(embedder: MiniLmEmbedder) -> None:
    """The id ends in the model file's hash, so that other weights are another embedder."""
    manifest = json.loads((model_dir() / "manifest.json").read_text())
    assert embedder.id == f"minilm-l6-v2-int8:{manifest['files']['model.onnx']['sha256'][:8]}"


@pytest.mark.model
def test_text_beyond_the_limit_is_cut_off(embedder: MiniLmEmbedder) -> None:
    """Two texts that differ beyond 256 tokens only have the same vector."""
    assert embedder.n_tokens(LONG * 2) > embedder.max_tokens
    one, two = embedder.embed([LONG * 2 + "cats", LONG * 2 + "dogs"])
    assert np.array_equal(one, two)


@pytest.mark.model
def test_two_embedders_agree(embedder: MiniLmEmbedder) -> None:
    """A second session with another number of threads gives the same bits."""
    other = MiniLmEmbedder(model_dir(), 1)
    try:
        assert np.array_equal(other.embed(["refund", LONG]), embedder.embed(["refund", LONG]))
    finally:
        other.close()


@pytest.mark.model
def test_a_query_overtakes_bulk_work(embedder: MiniLmEmbedder) -> None:
    """A query is answered while a long bulk call still runs."""
    done = threading.Event()

    def bulk() -> None:
        embedder.embed([f"{LONG} {number}" for number in range(60)])
        done.set()

    thread = threading.Thread(target=bulk)
    thread.start()
    time.sleep(0.1)
    embedder.embed(["how do I return an item?"], urgent=True)
    overtaken = not done.is_set()
    thread.join()
    assert overtaken


@pytest.mark.model
def test_a_full_queue_refuses_queries() -> None:
    """Beyond the limit of waiting queries, the caller gets `embedder_busy` at once."""
    embedder = MiniLmEmbedder(model_dir(), 1, max_urgent=1)
    errors: list[EmbedderError] = []

    def ask() -> None:
        try:
            embedder.embed([LONG], urgent=True)
        except EmbedderError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    embedder.close()
    assert 0 < len(errors) < 24
    assert {error.code for error in errors} == {"embedder_busy"}


@pytest.mark.model
def test_close_ends_the_threads() -> None:
    """No thread of the pool outlives `close`."""
    before = set(threading.enumerate())
    embedder = MiniLmEmbedder(model_dir(), 3)
    assert len(set(threading.enumerate()) - before) == 3
    embedder.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("name", ["absent", "file/inside"])
def test_a_missing_model_names_the_remedy(tmp_path: Path, name: str) -> None:
    """Without a model the error says which command builds it, and which setting points to it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"RAG_MODEL_DIR=.*`ragdock model build`"):
        MiniLmEmbedder(tmp_path / name, 1)


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"name": "bge-small"}'])
def test_a_wrong_manifest_is_damage(tmp_path: Path, manifest: str) -> None:
    """A manifest that isn't this model's is reported as damage, with the remedy."""
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigurationError, match=r"damaged: manifest.json .*`ragdock model build`"):
        MiniLmEmbedder(tmp_path, 1)


@pytest.mark.parametrize("files", ["{}", "null", '{"model.onnx": {}}', '{"model.onnx": 7}'])
def test_a_manifest_without_hashes_is_damage(tmp_path: Path, files: str) -> None:
    """A manifest that names no hashes doesn't pass for one that does."""
    (tmp_path / "manifest.json").write_text(f'{{"name": "minilm-l6-v2-int8", "files": {files}}}')
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="damaged"):
        MiniLmEmbedder(tmp_path, 1)


@pytest.mark.model
@pytest.mark.parametrize("name", ["model.onnx", "vocab.txt"])
def test_a_changed_file_is_damage(copy: Path, name: str) -> None:
    """One changed byte in the model or its vocabulary is found at the start."""
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"damaged: {name} is not the file"):
        MiniLmEmbedder(copy, 1)


@pytest.mark.model
@pytest.mark.parametrize("name", ["model.onnx", "vocab.txt"])
def test_an_absent_file_is_damage(copy: Path, name: str) -> None:
    """A model without one of its files is named, with the remedy."""
    (copy / name).unlink()
    with pytest.raises(ConfigurationError, match=rf"damaged: {name} can't be read"):
        MiniLmEmbedder(copy, 1)


@pytest.mark.model
def test_a_file_that_is_no_model_is_damage(copy: Path) -> None:
    """A manifest that vouches for garbage still gives a configuration error, not a crash."""
    (copy / "model.onnx").write_bytes(b"garbage")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["model.onnx"]["sha256"] = hashlib.sha256(b"garbage").hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match="ONNX Runtime can't load"):
        MiniLmEmbedder(copy, 1)


@pytest.mark.model
def test_running_needs_no_build_packages() -> None:
    """Loading and running the model imports neither onnx nor what the image leaves out."""
    code = (
        "import sys; from pathlib import Path\n"
        "for name in ('onnx', 'flatbuffers', 'google', 'packaging'): sys.modules[name] = None\n"
        "from ragdock.adapters.embedders.minilm import MiniLmEmbedder\n"
        "embedder = MiniLmEmbedder(Path(sys.argv[1]), 1)\n"
        "assert embedder.embed(['hello']).shape == (1, 384)\n"
        "embedder.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(model_dir())],
        env={"PYTHONPATH": str(Path(ragdock.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
