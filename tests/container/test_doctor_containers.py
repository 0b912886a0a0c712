"""`ragdock doctor` on small containers, each broken in its own way: they are named, and mended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doctoring import SERVER, SLEEPER, Patient, after, redis, web
from harness import container, docker, run, wait_for

from support.ports import free_port

MEMORY_HOG = "hold = b'x' * (300 << 20); import time; time.sleep(3600)"
WORKER_HOG = """
import subprocess, sys, time
subprocess.run([sys.executable, "-c", "hold = b'x' * (300 << 20)"])
time.sleep(3600)
"""
THREADS = """
import threading, time
n_threads = 0
done = threading.Event()
try:
    while n_threads < 100:
        threading.Thread(target=done.wait, daemon=True).start()
        n_threads += 1
except RuntimeError:
    done.set()
time.sleep(3600)
"""
# No handler for SIGTERM, heard on the loopback only, as root, with nowhere to write and no end to
# its log; and a health check that the image has no program for.
FAULTY = web(
    SERVER,
    init=None,
    user='"0:0"',
    cap_drop=None,
    logging=None,
    read_only="true",
    ports='["127.0.0.1:${WEB_PORT}:8000"]',
    healthcheck="{ test: [CMD, curl, -f, 'http://localhost:8000/'], interval: 1s, retries: 1, "
    "start_period: 1s }",
    environment="\n      RAG_HOST: 127.0.0.1\n      REDIS_HOST: redis",
)
TIGHT = redis(
    healthcheck="{ test: [CMD-SHELL, sleep 5; redis-cli ping | grep -q PONG], "
    "interval: 1s, timeout: 1s, retries: 2 }"
)

DISK_BYTES = 8 << 20

Make = Callable[..., Patient]


@pytest.fixture(scope="module")
def make(
    image: str,
    compose_programs: None,
    tmp_path_factory: pytest.TempPathFactory,
    report: Callable[[str], None],
) -> Iterator[Make]:
    """Makes stacks of small services; all are removed in the end."""
    made: list[Patient] = []

    def make_one(name: str, *services: str, directory: Path | None = None) -> Patient:
        directory = directory or tmp_path_factory.mktemp("doctor") / name
        made.append(Patient.of(directory, report, *services))
        made[-1].up(check=False)
        return made[-1]

    yield make_one
    for patient in made:
        patient.close()


@pytest.fixture(scope="module")
def faulty_stack(make: Make) -> Patient:
    """Two containers with many faults; each test mends one, in any order."""
    return make("faulty", FAULTY, TIGHT)


@pytest.fixture
def faulty(faulty_stack: Patient) -> Patient:
    faulty_stack.begin()
    return faulty_stack


def test_a_log_without_bound(faulty: Patient) -> None:
    """D10 names the driver, its options and the log's size; the override bounds it."""
    finding = faulty.diagnose("D10", "warn")
    assert finding["subject"] == faulty.state()["Name"].lstrip("/")
    size_bytes = Path(faulty.state()["LogPath"]).stat().st_size
    assert finding["evidence"] == {
        "driver": "json-file",
        "max-size": None,
        "largest_log_bytes": size_bytes,
    }
    faulty.shell(*finding["fix"])
    assert "max-size" in faulty.state()["HostConfig"]["LogConfig"]["Config"]
    faulty.assert_green("D10")


def test_a_process_that_ignores_sigterm(faulty: Patient) -> None:
    """D45 and D45i show the signals that process 1 handles; with an init it stops at once."""
    # While its health is "starting", a program may still be loading, and isn't blamed.
    wait_for("the end of the start", lambda: faulty.health("web") != "starting")
    finding = faulty.diagnose("D45")
    assert finding["evidence"]["pid_1"] == "python"
    assert finding["evidence"]["signal"] == 15
    assert not int(finding["evidence"]["SigCgt"], 16) >> 14 & 1
    inside = faulty.diagnose("D45i", inside=True)
    assert inside["evidence"] == {"pid_1": "python", "SigCgt": finding["evidence"]["SigCgt"]}
    faulty.shell(*finding["fix"])
    faulty.assert_green("D45")
    faulty.assert_green("D45i", inside=True)


def test_a_read_only_root_without_a_place_for_temporary_files(faulty: Patient) -> None:
    """D31 and D31i say that /tmp can't be written; with the tmpfs it can."""
    finding = faulty.diagnose("D31")
    assert finding["evidence"]["read_only"] is True
    assert finding["evidence"]["writable"] == []
    inside = faulty.diagnose("D31i", inside=True)
    assert inside["evidence"]["root_read_only"] is True
    assert inside["evidence"]["usable"] is None
    faulty.shell(*finding["fix"])
    faulty.assert_green("D31")
    faulty.assert_green("D31i", inside=True)


