"""Secrets in files: `<NAME>_FILE` beside `<NAME>`, for every setting that is a secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource

from ragdock.errors import ConfigurationError

__all__ = ["SecretFiles", "files_of_secrets"]


class SecretFiles(PydanticBaseSettingsSource):
    """Reads `<NAME>_FILE` for every secret: the way of Docker's and Kubernetes' secrets."""

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        environment: PydanticBaseSettingsSource,
        dotenv: PydanticBaseSettingsSource,
    ) -> None:
        super().__init__(settings_cls)
        self._variables = {**_variables(dotenv), **_variables(environment)}

    def get_field_value(self, _: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: all values come at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The secrets that are in files, by variable. Raises `ConfigurationError`."""
        found = {}
        for variable in _secrets(self.settings_cls):
            path = self._variables.get(f"{variable}_FILE")
            if not path:
                continue
            if self._variables.get(variable):
                raise ConfigurationError(
                    f"{variable} and {variable}_FILE are both set; keep one of them."
                )
            found[variable] = _read_secret(f"{variable}_FILE", Path(path))
        return found


def _variables(source: PydanticBaseSettingsSource) -> dict[str, str | None]:
    return dict(getattr(source, "env_vars", {}))


def _secrets(cls: type[BaseSettings]) -> list[str]:
    """The variables whose values are secret."""
    return [
        str(field.validation_alias.choices[0])
        for field in cls.model_fields.values()
        if "SecretStr" in str(field.annotation) and isinstance(field.validation_alias, AliasChoices)
    ]


def files_of_secrets(cls: type[BaseSettings]) -> set[str]:
    """The secrets whose files the environment or `.env` names."""
    dotenv = _variables(DotEnvSettingsSource(cls))
    return {
        variable
        for variable in _secrets(cls)
        if os.environ.get(f"{variable}_FILE") or dotenv.get(f"{variable}_FILE")
    }


def _read_secret(variable: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        who = f" by uid {os.getuid()}" if hasattr(os, "getuid") else ""
        raise ConfigurationError(
            f"{variable}={str(path)!r}: the file can't be read{who} ({exc.strerror}). Make it "
            "readable for that user, and under Compose list it in the service's `secrets:`."
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{variable}={str(path)!r}: the file isn't UTF-8 text.") from None
    # `echo secret > file` and most editors end the file with a line break that nobody means.
    secret = text.rstrip("\r\n")
    if not secret:
        raise ConfigurationError(f"{variable}={str(path)!r}: the file is empty.")
    return secret
