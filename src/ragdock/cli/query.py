"""`search` and `ask`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ragdock.cli.client import Api, path
from ragdock.cli.options import (
    DEFAULT_URL,
    Collection,
    Filters,
    JsonOutput,
    Mode,
    TopK,
    Url,
    key_values,
)
from ragdock.cli.output import emit, emit_json, emit_table, note, on_terminal, printable, shorten
from ragdock.errors import RagdockError

__all__ = ["register"]

SNIPPET_CHARACTERS = 240


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(search)
    app.command()(ask)


def search(
    query: Annotated[list[str], typer.Argument(metavar="QUERY", help="What to look for.")],
    collection: Collection = "default",
    top_k: TopK = None,
    mode: Annotated[Mode, typer.Option(help="Which side ranks.")] = "hybrid",
    filters: Filters = None,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Find passages."""
    body = _body("query", query, collection, top_k, filters)
    with Api(url) as api:
        found = api.post(path("search"), {**body, "mode": mode})
    if json_output:
        emit_json(found)
        return
    if not found["hits"]:
        note(f"Nothing found in the collection {collection!r}.")
        return
    files = _files(found["hits"])
    rows = [
        (
            rank,
            _score(hit["scores"].get("fused")),
            _score(hit["scores"].get("lexical")),
            _score(hit["scores"].get("dense")),
            *_place(hit, files),
            shorten(hit["text"], SNIPPET_CHARACTERS),
        )
        for rank, hit in enumerate(found["hits"], start=1)
    ]
    columns = ("rank#", "score#", "lexical#", "dense#", "file", "page#", "span", "text")
    emit_table(columns, rows)


def ask(
    question: Annotated[list[str], typer.Argument(metavar="QUESTION", help="What to answer.")],
    collection: Collection = "default",
    top_k: TopK = None,
    filters: Filters = None,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Show the answer as it grows [on a terminal]."),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Whether a cached answer will do.")
    ] = True,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Answer a question from the documents, with citations."""
    body = _body("question", question, collection, top_k, filters)
    headers = None if cache else {"cache-control": "no-cache"}
    streamed = not json_output and (on_terminal() if stream is None else stream)
    with Api(url) as api:
        if streamed:
            answer = _streamed(api, {**body, "stream": True}, headers)
        else:
            answer = api.post(path("ask"), body, headers=headers)
    if json_output:
        emit_json(answer)
        return
    if not streamed:
        emit(answer["answer"])
    _citations(answer)


def _streamed(
    api: Api, body: Mapping[str, Any], headers: Mapping[str, str] | None
) -> dict[str, Any]:
    shown = ""
    for event, data in api.events(path("ask"), body, headers=headers):
        if event == "delta":
            shown += data["text"]
            sys.stdout.write(printable(data["text"]))
            sys.stdout.flush()
        elif event == "reset":
            shown = ""
            sys.stdout.write("\n")
            note(f"(The language model failed: {data.get('reason')}. Starting again.)")
        elif event == "done":
            # The whole answer wins over its pieces: checked citations may differ from the draft.
            if shown.strip() != data["answer"].strip():
                sys.stdout.write("\n" if shown else "")
                sys.stdout.write(printable(data["answer"]))
            sys.stdout.write("\n")
            return data
    raise RagdockError("The answer was cut: the server closed the stream early.", code="cut")


def _citations(answer: Mapping[str, Any]) -> None:
    if answer.get("fallback_reason"):
        note(f"(Extractive answer: the language model failed, {answer['fallback_reason']}.)")
    files = _files(answer["citations"])
    rows = [
        (f"[{citation['marker']}]", *_place(citation, files), shorten(citation["quote"], 500))
        for citation in answer["citations"]
    ]
    if rows:
        emit("")
        emit_table(("cited", "file", "page#", "span", "quote"), rows)


def _body(
    key: str,
    words: Sequence[str],
    collection: str,
    top_k: int | None,
    filters: Sequence[str] | None,
) -> dict[str, Any]:
    body: dict[str, Any] = {key: " ".join(words), "collection": collection}
    if top_k is not None:
        body["top_k"] = top_k
    if filters:
        body["filters"] = key_values(filters, option="--filter")
    return body


def _files(passages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What to call each document: its file name, or its id where namesakes are shown together."""
    names = {passage["document_id"]: passage["filename"] for passage in passages}
    times = Counter(names.values())
    return {key: name if times[name] == 1 else key for key, name in names.items()}


def _place(passage: Mapping[str, Any], files: Mapping[str, str]) -> tuple[object, object, str]:
    span = f"{passage['start']}-{passage['end']}"
    page, label = passage.get("page"), passage.get("page_label")
    # As readers cite it, and where a viewer finds it.
    return files[passage["document_id"]], f"{label} ({page})" if label else page, span


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
