"""The docs tell the truth: tables, links, names, commands, and what the examples print."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from ragdock import __version__
from ragdock.adapters.metrics.tables import MEASURED, METRICS
from ragdock.ops.exporter.exposition import FAMILIES
from ragdock.settings import Settings
from support.models import model_dir

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
    ]
)


@cache
def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def text_of(name: str) -> str:
    """A file's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def all_docs() -> str:
    """Every page in one string."""
    return "\n".join(path.read_text(encoding="utf-8") for path in PAGES)


def written_docs() -> str:
    """Every page, without the recorded failures: their mistakes are what they are about."""
    return re.sub(
        r"<!-- begin failures -->.*?<!-- end failures -->", "", all_docs(), flags=re.DOTALL
    )


def code_blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [body for language, body in found if language in languages]


def name_of(page: Path) -> str:
    """The page's path, for a test's id."""
    return page.relative_to(ROOT).as_posix()


# ---- tables and names ------------------------------------------------------------------------


def test_generated_tables_are_up_to_date() -> None:
    """`python scripts/docs.py` would change nothing."""
    docs = script("docs")
    stale = [
        name_of(page)
        for page in docs.documents()
        if docs.rewritten(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")
    ]
    assert stale == [], "run python scripts/docs.py"


def test_every_table_is_used() -> None:
    """Each table that the script can make stands in a page."""
    for name in script("docs").TABLES:
        assert f"<!-- begin {name} -->" in all_docs()


def test_every_setting_is_documented() -> None:
    """The README's table has every variable of Settings, with its description."""
    readme = text_of("README.md")
    for field in Settings.model_fields.values():
        name = field.validation_alias.choices[0]  # type: ignore[union-attr]
        assert re.search(rf"^\| `{name}`(, `{name}_FILE`)? \|", readme, re.MULTILINE), name
        assert field.description


def test_no_page_names_a_setting_that_does_not_exist() -> None:
    """Every RAG_ variable in the docs is a setting."""
    known = {str(f.validation_alias.choices[0]) for f in Settings.model_fields.values()}  # type: ignore[union-attr]
    named = set(re.findall(r"\bRAG_[A-Z_]*[A-Z]\b", written_docs()))
    assert {name.removesuffix("_FILE") for name in named} <= known


def test_every_command_is_documented_by_example_or_table() -> None:
    """The README names every command of the command line."""
    for name, text in script("docs").commands():
        assert f"`ragdock {name}`" in text_of("README.md")
        assert text


def test_every_command_in_the_docs_exists() -> None:
    """Every `ragdock ...` in a code block begins with a command that exists."""
    names = {name for name, _ in script("docs").commands()}
    for page in PAGES:
        for block in code_blocks(page.read_text(encoding="utf-8"), "sh", "console"):
            for words in re.findall(r"^(?:\$ )?ragdock ((?:[a-z]+ ?){1,2})", block, re.MULTILINE):
                first, _, second = words.strip().partition(" ")
                assert first in names or f"{first} {second}" in names, (name_of(page), words)


def test_every_route_is_documented_and_shown() -> None:
    """The README lists every route, and an example calls each path."""
    readme = text_of("README.md")
    shown = "\n".join(code_blocks(readme, "console", "sh"))
    for method, path, text in script("docs").routes():
        assert f"`{method} {path}`" in readme
        assert text, path
        pattern = re.sub(r"\\\{[a-z_]+\\\}", r"[A-Za-z0-9._-]+", re.escape(path))
        assert re.search(rf"http://localhost:8000{pattern}(?=[\s'?]|$)", shown), path


def test_every_route_of_the_api_is_known_to_the_docs() -> None:
    """The modules that the script reads are all that the application serves."""
    from ragdock.api.app import create_app

    served = set(create_app(Settings.load()).openapi()["paths"])
    assert served <= {path for _, path, _ in script("docs").routes()}


def test_every_metric_is_documented() -> None:
    """The operations page has every metric; no page names one that doesn't exist."""
    names = {spec[1] for spec in METRICS.values()} | {spec[1] for spec in MEASURED.values()}
    operations = text_of("docs/operations.md")
    for name in names:
        assert f"| `{name}` |" in operations
    of_containers = {spec[1] for spec in FAMILIES.values()}
    for name in of_containers:
        assert f"| `{name}` |" in text_of("docs/monitoring.md")
    used = set(re.findall(r"\brag_[a-z_]+[a-z]\b", all_docs()))
    bases = {re.sub(r"_(count|sum|bucket)$", "", name) for name in used}
    assert bases <= names | of_containers


def test_every_dependency_has_a_reason() -> None:
    """Each dependency of pyproject.toml stands in the table of decisions, and no other."""
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["model"], *extras["ocr"]]
    names = {re.split(r"[<>=\[;]", item)[0] for item in wanted}
    rows = re.findall(
        r"^\| `([a-z0-9-]+)`[^|]*\| [^|]{10,} \| (\d{4}) \|$",
        text_of("docs/decisions/README.md"),
        re.MULTILINE,
    )
    assert {name for name, _ in rows} == names
    for _, number in rows:
        assert list((ROOT / "docs/decisions").glob(f"{number}-*.md"))


