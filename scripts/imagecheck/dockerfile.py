"""Checks of the Dockerfile and the locks: checkpoints A."""

from __future__ import annotations

import json
import re

from imagecheck.subject import Instruction, Subject, stage_name

DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
SECRET_NAME = re.compile(
    r"(^|_)(PASSWORD|PASSWD|SECRET|TOKEN|APIKEY|KEY|CREDENTIALS?)(_|$)", re.IGNORECASE
)
BUILDERS = re.compile(
    r"\b(apt-get|apt|pip|pip3|uv|gcc|make|git|curl|wget)\s+(install|download|clone)"
)
# What Docker 20.10 doesn't know, or only with BuildKit.
NEWER = {
    r"^(RUN|COPY|ADD)\s.*--mount=": "--mount needs BuildKit",
    r"^(COPY|ADD)\s.*--link\b": "--link is newer than 20.10",
    r"^(COPY|ADD)\s.*--(chmod|parents|exclude)\b": "--chmod, --parents and --exclude are newer",
    r"^ADD\s.*--checksum\b": "ADD --checksum is newer than 20.10",
    r"^RUN\s.*--(network|security)\b": "RUN --network and --security need a frontend",
    r"^(RUN|COPY)\s.*<<-?['\"]?\w+": "heredocs are newer than 20.10",
    r"^HEALTHCHECK\s.*--start-interval": "--start-interval needs Docker 25",
}
NO_TLS = re.compile(
    r"PIP_TRUSTED_HOST|--trusted-host|PYTHONHTTPSVERIFY|NODE_TLS_REJECT|GIT_SSL_NO_VERIFY"
    r"|curl\s[^&|;]*(\s-k\b|--insecure)|wget\s[^&|;]*--no-check-certificate|--allow-unauthenticated"
    r"|--force-yes|sslverify\s*=\s*(0|false)"
)
LABELS = ("title", "source", "revision", "version", "licenses", "created")


def _all(subject: Subject, word: str) -> list[Instruction]:
    return [each for each in subject.instructions if each.word == word]


def _last(subject: Subject, word: str) -> Instruction | None:
    found = [each for each in subject.shipped() if each.word == word]
    return found[-1] if found else None


def stages(subject: Subject) -> list[str]:
    """Two stages or more, and none that ships installs anything."""
    problems = [] if len(subject.stages) >= 2 else ["one stage only: the build tools are shipped"]
    return problems + [
        f"line {each.line}: a stage that ships runs `{found[0]}`"
        for each in subject.shipped()
        if each.word == "RUN" and (found := BUILDERS.search(each.rest))
    ]


def bases(subject: Subject) -> list[str]:
    """What the FROM lines name outside the file, with the defaults of ARG filled in."""
    values = dict(
        pair.split("=", 1) for each in _all(subject, "ARG") if "=" in (pair := each.rest.strip())
    )
    names = {stage_name(stage) for stage in subject.stages}
    found = []
    for each in _all(subject, "FROM"):
        name = re.sub(r"^--platform=\S+\s+", "", each.rest).split()[0]
        if name not in names and name != "scratch":
            found.append(re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), name))
    return found


def base_tag(subject: Subject) -> list[str]:
    """A version and the distribution's name, never latest."""
    return [
        f"{base}: the tag should name a version and a distribution"
        for base in bases(subject)
        if not re.search(r":\d+\.\d+[\w.]*-(slim-)?[a-z]{5,}[\w.]*(@|$)", base)
    ]


def base_digest(subject: Subject) -> list[str]:
    """Every base by digest, and a bot's configuration that renews it."""
    problems = [f"{base}: no digest" for base in bases(subject) if not DIGEST.search(base)]
    if not any(subject.text(name) for name in ("renovate.json", ".github/dependabot.yml")):
        problems.append("neither renovate.json nor .github/dependabot.yml")
    return problems


def base_argument(subject: Subject) -> list[str]:
    """One ARG names the base of every stage."""
    names = {stage_name(stage) for stage in subject.stages}
    external = {each.rest.split()[0] for each in _all(subject, "FROM")} - names
    before = [each for each in subject.instructions if each.word in ("ARG", "FROM")]
    declared = bool(before) and before[0].word == "ARG"
    if declared and len(external) == 1 and external <= {"${BASE}", "$BASE"}:
        return []
    return [f"bases {sorted(external)} rather than one ARG BASE"]


