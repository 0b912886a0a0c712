"""The arrows, the places of each technology, and the habits that a linter can't see."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ragdock.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "ragdock"
MAX_LINES = 450

_CORE = {"core", "types", "errors"}
_USE_CASES = {"ports", "services", "bootstrap"} | _CORE
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "logs": set(),
    "samples": set(),
    "secret_files": {"errors"},
    "settings": {"errors", "secret_files"},
    "core": _CORE,
    "ports": {"ports"} | _CORE,
    "adapters": {"adapters", "ports"} | _CORE,
    "services": {"services", "ports"} | _CORE,
    "bootstrap": {"bootstrap", "adapters", "services", "ports", "settings", "logs", "samples"}
    | _CORE,
    "api": {"api", "settings", "logs", "samples"} | _USE_CASES,
    "ops": {"ops", "settings", "logs", "samples"} | _USE_CASES,
    "cli": {"cli", "api", "ops", "adapters", "settings", "logs", "samples"} | _USE_CASES,
    "tour": {"tour", "cli", "ops", "adapters", "settings", "logs", "samples"} | _USE_CASES,
    "__main__": {"cli"},
    "__init__": set(),
}
"""Who may import whom; the bare package (`__version__`) is everybody's."""

PLACES: dict[str, tuple[str, ...]] = {
    "apsw": ("adapters/stores/sqlite",),
    "cv2": ("adapters/parsers/ocr_rapid.py",),
    "fastapi": ("api",),
    "httpcore2": ("adapters/fetchers",),
    "httpx2": ("adapters", "cli"),
    "IPython": ("tour/showing.py",),
    "ipywidgets": ("tour/card.py",),
    "matplotlib": ("tour/plots.py",),
    "idna": ("core/weburls.py",),
    "opentelemetry": ("adapters/tracing/otel.py",),
    "pathspec": ("cli/ignoring.py",),
    "numpy": ("adapters", "core", "services", "types.py"),
    "onnx": ("adapters/embedders/minilm_build.py", "adapters/embedders/minilm_graph.py"),
    "onnxruntime": ("adapters/embedders",),
    "prometheus_client": ("adapters/metrics",),
    "pydantic": ("api", "secret_files.py", "settings.py"),
    "pydantic_settings": ("secret_files.py", "settings.py"),
    "pypdfium2": ("adapters/parsers",),
    "python_multipart": ("api/forms.py",),
    "rapidocr": ("adapters/parsers/ocr_rapid.py",),
    "redis": ("adapters/caches", "adapters/limits", "adapters/redis_link.py"),
    "rich": ("cli",),
    "selectolax": ("adapters/parsers",),
    "simsimd": ("adapters/stores/sqlite",),
    "starlette": ("api",),
    "typer": ("cli",),
    "uvicorn": ("api/server.py", "api/protocol.py"),
    "watchfiles": ("cli/watch.py",),
}
"""Where each foreign package may be imported; one that is not listed may be imported nowhere."""

ENVIRONMENT_READERS = {
    "settings.py": "the only reader of settings",
    "secret_files.py": "the part of it that finds the files of secrets",
    "api/server.py": "hands the settings to its worker processes",
    "cli/worker.py": "hands the settings to its processes",
    "cli/client.py": "a key is no option, because `ps` shows options, and no setting of a server",
    "adapters/tracing/otel.py": "the size of OpenTelemetry's queue, which its SDK reads as well",
    "adapters/metrics/prometheus.py": "PROMETHEUS_MULTIPROC_DIR is how prometheus_client is told",
    "ops/doctor/live.py": "shows the checks what the process was given",
    "tour/demo.py": "hands PATH to the notebook's servers",
    "tour/shell.py": "hands the environment to the notebook's scripts; what the base images are",
    "cli/probe.py": "runs every few seconds, so it loads the standard library only",
}

IMPURE = {
    "asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "select", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time",
    "urllib",
}  # fmt: skip

READERS_IN_CORE = {"core/wordpiece.py": {"pathlib"}}
"""`read_vocabulary` reads the one file that makes a tokenizer."""


def modules() -> list[Path]:
    """All source files."""
    return sorted(SOURCE.rglob("*.py"))


def relative(path: Path) -> str:
    """The path below the package, with slashes."""
    return path.relative_to(SOURCE).as_posix()


