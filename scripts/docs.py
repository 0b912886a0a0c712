#!/usr/bin/env python3
"""Writes the tables of the documentation from the code they describe.

    python scripts/docs.py           rewrite what stands between the markers
    python scripts/docs.py --check   exit 1 and name the files that would change

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. The names are the keys of
`TABLES`. tests/test_docs.py runs the check.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragdock.ops.doctor.model import Check

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/decisions/*.md")


def documents() -> list[Path]:
    """Every page that may hold a table."""
    return sorted(path for pattern in DOCUMENTS for path in ROOT.glob(pattern))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; pipes in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def settings_table() -> str:
    """Every variable of `Settings`, in its order."""
    from pydantic import AliasChoices
    from pydantic_core import PydanticUndefined

    from ragdock.settings import Settings

    rows = []
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        assert field.default is not PydanticUndefined
        default = field.default
        if isinstance(default, bool):
            default = str(default).lower()
        shown = "" if default is None else f"`{default}`"
        name = f"`{field.validation_alias.choices[0]}`"
        if "SecretStr" in str(field.annotation):
            name += f", `{field.validation_alias.choices[0]}_FILE`"
        rows.append((name, shown, field.description or ""))
    return table(("Variable", "Default", "What it does"), rows)


def metrics_table() -> str:
    """Every metric that /metrics exposes."""
    from ragdock.adapters.metrics.tables import MEASURED, METRICS

    return _metrics([*(spec[:4] for spec in METRICS.values()), *MEASURED.values()])


def exporter_table() -> str:
    """Every metric of `ragdock exporter`."""
    from ragdock.ops.exporter.exposition import FAMILIES

    return _metrics(FAMILIES.values())


def _metrics(specs: Iterable[tuple[str, str, str, tuple[str, ...]]]) -> str:
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for kind, name, text, labels in specs
    ]
    return table(("Metric", "Kind", "Labels", "What it tells"), rows)


def routes_table() -> str:
    """Every route, by path."""
    return table(
        ("Route", "What it does"),
        [(f"`{method} {path}`", text) for method, path, text in routes()],
    )


def routes() -> list[tuple[str, str, str]]:
    """Method, path and first sentence of every route of ours, in the order of the API."""
    from fastapi.routing import APIRoute

    from ragdock.api.routes import collections, documents, health, jobs, search, urls

    found = []
    for module in (health, collections, documents, urls, jobs, search):
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                text = inspect.getdoc(route.endpoint) or ""
                found += [
                    (method, route.path, _first_paragraph(text)) for method in route.methods or ()
                ]
    return found


def commands_table() -> str:
    """Every command of the command line."""
    return table(("Command", "What it does"), [(f"`ragdock {name}`", text) for name, text in
                                               commands()])  # fmt: skip


def commands() -> list[tuple[str, str]]:
    """Full name and first sentence of every command."""
    import typer.main

    from ragdock.cli.main import app

    def walk(command: object, name: str) -> Iterable[tuple[str, str]]:
        children = getattr(command, "commands", None)
        if children:
            for child_name, child in children.items():
                yield from walk(child, f"{name} {child_name}".strip())
        else:
            yield name, _first_paragraph(inspect.cleandoc(getattr(command, "help", None) or ""))

    return list(walk(typer.main.get_command(app), ""))


def targets_table() -> str:
    """Every target of the Makefile that has a description."""
    return table(("Command", "What it does"), [(f"`make {name}`", text) for name, text in
                                               targets()])  # fmt: skip


def targets() -> list[tuple[str, str]]:
    """Name and description of every Makefile target that `make help` shows."""
    makefile = ROOT / "Makefile"
    if not makefile.exists():
        return []
    return re.findall(r"^([a-z-]+):.*?## (.+)$", makefile.read_text(encoding="utf-8"), re.MULTILINE)


def checks_table() -> str:
    """Every check of the doctor; the ids lead to what stands below."""
    from ragdock.ops.doctor.registry import all_checks

    rows = [
        (f"[{check.id}](#{check.id.lower()})", check.title, f"`{_quoted(check.symptom)}`")
        for check in all_checks()
    ]
    return table(("Check", "It holds", "What you see when it doesn't"), rows)


def _quoted(symptom: str) -> str:
    return symptom.replace("`", "'")


def failures_text() -> str:
    """For each check of the doctor its recorded failure, as the check itself tells it."""
    from ragdock.ops.doctor.registry import all_checks

    return "\n\n".join(_failure(check) for check in all_checks())


WHERE = {
    "host": "from the host",
    "inside": "from inside of a container",
    "both": "where ragdock runs",
}


def _failure(check: Check) -> str:
    from ragdock.ops.doctor.recorded import read_recording
    from ragdock.ops.doctor.report import examine

    world = read_recording(ROOT / "tests/data/doctor" / check.id / "broken.json")
    finding = examine([check], world, frozenset({check.scope})).results[0].findings[0]
    about = f"{finding.subject}: " if finding.subject else ""
    evidence = [f"{name} = {_shortened(value)}" for name, value in finding.evidence.items()]
    return "\n".join(
        [
            f"### {check.id}",
            "",
            f"**{check.title}**, looked at {WHERE[check.scope.value]}. {finding.cause}",
            "",
            "```text",
            f"{about}{finding.summary}",
            *evidence,
            "```",
            "",
            "```sh",
            *finding.fix,
            "```",
        ]
    )


def _shortened(value: object) -> str:
    if value in ("", [], None):
        return "(none)"
    text = "; ".join(value) if isinstance(value, list) else str(value)
    text = " ".join(text.replace("`", "'").split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def checkpoints_table() -> str:
    """The checkpoints of the image check, under a line that counts them."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from imagecheck.checkpoints import ALL
    finally:
        sys.path.pop(0)

    n_exceptions = sum(bool(each.exception) for each in ALL)
    head = f"**{len(ALL) - n_exceptions} of {len(ALL)} pass, {n_exceptions} are exceptions.**\n\n"
    rows = [
        (
            each.id,
            each.title,
            f"exception: {each.exception}" if each.exception else "pass",
            ", ".join(f"`{name}`" for name in each.how),
        )
        for each in ALL
    ]
    return head + table(("Id", "Checkpoint", "Result", "Held by"), rows)


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "exporter": exporter_table,
    "routes": routes_table,
    "commands": commands_table,
    "targets": targets_table,
    "checks": checks_table,
    "failures": failures_text,
    "checkpoints": checkpoints_table,
}


def rewritten(text: str) -> str:
    """The page with every table renewed; `run` is scripts/examples.py's."""

    def renew(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- begin {name} -->\n{TABLES[name]()}\n<!-- end {name} -->"

    return re.sub(
        r"<!-- begin (?P<name>(?!run )[a-z]+) -->\n.*?<!-- end (?P=name) -->",
        renew,
        text,
        flags=re.DOTALL,
    )


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or with --check only say which are out of date."""
    stale = []
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = rewritten(before)
        if after != before:
            stale.append(path)
            if arguments != ["--check"]:
                path.write_text(after, encoding="utf-8", newline="\n")
    for path in stale:
        print(path.relative_to(ROOT))
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
