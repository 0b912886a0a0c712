"""The decision framework over a whole grid of answers."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ragdock.core.advice import (
    GRID,
    Advice,
    OsDependencies,
    Overhead,
    Place,
    Platform,
    Situation,
    advise,
    decide,
    reasons,
    scores,
)
from ragdock.core.advice_texts import DOCS, NAMES, REDIS, SUMMARIES, costs, next_steps
from ragdock.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = {Place.DOCKER, Place.KUBERNETES}
TRIED = dict(GRID) | {"developers": (1, 10), "environments": (1, 4)}
"""Every combination of these is tried: 51,840."""


def situation(answers: tuple[Any, ...]) -> Situation:
    return Situation(**dict(zip(TRIED, answers, strict=True)))


@cache
def decisions() -> dict[tuple[Any, ...], Place]:
    """The place of every combination."""
    return {answers: decide(situation(answers)) for answers in itertools.product(*TRIED.values())}


def pairs(question: str) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Combinations that differ in one question alone, by one step in the order of its values."""
    index = list(TRIED).index(question)
    values = TRIED[question]
    found = []
    for answers in decisions():
        position = values.index(answers[index])
        if position + 1 < len(values):
            other = (*answers[:index], values[position + 1], *answers[index + 1 :])
            found.append((answers, other))
    assert found
    return found


def turned(question: str, places: set[Place]) -> list[tuple[Any, ...]]:
    """Where the next value of a question leads away from these places."""
    found = decisions()
    return [a for a, b in pairs(question) if found[a] in places and found[b] not in places]


def test_every_combination_has_an_answer_and_all_four_are_reached() -> None:
    """Each of the four answers is right for a fair share of the situations, Docker for the most."""
    counts = Counter(decisions().values())
    assert set(counts) == set(Place)
    assert min(counts.values()) > 0.05 * len(decisions())
    assert counts.most_common(1)[0][0] is Place.DOCKER


@pytest.mark.parametrize("question", ["developers", "environments", "services", "os_dependencies"])
def test_more_to_keep_alike_never_turns_away_from_containers(question: str) -> None:
    """More people, environments, services or libraries lead to containers, or leave it so."""
    assert turned(question, CONTAINERS) == []


def test_a_tighter_promise_never_turns_away_from_the_bare_machine() -> None:
    """Whoever runs on the bare machine for its speed stays there when the target gets tighter."""
    assert turned("latency_ms", {Place.BARE}) == []


def test_more_requests_never_turn_away_from_kubernetes() -> None:
    """A cluster that is right for some load is right for more."""
    assert turned("requests_per_second", {Place.KUBERNETES}) == []


def test_a_demanded_kernel_never_turns_away_from_the_virtual_machine() -> None:
    """Regulation leads to a machine of its own, or leaves it so."""
    assert turned("regulated", {Place.VM}) == []


def test_not_knowing_docker_never_turns_to_containers() -> None:
    """Nobody is sent to containers because the team doesn't know them."""
    assert turned("knows_docker", {Place.BARE, Place.VM}) == []


def test_a_cluster_is_never_a_reason_for_compose() -> None:
    """Who has Kubernetes is led to it, or stays where he is: never from bare or VM to Compose."""
    for answers, place in decisions().items():
        here = situation(answers)
        if here.platform is Platform.VPS and place is Place.KUBERNETES:
            assert decide(replace(here, platform=Platform.KUBERNETES)) is Place.KUBERNETES


def test_a_slower_container_never_turns_to_containers() -> None:
    """A higher measured price leads away from containers, or leaves it so."""
    prices = [Overhead(0.05, 1, 1, 1), Overhead(0.5, 1.1, 1, 1), Overhead(5, 1, 1, 3)]
    for answers in itertools.islice(decisions(), 0, None, 37):
        found = [decide(replace(situation(answers), overhead=price)) for price in prices]
        for cheap, dear in itertools.pairwise(found):
            assert not (dear in CONTAINERS and cheap not in CONTAINERS)


