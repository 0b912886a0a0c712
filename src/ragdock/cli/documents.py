"""`collections` and `documents`: what a server holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ragdock.cli.client import Api, path
from ragdock.cli.options import DEFAULT_URL, Collection, JsonOutput, Url
from ragdock.cli.output import emit, emit_json, emit_table, emit_text, note
from ragdock.errors import RagdockError

__all__ = ["Limit", "group", "register", "say_there_is_more", "show"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The collection's name.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The document's id.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="The documents' ids.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")]

PAGE_SIZE = 100


def register(app: typer.Typer) -> None:
    """Add this module's groups of commands."""
    collections = group(app, "collections", "List, create and drop collections.")
    collections.command("ls")(list_collections)
    collections.command("create")(create_collection)
    collections.command("drop")(drop_collection)
    documents = group(app, "documents", "List, show and remove documents.")
    documents.command("ls")(list_documents)
    documents.command("show")(show_document)
    documents.command("text")(show_text)
    documents.command("rm")(remove_documents)


def group(app: typer.Typer, name: str, help_text: str) -> typer.Typer:
    """A group of commands under a name."""
    made = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(made, name=name)
    return made


def list_collections(url: Url = DEFAULT_URL, json_output: JsonOutput = False) -> None:
    """List the collections."""
    with Api(url) as api:
        found = api.get(path("collections"))
    if json_output:
        emit_json(found)
        return
    rows = [
        (
            item["name"],
            item["n_documents"],
            item["n_chunks"],
            item["generation"],
            item["created_at"],
        )
        for item in found["collections"]
    ]
    emit_table(("name", "documents#", "chunks#", "generation#", "created"), rows)


def create_collection(name: Name, url: Url = DEFAULT_URL, json_output: JsonOutput = False) -> None:
    """Create an empty collection."""
    with Api(url) as api:
        created = api.post(path("collections"), {"name": name})
    if json_output:
        emit_json(created)
    else:
        emit(f"Created the collection {created['name']}.")


def drop_collection(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Drop a collection with all its documents."""
    with Api(url) as api:
        held = api.get(path("collections", name))
        if not yes:
            question = f"Drop {name!r} with {held['n_documents']} documents for good?"
            typer.confirm(question, abort=True, err=True)
        api.delete(path("collections", name))
    emit(f"Dropped the collection {name}.")


def list_documents(
    collection: Collection = "default",
    limit: Limit = 100,
    after: Annotated[str | None, typer.Option(help="Start behind this id.")] = None,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """List the documents of a collection by id."""
    documents: list[dict[str, Any]] = []
    params: dict[str, Any] = {"collection": collection, "after": after}
    with Api(url) as api:
        while len(documents) < limit:
            params["limit"] = min(PAGE_SIZE, limit - len(documents))
            page = api.get(path("documents"), params)
            documents += page["documents"]
            params["after"] = page["next"]
            if page["next"] is None:
                break
    if json_output:
        emit_json({"documents": documents, "next": params["after"]})
        return
    columns = ("id", "filename", "status", "chunks#", "pages#", "bytes#", "updated")
    keys = ("id", "filename", "status", "n_chunks", "n_pages", "size_bytes", "updated_at")
    emit_table(columns, [[item.get(key) for key in keys] for item in documents])
    say_there_is_more(params["after"], "--after")


def show_document(
    document_id: Id,
    collection: Collection = "default",
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Show one document."""
    with Api(url) as api:
        found = api.get(path("documents", document_id), {"collection": collection})
    show(found, json_output=json_output)


def show_text(document_id: Id, collection: Collection = "default", url: Url = DEFAULT_URL) -> None:
    """Print a document's text, the one that citations' spans point into."""
    with Api(url) as api:
        text = api.text(path("documents", document_id, "text"), {"collection": collection})
    emit_text(text)


def remove_documents(
    document_ids: Ids, collection: Collection = "default", url: Url = DEFAULT_URL
) -> None:
    """Remove documents; a missing one is an error, the others are removed all the same."""
    failed = 0
    with Api(url) as api:
        for document_id in document_ids:
            try:
                api.delete(path("documents", document_id), {"collection": collection})
                emit(f"Removed {document_id}.")
            except RagdockError as exc:
                if exc.code == "connection":
                    raise
                failed += 1
                note(f"Error: {document_id}: {exc}")
    if failed:
        raise typer.Exit(1)


def show(found: Mapping[str, Any], *, json_output: bool) -> None:
    """Print one thing, field by field."""
    if json_output:
        emit_json(found)
        return
    emit_table(("field", "value"), list(_flat(found)))


def _flat(found: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in found.items():
        if isinstance(value, Mapping):
            rows.extend(_flat(value, f"{prefix}{key}."))
        else:
            rows.append((prefix + key, value))
    return rows


def say_there_is_more(following: object, option: str) -> None:
    """Tell how to get the next page, if there is one."""
    if following is not None:
        note(f"There are more: {option} {following}")
