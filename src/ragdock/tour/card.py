"""The decision card: a few typical situations as a table, and the questions as widgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from ragdock.core.advice import (
    OsDependencies,
    Overhead,
    Place,
    Platform,
    Situation,
    advise,
)
from ragdock.core.advice_texts import NAMES, SUMMARIES, costs, next_steps

__all__ = ["SITUATIONS", "card", "told", "widgets"]

SITUATIONS: Final[Mapping[str, Situation]] = {
    "I try it on my laptop": Situation(services=1),
    "a team develops it, with Redis beside it": Situation(developers=4, environments=2),
    "one small server, nobody knows Docker": Situation(
        services=1, platform=Platform.VPS, knows_docker=False
    ),
    "one server for a department": Situation(
        developers=3, environments=2, services=3, platform=Platform.ON_PREMISE, documents=50_000
    ),
    "libraries of the system clash": Situation(
        os_dependencies=OsDependencies.CONFLICTING, platform=Platform.VPS
    ),
    "a promise of 2 ms": Situation(services=1, latency_ms=2.0, platform=Platform.ON_PREMISE),
    "a platform that builds from git": Situation(platform=Platform.PAAS, environments=2),
    "an auditor demands a kernel of its own": Situation(
        regulated=True, platform=Platform.ON_PREMISE, knows_docker=False
    ),
    "a cluster is there, many services, much load": Situation(
        developers=12,
        environments=4,
        services=9,
        requests_per_second=800.0,
        platform=Platform.KUBERNETES,
    ),
}
"""What the card shows; the advice is computed, never written down."""


def card() -> str:
    """The card as a Markdown table."""
    lines = [
        "| Your situation | Use | Mostly because | Another place if |",
        "| --- | --- | --- | --- |",
    ]
    for name, situation in SITUATIONS.items():
        advice = advise(situation)
        change = advice.changes[0] if advice.changes else None
        turn = f"{_words(change.question)}: {change.value}" if change else "no single answer"
        why = advice.reasons[0].text.rstrip(".")
        lines.append(f"| {name} | **{NAMES[advice.place]}** | {why} | {turn} |")
    return "\n".join(lines)


def told(situation: Situation) -> str:
    """The advice for one situation, in a few lines."""
    advice = advise(situation)
    lines = [f"{NAMES[advice.place]}: {SUMMARIES[advice.place]}", ""]
    points = ", ".join(f"{place} {advice.scores[place]}" for place in Place)
    lines += [f"points: {points}", "", "because"]
    heavy = [reason for reason in advice.reasons if reason.weight][:5]
    lines += [f"  {reason.weight:+d}  {reason.text}" for reason in heavy]
    lines += ["", "which costs", *(f"  {line}" for line in costs(situation, advice.place))]
    lines += ["", "next", *(f"  {line}" for line in next_steps(situation, advice.place))]
    return "\n".join(lines)


def widgets(overhead: Overhead | None = None) -> Any:
    """The questions as widgets with the advice below; None where there are no widgets.

    Wants the package ipywidgets and a notebook that shows them; without it, `told(Situation(...))`
    answers the same.
    """
    try:
        import ipywidgets
    except ImportError:
        return None
    fields = _fields(ipywidgets)
    output = ipywidgets.HTML()

    def show(_: object = None) -> None:
        situation = Situation(**{name: field.value for name, field in fields.items()})
        if overhead is not None:
            situation = replace(situation, overhead=overhead)
        output.value = f"<pre>{_escaped(told(situation))}</pre>"

    for field in fields.values():
        field.observe(show, names="value")
    show()
    return ipywidgets.VBox([*fields.values(), output])


def _fields(kit: Any) -> dict[str, Any]:
    style = {"style": {"description_width": "12em"}, "layout": {"width": "28em"}}

    def number(make: Callable[..., Any], words: str, value: float, top: float) -> Any:
        how = {"min": 1, "max": top, "continuous_update": False, **style}
        return make(value=value, description=words, **how)

    return {
        "developers": number(kit.IntSlider, "developers", 1, 20),
        "environments": number(kit.IntSlider, "environments", 1, 6),
        "services": number(kit.IntSlider, "services", 2, 12),
        "requests_per_second": number(kit.FloatSlider, "requests a second", 1.0, 2000.0),
        "os_dependencies": _choice(kit, "system libraries", OsDependencies, style),
        "platform": _choice(kit, "platform", Platform, style),
        "regulated": kit.Checkbox(value=False, description="a kernel of its own is demanded"),
        "offline": kit.Checkbox(value=False, description="no way to a registry"),
        "gpu": kit.Checkbox(value=False, description="a GPU"),
        "knows_docker": kit.Checkbox(value=True, description="the team knows Docker"),
    }


def _choice(kit: Any, words: str, values: Any, style: Mapping[str, Any]) -> Any:
    options = [(str(value.value), value) for value in values]
    return kit.Dropdown(options=options, description=words, **style)


def _words(question: str) -> str:
    name, _, unit = question.partition("_ms")
    return name.replace("_", " ") + (" in ms" if _ and not unit else "")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
