"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import typer

from ragdock.cli.client import key_file
from ragdock.errors import InputError

__all__ = [
    "DEFAULT_URL",
    "Collection",
    "Filters",
    "JsonOutput",
    "Mode",
    "OptionalCollection",
    "TopK",
    "Url",
    "add_key_file",
    "key_values",
]

DEFAULT_URL = "http://127.0.0.1:8000"

Mode = Literal["hybrid", "lexical", "dense"]

Url = Annotated[str, typer.Option("--url", envvar="RAGDOCK_URL", help="The server.", metavar="URL")]
_KEY_FILE: Final = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="RAGDOCK_KEY_FILE",
        help="A file with the API key [the variable RAGDOCK_API_KEY].",
        dir_okay=False,
    ),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Collection = Annotated[str, typer.Option("--collection", "-c", help="The collection.")]
OptionalCollection = Annotated[
    str | None, typer.Option("--collection", "-c", help="Only this collection.")
]
TopK = Annotated[
    int | None, typer.Option("--top-k", "-k", min=1, max=100, help="How many passages.")
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="KEY=VALUE",
        help="Only such documents; repeatable. VALUE may be JSON, as in 'year={\"gte\": 2020}'.",
    ),
]


def add_key_file(app: typer.Typer) -> None:
    """Give `--key-file` to every command that has `--url`, those of groups included.

    One place for all commands, so that none can be without. There is no `--key`: what stands in a
    command line, `ps` shows to every user of the machine, and the shell's history keeps it.
    """
    for command in app.registered_commands:
        if command.callback and "url" in inspect.signature(command.callback).parameters:
            command.callback = _with_key_file(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_key_file(group.typer_instance)


def _with_key_file(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def call(**options: Any) -> Any:
        token = key_file.set(options.pop("key_file"))
        try:
            return callback(**options)
        finally:
            key_file.reset(token)

    # Resolved here: as strings they would be looked up among the names of this module.
    hints = get_type_hints(callback, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(callback).parameters.items()
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters.append(inspect.Parameter("key_file", keyword, default=None, annotation=_KEY_FILE))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {**hints, "key_file": _KEY_FILE}
    return call


def key_values(pairs: Sequence[str] | None, *, option: str) -> dict[str, Any]:
    """`["year=2024", "tag=a"]` as `{"year": 2024, "tag": "a"}`.

    A value that reads as JSON is taken as JSON, so numbers and booleans keep their type; quote it
    (`year="2024"`, quotes included) to keep a string. Raises `InputError` without an equals sign.
    """
    values: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, raw = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{option} {pair!r} isn't of the form key=value.")
        try:
            value = json.loads(raw)
        except ValueError:
            value = raw
        values[key] = raw if value is None else value
    return values