def test_a_server_that_listens_on_its_loopback(faulty: Patient) -> None:
    """D36 reads the listener's address from the kernel; afterwards the published port answers."""
    wait_for("the server", lambda: "1F40" in listening(faulty))
    finding = faulty.diagnose("D36")
    assert finding["evidence"] == {
        "listeners": ["0100007F"],
        "port": 8000,
        "RAG_HOST": "127.0.0.1",
    }
    inside = faulty.diagnose("D36i", inside=True)
    assert inside["evidence"] == {"port": 8000, "listening_on": ["127.0.0.1"]}
    with faulty.stack.client() as client:
        faulty.shell(*finding["fix"])
        wait_for("an answer", lambda: client.get("/health").status_code == 200)
    faulty.assert_green("D36")
    faulty.assert_green("D36i", inside=True)


def listening(patient: Patient) -> str:
    return docker("exec", patient.stack.container("web"), "cat", "/proc/net/tcp")


def test_a_container_that_runs_as_root(faulty: Patient) -> None:
    """D28i tells uid, gid and capabilities; the line goes where the comment says."""
    finding = faulty.diagnose("D28i", "warn", inside=True)
    assert finding["evidence"]["uid"] == 0
    assert finding["evidence"]["gid"] == 0
    assert int(finding["evidence"]["CapEff"], 16) > 0
    line = after(finding["fix"][0], "in docker-compose.yml, service web:")
    faulty.edit('user: "0:0"', line)
    faulty.shell(*finding["fix"])
    assert faulty.state()["Config"]["User"] == "1000:1000"
    faulty.assert_green("D28i", inside=True)


def test_health_checks_without_their_program_and_without_time(faulty: Patient) -> None:
    """D43 quotes what couldn't be run, D44 the timeout; both services become healthy."""
    wait_for("unhealthy services", lambda: unhealthy(faulty))
    finding = faulty.diagnose("D43")
    assert finding["subject"] == faulty.state()["Name"].lstrip("/")
    assert finding["evidence"]["test"] == "curl -f http://localhost:8000/"
    assert finding["evidence"]["exit_code"] in (-1, 126, 127)
    assert "executable file not found" in finding["evidence"]["output"]
    tight = faulty.diagnose("D44")
    assert tight["subject"] == faulty.state("redis")["Name"].lstrip("/")
    assert tight["evidence"]["timeout_seconds"] == 1
    assert tight["evidence"]["cut_off"] >= 2
    assert "exceeded timeout (1s)" in tight["evidence"]["output"]
    faulty.shell(*finding["fix"])
    faulty.shell(*tight["fix"])
    faulty.stack.wait_healthy()
    faulty.assert_green("D43", "D44", "D44b")


def unhealthy(patient: Patient) -> bool:
    return {patient.health(name) for name in ("web", "redis")} == {"unhealthy"}


# ---- memory and processes ------------------------------------------------------------------------


def test_a_container_out_of_memory(make: Make) -> None:
    """D20 tells the limit and OOMKilled; with the memory that it prints the container runs."""
    patient = make("oom", web(MEMORY_HOG, mem_limit="${WEB_MEMORY:-48m}"))
    wait_for("the end", lambda: not patient.state()["State"]["Running"])
    finding = patient.diagnose("D20")
    assert finding["evidence"]["OOMKilled"] is True
    assert finding["evidence"]["limit_bytes"] == 48 << 20
    assert patient.state()["State"]["ExitCode"] == 137
    patient.shell(*finding["fix"])
    patient.assert_green("D20")
    assert patient.state()["State"]["Running"] is True


def test_a_worker_out_of_memory(make: Make) -> None:
    """D20b sees what Docker doesn't: a child was killed in a container that runs on."""
    patient = make("child", web(WORKER_HOG, mem_limit="${WEB_MEMORY:-128m}"))
    wait_for("the kill", lambda: " 1" in oom_kills(patient))
    assert patient.state()["State"]["Running"] is True
    finding = patient.diagnose("D20b")
    assert finding["evidence"]["oom_kill"] == 1
    assert finding["evidence"]["limit_bytes"] == 128 << 20
    inside = patient.diagnose("D20c", inside=True)
    assert inside["evidence"]["oom_kill"] == 1
    assert inside["evidence"]["limit_bytes"] == 128 << 20
    patient.shell(*finding["fix"])
    patient.assert_green("D20b")
    patient.assert_green("D20c", inside=True)


