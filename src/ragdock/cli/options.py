"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

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
    "key_values",
]

DEFAULT_URL = "http://127.0.0.1:8000"

Mode = Literal["hybrid", "lexical", "dense"]

Url = Annotated[str, typer.Option("--url", envvar="RAGDOCK_URL", help="The server.", metavar="URL")]
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