def test_every_decision_is_listed_and_complete() -> None:
    """Each decision says what, why and at what cost, and stands in the list."""
    overview = text_of("docs/decisions/README.md")
    for path in (ROOT / "docs/decisions").glob("[0-9]*.md"):
        text = path.read_text(encoding="utf-8")
        assert f"({path.name})" in overview
        for part in ("**Decided.**", "**Why.**", "**Costs.**"):
            assert part in text, path.name


def test_the_pinned_hashes_are_those_of_the_code() -> None:
    """The decision on the model quotes the hashes that the build checks."""
    build = text_of("src/ragdock/adapters/embedders/minilm_build.py")
    decision = text_of("docs/decisions/0002-embedding-model.md")
    for sha256 in re.findall(r'_SHA256: Final = "([0-9a-f]{64})"', build):
        assert sha256 in decision


def test_the_layout_shows_what_is_there() -> None:
    """Every module and package of the layout exists, and none of the package's is missing."""
    layout = code_blocks(text_of("docs/architecture.md"), "text")[0]
    shown = set(re.findall(r"^  (\w+(?:\.py|/))", layout, re.MULTILINE))
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "src/ragdock").iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert shown == there - {"__init__.py", "__main__.py"}


# ---- links, files, versions ------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_resolve(page: Path) -> None:
    """Every relative link names a file that exists, and every anchor a heading in it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"),
                  flags=re.DOTALL | re.MULTILINE)  # fmt: skip
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, target


def test_every_page_is_linked() -> None:
    """A reader of the README can reach every page of docs/."""
    reached: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            linked = (page.parent / target).resolve()
            if linked.is_dir():
                linked /= "README.md"
            if linked.suffix == ".md" and linked.exists():
                todo.append(linked)
    assert {page for page in PAGES if page.parent != ROOT} <= reached


def test_the_changelog_has_the_version() -> None:
    """The package's version is pyproject's, and has a section in the change log."""
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert project["version"] == __version__
    assert f"## [{__version__}]" in text_of("CHANGELOG.md")
    assert f"ARG VERSION={__version__}" in text_of("Dockerfile")


# ---- commands --------------------------------------------------------------------------------


def test_make_targets_in_the_docs_exist() -> None:
    """Every `make TARGET` that a page names is a target, and the wanted ones are described."""
    targets = set(re.findall(r"^([a-z-]+):(?!=)", text_of("Makefile"), re.MULTILINE))
    described = {name for name, _ in script("docs").targets()}
    assert {
        "help", "serve", "test", "check", "image", "up", "down", "bench", "eval", "test-llm",
        "test-container",
    } <= described  # fmt: skip
    code = re.findall(r"`([^`\n]+)`", all_docs()) + code_blocks(all_docs(), "sh", "console")
    named = {target for item in code for target in re.findall(r"(?:^|\s)make ([a-z][a-z-]*)", item)}
    assert {"serve", "test"} <= named <= targets


def test_the_quick_start_is_word_for_word() -> None:
    """The README's Docker block holds the five commands, in order."""
    blocks = code_blocks(text_of("README.md"), "sh")
    assert (
        "docker build -t rag-api:latest .\n"
        "docker-compose up -d\n"
        "curl http://localhost:8000/health\n"
        "docker-compose logs -f web\n"
        "docker-compose down\n"
    ) in blocks
    named = "\n".join(blocks)
    for command in (
        "python m3_1_dockerize.py --serve",
        "python m3_1_dockerize.py --health",
        "python tests_docker_sanity.py",
        "make serve",
        "make test",
    ):
        assert re.search(rf"^{re.escape(command)}(\s|$)", named, re.MULTILINE), command