def oom_kills(patient: Patient) -> str:
    """`oom_kill 1`, by either version of control groups."""
    files = "/sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control"
    shell = ["docker", "exec", patient.stack.container("web"), "sh", "-c"]
    found = run([*shell, f"cat {files} 2> /dev/null"], check=False).stdout
    return "".join(re.findall(r"^oom_kill( \d+)", found, re.MULTILINE))


def test_too_few_processes_allowed(make: Make) -> None:
    """D21i tells the limit and that a thread was refused; the comment says where to raise it."""
    patient = make("pids", web(THREADS, pids_limit="40"))
    wait_for("the refusal", lambda: int(tasks(patient, "pids.current")) < 20)
    finding = patient.diagnose("D21i", "warn", inside=True)
    assert finding["evidence"]["pids.max"] == 40
    assert finding["evidence"]["refused"] >= 1
    line = after(finding["fix"][0], "in docker-compose.yml, service web:")
    patient.edit("pids_limit: 40", line)
    patient.shell(*finding["fix"])
    assert patient.state()["HostConfig"]["PidsLimit"] == 512
    patient.assert_green("D21i", inside=True)


def tasks(patient: Patient, name: str) -> str:
    shell = f"cat /sys/fs/cgroup/{name} 2> /dev/null || cat /sys/fs/cgroup/pids/{name}"
    found = docker("exec", patient.stack.container("web"), "sh", "-c", shell)
    refused = docker(
        "exec", patient.stack.container("web"), "sh", "-c", shell.replace(name, "pids.events")
    )
    # Before the refusal the number is low as well.
    return found if refused != "max 0" else "99"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "ragdock-test", str(tmp_path)]
    if run(mount, check=False).returncode != 0:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    yield tmp_path
    run(["umount", "-l", tmp_path])