def test_the_known_cases() -> None:
    """What a reader expects, word for word."""
    for expected, answers in (
        (Place.DOCKER, {}),
        (Place.DOCKER, {"platform": Platform.VPS, "developers": 3, "environments": 2}),
        (Place.DOCKER, {"platform": Platform.PAAS, "regulated": True}),
        (Place.BARE, {"services": 1}),
        (Place.BARE, {"platform": Platform.VPS, "knows_docker": False}),
        (Place.BARE, {"services": 1, "latency_ms": 2.0, "developers": 3}),
        (Place.VM, {"platform": Platform.ON_PREMISE, "regulated": True}),
        (Place.VM, {"platform": Platform.ON_PREMISE, "regulated": True, "developers": 5}),
        (Place.KUBERNETES, {"platform": Platform.KUBERNETES, "developers": 10}),
    ):
        assert decide(Situation(**answers)) is expected, (expected, answers)


def sampled() -> list[Situation]:
    return [situation(a) for a in itertools.islice(decisions(), 0, None, 211)]


def test_reasons_are_the_points() -> None:
    """The reasons name each question and its answer, and their weights are the lead, exactly."""
    questions = [*GRID, "overhead"]
    for here in sampled():
        advice = advise(here)
        assert sorted(one.question for one in advice.reasons) == sorted(questions)
        base = scores(here)[advice.place] - sum(r.points[advice.place] for r in reasons(here))
        other = scores(here)[advice.runner_up] - sum(
            r.points[advice.runner_up] for r in reasons(here)
        )
        lead = advice.scores[advice.place] - advice.scores[advice.runner_up]
        assert sum(one.weight for one in advice.reasons) + base - other == lead >= 0
        weights = [one.weight for one in advice.reasons]
        assert weights == sorted(weights, reverse=True)
        assert all(one.text.endswith(".") for one in advice.reasons)
        assert next(r for r in advice.reasons if r.question == "platform").value == here.platform


def parsed(name: str, value: str) -> Any:
    return next(
        one for one in GRID[name]
        if value == ({True: "yes", False: "no", None: "none"}.get(one) if one is None or
                     isinstance(one, bool) else f"{one:g}" if isinstance(one, float) else str(one))
    )  # fmt: skip


def test_what_would_change_it_changes_it() -> None:
    """Each change that is told, made alone, gives the place that is told; and it is another."""
    n_changes = 0
    for here in sampled():
        advice: Advice = advise(here)
        for change in advice.changes:
            other = replace(here, **{change.question: parsed(change.question, change.value)})
            assert decide(other) is change.place is not advice.place
            n_changes += 1
    assert n_changes > 100


def test_a_measured_price_is_a_reason_only_when_it_matters() -> None:
    """A tenth of a millisecond is nothing to 100 ms and much to half a millisecond."""
    one = Situation(services=2, developers=3, overhead=Overhead(0.1, 1, 1, 1))
    assert decide(replace(one, latency_ms=100)) is Place.DOCKER
    assert decide(replace(one, latency_ms=0.4)) is Place.BARE
    slow = replace(one, overhead=Overhead(0.1, 1, 1, 2.5))
    assert decide(slow) is Place.BARE
    (told,) = (r for r in advise(slow).reasons if r.question == "overhead")
    assert "disk 2.50" in told.value


def test_every_answer_has_costs_steps_and_pages_that_are_there() -> None:
    """Each place has words for every situation, and its pages and scripts exist."""
    for place in Place:
        assert NAMES[place]
        assert SUMMARIES[place]
        for name in DOCS[place]:
            assert (ROOT / name).is_file(), name
        for here in sampled()[::10]:
            assert len(costs(here, place)) >= 3
            steps = next_steps(here, place)
            assert any("smoke" in line for line in steps)
            for line in steps:
                for word in line.split():
                    if word.startswith("deploy/systemd"):
                        assert (ROOT / word).is_file(), word
    assert {field.name for field in fields(Situation)} == {*GRID, "overhead"}
    assert f":-{REDIS}@sha256:" in (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def test_answers_that_cannot_be_are_refused() -> None:
    """Nobody has no developers, a negative load, or a promise of no time."""
    for answers in ({"developers": 0}, {"requests_per_second": -1}, {"latency_ms": 0}):
        with pytest.raises(InputError):
            Situation(**answers)
    assert Situation(os_dependencies=OsDependencies.SOME).services == 2
