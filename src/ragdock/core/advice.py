"""Where to run ragdock: a decision as a sum of points, so that each answer's weight can be shown.

Every question gives points to the four places: containers under Compose, a virtual machine, a bare
machine with virtualenv and systemd, Kubernetes. The sum decides. The points are judgement, not
measurement, and are meant to be argued with: what would turn the answer is told with it. What can
be measured (the price of a container on this machine) is measured, and then counts as found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeAlias

from ragdock.errors import InputError

__all__ = [
    "GRID",
    "Advice",
    "Change",
    "OsDependencies",
    "Overhead",
    "Place",
    "Platform",
    "Reason",
    "Situation",
    "advise",
    "decide",
    "reasons",
    "scores",
]


class Place(StrEnum):
    """The answers, in the order in which a tie is decided."""

    DOCKER = "docker"
    KUBERNETES = "kubernetes"
    BARE = "bare"
    VM = "vm"


class Platform(StrEnum):
    """What there is to run on."""

    LAPTOP = "laptop"
    VPS = "vps"
    PAAS = "paas"
    ON_PREMISE = "on-premise"
    KUBERNETES = "kubernetes"


class OsDependencies(StrEnum):
    """Libraries and programs of the operating system that must be there beside Python."""

    NONE = "none"
    SOME = "some"
    CONFLICTING = "conflicting"


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a container costs on this machine: container by bare, above 1 is slower.

    `request_ms` is what a published port adds to a request, `host_request_ms` with the host's
    network (None where that can't be had). A difference within the noise is told as none.
    """

    request_ms: float
    cpu_ratio: float
    memory_ratio: float
    disk_ratio: float
    host_request_ms: float | None = None
    is_measured: bool = True