def order(subject: Subject) -> list[str]:
    """Where dependencies are installed, the lock is copied first and our sources aren't yet."""
    problems = []
    for stage in subject.stages:
        copied: list[str] = []
        for each in stage:
            if each.word == "COPY" and "--from" not in each.rest:
                copied += each.rest.split()[:-1]
            if each.word == "RUN" and "install" in each.rest and "requirements" in each.rest:
                early = [name for name in copied if name.startswith((".", "src", "m3_"))]
                problems += [f"line {each.line}: {name} is copied before" for name in early]
    return problems


def lock(subject: Subject) -> list[str]:
    """Exact versions with hashes, and an installation that insists on them."""
    text = subject.text("requirements.txt")
    packages = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    problems = [
        f"requirements.txt: {package.splitlines()[0]} has no version or no hash"
        for package in packages
        if package.strip() and not re.search(r"^\S+==\S+.*--hash=sha256:", package, re.DOTALL)
    ]
    problems += [
        f"line {each.line}: pip install without --require-hashes"
        for each in _all(subject, "RUN")
        if re.search(r"\bpip\b.*\binstall\b", each.rest) and "--require-hashes" not in each.rest
    ]
    return problems if text else ["no requirements.txt"]


def no_cache(subject: Subject) -> list[str]:
    """pip keeps no cache in a layer."""
    problems = []
    for stage in subject.stages:
        environment = " ".join(each.rest for each in stage if each.word == "ENV")
        problems += [
            f"line {each.line}: pip without PIP_NO_CACHE_DIR=1"
            for each in stage
            if each.word == "RUN"
            and re.search(r"\bpip\b.*\b(install|download)\b", each.rest)
            and "PIP_NO_CACHE_DIR=1" not in environment
            and "--no-cache-dir" not in each.rest
        ]
    return problems


def no_secrets(subject: Subject) -> list[str]:
    """No ARG and no ENV is named like a secret: layers and history keep both."""
    problems = []
    for each in subject.instructions:
        if each.word in ("ARG", "ENV"):
            names = re.findall(r"(?:^|\s)([A-Za-z_]\w*)(?==|$|\s)", each.rest)
            problems += [
                f"line {each.line}: {each.word} {name}"
                for name in names
                if SECRET_NAME.search(name)
            ]
    return problems


def copy_lists(subject: Subject) -> list[str]:
    """Files are copied by name, never the whole context."""
    return [
        f"line {each.line}: COPY {each.rest}"
        for each in _all(subject, "COPY")
        if "--from" not in each.rest and {".", "./", "*", "/"} & set(each.rest.split()[:-1])
    ]


def user(subject: Subject) -> list[str]:
    """The last USER is numeric, with its group, and not root."""
    last = _last(subject, "USER")
    if last is None:
        return ["no USER: it would run as root"]
    good = re.fullmatch(r"[1-9]\d*:[1-9]\d*", last.rest)
    return [] if good else [f"line {last.line}: USER {last.rest}"]


def ownership(subject: Subject) -> list[str]:
    """What the last stages copy belongs to root."""
    return [
        f"line {each.line}: COPY without --chown=0:0"
        for each in subject.shipped()
        if each.word == "COPY" and "--chown=0:0" not in each.rest
    ]


def health_check(subject: Subject) -> list[str]:
    """HEALTHCHECK in exec form, without curl or wget, with a timeout of its own."""
    last = _last(subject, "HEALTHCHECK")
    if last is None or last.rest == "NONE":
        return ["no HEALTHCHECK"]
    options, _, command = last.rest.partition("CMD")
    words = _array(command)
    problems = [] if words else [f"line {last.line}: not in exec form"]
    if {"curl", "wget"} & set(words or command.split()):
        problems.append(f"line {last.line}: curl and wget aren't in the image")
    if "localhost" in command:
        problems.append(f"line {last.line}: localhost may mean ::1; say 127.0.0.1")
    return problems + [
        f"line {last.line}: no {option}"
        for option in ("--timeout=", "--start-period=", "--interval=")
        if option not in options
    ]