def test_compose_services_in_the_docs_exist() -> None:
    """Every service that a compose command names is in the compose file."""
    services = set(yaml.safe_load(text_of("docker-compose.yml"))["services"])
    for page in PAGES:
        for block in code_blocks(page.read_text(encoding="utf-8"), "sh"):
            for line in re.findall(
                r"docker-compose (?:exec|stop|start|restart|logs|ps) ([^|)\n\"]+)", block
            ):
                words = [w for w in line.split("#")[0].split() if not w.startswith("-")]
                words = [w for w in words if not w.isdigit()]
                if words:
                    assert words[0] in services, (name_of(page), line)


def test_files_that_commands_name_exist() -> None:
    """`python FILE` and `scripts/FILE` in the docs name files of the repository."""
    pattern = r"(?:python |`|\s)((?:scripts/)?[a-z0-9_]+\.(?:py|sh))\b"
    for name in re.findall(pattern, written_docs()):
        known = [ROOT / name, *ROOT.glob(f"src/ragdock/**/{name}"), *ROOT.glob(f"tests/**/{name}")]
        assert any(path.exists() for path in known), name


def test_named_failures_have_symptom_cause_and_fix() -> None:
    """The five failures of the request are in the README, each with something to paste."""
    section = text_of("README.md").split("## Troubleshooting")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line.startswith("| ") and "---" not in line
    ][1:]
    assert len(rows) == 5
    for words, row in zip(
        ("port", "/data", "REDIS_HOST=localhost", "rebuild", "137"), rows, strict=True
    ):
        assert words in " ".join(row)
        assert all(row)
        assert "`" in row[2]


def test_the_masks_hide_only_what_varies() -> None:
    """Comparing examples ignores times and measured numbers, and sees any other change."""
    masked = script("examples").masked
    assert masked('"total": 1.25, "at": "2026-01-02T03:04:05.678+00:00"') == masked(
        '"total": 3.5, "at": "2027-02-03T04:05:06.789+00:00"'
    )
    assert masked('"answer": "90 days"') != masked('"answer": "30 days"')
    assert masked('"start": 12') != masked('"start": 13')


def test_examples_are_there() -> None:
    """The README holds a cited answer from a real run."""
    assert len(script("examples").examples(ROOT / "README.md")) >= 20
    readme = text_of("README.md")
    assert '"citations": [' in readme
    assert '"quote": ' in readme


@pytest.mark.model
def test_examples_print_what_the_docs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of the docs, run against a real server, prints what stands below it."""
    examples = script("examples")
    monkeypatch.setenv("RAG_MODEL_DIR", str(model_dir().resolve()))
    for page in examples.pages():
        written = page.read_text(encoding="utf-8")
        with examples.server() as (url, directory):
            printed = examples.rewritten(written, url, directory)
        assert examples.masked(printed).splitlines() == examples.masked(written).splitlines()


def test_citations_in_the_readme_are_literal() -> None:
    """The README's first quotation is the sample document's text between its offsets."""
    block = next(b for b in code_blocks(text_of("README.md"), "console") if '"citations": [' in b)
    answer = json.loads(block[block.index("\n{") :])
    for citation in answer["citations"]:
        source = ROOT / "src/ragdock/samples/handbook" / citation["filename"]
        text = source.read_text(encoding="utf-8")
        assert text[citation["start"] : citation["end"]] == citation["quote"]
        assert f"[{citation['marker']}]" in answer["answer"]
