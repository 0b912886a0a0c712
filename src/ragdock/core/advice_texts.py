"""What each place costs, and what to do next there. Pure: words about a `Situation`."""

from __future__ import annotations

from typing import Final

from ragdock.core.advice import Place, Platform, Situation

__all__ = ["DOCS", "NAMES", "SUMMARIES", "costs", "next_steps"]

REDIS: Final = "redis:8.10.2-alpine3.23"
"""The one of docker-compose.yml."""

NAMES: Final = {
    Place.DOCKER: "Docker, with Compose",
    Place.VM: "a virtual machine",
    Place.BARE: "a bare machine, with virtualenv and systemd",
    Place.KUBERNETES: "Kubernetes",
}

SUMMARIES: Final = {
    Place.DOCKER: "One image that is tested as it runs, and one file that starts what it needs.",
    Place.VM: "A kernel of its own, backed up and moved as a whole; inside, systemd or Docker.",
    Place.BARE: "The least between ragdock and the machine; the machine itself is yours to keep.",
    Place.KUBERNETES: "The cluster that you have, which restarts, rolls out and limits for you.",
}

DOCS: Final = {
    Place.DOCKER: ("docs/container.md", "docs/advise.md"),
    Place.VM: ("docs/advise.md", "docs/deploy/systemd.md"),
    Place.BARE: ("docs/deploy/systemd.md", "docs/advise.md"),
    Place.KUBERNETES: ("docs/advise.md", "docs/container.md"),
}


def costs(situation: Situation, place: Place) -> tuple[str, ...]:
    """What has to be paid for it, in this situation."""
    overhead = situation.overhead
    source = "measured here" if overhead.is_measured else "assumed"
    match place:
        case Place.DOCKER:
            found = [
                "Disk: the image (under 300 MB, model included) and a daemon of 100 to 200 MB.",
                f"Time: {overhead.request_ms:.2f} ms for each request through a published port "
                f"({source}).",
                "Care: updates of the base image; the data directory must belong to the "
                "container's user (USER_ID).",
            ]
        case Place.KUBERNETES:
            found = [
                "A cluster: three machines and somebody who looks after them, or a bill for both.",
                "ragdock's store is files of one node: one pod with a volume, replaced with a "
                "short gap (strategy Recreate); more pods only with collections divided among "
                "deployments.",
                "Care: a registry, manifests, secrets, versions of the cluster.",
            ]
        case Place.BARE:
            found = [
                "Nothing is added to a request, and nothing to the disk but the virtualenv "
                "(about 250 MB).",
                "Care: Python and the system's libraries are this machine's; an upgrade of the "
                "system is one of ragdock.",
                "Limits and isolation are systemd's: the unit in deploy/systemd has them, and they "
                "are weaker than an image on a read-only root.",
            ]
        case Place.VM:
            found = [
                "Memory and disk for a second kernel and system: 0.5 to 1 GB, 2 to 10 GB.",
                "Some per cent of the disk's and the network's speed; a start takes half a minute.",
                "Care: one more system to patch for each machine.",
            ]
    if situation.gpu:
        found.append(
            "The GPU is the LLM's affair: run that beside, and name it by RAG_LLM_BASE_URL."
        )
    return tuple(found)


def next_steps(situation: Situation, place: Place) -> tuple[str, ...]:
    """Lines to paste, and comments (#) where something has to be decided first."""
    match place:
        case Place.DOCKER:
            return _docker_steps(situation)
        case Place.KUBERNETES:
            return (
                "docker build -t REGISTRY/rag-api:0.1.0 . && docker push REGISTRY/rag-api:0.1.0",
                "# One Deployment: replicas 1, strategy Recreate, a ReadWriteOnce volume at /data,",
                "# livenessProbe /livez, readinessProbe /readyz, runAsUser 1000, fsGroup 1000,",
                "# readOnlyRootFilesystem with an emptyDir at /tmp (docs/advise.md has it whole).",
                "kubectl apply -f ragdock.yaml && kubectl rollout status deployment/ragdock",
                "kubectl exec deploy/ragdock -- ragdock smoke",
            )
        case Place.BARE:
            return _systemd_steps(situation)
        case Place.VM:
            return (
                "# In the machine: Debian 12 or later, 2 GB of memory, a disk of its own for",
                "# /var/lib/ragdock; snapshots only with `ragdock backup` beside them.",
                *_systemd_steps(situation),
            )


def _docker_steps(situation: Situation) -> tuple[str, ...]:
    if situation.platform is Platform.PAAS:
        return (
            "# Let the platform build the Dockerfile, or push the image to its registry.",
            "# A persistent volume at /data, the health path /readyz; PORT is honoured.",
            "# Variables: ENVIRONMENT=production, and RAG_ADMIN_KEY from:",
            "openssl rand -hex 32",
            "RAGDOCK_API_KEY=... ragdock smoke https://YOUR-APP.example.com",
        )
    carried = (
        (
            f"docker build -t rag-api:latest . && docker pull {REDIS}  # where there is a network",
            f"docker save rag-api:latest {REDIS} | gzip > images.tar.gz",
            "docker load < images.tar.gz  # where there is none; digests don't come along, hence:",
            f"echo REDIS_IMAGE={REDIS} >> .env",
        )
        if situation.offline
        else ("docker build -t rag-api:latest .",)
    )
    guarded = (
        ()
        if situation.platform is Platform.LAPTOP
        else (
            "echo ENVIRONMENT=production >> .env",
            "docker-compose run --rm web ragdock keys create --name admin --rights admin",
        )
    )
    return (*carried, *guarded, "docker-compose up -d", "docker-compose exec web ragdock smoke")


def _systemd_steps(situation: Situation) -> tuple[str, ...]:
    carried = (
        ("# Without a network: carry the wheels and the model in (docs/deploy/systemd.md).",)
        if situation.offline
        else ()
    )
    return (
        *carried,
        "sudo deploy/systemd/install.sh",
        "sudo ragdock-ctl keys create --name admin --rights admin",
        "sudo systemctl enable --now ragdock",
        "sudo ragdock-ctl smoke",
    )
