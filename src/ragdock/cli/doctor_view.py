"""The doctor's report for people: a table with colours on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ragdock.cli.output import on_terminal, printable
from ragdock.ops.doctor.model import Finding, Scope, Status
from ragdock.ops.doctor.report import Report, Result

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["show"]

_STYLES: Final = {
    Status.OK: ("✔", "green", "ok"),
    Status.WARN: ("▲", "yellow", "warning"),
    Status.FAIL: ("✘", "red", "failed"),
    Status.SKIP: ("–", "bright_black", "skipped"),
}
_PLACES: Final = {
    Scope.HOST: "from the host",
    Scope.INSIDE: "from inside of a container",
    Scope.BOTH: "where ragdock runs",
}
_BAD: Final = (Status.FAIL, Status.WARN)
MAX_WIDTH: Final = 120
MIN_WIDTH: Final = 60


def show(report: Report, *, color: bool = True) -> None:
    """Write the report to stdout."""
    if on_terminal():
        _draw(report, color=color)
    else:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in _lines(report)))


def _bad(report: Report) -> list[tuple[Result, Finding]]:
    """What wants attention, failures last: they stand next to the prompt."""
    found = [
        (result, finding)
        for result in report.results
        for finding in result.findings
        if finding.status in _BAD
    ]
    return sorted(found, key=lambda pair: pair[1].status is Status.FAIL)


def _skipped(report: Report) -> list[tuple[str, str]]:
    """Reasons for not looking, each with the checks that it holds for."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for result in report.results:
        if result.status is Status.SKIP:
            reasons[result.findings[0].summary].append(result.check.id)
    return [(" ".join(names), reason) for reason, names in reasons.items()]


def _evidence(finding: Finding) -> list[str]:
    return [
        f"{name} = {'; '.join(value) if isinstance(value, list) else value}"
        if value not in ("", [], None)
        else f"{name} = (none)"
        for name, value in finding.evidence.items()
    ]


def _tally(report: Report) -> str:
    counts = [
        f"{report.count(status)} {_STYLES[status][2]}"
        for status in (Status.FAIL, Status.WARN, Status.OK, Status.SKIP)
        if report.count(status)
    ]
    seconds = sum(result.seconds for result in report.results)
    return f"{', '.join(counts) or 'nothing checked'} in {seconds:.1f} s"


def _about(result: Result, finding: Finding) -> str:
    about = f" ({finding.subject})" if finding.subject else ""
    return f"{result.check.id} {result.check.title}{about}"


def _lines(report: Report) -> Iterable[str]:
    """Plain text: a line a check, then what is known about each fault."""
    for result in report.results:
        if result.status is Status.SKIP:
            continue
        for finding in result.findings:
            about = f" [{finding.subject}]" if finding.subject else ""
            yield f"{finding.status.upper():4} {result.check.id}{about} {finding.summary}"
    for names, reason in _skipped(report):
        yield f"SKIP {names}: {reason}"
    for result, finding in _bad(report):
        yield ""
        yield f"{finding.status.upper()} {_about(result, finding)}: {finding.summary}"
        yield f"  symptom   {result.check.symptom}"
        for line in _evidence(finding):
            yield f"  evidence  {line}"
        yield f"  cause     {finding.cause}"
        for line in finding.fix:
            yield f"  fix       {line}"
        yield f"  more      {result.check.docs}"
    yield ""
    yield _tally(report)


# ---- on a terminal -----------------------------------------------------------------------------


def _draw(report: Report, *, color: bool) -> None:
    from rich.console import Console

    console = Console(no_color=True if not color else None, highlight=False)
    if console.width > MAX_WIDTH:
        console.width = MAX_WIDTH
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.at))
    places = ", ".join(words for scope, words in _PLACES.items() if scope in report.scopes)
    console.print(f"[bold]ragdock doctor[/]  [bright_black]{places} · {when}[/]")
    console.print(_table(report))
    for names, reason in _skipped(report):
        console.print(_skip_line(names, reason))
    for result, finding in _bad(report):
        _draw_fault(console, result, finding)
    console.print()
    style = _STYLES[report.status][1]
    console.print(f"[bold {style}]{_STYLES[report.status][0]}[/] {_tally(report)}")


def _text(value: object, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(value), style=style, overflow="fold")


def _table(report: Report) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(ratio=2)
    table.add_column(ratio=3)
    for result in report.results:
        if result.status is Status.SKIP:
            continue
        mark, style, _ = _STYLES[result.status]
        worst = [found for found in result.findings if found.status is result.status]
        more = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
        about = f"{worst[0].subject}: " if worst[0].subject and result.status in _BAD else ""
        fine = result.status is Status.OK
        table.add_row(
            _text(mark, style),
            _text(result.check.id, "bold" if not fine else "bright_black"),
            _text(result.check.title, "" if fine else f"bold {style}"),
            _text(f"{about}{worst[0].summary}{more}", "bright_black" if fine else ""),
        )
    return table


def _skip_line(names: str, reason: str) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column()
    table.add_row(_text("–", "bright_black"), _text(f"skipped {names}: {reason}", "bright_black"))
    return table


def _draw_fault(console: Console, result: Result, finding: Finding) -> None:
    from rich.rule import Rule
    from rich.table import Table

    mark, style, _ = _STYLES[finding.status]
    console.print()
    title = _text(f"{mark} {_about(result, finding)}", f"bold {style}")
    console.print(Rule(title, align="left", style=style))
    grid = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    grid.add_column(style="bright_black", no_wrap=True)
    grid.add_column()
    grid.add_row("found", _text(finding.summary, "bold"))
    grid.add_row("you see", _text(result.check.symptom, "italic"))
    grid.add_row("evidence", _text("\n".join(_evidence(finding)), "bright_black"))
    grid.add_row("because", _text(finding.cause))
    grid.add_row("more", _text(result.check.docs, "bright_black"))
    console.print(grid)
    if finding.fix:
        console.print("[bright_black]paste[/]")
    for line in finding.fix:
        # Printed whole and without a border, so that it can be copied as it stands.
        shown = _text(f"  {line}", "bright_black" if line.startswith("#") else f"bold {style}")
        console.print(shown, soft_wrap=True)