def test_a_disk_that_is_full(make: Make, small_disk: Path) -> None:
    """D09 tells the free bytes of the stack's own disk, and its fix lists what is largest."""
    patient = make("full", web(SLEEPER), directory=small_disk / "full")
    try:
        dump = patient.stack.directory / "dump"
        dump.write_bytes(bytes(DISK_BYTES * 97 // 100))
        finding = patient.diagnose("D09")
        assert finding["evidence"]["path"] == str(patient.stack.directory)
        assert finding["evidence"]["size_bytes"] == DISK_BYTES
        assert finding["evidence"]["free_bytes"] < DISK_BYTES * 0.05
        assert "./dump" in patient.shell(*finding["fix"])
        dump.unlink()
        patient.assert_green("D09")
    finally:
        patient.close()


# ---- Redis and networks --------------------------------------------------------------------------


def test_a_password_behind_a_health_check_that_lies(make: Make) -> None:
    """D49 quotes NOAUTH from a healthy container, R8 says that web lacks the password."""
    patient = make(
        "locked",
        web(SLEEPER, environment="{ REDIS_HOST: redis, REDIS_PASSWORD: '${REDIS_PASSWORD:-}' }"),
        redis(
            command="[redis-server, --save, '', --requirepass, correct-horse]",
            healthcheck="{ test: [CMD, redis-cli, ping], interval: 1s }",
        ),
    )
    wait_for("a healthy Redis", lambda: patient.health("redis") == "healthy")
    lie = patient.diagnose("D49")
    assert lie["evidence"]["status"] == "healthy"
    assert "NOAUTH" in lie["evidence"]["output"]
    finding = patient.diagnose("R8", inside=True)
    assert finding["evidence"]["address"] == "redis:6379"
    assert finding["evidence"]["REDIS_PASSWORD"] == "not set"
    assert finding["evidence"]["error"].startswith("NOAUTH")
    patient.shell(*(line.replace("changeme", "correct-horse") for line in lie["fix"]))
    patient.shell(*finding["fix"])
    wait_for("a healthy Redis", lambda: patient.health("redis") == "healthy")
    patient.assert_green("D49")
    patient.assert_green("R8", inside=True)
    assert "correct-horse" not in str((lie, finding, patient.examine()))


def test_a_redis_that_is_full(make: Make) -> None:
    """R2 tells how much memory is used of how much and that nothing may be evicted."""
    patient = make("memory", web(SLEEPER, environment="{ REDIS_HOST: redis }"), redis())
    name = patient.stack.container("redis")
    limit_bytes = 4 << 20
    docker("exec", name, "redis-cli", "config", "set", "maxmemory", str(limit_bytes))
    fill = "for i = 1, 1500 do redis.call('set', 'k' .. i, string.rep('x', 4096)) end"
    docker("exec", name, "redis-cli", "eval", fill, "0")
    assert "OOM command not allowed" in docker("exec", name, "redis-cli", "set", "one", "more")
    finding = patient.diagnose("R2", inside=True)
    evidence = finding["evidence"]
    assert evidence["maxmemory"] == limit_bytes
    assert evidence["used_memory"] > 0.95 * limit_bytes
    assert evidence["maxmemory_policy"] == "noeviction"
    assert evidence["errorstat_OOM"] >= 1
    patient.shell(*finding["fix"])
    assert docker("exec", name, "redis-cli", "set", "one", "more") == "OK"
    patient.assert_green("R2", inside=True)


def test_a_redis_that_is_published(make: Make) -> None:
    """D41 tells address and port; afterwards only the loopback has it."""
    patient = make("published", web(SLEEPER), redis(ports='["${WEB_PORT}:6379"]'))
    port = patient.stack.port
    finding = patient.diagnose("D41")
    assert finding["evidence"] == {"host_ip": "0.0.0.0", "port": port, "inner": "6379"}
    patient.shell(*finding["fix"])
    bound = patient.state("redis")["HostConfig"]["PortBindings"].get("6379/tcp") or []
    assert {place["HostIp"] for place in bound} <= {"127.0.0.1"}
    patient.assert_green("D41")


def test_a_redis_that_cannot_write_its_snapshot(make: Make) -> None:
    """R4 tells the directory and the state of the last save; with the chown it is written."""
    patient = make(
        "snapshot",
        web(SLEEPER, environment="{ REDIS_HOST: redis }"),
        redis(command="[redis-server, --save, '60', '1']", volumes="[./store:/data]"),
    )
    name = patient.stack.container("redis")
    store = patient.stack.directory / "store"
    run(["chown", "0:0", store])
    docker("exec", name, "redis-cli", "bgsave")
    wait_for("the failure", lambda: "rdb_last_bgsave_status:err" in info(name))
    assert "MISCONF" in docker("exec", name, "redis-cli", "set", "key", "value")
    finding = patient.diagnose("R4", inside=True)
    assert finding["evidence"]["rdb_last_bgsave_status"] == "err"
    assert finding["evidence"]["dir"] == "/data"
    assert finding["evidence"]["errorstat_MISCONF"] >= 1
    patient.shell(*finding["fix"])
    name = patient.stack.container("redis")
    wait_for("the save", lambda: "rdb_last_bgsave_status:ok" in info(name))
    assert (store / "dump.rdb").exists()
    patient.assert_green("R4", inside=True)


def info(name: str) -> str:
    return docker("exec", name, "redis-cli", "info", "persistence")


def test_services_on_different_networks(make: Make) -> None:
    """D38 tells who is on which network, D38i that the name has no address; then it has one."""
    networks = "networks:\n  front: {}\n  back: {}\n"
    patient = make(
        "networks",
        web(SLEEPER, environment="{ REDIS_HOST: redis }", networks="[front]"),
        redis(networks="[back]"),
        networks,
    )
    finding = patient.diagnose("D38")
    project = patient.stack.project
    assert finding["evidence"] == {
        "REDIS_HOST": "redis",
        "networks": [f"{project}_front"],
        "redis_is_on": [f"{project}_back"],
    }
    inside = patient.diagnose("D38i", inside=True)
    assert inside["evidence"]["REDIS_HOST"] == "redis"
    assert inside["evidence"]["kind"] in ("unresolved", "unresolvable")
    patient.shell(*finding["fix"])
    patient.assert_green("D38")
    patient.assert_green("D38i", "R7", inside=True)


def test_a_port_that_another_container_has(make: Make, image: str) -> None:
    """D35 names the container; when that is stopped, as the comment says, the stack starts."""
    patient = make("port", web(SERVER, ports='["127.0.0.1:${WEB_PORT}:8000"]'))
    port = free_port()
    with container("-p", f"127.0.0.1:{port}:9", "--init", image, "sleep", "600") as owner:
        name = docker("inspect", "-f", "{{.Name}}", owner).lstrip("/")
        patient.set(WEB_PORT=str(port))
        patient.up(check=False)
        finding = patient.diagnose("D35")
        assert finding["evidence"]["owner"] == f"container {name}"
        assert finding["evidence"]["port"] == port
        patient.shell(after(finding["fix"][-1], f"or keep {port}:"))
        bound = patient.state()["NetworkSettings"]["Ports"]["8000/tcp"]
        assert [place["HostPort"] for place in bound] == [str(port)]
        patient.assert_green("D35")
