"""The only reader of the environment.

`Settings.load()` reads the process environment and `.env`; everything else takes a `Settings`.
The fixed names (`ENVIRONMENT`, `REDIS_HOST`, `REDIS_PORT`, `PORT`, `USER_ID`) and OpenTelemetry's
come without prefix, all others as `RAG_<FIELD>`. Wrong values raise `ConfigurationError`, which
names the variable, quotes the value (never a secret's) and says what is allowed. Each secret can
also come from a file that `<NAME>_FILE` names.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ragdock.errors import ConfigurationError
from ragdock.secret_files import SecretFiles, files_of_secrets

__all__ = ["Settings", "cpu_quota", "memory_limit_mb"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]


def _env(name: str, default: Any, description: str, **limits: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name), description=description, **limits)


class Settings(BaseSettings):
    """All settings, frozen; the field's description is its line in the README's table."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_file=".env", env_ignore_empty=True, case_sensitive=True
    )

    environment: Literal["development", "staging", "production"] = _env(
        "ENVIRONMENT",
        "development",
        "Anything but `development` needs an API key (`ragdock keys create`).",
    )
    host: str = _env("RAG_HOST", "127.0.0.1", "Address to listen on (the image sets 0.0.0.0).")
    port: int = _env("PORT", 8000, "Port to listen on.", ge=0, le=65535)
    workers: int = _env("RAG_WORKERS", 1, "Server processes.", ge=1, le=64)
    data_dir: Path = _env("RAG_DATA_DIR", Path("data"), "Where the store lives.")
    model_dir: Path = _env(
        "RAG_MODEL_DIR", Path("models"), "Where `ragdock model build` puts the model."
    )
    samples: bool = _env(
        "RAG_SAMPLES", False, "Ingest the sample corpus when the store is new (`make serve` does)."
    )

    redis_host: str | None = _env(
        "REDIS_HOST", None, "Redis for the cache; without it, in process."
    )
    redis_port: int = _env("REDIS_PORT", 6379, "Redis's port.", ge=1, le=65535)
    redis_password: SecretStr | None = _env(
        "REDIS_PASSWORD", None, "Redis's password, if it has one."
    )
    redis_db: int = _env("REDIS_DB", 0, "Redis's database number.", ge=0, le=1023)
    redis_timeout_seconds: Seconds = _env(
        "RAG_REDIS_TIMEOUT_SECONDS", 0.25, "Longest wait for Redis before going on without it."
    )
    cache_ttl_seconds: int = _env(
        "RAG_CACHE_TTL_SECONDS",
        3600,
        "How long cached answers live; 0 turns the cache off.",
        ge=0,
        le=2_592_000,
    )
    cache_memory_mb: int = _env(
        "RAG_CACHE_MEMORY_MB", 32, "In-process cache, per server process.", ge=0, le=65536
    )

    embedder: Literal["minilm", "openai"] = _env(
        "RAG_EMBEDDER", "minilm", "`minilm` (local) or `openai` (any OpenAI-compatible endpoint)."
    )
    embed_base_url: str | None = _env(
        "RAG_EMBED_BASE_URL",
        None,
        "Base URL of the embeddings endpoint, e.g. http://ollama:11434/v1.",
    )
    embed_api_key: SecretStr | None = _env("RAG_EMBED_API_KEY", None, "Its key, if it wants one.")
    embed_model: str | None = _env("RAG_EMBED_MODEL", None, "Its model name.")
    embed_dim: int | None = _env(
        "RAG_EMBED_DIM", None, "Length of its vectors; asked for once when unset.", ge=1, le=8192
    )
    embed_timeout_seconds: Seconds = _env(
        "RAG_EMBED_TIMEOUT_SECONDS", 30.0, "Deadline of one call."
    )
    threads: int | None = _env(
        "RAG_THREADS", None, "Embedding threads; the CPU quota when unset.", ge=1, le=256
    )

    llm_base_url: str | None = _env(
        "RAG_LLM_BASE_URL", None, "OpenAI-compatible chat endpoint; extractive answers when unset."
    )
    llm_api_key: SecretStr | None = _env("RAG_LLM_API_KEY", None, "Its key, if it wants one.")
    llm_model: str | None = _env("RAG_LLM_MODEL", None, "Its model name.")
    llm_timeout_seconds: Seconds = _env(
        "RAG_LLM_TIMEOUT_SECONDS", 30.0, "Deadline of one answer; then the extractive answer."
    )
    llm_max_tokens: int = _env("RAG_LLM_MAX_TOKENS", 512, "Longest answer.", ge=16, le=32768)
    llm_concurrency: int = _env("RAG_LLM_CONCURRENCY", 8, "LLM calls at once.", ge=1, le=1024)

    chunk_tokens: int = _env("RAG_CHUNK_TOKENS", 200, "Longest passage, in tokens.", ge=32, le=2048)
    top_k: int = _env("RAG_TOP_K", 8, "Passages when the request names no number.", ge=1, le=100)
    candidates: int = _env(
        "RAG_CANDIDATES", 100, "Passages each side hands to fusion.", ge=10, le=1000
    )
    fusion: Literal["auto", "convex", "rrf"] = _env(
        "RAG_FUSION", "auto", "`auto`: calibrated convex for MiniLM, min-max convex for others."
    )
    min_score: Fraction = _env(
        "RAG_MIN_SCORE", 0.38, 'Below this top cosine the answer is "I don\'t know".'
    )

    max_upload_mb: int = _env("RAG_MAX_UPLOAD_MB", 256, "Largest file.", ge=1, le=2048)
    max_request_mb: int = _env("RAG_MAX_REQUEST_MB", 512, "Largest request body.", ge=1, le=4096)
    max_files: int = _env("RAG_MAX_FILES", 100, "Files in one request.", ge=1, le=10_000)
    max_question_chars: int = _env(
        "RAG_MAX_QUESTION_CHARS", 2000, "Longest question or query.", ge=16, le=100_000
    )
    max_queue: int = _env(
        "RAG_MAX_QUEUE", 10_000, "Unfinished documents before uploads get 503.", ge=1, le=10_000_000
    )
    max_queue_mb: int = _env(
        "RAG_MAX_QUEUE_MB",
        2048,
        "Unfinished uploads together before more get 503.",
        ge=1,
        le=1_048_576,
    )
    max_pages: int = _env("RAG_MAX_PAGES", 20_000, "Pages of one file.", ge=1, le=1_000_000)
    max_archive_files: int = _env(
        "RAG_MAX_ARCHIVE_FILES", 1000, "Files taken from one archive.", ge=1, le=100_000
    )
    max_archive_mb: int = _env(
        "RAG_MAX_ARCHIVE_MB", 500, "What one archive may unpack to.", ge=1, le=65536
    )
    max_concurrency: int = _env(
        "RAG_MAX_CONCURRENCY", 32, "Requests worked on at once.", ge=1, le=1024
    )
    max_waiting: int = _env(
        "RAG_MAX_WAITING", 256, "Requests waiting for that; more get 503.", ge=0, le=65536
    )
    max_connections: int = _env(
        "RAG_MAX_CONNECTIONS",
        1000,
        "Open connections of a server process; idle ones make room for new ones.",
        ge=16,
        le=100_000,
    )
    ingest: bool = _env(
        "RAG_INGEST", True, "Whether the server processes documents; false beside `ragdock worker`."
    )
    max_attempts: int = _env(
        "RAG_MAX_ATTEMPTS", 5, "Attempts at a document before it is parked as failed.", ge=1, le=100
    )
    lease_seconds: Seconds = _env(
        "RAG_LEASE_SECONDS", 60.0, "How long a silent worker keeps its documents."
    )
    keep_failed_hours: int = _env(
        "RAG_KEEP_FAILED_HOURS",
        168,
        "How long uploads of failed documents are kept for a retry.",
        ge=0,
        le=87_600,
    )
    ocr: bool = _env("RAG_OCR", False, "Read scanned pages by OCR; needs the `ocr` extra.")
    fetch_urls: bool = _env(
        "RAG_FETCH_URLS", False, "Whether the server fetches documents from URLs (POST /v1/urls)."
    )
    fetch_hosts: str = _env(
        "RAG_FETCH_HOSTS", "", "Host names, comma-separated, that it may fetch from; empty is any."
    )
    fetch_timeout_seconds: Seconds = _env(
        "RAG_FETCH_TIMEOUT_SECONDS", 30.0, "Longest fetch of one URL, redirects included."
    )
    parse_timeout_seconds: Seconds = _env(
        "RAG_PARSE_TIMEOUT_SECONDS", 120.0, "Longest parse of one file."
    )
    parse_memory_mb: int | None = _env(
        "RAG_PARSE_MEMORY_MB",
        None,
        "Memory of a parser process; half of the container's when unset, at most 1024.",
        ge=128,
        le=65536,
    )
    wait_timeout_seconds: Seconds = _env("RAG_WAIT_TIMEOUT_SECONDS", 60.0, "Longest `?wait=true`.")
    shutdown_seconds: Seconds = _env(
        "RAG_SHUTDOWN_SECONDS",
        8.0,
        "Time for running requests when stopping; below the grace period.",
    )

    admin_key: SecretStr | None = _env(
        "RAG_ADMIN_KEY",
        None,
        "A key with every right, where `ragdock keys create` can't be run; 32 characters or more.",
    )
    metrics_key: SecretStr | None = _env(
        "RAG_METRICS_KEY",
        None,
        "A key for `/metrics` and the details of `/health` alone, where `ragdock keys create` "
        "can't be run; 32 characters or more.",
    )
    rate_per_minute: int | None = _env(
        "RAG_RATE_PER_MINUTE",
        None,
        "Requests a minute for each key that has no rate of its own; 0 is no limit. Unset: 600, "
        "and no limit in development.",
        ge=0,
        le=10_000_000,
    )
    address_rate_per_minute: int | None = _env(
        "RAG_ADDRESS_RATE_PER_MINUTE",
        None,
        "Requests a minute for each address; 0 is no limit. Unset: 1200, and no limit in "
        "development.",
        ge=0,
        le=10_000_000,
    )
    trusted_proxies: str = _env(
        "RAG_TRUSTED_PROXIES",
        "",
        "Addresses or networks, comma-separated, whose X-Forwarded-For is believed.",
    )
    cors_origins: str = _env(
        "RAG_CORS_ORIGINS", "", "Origins, comma-separated, whose pages may call the API; none."
    )
    docs: bool = _env("RAG_DOCS", True, "Whether /docs, /redoc and /openapi.json are served.")
    request_timeout_seconds: Seconds = _env(
        "RAG_REQUEST_TIMEOUT_SECONDS", 60.0, "Longest work on one request; then 503."
    )
    body_timeout_seconds: Seconds = _env(
        "RAG_BODY_TIMEOUT_SECONDS",
        20.0,
        "Longest wait for a header, for the next piece of a body (then 408), for a slow reader.",
    )

    log_content: bool = _env(
        "RAG_LOG_CONTENT", False, "Whether questions and file names may be logged."
    )
    audit: Literal["file", "log", "off"] = _env(
        "RAG_AUDIT", "file", "Where writes and key use are recorded: audit/ in the data, the log."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _env(
        "RAG_LOG_LEVEL", "info", "Least severe line logged."
    )
    log_format: Literal["auto", "json", "text"] = _env(
        "RAG_LOG_FORMAT", "auto", "`auto`: text on a terminal, else JSON."
    )

    # The names are OpenTelemetry's, and so are the defaults.
    otlp_endpoint: str | None = _env(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        None,
        "Where traces go (OTLP over HTTP), e.g. http://collector:4318; no tracing when unset.",
    )
    otlp_traces_endpoint: str | None = _env(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None, "The same as a whole URL, with its path."
    )
    otlp_headers: SecretStr | None = _env(
        "OTEL_EXPORTER_OTLP_HEADERS", None, "Headers for it, as `name=value,name=value`; its key."
    )
    otlp_protocol: Literal["http/protobuf"] = _env(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "The only protocol that is spoken."
    )
    otel_traces_exporter: Literal["otlp", "none"] = _env(
        "OTEL_TRACES_EXPORTER", "otlp", "`none` turns tracing off."
    )
    otel_service_name: str | None = _env(
        "OTEL_SERVICE_NAME", None, "The service's name in traces; `rag-api` when unset."
    )
    otel_resource_attributes: str = _env(
        "OTEL_RESOURCE_ATTRIBUTES", "", "More about it, as `deployment.environment.name=eu,...`."
    )
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = _env("OTEL_TRACES_SAMPLER", "parentbased_always_on", "Which requests are traced.")
    otel_traces_sampler_arg: Fraction = _env(
        "OTEL_TRACES_SAMPLER_ARG", 1.0, "The share that a `ratio` sampler traces."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, then files that hold secrets, then the environment, then `.env`."""
        return (
            init_settings,
            SecretFiles(settings_cls, env_settings, dotenv_settings),
            env_settings,
            dotenv_settings,
            file_secret_settings,
        )

    @property
    def request_shutdown_seconds(self) -> float:
        """The part of `shutdown_seconds` that running requests get; the rest is for closing."""
        return 0.65 * self.shutdown_seconds

    @property
    def ingest_shutdown_seconds(self) -> float:
        """The part of `shutdown_seconds` that documents in work get."""
        return 0.2 * self.shutdown_seconds

    @property
    def trace_shutdown_seconds(self) -> float:
        """The part of `shutdown_seconds` that the last traces get, after everything else."""
        return 0.1 * self.shutdown_seconds

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment and `.env`; overrides win. Raises `ConfigurationError`."""
        try:
            return cls(**{_alias(cls, name): value for name, value in overrides.items()})
        except ValidationError as exc:
            raise ConfigurationError(_explain(cls, exc)) from None

    def as_environment(self) -> dict[str, str]:
        """The settings as environment variables, for child processes.

        Secrets are included, except those that a child finds in their files.
        """
        in_files = files_of_secrets(type(self))
        found: dict[str, str] = {}
        for name in type(self).model_fields:
            value, variable = getattr(self, name), _alias(type(self), name)
            if value is None or variable in in_files:
                continue
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            found[variable] = str(plain)
        return found

    @field_validator("redis_port", mode="before")
    @classmethod
    def _kubernetes_link(cls, value: Any) -> Any:
        # A Kubernetes Service named `redis` injects REDIS_PORT=tcp://10.0.0.1:6379 into every pod.
        if isinstance(value, str) and value.startswith("tcp://"):
            return value.rsplit(":", 1)[-1]
        return value

    @field_validator(
        "environment", "log_level", "log_format", "embedder", "fusion", "audit", mode="before"
    )
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("admin_key", "metrics_key")
    @classmethod
    def _strong(cls, value: SecretStr | None) -> SecretStr | None:
        # A header carries printable ASCII only, and a space at an end would be lost on the way.
        if value is not None and not re.fullmatch(r"[!-~]{32,}", value.get_secret_value()):
            raise ValueError("must be 32 or more printable ASCII characters without spaces")
        return value

    @field_validator("embed_base_url", "llm_base_url", "otlp_endpoint", "otlp_traces_endpoint")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value else None


_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^/@\s]*(@)")


def _alias(cls: type[Settings], name: str) -> str:
    alias = cls.model_fields[name].validation_alias
    assert isinstance(alias, AliasChoices)
    return str(alias.choices[0])


def _explain(cls: type[Settings], exc: ValidationError) -> str:
    lines = []
    for error in exc.errors():
        variable = str(error["loc"][0])
        field = next((f for n, f in cls.model_fields.items() if _alias(cls, n) == variable), None)
        secret = field is not None and "SecretStr" in str(field.annotation)
        value = "(hidden)" if secret else _PASSWORD.sub(r"\1***\2", repr(error.get("input")))
        help_text = (field.description if field else None) or ""
        lines.append(f"{variable}={value}: {error['msg']}. {help_text}".rstrip())
    return "\n".join(lines)


def memory_limit_mb() -> int | None:
    """What the cgroup (v1 or v2) lets this process have, in MiB; None when it sets no limit."""
    for place in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = Path("/sys/fs/cgroup", place).read_text(encoding="ascii").strip()
        except OSError:
            continue
        # Version 1 says "no limit" by a number that no machine has.
        if limit.isdigit() and int(limit) < 2**50:
            return int(limit) // 2**20
    return None


def cpu_quota() -> int:
    """Whole CPUs this process may use: affinity, cut by the cgroup's quota (v1 or v2)."""
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    for quota in (_quota_v2(), _quota_v1()):
        if quota is not None:
            return max(1, min(available, round(quota)))
    return max(1, available)


def _quota_v2() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1() -> float | None:
    root = Path("/sys/fs/cgroup/cpu")
    try:
        quota = int((root / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((root / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period
