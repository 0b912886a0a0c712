"""Checkpoints D: of manifests that don't exist yet."""

from __future__ import annotations

from imagecheck.subject import Subject

PLACES = ("deploy/k8s", "deploy/kubernetes", "deploy/helm", "deploy/chart", "deploy/swarm")


def absent(subject: Subject) -> list[str]:
    """No manifests are shipped; once they are, checkpoints D need checks in place of reasons."""
    return [
        f"{place} is here now: replace the exceptions of D in imagecheck/checkpoints.py by checks"
        for place in PLACES
        if (subject.root / place).exists()
    ]
