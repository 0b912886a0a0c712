"""Two builds without a cache, by both builders, must give the same layers."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imagecheck.image import layers
from imagecheck.subject import Subject, run

# BuildKit writes an empty layer for WORKDIR, the classic builder none: a tar of two zero blocks.
EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
BUILD_SECONDS = 1800


@dataclass(frozen=True)
class Build:
    """One build: who made it, what came out, how long it took."""

    builder: str
    layers: tuple[str, ...]
    seconds: float


def build(subject: Subject, tag: str, *, buildkit: bool) -> Build:
    """Build the checkout's Dockerfile without cache; a failure raises `ToolError`."""
    command = ["docker", "build", "--no-cache", "-t", tag]
    if subject.base:
        command += ["--build-arg", f"BASE={subject.base}"]
    began = time.monotonic()
    run(
        [*command, str(subject.root)],
        timeout_seconds=BUILD_SECONDS,
        environment={**os.environ, "DOCKER_BUILDKIT": "1" if buildkit else "0"},
    )
    seconds = time.monotonic() - began
    (found,) = json.loads(run(["docker", "image", "inspect", tag]).stdout)
    return Build("BuildKit" if buildkit else "classic", tuple(layers(found)), seconds)


def differences(first: Build, second: Build) -> list[str]:
    """The layers in which two builds differ, the empty ones aside."""
    one = [layer for layer in first.layers if layer != EMPTY_LAYER]
    two = [layer for layer in second.layers if layer != EMPTY_LAYER]
    if len(one) != len(two):
        return [f"{first.builder} made {len(one)} layers, {second.builder} {len(two)}"]
    return [
        f"layer {number} of {len(one)}: {first.builder} {a[:19]}, {second.builder} {b[:19]}"
        for number, (a, b) in enumerate(zip(one, two, strict=True), 1)
        if a != b
    ]


def build_twice(subject: Subject, *, keep: bool = False) -> list[Build]:
    """The checkout built without a cache, by BuildKit and the classic builder side by side.

    With `keep` the layers stay, for a later build to use; else what was built is removed.
    """

    def once(buildkit: bool) -> Build:
        tag = f"{subject.image}-{'buildkit' if buildkit else 'classic'}"
        built = build(subject, tag, buildkit=buildkit)
        run(["docker", "rmi", *(["--no-prune"] if keep else []), tag], check=False)
        return built

    # Half of a build is waiting for packages.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(once, (True, False)))


def compare(subject: Subject, builds: list[Build]) -> list[str]:
    """The builds' differences from each other, and of the image from the first of them."""
    image = Build("the image", tuple(layers(subject.inspected)), 0.0)
    return differences(*builds) + differences(image, builds[0])


def reproduce(subject: Subject) -> list[str]:
    """Two builds without a cache give the same layers, which are the image's."""
    return compare(subject, build_twice(subject))