ASSUMED: Final = Overhead(0.1, 1.0, 1.0, 1.0, 0.0, is_measured=False)
"""Where nothing was measured: a tenth of a millisecond for a published port on Linux."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The questions; the defaults are those of somebody who tries ragdock on a laptop.

    `services` are the processes that run together (the API, Redis, an LLM, a proxy ...),
    `latency_ms` the 95th percentile that is promised to somebody, None if none is. `regulated`:
    somebody demands a kernel of its own. `offline`: no registry and no PyPI can be reached.
    """

    developers: int = 1
    environments: int = 1
    services: int = 2
    os_dependencies: OsDependencies = OsDependencies.NONE
    latency_ms: float | None = None
    requests_per_second: float = 1.0
    documents: int = 1000
    platform: Platform = Platform.LAPTOP
    gpu: bool = False
    regulated: bool = False
    offline: bool = False
    knows_docker: bool = True
    overhead: Overhead = ASSUMED

    def __post_init__(self) -> None:
        """Refuse what can't be counted."""
        for name in ("developers", "environments", "services"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1.", field=name)
        for name in ("requests_per_second", "documents"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is at least 0.", field=name)
        if self.latency_ms is not None and self.latency_ms <= 0:
            raise InputError("A latency target is above 0 ms.", field="latency_ms")


Points: TypeAlias = Mapping[Place, int]


@dataclass(frozen=True, slots=True)
class Reason:
    """One answer and what it weighs; `weight` is what it adds to the lead of the place chosen."""

    question: str
    value: str
    text: str
    points: Points
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """Another answer to one question, with which the place would be another."""

    question: str
    value: str
    place: Place


@dataclass(frozen=True, slots=True)
class Advice:
    """The place, the points of all, why (the heaviest first), and what would change it."""

    place: Place
    runner_up: Place
    scores: Points
    reasons: tuple[Reason, ...]
    changes: tuple[Change, ...]


GRID: Final[Mapping[str, tuple[Any, ...]]] = {
    "developers": (1, 3, 10),
    "environments": (1, 2, 4),
    "services": (1, 3, 8),
    "os_dependencies": tuple(OsDependencies),
    "latency_ms": (None, 100.0, 2.0),
    "requests_per_second": (1.0, 200.0, 2000.0),
    "documents": (1000, 2_000_000),
    "platform": tuple(Platform),
    "gpu": (False, True),
    "regulated": (False, True),
    "offline": (False, True),
    "knows_docker": (True, False),
}
"""A coarse grid of answers: what is tried when asking what would change the advice."""

_BASE: Final = {Place.DOCKER: 3, Place.KUBERNETES: -3, Place.BARE: 2, Place.VM: 0}
"""Before any question: one machine is simpler than a cluster, and an image is tested as it runs."""


def advise(situation: Situation) -> Advice:
    """The place for this situation, with its reasons and what would change it."""
    totals = scores(situation)
    place, runner_up = _ranked(totals)[:2]
    weighed = [
        replace(reason, weight=_points(reason, place) - _points(reason, runner_up))
        for reason in reasons(situation)
    ]
    weighed.sort(key=lambda reason: -reason.weight)
    return Advice(place, runner_up, totals, tuple(weighed), _changes(situation, place))


def decide(situation: Situation) -> Place:
    """The place alone."""
    return _ranked(scores(situation))[0]


def scores(situation: Situation) -> dict[Place, int]:
    """The points of each place."""
    totals = dict(_BASE)
    for reason in reasons(situation):
        for place, points in reason.points.items():
            totals[place] += points
    return totals


def reasons(situation: Situation) -> list[Reason]:
    """What each answer gives to whom, in the order of the questions."""
    return [
        _people(situation),
        _environments(situation),
        _services(situation),
        _os_dependencies(situation),
        _latency(situation),
        _work(situation),
        _requests(situation),
        _documents(situation),
        _PLATFORMS[situation.platform],
        _gpu(situation),
        _regulated(situation),
        _offline(situation),
        _knowledge(situation),
    ]


def _ranked(totals: Points) -> list[Place]:
    return sorted(Place, key=lambda place: -totals[place])  # Stable: the order of Place decides.


def _points(reason: Reason, place: Place) -> int:
    return reason.points.get(place, 0)


def _changes(situation: Situation, place: Place) -> tuple[Change, ...]:
    """For each question the nearest other answer of the grid that leads elsewhere."""
    found = []
    for name, values in GRID.items():
        now = getattr(situation, name)
        others = [value for value in values if value != now]
        if isinstance(now, int | float) and not isinstance(now, bool):
            others.sort(key=lambda value: abs((value or 0) - now))
        for value in others:
            other = decide(replace(situation, **{name: value}))
            if other is not place:
                found.append(Change(name, _told(value), other))
                break
    return tuple(found)


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of(
    question: str, value: object, text: str, *, d: int = 0, k: int = 0, b: int = 0, v: int = 0
) -> Reason:
    points = {Place.DOCKER: d, Place.KUBERNETES: k, Place.BARE: b, Place.VM: v}
    return Reason(question, _told(value), text, points)


# The more people, environments, services and libraries there are, the more a container gains on
# the others, never less: tests hold that over the whole grid.


def _people(s: Situation) -> Reason:
    n = s.developers
    if n == 1:
        return _of("developers", n, "One person remembers what is installed.", b=1)
    if n < 5:
        return _of("developers", n, "Several people need the same set-up.", d=1, k=1)
    return _of("developers", n, "Many people need the same set-up, and break it.", d=2, k=2, b=-1)


def _environments(s: Situation) -> Reason:
    n = s.environments
    if n == 1:
        return _of("environments", n, "Nothing has to be the same elsewhere.", b=1)
    if n < 4:
        text = "What was tested in one environment must be what runs in the next."
        return _of("environments", n, text, d=1, k=1)
    text = "Many environments are one image with other variables."
    return _of("environments", n, text, d=2, k=2, b=-1)


def _services(s: Situation) -> Reason:
    n = s.services
    if n == 1:
        return _of("services", n, "One process needs nobody to start others in order.", b=1)
    if n < 6:
        text = "Compose starts them in order, with health checks and a network of their own."
        return _of("services", n, text, d=2, k=1)
    text = "So many services want limits, restarts and roll-outs in one place."
    return _of("services", n, text, d=2, k=4, b=-2, v=-1)


def _os_dependencies(s: Situation) -> Reason:
    match s.os_dependencies:
        case OsDependencies.NONE:
            text = "ragdock's wheels bring all they need; a virtualenv is enough."
            return _of("os_dependencies", s.os_dependencies, text, b=1)
        case OsDependencies.SOME:
            text = "Libraries of the system are written down in the image, not in somebody's head."
            return _of("os_dependencies", s.os_dependencies, text, d=1, k=1)
        case _:
            text = "What conflicts on one system doesn't in two images, or on two machines."
            return _of("os_dependencies", s.os_dependencies, text, d=2, k=2, b=-3, v=1)


def _latency(s: Situation) -> Reason:
    overhead = s.overhead
    source = "measured here" if overhead.is_measured else "assumed; --measure tells"
    cost = f"A published port adds {overhead.request_ms:.2f} ms to a request ({source})"
    if s.latency_ms is None:
        return _of("latency_ms", None, f"{cost}; nobody is promised a time.")
    share = overhead.request_ms / s.latency_ms
    text = f"{cost}, {share:.1%} of {s.latency_ms:g} ms"
    if share < 0.02:
        return _of("latency_ms", s.latency_ms, f"{text}: no reason against a container.")
    host = overhead.host_request_ms
    if host is not None and host < 0.5 * overhead.request_ms:
        text += f"; the host's network would add {host:.2f} ms and give up isolation"
    bare = 1 if share < 0.05 else 3 if share < 0.2 else 6
    return _of("latency_ms", s.latency_ms, f"{text}.", b=bare)


def _work(s: Situation) -> Reason:
    """CPU, memory and disk: how much slower in a container."""
    o = s.overhead
    told = f"CPU {o.cpu_ratio:.2f}, memory {o.memory_ratio:.2f}, disk {o.disk_ratio:.2f}"
    if not o.is_measured:
        text = "On Linux a container's processor, memory and mounted disk are the machine's own."
        return _of("overhead", "not measured", text)
    worst = max(o.cpu_ratio, o.memory_ratio, o.disk_ratio)
    if worst < 1.05:
        return _of("overhead", told, "Measured here: a container works as fast as a bare process.")
    text = f"Measured here: a container takes {worst:.2f} times as long at what it is worst at."
    bare = 1 if worst < 1.2 else 3 if worst < 2 else 5
    return _of("overhead", told, text, b=bare)


def _requests(s: Situation) -> Reason:
    n = s.requests_per_second
    if n <= 100:
        return _of("requests_per_second", n, "One small machine answers that.")
    if n <= 1000:
        text = "Several processes, and limits for each: still one machine."
        return _of("requests_per_second", n, text, d=1, k=2)
    text = "More than one machine: somebody has to place, replace and balance."
    return _of("requests_per_second", n, text, d=1, k=5, b=-1, v=-1)


def _documents(s: Situation) -> Reason:
    if s.documents < 1_000_000:
        return _of("documents", s.documents, "The store is the same files in each place.")
    text = "Gigabytes of files bind the work to the machine that has them."
    return _of("documents", s.documents, text, k=-1)


_PLATFORMS: Final[Mapping[Platform, Reason]] = {
    Platform.LAPTOP: _of(
        "platform", Platform.LAPTOP, "On a laptop containers come and go without a trace.",
        d=1, k=-3, v=-2,
    ),
    Platform.VPS: _of(
        "platform", Platform.VPS, "A rented server is a virtual machine already.",
        d=1, k=-3, b=1, v=-2,
    ),
    Platform.PAAS: _of(
        "platform", Platform.PAAS, "Such platforms run an image, and nothing below it.",
        d=5, k=-2, b=-6, v=-6,
    ),
    Platform.ON_PREMISE: _of(
        "platform", Platform.ON_PREMISE, "Where a hypervisor is there, its people run machines.",
        b=1, v=2,
    ),
    Platform.KUBERNETES: _of(
        "platform", Platform.KUBERNETES, "A cluster is there, and somebody looks after it.",
        k=8, b=-1, v=-2,
    ),
}  # fmt: skip


def _gpu(s: Situation) -> Reason:
    if not s.gpu:
        return _of("gpu", s.gpu, "ragdock itself needs no GPU.")
    text = "Only a local LLM uses it: containers want NVIDIA's toolkit, machines a pass-through."
    return _of("gpu", s.gpu, text, d=-1, k=-1, b=1, v=-2)


def _regulated(s: Situation) -> Reason:
    if not s.regulated:
        return _of("regulated", s.regulated, "Nobody demands a kernel of its own.")
    text = "Containers share a kernel; a machine of its own is what auditors accept."
    return _of("regulated", s.regulated, text, v=7)


def _offline(s: Situation) -> Reason:
    if not s.offline:
        return _of("offline", s.offline, "Images and packages can be fetched.")
    text = "Everything is carried in: one file of an image, or of a machine; a cluster wants more."
    return _of("offline", s.offline, text, k=-2, b=-1, v=1)


def _knowledge(s: Situation) -> Reason:
    if s.knows_docker:
        return _of("knows_docker", s.knows_docker, "The team can mend what runs in containers.")
    text = "What nobody can mend at night shouldn't run: Docker has to be learned first."
    return _of("knows_docker", s.knows_docker, text, d=-2, k=-4, b=1, v=1)