def exec_form(subject: Subject) -> list[str]:
    """CMD and ENTRYPOINT are arrays, so that process 1 is the server."""
    found = [each for word in ("CMD", "ENTRYPOINT") if (each := _last(subject, word))]
    if not found:
        return ["neither CMD nor ENTRYPOINT"]
    return [
        f"line {each.line}: {each.word} in shell form" for each in found if not _array(each.rest)
    ]


def stop_signal(subject: Subject) -> list[str]:
    """STOPSIGNAL is SIGTERM."""
    last = _last(subject, "STOPSIGNAL")
    return [] if last and last.rest == "SIGTERM" else ["STOPSIGNAL isn't SIGTERM"]


def labels(subject: Subject) -> list[str]:
    """The labels of the OCI that say what this is and where it comes from."""
    text = " ".join(each.rest for each in subject.shipped() if each.word == "LABEL")
    prefix = "org.opencontainers.image"
    return [f"no label {prefix}.{n}" for n in LABELS if f"{prefix}.{n}=" not in text]


def no_add(subject: Subject) -> list[str]:
    """COPY says what it does; ADD unpacks and downloads."""
    return [f"line {each.line}: ADD" for each in _all(subject, "ADD")]


def apt(subject: Subject) -> list[str]:
    """update with install, no recommended packages, no lists left, no upgrade."""
    problems = []
    for each in _all(subject, "RUN"):
        installs = re.search(r"apt(-get)?\s+(-\S+\s+)*install", each.rest)
        updates = re.search(r"apt(-get)?\s+(-\S+\s+)*update", each.rest)
        if re.search(r"apt(-get)?\s+(-\S+\s+)*(dist-|full-)?upgrade", each.rest):
            problems.append(f"line {each.line}: upgrade makes the base unknown")
        if bool(installs) != bool(updates):
            problems.append(f"line {each.line}: update and install belong into one RUN")
        if installs and "--no-install-recommends" not in each.rest:
            problems.append(f"line {each.line}: no --no-install-recommends")
        if installs and "rm -rf /var/lib/apt/lists" not in each.rest:
            problems.append(f"line {each.line}: the lists of apt stay")
    return problems


def no_sudo(subject: Subject) -> list[str]:
    """No sudo, no SSH server, no password set."""
    pattern = re.compile(r"\b(sudo|sshd?|openssh-server|chpasswd)\b")
    problems = [
        f"line {each.line}: {found[0]}"
        for each in _all(subject, "RUN")
        if (found := pattern.search(each.rest))
    ]
    ports = [p for each in _all(subject, "EXPOSE") for p in each.rest.split()]
    return problems + [f"EXPOSE {port}" for port in ports if port.split("/")[0] == "22"]


def tls(subject: Subject) -> list[str]:
    """Nothing turns off the verification of certificates or signatures."""
    return [
        f"line {each.line}: {found[0]}"
        for each in subject.instructions
        if (found := NO_TLS.search(each.rest))
    ]


def subset(subject: Subject) -> list[str]:
    """Nothing that Docker 20.10 or its classic builder doesn't know."""
    problems = []
    for line in subject.text("Dockerfile").splitlines():
        if not line.startswith("#"):
            break
        if re.match(r"#\s*(syntax|check|escape)\s*=", line):
            problems.append(f"{line}: fetches a frontend, or needs one")
    for each in subject.instructions:
        said = f"{each.word} {each.rest}"
        problems += [
            f"line {each.line}: {why}" for what, why in NEWER.items() if re.search(what, said)
        ]
    return problems


def fixed_times(subject: Subject) -> list[str]:
    """Each stage that others copy from sets the times of what it leaves."""
    wanted = {
        m[1] for each in _all(subject, "COPY") if (m := re.search(r"--from=(\S+)", each.rest))
    }
    problems = []
    for stage in subject.stages:
        runs = [each.rest for each in stage if each.word == "RUN"]
        # image_smoke.py sets those of the bytecode that it keeps.
        if stage_name(stage) in wanted and not any(
            "touch" in text or "image_smoke.py" in text for text in runs
        ):
            problems.append(f"stage {stage_name(stage)} leaves the times of its build")
    return problems


def _array(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return found if isinstance(found, list) else []
