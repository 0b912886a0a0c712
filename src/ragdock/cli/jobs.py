"""`jobs`: accepted work, listed, shown, followed, retried, cancelled, waited for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import typer

from ragdock.cli.client import Api, path
from ragdock.cli.documents import Limit, group, say_there_is_more, show
from ragdock.cli.options import DEFAULT_URL, JsonOutput, OptionalCollection, Url
from ragdock.cli.output import emit, emit_json, emit_table, note, on_terminal, progress
from ragdock.errors import RagdockError

__all__ = ["register"]

Status = Literal["pending", "processing", "done", "failed", "cancelled"]
Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="The jobs' ids.")]

PAGE_SIZE: Final = 100
LOOK_SECONDS: Final = 0.5
COUNTED: Final = 1_000
_UNFINISHED: Final = ("pending", "processing")


def register(app: typer.Typer) -> None:
    """Add this module's group of commands."""
    jobs = group(app, "jobs", "List, show, follow, retry and cancel accepted work.")
    jobs.command("ls")(list_jobs)
    jobs.command("show")(show_job)
    jobs.command("watch")(watch_jobs)
    jobs.command("retry")(retry_jobs)
    jobs.command("cancel")(cancel_jobs)
    jobs.command("drain")(drain_jobs)


def list_jobs(
    collection: OptionalCollection = None,
    status: Annotated[Status | None, typer.Option(help="Only jobs that stand so.")] = None,
    before: Annotated[str | None, typer.Option(help="Only jobs older than this one.")] = None,
    limit: Limit = 20,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """List accepted work, newest first."""
    jobs: list[dict[str, Any]] = []
    params: dict[str, Any] = {"collection": collection, "status": status, "before": before}
    with Api(url) as api:
        while len(jobs) < limit:
            params["limit"] = min(PAGE_SIZE, limit - len(jobs))
            page = api.get(path("jobs"), params)
            jobs += page["jobs"]
            params["before"] = page["next"]
            if page["next"] is None:
                break
    if json_output:
        emit_json({"jobs": jobs, "next": params["before"]})
        return
    columns = ("id", "document", "file", "status", "progress", "tries#", "error", "updated")
    rows = [
        (
            job["id"],
            job["document_id"],
            job["filename"],
            job["status"],
            _progress_of(job),
            job["attempt"],
            (job["error"] or {}).get("message"),
            job["updated_at"],
        )
        for job in jobs
    ]
    emit_table(columns, rows)
    say_there_is_more(params["before"], "--before")


def show_job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Show one job."""
    with Api(url) as api:
        found = api.get(path("jobs", job_id))
    show(found, json_output=json_output)


def watch_jobs(
    job_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One job, until it is finished.")
    ] = None,
    collection: OptionalCollection = None,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Follow one job to its end, or all of a collection until interrupted."""
    route = path("jobs", job_id, "events") if job_id else path("jobs", "events")
    params = {} if job_id else {"collection": collection or "default"}
    job: dict[str, Any] | None = None
    with Api(url) as api:
        changes = api.follow(route, params)
        if job_id and on_terminal() and not json_output:
            with progress("waiting", 100) as bar:
                for job in changes:
                    text = f"{job['filename'] or job['document_id']}: {_progress_of(job)}"
                    bar.stage(text, job["percent"], 100)
        else:
            for job in changes:
                if json_output:
                    emit_json(job)
                else:
                    emit(_line(job))
    if job is not None and job_id and on_terminal() and not json_output:
        emit(_line(job))
    if job_id and (job is None or job["status"] != "done"):
        raise typer.Exit(1)


def retry_jobs(
    job_ids: Ids = None,
    all_failed: Annotated[
        bool, typer.Option("--all-failed", help="Every failed job (of the collection).")
    ] = False,
    collection: OptionalCollection = None,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Have failed or cancelled jobs done again."""
    with Api(url) as api:
        wanted = list(job_ids or ())
        if all_failed:
            wanted += _all(api, {"collection": collection, "status": "failed"})
        _each(api, wanted, "retry", "Will be done again", json_output=json_output)


def cancel_jobs(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID", help="The jobs' ids.")],
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Give up unfinished jobs; what was searchable before stays."""
    with Api(url) as api:
        _each(api, job_ids, "cancel", "Cancelled", json_output=json_output)


def drain_jobs(
    collection: OptionalCollection = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Longest wait, in seconds.", metavar="SECONDS")
    ] = 3600.0,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Wait until nothing is unfinished; exit 1 when the time is over."""
    deadline = time.monotonic() + timeout
    with Api(url) as api:
        total = left = _count_open(api, collection)
        with progress("indexing", total) as bar:
            while left and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
                left = _count_open(api, collection)
                total = max(total, left)
                bar.stage(f"{left} left", total - left, total)
    if json_output:
        emit_json({"unfinished": left})
    else:
        emit("Nothing is unfinished." if not left else f"{left} jobs are still unfinished.")
    if left:
        raise typer.Exit(1)


def _each(api: Api, job_ids: list[str], action: str, done: str, *, json_output: bool) -> None:
    found, n_failed = [], 0
    for job_id in job_ids:
        try:
            found.append(api.post(path("jobs", job_id, action), {}))
        except RagdockError as exc:
            if exc.code == "connection":
                raise
            n_failed += 1
            note(f"Error: {job_id}: {exc}")
        else:
            if not json_output:
                emit(f"{done}: {job_id}.")
    if json_output:
        emit_json({"jobs": found})
    if n_failed or not job_ids:
        if not job_ids:
            note("There is no job to do that to.")
        raise typer.Exit(1)


def _all(api: Api, params: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    before = None
    while True:
        page = api.get(path("jobs"), {**params, "before": before, "limit": COUNTED})
        found += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            return found


def _count_open(api: Api, collection: str | None) -> int:
    return sum(
        len(_all(api, {"collection": collection, "status": status})) for status in _UNFINISHED
    )


def _progress_of(job: Mapping[str, Any]) -> str:
    if job["status"] == "processing":
        return f"{job.get('stage') or ''} {job.get('percent', 0)} %".strip()
    if job.get("next_attempt_at"):
        return f"again at {job['next_attempt_at']}"
    return str(job.get("outcome") or "-")


def _line(job: Mapping[str, Any]) -> str:
    error = (job.get("error") or {}).get("message")
    parts = (job["id"], job["document_id"], job["status"], _progress_of(job), error or "")
    return "\t".join(parts).rstrip()
