"""Secrets from files: Docker's and Kubernetes' way, for every secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from ragdock.errors import ConfigurationError
from ragdock.settings import Settings

SECRETS = {
    "REDIS_PASSWORD": "redis_password",
    "RAG_EMBED_API_KEY": "embed_api_key",
    "RAG_LLM_API_KEY": "llm_api_key",
    "RAG_ADMIN_KEY": "admin_key",
    "RAG_METRICS_KEY": "metrics_key",
    "OTEL_EXPORTER_OTLP_HEADERS": "otlp_headers",
}
VALUE = "name=s3cr3t-and-long-enough-for-an-admin-key"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run where no `.env` is."""
    monkeypatch.chdir(tmp_path)


def secret(settings: Settings, variable: str) -> str:
    """A secret's plain value."""
    value = getattr(settings, SECRETS[variable])
    assert isinstance(value, SecretStr)
    return value.get_secret_value()


def test_every_secret_is_listed_here() -> None:
    """A new secret setting is tested as a file too."""
    fields = Settings.model_fields.items()
    assert {n for n, f in fields if "SecretStr" in str(f.annotation)} == set(SECRETS.values())


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_comes_from_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, end: str
) -> None:
    """`<NAME>_FILE` is read, and the line break at its end is no part of the secret."""
    path = tmp_path / "secret"
    path.write_bytes(f"{VALUE}{end}".encode())
    monkeypatch.setenv(f"{variable}_FILE", str(path))
    settings = Settings.load()
    assert secret(settings, variable) == VALUE
    assert VALUE not in repr(settings)


def test_dotenv_may_name_the_file(tmp_path: Path) -> None:
    """The variable counts in `.env` as it does in the environment."""
    (tmp_path / "secret").write_text(VALUE)
    (tmp_path / ".env").write_text("RAG_LLM_API_KEY_FILE=secret\n")
    assert secret(Settings.load(), "RAG_LLM_API_KEY") == VALUE


@pytest.mark.parametrize("variable", SECRETS)
def test_both_at_once_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """Nobody should have to guess which of two counts; an empty one doesn't count."""
    path = tmp_path / "secret"
    path.write_text(VALUE)
    monkeypatch.setenv(f"{variable}_FILE", str(path))
    monkeypatch.setenv(variable, "")
    assert secret(Settings.load(), variable) == VALUE
    monkeypatch.setenv(variable, "other")
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert str(error.value).startswith(f"{variable} and {variable}_FILE are both set")
    assert "other" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named_with_who_wanted_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names the variable, the file and the uid, because that is what is wrong."""
    monkeypatch.setenv("RAG_ADMIN_KEY_FILE", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    for part in ("RAG_ADMIN_KEY_FILE=", "missing", f"uid {os.getuid()}", "No such file"):
        assert part in str(error.value)


@pytest.mark.parametrize(("content", "says"), [(b"\n", "empty"), (b"\xff\xfe", "UTF-8")])
def test_a_file_that_holds_no_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, says: str
) -> None:
    """An empty or binary file is an error and not an empty password."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(path))
    with pytest.raises(ConfigurationError, match=says):
        Settings.load()


def test_worker_processes_read_the_file_themselves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What comes from a file isn't put into the environment of child processes."""
    path = tmp_path / "secret"
    path.write_text(VALUE)
    monkeypatch.setenv("RAG_LLM_API_KEY_FILE", str(path))
    monkeypatch.setenv("REDIS_PASSWORD", "plain")
    settings = Settings.load()
    environment = settings.as_environment()
    assert VALUE not in environment.values()
    assert environment["REDIS_PASSWORD"] == "plain"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    again = Settings.load()
    assert secret(again, "RAG_LLM_API_KEY") == VALUE
    assert again == settings
