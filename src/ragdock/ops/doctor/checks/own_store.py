"""ragdock's own data: disk, files, model, collections, audit log."""

from __future__ import annotations

from typing import Any, Final

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.place import is_inside
from ragdock.ops.doctor.reading import fail, mib, mount_of, ok, settings, skip, warn
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

MIB: Final = 2**20
LEAST_BYTES: Final = 100 * MIB
COMFORT_BYTES: Final = 1024 * MIB
LEAST_INODES: Final = 1_000
LARGE_WAL_BYTES: Final = 512 * MIB
_REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "afs", "ncpfs", "9p",
     "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs", "fuse.blobfuse"}
)  # fmt: skip
_FORGETTING: Final = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})


def _store(world: World) -> dict[str, Any]:
    found = world.ragdock("store")
    if not isinstance(found, dict):
        raise WorldError("unsupported", "the store's answer makes no sense")
    return found


def _existing(world: World, path: str) -> str:
    """The path, or the nearest directory above it that is there."""
    while path.count("/") > 1:
        try:
            world.stat(path)
        except WorldError:
            path = path.rpartition("/")[0]
        else:
            break
    return path or "/"


def _space(world: World) -> list[Finding]:
    """G05."""
    s = settings(world)
    path = _existing(world, str(s["data_dir"]))
    space = world.space(path)
    try:
        files = world.ragdock("files")
    except WorldError:
        files = []
    sizes = [int(one["size_bytes"]) for one in files]
    largest = max(sizes, default=0)
    wanted = max(COMFORT_BYTES, largest * 6 // 5)
    evidence = {
        "path": path,
        "free_bytes": space.free_bytes,
        "size_bytes": space.size_bytes,
        "free_inodes": space.free_inodes,
        "stored_bytes": sum(sizes),
        "largest_file_bytes": largest,
    }
    fix = ("docker system df && docker system prune", "df -h && sudo du -xh / | sort -h | tail")
    if space.free_bytes < LEAST_BYTES or (space.inodes > 0 and space.free_inodes < LEAST_INODES):
        return [
            fail(
                f"the disk of {path} has {mib(space.free_bytes)} left",
                "Writes are refused with `disk_full` when it ends, and health says so; searches "
                "go on.",
                fix,
                path,
                **evidence,
            )
        ]
    if space.free_bytes < wanted:
        return [
            warn(
                f"the disk of {path} has {mib(space.free_bytes)} left",
                f"A reindex needs room for another copy of the largest collection "
                f"({mib(largest)}), and uploads wait on the same disk.",
                fix,
                path,
                **evidence,
            )
        ]
    return ok(f"{mib(space.free_bytes)} free, {mib(sum(sizes))} stored", **evidence)


def _file_system(world: World) -> list[Finding]:
    """G06."""
    path = str(settings(world)["data_dir"])
    point, kind, _ = mount_of(world, path)
    evidence = {"path": path, "mounted_at": point, "type": kind}
    if not kind:
        return skip("the mounts can't be read")
    if kind in _REMOTE:
        return [
            fail(
                f"the data directory is on a network file system ({kind})",
                "SQLite's locks and its shared memory don't work there: several processes may "
                "damage the files.",
                ('# put the data on a local disk, as in volumes: ["./data:/data"]',),
                path,
                **evidence,
            )
        ]
    if is_inside(world) and (kind in _FORGETTING or kind == "tmpfs"):
        return [
            fail(
                f"nothing is mounted at {path}: the data goes with the container",
                "It lies in the container's own layer, which `docker rm` and each new image throw "
                "away."
                if kind != "tmpfs"
                else "It lies in memory, and is gone with the container.",
                (
                    'docker run -v "$PWD/data:/data" ...',
                    '# with Compose, service web: volumes: ["./data:/data"]',
                ),
                path,
                **evidence,
            )
        ]
    if kind == "tmpfs":
        return [
            warn(
                f"the data directory {path} is in memory",
                "It is gone when the machine restarts.",
                ("# in .env: RAG_DATA_DIR=<a directory on a disk>",),
                path,
                **evidence,
            )
        ]
    return ok(f"{path} is on a local disk ({kind})", **evidence)


def _files(world: World) -> list[Finding]:
    """G07."""
    files = world.ragdock("files")
    if not files:
        return ok("no store yet", files=0)
    problems = []
    for one in files:
        evidence = {name: one.get(name) for name in ("file", "size_bytes", "wal_bytes", "said")}
        if one["result"] in ("damaged", "unreadable"):
            problems.append(
                fail(
                    f"SQLite can't read {one['file']}: {' '.join(one['said'].split())}"[:120],
                    "The file is damaged: a disk fault, a copy of a running server's file, or a "
                    "-wal file that was removed."
                    if one["result"] == "damaged"
                    else "This user may not read it, or the disk fails.",
                    (
                        "ragdock verify",
                        "# put a backup back, the server stopped: ragdock restore FILE --force",
                    ),
                    str(one["file"]),
                    **evidence,
                )
            )
        elif int(one["wal_bytes"]) > LARGE_WAL_BYTES:
            problems.append(
                warn(
                    f"{one['file']}-wal has grown to {mib(int(one['wal_bytes']))}",
                    "A reader that never ends keeps SQLite from folding it into the file.",
                    ("docker-compose restart web      # without Docker: start the server again",),
                    str(one["file"]),
                    **evidence,
                )
            )
    n_read = sum(one["result"] == "ok" for one in files)
    said = f"{n_read} of {len(files)} files were read and are sound"
    if n_read < len(files):
        said += "; `ragdock verify` reads the rest"
    return problems or ok(said, files=len(files), read=n_read)


def _library(world: World) -> list[Finding]:
    """G18."""
    found = _store(world)
    version, oldest = str(found["sqlite"]), str(found["oldest_safe_sqlite"])
    evidence = {
        "sqlite": version,
        "oldest_safe": oldest,
        "schema": found["schema"],
        "known_schema": found["known_schema"],
    }
    if _numbers(version) < _numbers(oldest):
        return [
            fail(
                f"SQLite {version} can damage files that several processes write",
                f"Its write-ahead log has a fault that {oldest} mended; the server refuses to "
                "start with it.",
                ("pip install --upgrade apsw",),
                "sqlite",
                **evidence,
            )
        ]
    if found["schema"] > found["known_schema"]:
        return [
            fail(
                f"the store has schema {found['schema']}, this release knows "
                f"{found['known_schema']}",
                "A newer release wrote it, and there is no way back but a backup.",
                ("# run the newer release, or: ragdock restore FILE --force",),
                "schema",
                **evidence,
            )
        ]
    return ok(f"SQLite {version}, schema {found['schema']}", **evidence)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _model(world: World) -> list[Finding]:
    """G08."""
    s = settings(world)
    if s["embedder"] != "minilm":
        return ok("embeddings come from an endpoint", embedder=s["embedder"])
    evidence = {"RAG_MODEL_DIR": s["model_dir"]}
    try:
        model = world.ragdock("model")
    except WorldError as exc:
        if exc.kind != "status":
            raise
        missing = "there is no embedding model" in exc.detail
        return [
            fail(
                "the embedding model is missing" if missing else "the embedding model is damaged",
                exc.detail.split("Build it")[0].strip().rstrip(".:;") + ".",
                (
                    f"RAG_MODEL_DIR={s['model_dir']} ragdock model build",
                    "# the image brings its own: RAG_MODEL_DIR=/app/models, nothing mounted on it",
                ),
                str(s["model_dir"]),
                **evidence | {"error": exc.detail[:300]},
            )
        ]
    return ok("the embedding model is whole", fingerprint=model["fingerprint"], **evidence)


def _fingerprints(world: World) -> list[Finding]:
    """G13."""
    try:
        wanted = world.ragdock("model")["fingerprint"]
    except WorldError:
        return skip("the embedder can't be told: see G08")
    collections = _store(world).get("collections", [])
    if wanted is None:
        return skip("the endpoint has to be asked for its dimension: set RAG_EMBED_DIM")
    problems = [
        fail(
            f"collection {one['name']!r} was indexed with other settings",
            "Vectors of two models, and passages of two sizes, can't be compared; a server with "
            "these settings refuses to start.",
            (
                f"ragdock reindex {one['name']}",
                "# or put back the former RAG_EMBEDDER, RAG_EMBED_MODEL and RAG_CHUNK_TOKENS",
            ),
            str(one["name"]),
            collection=one["name"],
            indexed_with=one["fingerprint"],
            settings_mean=wanted,
            documents=one["documents"],
        )
        for one in collections
        if one["fingerprint"] != wanted and one["documents"]
    ]
    return problems or ok(
        f"{len(collections)} collections fit the settings", fingerprint=wanted, n=len(collections)
    )


def _audit(world: World) -> list[Finding]:
    """G17."""
    s = settings(world)
    if s["audit"] != "file":
        return ok(f"the audit log isn't a file (RAG_AUDIT={s['audit']})")
    found = world.ragdock("audit")
    directory = str(found["directory"])
    evidence = {"directory": directory, "file": found["file"]}
    try:
        stat = world.stat(directory)
    except WorldError as exc:
        if exc.kind == "absent":
            return ok("the audit log begins with the first key that is used", **evidence)
        raise
    evidence["owner"] = f"{stat.uid}:{stat.gid}"
    if stat.kind != "dir" or not world.writable(directory):
        return [
            fail(
                "the audit log can't be written",
                f"{directory} belongs to {stat.uid}:{stat.gid} and takes no files from this user. "
                "Requests go on, their records are lost.",
                (
                    "# on the host, beside docker-compose.yml:",
                    'sudo chown -R "$(stat -c %u:%g data)" data/audit',
                    "# or leave it to the log: RAG_AUDIT=log",
                ),
                directory,
                **evidence,
            )
        ]
    return ok(f"the audit log is written to {directory}", **evidence)


def _past(world: World) -> list[Finding]:
    """G25."""
    last = _store(world).get("last_change_at")
    if last is None:
        return ok("nothing was written yet")
    ahead = float(last) - world.now()
    evidence = {"last_change_minus_now_seconds": round(ahead, 1)}
    if ahead > 60:
        return [
            warn(
                f"the newest entry of the ledger is {ahead / 60:.0f} minutes in the future",
                "The clock was set back, or was wrong when that was written. Work isn't delayed, "
                "but times in answers and logs are wrong.",
                ("timedatectl status", "sudo timedatectl set-ntp true"),
                "clock",
                **evidence,
            )
        ]
    return ok("the clock is past the newest entry of the ledger", **evidence)


CHECKS: Final = (
    Check(
        "G05",
        "The data's disk has room",
        Scope.BOTH,
        "503 disk_full; uploads are refused",
        _space,
    ),
    Check(
        "G06",
        "The data is on a local disk, and stays",
        Scope.BOTH,
        "all documents are gone after an update; database is locked; disk I/O error",
        _file_system,
    ),
    Check(
        "G07",
        "SQLite can read the files",
        Scope.BOTH,
        "database disk image is malformed; 503 store_unavailable",
        _files,
    ),
    Check(
        "G08",
        "The embedding model is there and whole",
        Scope.BOTH,
        "RAG_MODEL_DIR=...: there is no embedding model",
        _model,
    ),
    Check(
        "G13",
        "Collections are indexed with these settings",
        Scope.BOTH,
        "the server refuses to start and names a fingerprint; 409 fingerprint_mismatch",
        _fingerprints,
    ),
    Check(
        "G17",
        "The audit log can be written",
        Scope.BOTH,
        "rag_audit_failures_total rises",
        _audit,
    ),
    Check(
        "G18",
        "SQLite and the store's schema fit this release",
        Scope.BOTH,
        "the server refuses to start: a newer ragdock wrote the store",
        _library,
    ),
    Check(
        "G25",
        "The clock didn't go back",
        Scope.BOTH,
        "documents from the future",
        _past,
    ),
)