def layer(path: Path) -> str:
    """The first part of the path: a package, or a module of the root."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """The module's import name."""
    return ".".join(("ragdock", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


@cache
def tree(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in the file, in functions too, with its line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: a relative import"
            assert node.module
            yield node.module, node.lineno
            if node.module == "ragdock":
                for alias in node.names:
                    yield f"ragdock.{alias.name}", node.lineno


def test_imports_follow_the_arrows() -> None:
    """A layer imports only the layers below it."""
    wrong = []
    for path in modules():
        allowed = ARROWS[layer(path)]
        for name, line in imports(path):
            parts = name.split(".")
            below = parts[1] if parts[0] == "ragdock" and len(parts) > 1 else "__version__"
            if below != "__version__" and below not in allowed:
                wrong.append(f"{relative(path)}:{line} imports {name}")
    assert not wrong


def test_only_the_composition_root_and_the_model_build_import_adapters() -> None:
    """Outside the adapters, only bootstrap names one; the command `model build` runs its build."""
    importers = {
        (relative(path), name)
        for path in modules()
        if layer(path) not in ("adapters", "bootstrap")
        for name, _ in imports(path)
        if name.startswith("ragdock.adapters")
    }
    assert importers == {("cli/tools.py", "ragdock.adapters.embedders.minilm_build")}


def test_each_foreign_package_stays_in_its_place() -> None:
    """FastAPI lives under api/, Redis under adapters/caches/, and so on for every package."""
    wrong = []
    for path in modules():
        for name, line in imports(path):
            package = name.split(".")[0]
            if package in sys.stdlib_module_names or package == "ragdock":
                continue
            places = PLACES.get(package, ())
            here = relative(path)
            if not any(here == place or here.startswith(f"{place}/") for place in places):
                wrong.append(f"{here}:{line} imports {package}, allowed in {places}")
    assert not wrong


NOT_IMPORTED = {
    "opentelemetry-api": "it is imported, by another name: opentelemetry",
    "opentelemetry-exporter-otlp-proto-http": "likewise: opentelemetry.exporter",
    "opentelemetry-sdk": "likewise: opentelemetry.sdk",
    "httptools": "uvicorn is told to use it",
    "packaging": "onnxruntime.quantization imports it",
    "uvloop": "uvicorn is told to use it",
}


def test_every_dependency_is_used() -> None:
    """What pyproject.toml asks for is imported somewhere, or listed with the reason why not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["model"]]
    names = {re.split(r"[<>=\[;]", item)[0] for item in wanted}
    imported = {name.split(".")[0] for path in modules() for name, _ in imports(path)}
    unused = {name for name in names if name.replace("-", "_") not in imported}
    assert unused <= NOT_IMPORTED.keys()


def test_core_is_pure() -> None:
    """Nothing in core/ imports a module that does input, output, threads or time."""
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in modules()
        if layer(path) in ("core", "types", "errors", "ports")
        for name, line in imports(path)
        if name.split(".")[0] in IMPURE - READERS_IN_CORE.get(relative(path), set())
        and not _for_types_only(path, line)
    ]
    assert not wrong


def _for_types_only(path: Path, line: int) -> bool:
    """Whether the line stands under `if TYPE_CHECKING:`."""
    return any(
        isinstance(node, ast.If)
        and ast.unparse(node.test) == "TYPE_CHECKING"
        and node.lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(tree(path))
    )


def test_the_environment_is_read_in_settings_only() -> None:
    """`os.environ` and `os.getenv` stand in settings.py and in the listed exceptions."""
    found = set()
    for path in modules():
        for node in ast.walk(tree(path)):
            # Of `os`: `environ()` of the doctor's worlds is their answer, live or recorded.
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("environ", "getenv", "environb")
                and ast.unparse(node.value) == "os"
            ):
                found.add(relative(path))
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                found |= {relative(path) for a in node.names if a.name in ("environ", "getenv")}
    assert found <= ENVIRONMENT_READERS.keys()


def test_the_exceptions_for_the_environment_read_what_they_are_excepted_for() -> None:
    """Each of them reads its one variable, and servers and workers only hand on."""
    read = {
        name: set(re.findall(r"environ(?:\.get\(|\[)['\"]([A-Z_]+)", (SOURCE / name).read_text()))
        for name in ENVIRONMENT_READERS
    }
    assert read["cli/probe.py"] == {"PORT"}
    assert read["cli/client.py"] == {"RAGDOCK_API_KEY"}
    assert read["adapters/metrics/prometheus.py"] == {"PROMETHEUS_MULTIPROC_DIR"}
    assert read["api/server.py"] == read["cli/worker.py"] == set()


def test_the_probe_is_standard_library_only() -> None:
    """The container starts the probe every few seconds, so it imports nothing foreign."""
    foreign = {name for name, _ in imports(SOURCE / "cli" / "probe.py")}
    assert {name.split(".")[0] for name in foreign} <= set(sys.stdlib_module_names)


def test_nothing_prints_and_nothing_swallows_everything() -> None:
    """No `print`, no bare `except:`, and no `except Exception: pass`."""
    wrong = []
    for path in modules():
        for node in ast.walk(tree(path)):
            where = f"{relative(path)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("print", "pprint"):
                wrong.append(f"{where} prints")
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    wrong.append(f"{where} excepts everything")
                elif (
                    ast.unparse(node.type) in ("Exception", "BaseException")
                    and len(node.body) == 1
                    and isinstance(node.body[0], ast.Pass)
                ):
                    wrong.append(f"{where} hides every error")
    assert not wrong


def test_modules_stay_short() -> None:
    """A module of more than 450 lines wants to be two."""
    long = {
        relative(path): n_lines
        for path in modules()
        if (n_lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}


def test_every_module_has_a_docstring() -> None:
    """A module says in its first line what it is for."""
    assert [relative(path) for path in modules() if not ast.get_docstring(tree(path))] == []


def exported(path: Path) -> list[str] | None:
    """The module's `__all__`, if it has one."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(item) for item in ast.literal_eval(node.value)]
    return None


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as the linter's RUF022 sorts."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[:1].isupper() else 2), name


def test_all_is_there_and_sorted() -> None:
    """Every module that defines something names what is public, in order, without repetition."""
    wrong = []
    for path in modules():
        names = exported(path)
        if names is None:
            has_code = any(not isinstance(n, ast.Expr | ast.If | ast.ImportFrom) for n in
                           tree(path).body)  # fmt: skip
            if has_code:
                wrong.append(f"{relative(path)} has no __all__")
        elif names != sorted(set(names), key=_order) and names != ["__version__"]:
            wrong.append(f"{relative(path)}: __all__ is not sorted")
    assert not wrong


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_what_is_exported_exists(path: Path) -> None:
    """Each name of `__all__` can be imported from its module."""
    module = importlib.import_module(dotted(path))
    assert [name for name in exported(path) or () if not hasattr(module, name)] == []


WATCH = textwrap.dedent(
    """
    import importlib, json, os, sys

    SOURCE, NAMES = sys.argv[1], sys.argv[2:]
    seen = []

    def culprit():
        # The innermost of our frames, unless an import statement stands between it and here:
        # reading modules is what an import does.
        frame = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith("<frozen importlib"):
                return None
            if file.startswith(SOURCE):
                return f"{file[len(SOURCE) + 1:]}:{frame.f_lineno}"
            frame = frame.f_back
        return None

    WATCHED = ("open", "os.mkdir", "os.remove", "os.rename", "os.listdir", "os.scandir",
               "os.putenv", "os.unsetenv", "subprocess.Popen", "_thread.start_new_thread",
               "sqlite3.connect", "tempfile.mkdtemp", "tempfile.mkstemp")

    def hook(event, args):
        if event in WATCHED or event.startswith(("socket.", "urllib.", "shutil.")):
            where = culprit()
            if where is not None:
                seen.append(f"{where} {event} {args[:1]!r}")

    class Environment(type(os.environ)):
        def __getitem__(self, key):
            caller = sys._getframe(1)
            while caller.f_code.co_filename in (os.__file__, "<frozen os>",
                                                "<frozen _collections_abc>"):
                caller = caller.f_back
            if caller.f_code.co_filename.startswith(SOURCE):
                seen.append(f"{caller.f_code.co_filename[len(SOURCE) + 1:]}:{caller.f_lineno} "
                            f"environment {key}")
            return super().__getitem__(key)

    old = os.environ
    os.environ = Environment(old._data, old.encodekey, old.decodekey, old.encodevalue,
                             old.decodevalue)
    import threading
    start = threading.Thread.start

    def watched_start(self):
        where = culprit()
        if where is not None:
            seen.append(f"{where} starts the thread {self.name}")
        start(self)

    threading.Thread.start = watched_start
    sys.addaudithook(hook)
    for name in NAMES:
        importlib.import_module(name)
    print(json.dumps(seen))
    """
)


def test_importing_does_no_work() -> None:
    """Importing every module opens no file or socket, starts nothing, reads no environment."""
    names = [dotted(path) for path in modules()]
    ran = subprocess.run(
        [sys.executable, "-c", WATCH, str(SOURCE), *names],
        env={"PYTHONPATH": str(SOURCE.parent), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == []


def test_the_watcher_sees_work_at_import(tmp_path: Path) -> None:
    """A module that opens a file, reads the environment and starts a thread is caught."""
    package = tmp_path / "guilty"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, socket, threading\n"
        "HOME = os.environ.get('HOME')\n"
        "TEXT = open(__file__).read()\n"
        "threading.Thread(target=print, args=('',), name='t').start()\n"
        "socket.socket().close()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", WATCH, str(package), "guilty"],
        env={"PYTHONPATH": str(tmp_path), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(ran.stdout.splitlines()[-1])
    for line, what in ((2, "environment HOME"), (3, "open"), (4, "thread t"), (5, "socket")):
        assert any(found.startswith(f"__init__.py:{line} ") and what in found for found in seen)


def test_help_loads_nothing_heavy() -> None:
    """`ragdock --help` answers without NumPy, ONNX Runtime, SQLite or a web server."""
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom ragdock.cli.main import main\n"
            "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
            "heavy = {'numpy', 'onnxruntime', 'apsw', 'fastapi', 'uvicorn', 'redis'}\n"
            "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)",
        ],
        env={"PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_every_setting_is_read() -> None:
    """A setting that no module reads would be a promise that nobody keeps."""
    code = "".join(
        path.read_text(encoding="utf-8") for path in modules() if relative(path) != "settings.py"
    )
    assert [name for name in Settings.model_fields if not re.search(rf"\.{name}\b", code)] == []
