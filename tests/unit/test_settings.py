"""Settings: one reader of the environment, clear errors, no secret shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ragdock.errors import ConfigurationError
from ragdock.settings import Settings

WRONG = [
    ("ENVIRONMENT", "live", "'development', 'staging' or 'production'"),
    ("PORT", "eighty", "integer"),
    ("PORT", "65536", "65535"),
    ("RAG_WORKERS", "0", "greater than or equal to 1"),
    ("RAG_SAMPLES", "maybe", "boolean"),
    ("REDIS_PORT", "0", "greater than or equal to 1"),
    ("REDIS_PORT", "tcp://10.0.0.1:redis", "integer"),
    ("REDIS_DB", "-1", "greater than or equal to 0"),
    ("RAG_REDIS_TIMEOUT_SECONDS", "0", "greater than 0"),
    ("RAG_REDIS_TIMEOUT_SECONDS", "nan", "nan"),
    ("RAG_CACHE_TTL_SECONDS", "1.5", "integer"),
    ("RAG_CACHE_MEMORY_MB", "-1", "greater than or equal to 0"),
    ("RAG_EMBEDDER", "bert", "'minilm' or 'openai'"),
    ("RAG_EMBED_BASE_URL", "ollama:11434", "http:// or https://"),
    ("RAG_EMBED_DIM", "0", "greater than or equal to 1"),
    ("RAG_LLM_BASE_URL", "ftp://x", "http:// or https://"),
    ("RAG_LLM_MAX_TOKENS", "8", "greater than or equal to 16"),
    ("RAG_CHUNK_TOKENS", "20", "greater than or equal to 32"),
    ("RAG_TOP_K", "101", "less than or equal to 100"),
    ("RAG_FUSION", "best", "'auto', 'convex' or 'rrf'"),
    ("RAG_MIN_SCORE", "1.1", "less than or equal to 1"),
    ("RAG_MAX_UPLOAD_MB", "50MB", "integer"),
    ("RAG_MAX_QUEUE", "0", "greater than or equal to 1"),
    ("RAG_SHUTDOWN_SECONDS", "-1", "greater than 0"),
    ("RAG_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("RAG_LOG_FORMAT", "xml", "'auto', 'json' or 'text'"),
]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run where no `.env` is."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("variable", "value", "remedy"), WRONG)
def test_a_wrong_value_is_named_quoted_and_remedied(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, remedy: str
) -> None:
    """The error names the variable, quotes the value, says what is allowed and what it is for."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    message = str(error.value)
    assert message.startswith(f"{variable}=")
    assert value.removeprefix("tcp://10.0.0.1:") in message
    assert remedy in message
    description = next(
        field.description
        for field in Settings.model_fields.values()
        if field.validation_alias.choices == [variable]  # type: ignore[union-attr]
    )
    assert description
    assert description in message


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three mistakes are three lines, not three starts."""
    for variable in ("PORT", "RAG_WORKERS", "RAG_TOP_K"):
        monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert len(str(error.value).splitlines()) == 3


def test_passwords_in_urls_are_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong URL is quoted without the password that it holds."""
    monkeypatch.setenv("RAG_LLM_BASE_URL", "ftp://user:hunter2@host/v1")
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert "hunter2" not in str(error.value)
    assert "ftp://user:***@host/v1" in str(error.value)


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret shows in repr, str or a dump; child processes get them."""
    for variable in ("REDIS_PASSWORD", "RAG_LLM_API_KEY", "RAG_EMBED_API_KEY"):
        monkeypatch.setenv(variable, f"hunter2-{variable}")
    settings = Settings.load()
    assert settings.redis_password == SecretStr("hunter2-REDIS_PASSWORD")
    for shown in (repr(settings), str(settings), str(settings.model_dump())):
        assert "hunter2" not in shown
    assert settings.as_environment()["RAG_LLM_API_KEY"] == "hunter2-RAG_LLM_API_KEY"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("6380", 6380), ("tcp://10.0.0.1:6379", 6379), ("tcp://[fd00::1]:6381", 6381)],
)
def test_the_port_that_kubernetes_injects(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    """REDIS_PORT=tcp://10.0.0.1:6379, which a Service named redis injects, is port 6379."""
    monkeypatch.setenv("REDIS_PORT", value)
    assert Settings.load().redis_port == expected


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("ENVIRONMENT", " Production ", "environment", "production"),
        ("RAG_LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("RAG_EMBEDDER", "MiniLM", "embedder", "minilm"),
        ("RAG_LLM_BASE_URL", "http://ollama:11434/v1/", "llm_base_url", "http://ollama:11434/v1"),
        ("REDIS_HOST", "", "redis_host", None),
        ("RAG_THREADS", "", "threads", None),
        ("RAG_SAMPLES", "1", "samples", True),
        ("RAG_DATA_DIR", "/srv/data", "data_dir", Path("/srv/data")),
    ],
)
def test_values_are_read_kindly(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: Any
) -> None:
    """Case, blanks, a trailing slash and empty values are what was meant."""
    monkeypatch.setenv(variable, value)
    assert getattr(Settings.load(), field) == expected


def test_dotenv_then_environment_then_overrides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`.env` is read, the environment outranks it, and an override outranks both."""
    (tmp_path / ".env").write_text("RAG_TOP_K=3\nRAG_WORKERS=2\nPORT=1000\nOTHER=x\n")
    monkeypatch.setenv("RAG_WORKERS", "4")
    monkeypatch.setenv("PORT", "2000")
    settings = Settings.load(port=3000)
    assert (settings.top_k, settings.workers, settings.port) == (3, 4, 3000)


def test_settings_are_frozen() -> None:
    """Nothing changes a setting after the start."""
    settings = Settings.load()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_the_environment_round_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings given as environment variables to a child are the same there."""
    settings = Settings.load(port=9, redis_host="r", redis_password="p", samples=True, threads=3)
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings


def test_the_parts_of_a_shutdown_fit_into_it() -> None:
    """Requests and documents together get less than the whole, so that closing fits as well."""
    settings = Settings.load(shutdown_seconds=10)
    assert settings.request_shutdown_seconds + settings.ingest_shutdown_seconds < 9
