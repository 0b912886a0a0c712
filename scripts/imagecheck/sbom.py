"""The bill of materials of the image (CycloneDX, by syft) and the report of its licences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from imagecheck.subject import Subject, ToolError

# What the metadata of a package doesn't say, or says in words of its own.
LICENCES = {
    "apsw": "LicenseRef-any-OSI",  # Any licence that the OSI approved, as the receiver likes.
    "async-timeout": "Apache-2.0",
    "onnxruntime": "MIT",
    "pathspec": "MPL-2.0",
    "protobuf": "BSD-3-Clause",
    "pypdfium2": "BSD-3-Clause AND Apache-2.0",
    "shellingham": "ISC",
    "uvloop": "MIT",
}
CLASSIFIERS = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
}
# Licences under which a Python package of the image may come.
PERMITTED = frozenset(
    {
        "MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "PSF-2.0", "MPL-2.0", "0BSD",
        "Zlib", "CC0-1.0", "Unlicense", "LicenseRef-any-OSI",
    }
)  # fmt: skip
MODEL = {
    "type": "machine-learning-model",
    "bom-ref": "all-MiniLM-L6-v2",
    "name": "all-MiniLM-L6-v2",
    "description": "Sentence embeddings; int8 ONNX, written by the build from hash-pinned weights",
    "licenses": [{"license": {"id": "Apache-2.0"}}],
    "externalReferences": [
        {
            "type": "distribution",
            "url": "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        }
    ],
}
_KINDS = {"pypi": "Python", "deb": "Debian", "generic": "Program"}


def make(subject: Subject) -> dict[str, Any]:
    """The bill of materials, with the model and with licences as SPDX names them."""
    ran = subject.tool("syft", "scan", "-q", f"docker:{subject.image}", "-o", "cyclonedx-json")
    if ran.returncode != 0:
        raise ToolError(f"syft: {ran.stderr[-800:]}")
    found: dict[str, Any] = json.loads(ran.stdout)
    declared = licences_declared(subject)
    # syft lists every file that it looked at as well; packages are what is asked for.
    found["components"] = [each for each in found["components"] if each["type"] != "file"]
    for each in found["components"]:
        if kind(each) == "Python":
            licence = declared.get(normal(each["name"]))
            if licence:
                each["licenses"] = [{"expression": licence}]
    found["components"].append(MODEL)
    return found


def licences_declared(subject: Subject) -> dict[str, str]:
    """The licence of each Python package of the image, by its own metadata."""
    found = {}
    for entry in subject.rootfs:
        if re.search(r"/site-packages/[^/]+\.dist-info/METADATA$", entry.path):
            metadata = HeaderParser().parsestr(entry.text)
            name = normal(metadata["Name"])
            found[name] = LICENCES.get(name) or _licence(metadata)
    return found


def _licence(metadata: Any) -> str:
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"])
    if metadata["License"] in PERMITTED:
        return str(metadata["License"])
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or ()
                   if line.startswith("License ::")]  # fmt: skip
    return " AND ".join(CLASSIFIERS[each] for each in classifiers if each in CLASSIFIERS)


def kind(component: dict[str, Any]) -> str:
    found = re.match(r"pkg:(\w+)/", component.get("purl", ""))
    return _KINDS.get(found[1], found[1]) if found else str(component["type"])


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licences_of(component: dict[str, Any]) -> str:
    found = []
    for each in component.get("licenses") or ():
        licence = each.get("license", {})
        found.append(each.get("expression") or licence.get("id") or licence.get("name") or "")
    return ", ".join(name for name in found if name)


def problems_of(bill: dict[str, Any], subject: Subject) -> list[str]:
    """What is in the image or the lock and not in the bill; licences that are missing or barred."""
    components = bill.get("components") or []
    have = {normal(c["name"]): c for c in components if kind(c) == "Python"}
    debian = {(c["name"], c["version"]) for c in components if kind(c) == "Debian"}
    python = next((c["version"] for c in components if c["name"] == "python"), "3.11")
    problems = [
        f"{name} {version} isn't in the bill of materials"
        for name, version in locked(subject, python)
        if name not in have or have[name]["version"] != version
    ]
    problems += [
        f"{name} {version} of Debian isn't in the bill of materials"
        for name, version in installed(subject.file("/var/lib/dpkg/status"))
        if (name, version) not in debian
    ]
    if not any(c["type"] == "machine-learning-model" for c in components):
        problems.append("the model isn't in the bill of materials")
    for name, component in sorted(have.items()):
        words = re.findall(r"[A-Za-z0-9.+-]+", licences_of(component))
        unknown = [word for word in words if word not in {*PERMITTED, "AND", "OR"}]
        if not words or unknown:
            problems.append(f"{name}: licence {' '.join(words) or 'unknown'}")
    return problems


def locked(subject: Subject, python: str) -> list[tuple[str, str]]:
    """The packages of requirements.txt that Linux with that Python installs, and their versions."""
    found = []
    # Installed, then deleted by the Dockerfile with their metadata: `rm -rf NAME NAME-*`.
    left_out = {
        normal(name) for name in re.findall(r"\s([a-z0-9_]+)-\*", subject.text("Dockerfile"))
    }
    pattern = r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)(?: ; ([^\\\n]*))?"
    for name, version, marker in re.findall(
        pattern, subject.text("requirements.txt"), re.MULTILINE
    ):
        if normal(name) not in left_out and holds(marker, python):
            found.append((normal(name), version))
    return found


def holds(marker: str, python: str) -> bool:
    """Whether a marker of the lock holds on Linux with this Python: the forms that uv writes."""
    have = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return not marker.strip() or any(
        all(_compares(words, have, python) for words in part.split(" and "))
        for part in marker.replace("(", "").replace(")", "").split(" or ")
    )


def _compares(text: str, have: dict[str, str], python: str) -> bool:
    name, operator, wanted = text.strip().replace("'", "").split(" ", 2)
    if name not in ("python_full_version", "python_version"):
        # An unknown marker counts as held, so that the check errs by asking for too much.
        return (have.get(name, wanted) == wanted) == (operator == "==")
    ours, theirs = (tuple(int(n) for n in re.findall(r"\d+", v)) for v in (python, wanted))
    order = {"<": ours < theirs, ">=": ours >= theirs, "==": ours == theirs, "!=": ours != theirs}
    return order.get(operator, True)


def installed(status: str) -> Iterator[tuple[str, str]]:
    """Name and version of each installed package of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.+)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            yield fields["Package"], fields["Version"]


def report(bill: dict[str, Any]) -> str:
    """The licences, one line a component, as Markdown."""
    rows = sorted(
        (kind(each), each["name"], each.get("version", ""), licences_of(each))
        for each in bill["components"]
        if kind(each) != "operating-system"
    )
    # The base leaves documents out, so a stand-in's packages of Debian say nothing.
    lines = [f"| {k} | {n} | {v} | {lic or 'see Debian main'} |" for k, n, v, lic in rows]
    head = [
        "# Licences of the image",
        "",
        "| Kind | Name | Version | Licence |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])


def write(bill: dict[str, Any], directory: Path) -> list[Path]:
    """Write `sbom.cdx.json` and `licences.md`; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "sbom.cdx.json", directory / "licences.md"]
    paths[0].write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    paths[1].write_text(report(bill), encoding="utf-8")
    return paths


def complete(subject: Subject) -> list[str]:
    """The bill holds every package of the lock and of Debian, and the model; licences are known."""
    bill = make(subject)
    write(bill, subject.root / "dist")
    return problems_of(bill, subject)
