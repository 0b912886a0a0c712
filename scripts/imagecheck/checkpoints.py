"""The 68 checkpoints: what each asks for, what holds it, and the exceptions with their reasons.

A checkpoint's checks are sorted by what they need: `files` nothing, `programs` the tools of
requirements/image.txt, `image` an engine and an image too, `builds` minutes. `tests` are those of
tests/container for what takes a whole stack. An exception may have checks as well: they hold what
its reason says, so that it can't outlive it.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecheck import (
    compose,
    dockerfile,
    environment,
    image,
    kubernetes,
    live,
    programs,
    rebuild,
    sbom,
)
from imagecheck import platforms as wheels
from imagecheck.subject import Check

LEVELS = ("files", "programs", "image", "builds")


@dataclass(frozen=True)
class Checkpoint:
    """One line of the table in docs/container.md."""

    id: str
    title: str
    files: tuple[Check, ...] = ()
    programs: tuple[Check, ...] = ()
    image: tuple[Check, ...] = ()
    builds: tuple[Check, ...] = ()
    tests: tuple[str, ...] = ()
    exception: str = ""

    def checks(self, level: str) -> tuple[Check, ...]:
        return tuple(getattr(self, level))

    @property
    def how(self) -> tuple[str, ...]:
        """The names of what holds it, as the table shows them."""
        functions = [each for level in LEVELS for each in self.checks(level)]
        names = [f"{f.__module__.rpartition('.')[2]}.{f.__name__}" for f in functions]
        return (*names, *self.tests)


_EDIT = "test_an_edit_of_the_code_reuses_every_other_layer"
_UP = "test_every_compose_brings_it_up_and_down"
_NO_K8S = "No Kubernetes manifests are shipped yet; the check fails when they come."
_hadolint = (programs.hadolint,)
_both = (programs.hadolint, programs.trivy_files)

DOCKERFILE = (
    Checkpoint("A1", "Several stages; neither compiler, cache of pip nor uv in the last one",
               files=(dockerfile.stages,), image=(image.no_tools, programs.structure)),
    Checkpoint("A2", "The base has a version and a distribution's name, never latest",
               files=(dockerfile.base_tag,), programs=_both),
    Checkpoint("A3", "The base is pinned by digest, and a bot renews it (renovate.json)",
               files=(dockerfile.base_digest,)),
    Checkpoint("A4", "The base is one ARG that a mirror or a stand-in can replace",
               files=(dockerfile.base_argument,)),
    Checkpoint("A5", "Dependencies are installed before sources are copied",
               files=(dockerfile.order,), tests=(_EDIT,)),
    Checkpoint("A6", "A lock with hashes, and an installation that insists on them",
               files=(dockerfile.lock,), programs=_hadolint),
    Checkpoint("A7", "Cache mounts while building; no cache left in the image",
               files=(dockerfile.no_cache,), image=(programs.efficiency, image.no_tools),
               exception="No cache mounts: the classic builder, which `docker` uses without "
                         "buildx, refuses them. No cache is left behind."),
    Checkpoint("A8", "Secrets of the build by mounts only; none in ARG, ENV or history",
               files=(dockerfile.no_secrets,), programs=_both,
               image=(image.no_secret_values, image.no_credentials, programs.trivy_image)),
    Checkpoint("A9", "COPY names files; no repository, notebook, test or .env in the image",
               files=(dockerfile.copy_lists,), image=(image.no_left_overs, programs.structure)),
    Checkpoint("A10", "The last USER is numeric, with its group",
               files=(dockerfile.user,), programs=_both,
               image=(image.configured_user, programs.structure)),
    Checkpoint("A11", "Files of the application belong to root; the server can't write them",
               files=(dockerfile.ownership,), image=(image.writable, programs.structure)),
    Checkpoint("A12", "HEALTHCHECK in exec form without curl, to 127.0.0.1, with a timeout",
               files=(dockerfile.health_check,), programs=_hadolint,
               image=(image.configured_health, live.gets_healthy)),
    Checkpoint("A13", "CMD in exec form; process 1 is the server and catches SIGTERM",
               files=(dockerfile.exec_form,), programs=_hadolint,
               image=(image.configured_command, live.first_process)),
    Checkpoint("A14", "STOPSIGNAL SIGTERM; it stops in time with a request running, exit code 0",
               files=(dockerfile.stop_signal,), image=(live.stops,),
               tests=("test_a_stop_lets_running_requests_end",)),
    Checkpoint("A15", "PYTHONUNBUFFERED=1", image=(image.unbuffered,)),
    Checkpoint("A16", "Bytecode is compiled by the build",
               image=(image.compiled,), tests=("test_what_the_server_loads_is_compiled",)),
    Checkpoint("A17", "PYTHONFAULTHANDLER=1, PYTHONHASHSEED left alone",
               image=(image.fault_handler,)),
    Checkpoint("A18", "Labels of the OCI: title, source, revision, version, licences, created",
               files=(dockerfile.labels,), programs=_hadolint, image=(image.labelled,)),
    Checkpoint("A19", "No ADD", files=(dockerfile.no_add,), programs=_both),
    Checkpoint("A20", "apt: update with install, nothing recommended, no lists left, no upgrade",
               files=(dockerfile.apt,), programs=_both),
    Checkpoint("A21", "No sudo, no SSH, no chpasswd",
               files=(dockerfile.no_sudo,), programs=_both, image=(image.no_tools,)),
    Checkpoint("A22", "Nothing turns off the verification of certificates",
               files=(dockerfile.tls,)),
    Checkpoint("A23", "No setuid or setgid file", image=(image.setuid,)),
    Checkpoint("A24", "Unique ids, no empty password", image=(image.accounts,)),
    Checkpoint("A25", "Every package has wheels for amd64 and arm64", programs=(wheels.both,)),
    Checkpoint("A26", "Within the size budget; efficiency 0.95 or more",
               image=(image.size, programs.efficiency)),
    Checkpoint("A27", "Two builds without cache give the same layers, by either builder",
               files=(dockerfile.fixed_times,), builds=(rebuild.reproduce,)),
    Checkpoint("A28", "A bill of materials and the licences are made from the image",
               image=(sbom.complete,)),
    Checkpoint("A29", "The Dockerfile keeps to what Docker 20.10 knows, without a syntax line",
               files=(dockerfile.subset,), tests=(_UP,)),
)  # fmt: skip

ENVIRONMENT = (
    Checkpoint("B1", ".dockerignore refuses all, then admits; canaries don't get in",
               files=(environment.dockerignore,), image=(environment.canaries,),
               tests=("test_nothing_ignored_gets_into_the_image",)),
    Checkpoint("B2", ".env.example names every variable that is read, and no other",
               files=(environment.example,)),
    Checkpoint("B3", ".env is ignored by git and Docker; no secret in the tree",
               files=(environment.ignored,), programs=(programs.leaks,)),
    Checkpoint("B4", "Values of .env mean the same to every reader",
               files=(environment.plain,)),
    Checkpoint("B5", "Scripts have LF line ends everywhere", files=(environment.line_ends,)),
)  # fmt: skip

COMPOSE = (
    Checkpoint("C1", "Valid for Compose 1.29, 2 and 5, and by the specification's schema",
               programs=(programs.compose_schema, programs.compose_config), tests=(_UP,)),
    Checkpoint("C2", "No `version:`", files=(compose.no_version,)),
    Checkpoint("C3", "web waits for a healthy Redis; every service has a health check",
               files=(compose.waits,), tests=(_UP,)),
    Checkpoint("C4", "web alone publishes a port, on 127.0.0.1 unless told otherwise",
               files=(compose.ports,), programs=(programs.compose_lint,), tests=(_UP,)),
    Checkpoint("C5", "A network of our own; Redis on an internal one",
               files=(compose.own_network, compose.ports), tests=(_UP,),
               exception="One bridge, rag-network, for both, as asked for. Redis publishes no "
                         "port, has no capability, a read-only root, and may lose all it holds."),
    Checkpoint("C6", "No capabilities and no new privileges, for every service",
               files=(compose.capabilities,), programs=(programs.compose_lint,), tests=(_UP,)),
    Checkpoint("C7", "A read-only root with a bounded /tmp",
               files=(compose.read_only,), programs=(programs.compose_lint,),
               image=(live.root_is_read_only,), tests=("test_the_root_is_read_only",)),
    Checkpoint("C8", "Memory, processors and processes limited; Redis at 75 % of its memory",
               files=(compose.limits,), programs=(programs.compose_lint,),
               tests=(_UP, "test_redis_is_bounded_and_durable")),
    Checkpoint("C9", "restart: unless-stopped", files=(compose.restart,), tests=(_UP,)),
    Checkpoint("C10", "Logs are rotated",
               files=(compose.log_rotation,), programs=(programs.compose_lint,), tests=(_UP,)),
    Checkpoint("C11", "The grace period is longer than the server's shutdown",
               files=(compose.grace,), tests=("test_a_stop_lets_running_requests_end",)),
    Checkpoint("C12", "Process 1 handles signals, or `init: true`",
               files=(compose.first_process,), image=(live.first_process, live.stops)),
    Checkpoint("C13", "Secrets from files rather than variables",
               files=(compose.secrets,), programs=(programs.compose_lint,),
               exception="Each secret can come from a file, in lines to uncomment: Compose stops "
                         "at a file that is missing, and a fresh checkout must come up."),
    Checkpoint("C14", "Versions of images explicit, with digest",
               files=(compose.tags,), programs=(programs.compose_lint,),
               exception="rag-api:latest is the name asked for, and built here; WEB_IMAGE takes a "
                         "version with digest. Everything else is pinned."),
    Checkpoint("C15", "Neither privileges, Docker's socket, host name spaces nor host paths",
               files=(compose.nothing_of_the_host,), programs=(programs.compose_lint,),
               exception="The exporter of the monitoring profile, off by default, has Docker's "
                         "socket: it is where containers' numbers are. It has a network apart, no "
                         "capability, no published port. Nothing else has anything of the host."),
    Checkpoint("C16", "A named volume, declared, at Redis's /data; data survive down and up",
               files=(compose.redis_volume,),
               tests=("test_down_and_up_keeps_the_documents_and_the_cache",)),
    Checkpoint("C17", "Redis is told memory, policy, persistence and a password",
               files=(compose.redis_options,),
               tests=("test_redis_is_bounded_and_durable",
                      "test_a_password_locks_redis_and_the_api_knows_it"),
               exception="The password is off until REDIS_PASSWORD is set: a default one would be "
                         "public, and Redis is reachable on rag-network only. The rest holds."),
    Checkpoint("C18", "Variables have defaults or fail loudly", files=(compose.variables,)),
    Checkpoint("C19", "Extras are in profiles; the file is short",
               files=(compose.profiles,),
               exception="Longer than 60 lines: it passes every setting on by name, so that .env "
                         "is all that a user edits. Extras are in profiles."),
    Checkpoint("C20", "Up twice, a second project, several web: no fixed names or ports",
               files=(compose.many,),
               tests=("test_down_and_up_keeps_the_documents_and_the_cache",
                      "test_two_of_web_share_one_port_range")),
)  # fmt: skip

KUBERNETES = tuple(
    Checkpoint(number, title, files=(kubernetes.absent,), exception=reason)
    for number, title, reason in (
        ("D1", "Manifests valid and strict", _NO_K8S),
        ("D2", "Restricted Pod Security fields complete", _NO_K8S),
        ("D3", "Name space labelled restricted", _NO_K8S),
        ("D4", "Start, readiness and liveness are distinct; liveness never asks Redis",
         f"{_NO_K8S} /livez and /readyz are there for them."),
        ("D5", "Requests and limits", _NO_K8S),
        ("D6", "Image by digest, a pull policy that fits", _NO_K8S),
        ("D7", "No service account token, no service links",
         f"{_NO_K8S} REDIS_PORT=tcp://... of a service link is understood."),
        ("D8", "Read-only root, bounded /tmp", f"{_NO_K8S} The image runs so (C7)."),
        ("D9", "NetworkPolicy", _NO_K8S),
        ("D10", "Disruption budget, spread, autoscaling, grace above the drain", _NO_K8S),
        ("D11", "Redis as a StatefulSet", _NO_K8S),
        ("D12", "Helm chart lints and renders", _NO_K8S),
        ("D13", "Overlays build", _NO_K8S),
        ("D14", "Swarm stack file valid",
         "Swarm is no target: its format knows neither mem_limit nor conditions of depends_on, "
         "which compose needs. The check fails when a stack file comes."),
    )
)  # fmt: skip

ALL = (*DOCKERFILE, *ENVIRONMENT, *COMPOSE, *KUBERNETES)
