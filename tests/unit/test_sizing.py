"""From a corpus and a load to a machine, and what is said about wrong input."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdock.cli.main import main
from ragdock.core.sizing import Constants, Demand, Kind, Prices, flows, passages, plan
from ragdock.errors import InputError
from ragdock.ops.sizing import read_constants, shipped_constants

CONSTANTS = replace(
    shipped_constants(),
    kinds={
        "hit": Kind(0.5, 0.6, 0.3, 0.5),
        "ask": Kind(60, 40, 0.2, 12),
        "ask_llm": Kind(12, 12, 0.2, 5),
        "search_hit": Kind(0.5, 0.6, 0.3, 0.5),
        "search": Kind(8, 8, 0.2, 3),
        "upload": Kind(3, 6, 0.5, 2),
    },
    n_chunks=0,
    scan_ms_per_100k=12.8,
    ingest_cpu_ms_per_chunk=20,
    characters_per_chunk=750,
    process_mb=120,
    extra_process_mb=110,
    cache_mb=40,
    parser_mb=50,
    memory_bytes_per_chunk=400,
    disk_bytes_per_chunk=1700,
    disk_bytes_per_character=2.3,
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code, and what was written to both outputs."""
    with pytest.raises(SystemExit) as left:
        main(["sizing", *arguments])
    written = capsys.readouterr()
    return int(left.value.code or 0), written.out, written.err


def test_the_shipped_constants_are_whole() -> None:
    """They parse, say where they come from, and give a plan for the defaults."""
    shipped = shipped_constants()
    assert shipped.origin
    assert shipped.machine
    assert plan(Demand(), shipped).feasible


def test_a_small_load_needs_a_small_machine() -> None:
    """One question a second over a thousand documents is one processor and one process."""
    found = plan(Demand(asks_per_second=1), CONSTANTS)
    assert (found.replicas, found.cpus, found.workers) == (1, 1, 1)
    assert found.prediction.p95_ms <= 1000
    assert found.settings["RAG_WORKERS"] == "1"


def test_more_questions_need_more_processors_then_more_machines() -> None:
    """The plan keeps target and utilisation at every rate, with processors before machines."""
    sizes = []
    for rate in (1, 20, 60, 400):
        found = plan(Demand(asks_per_second=rate, max_cpus=4), CONSTANTS)
        assert found.feasible
        assert found.prediction.p95_ms <= 1000
        assert found.prediction.utilisation <= 0.7
        sizes.append(found.replicas * found.cpus)
        assert (found.replicas > 1) == (found.replicas * found.cpus > 4)
    assert sizes == sorted(sizes)
    assert sizes[-1] > 16


def test_the_smallest_machine_is_taken() -> None:
    """With one processor less, the target or the utilisation would be missed."""
    found = plan(Demand(asks_per_second=40), CONSTANTS)
    assert found.cpus > 1
    less = plan(Demand(asks_per_second=40, max_cpus=found.cpus - 1), CONSTANTS)
    assert less.replicas > 1


def test_a_target_below_one_request_is_refused_with_its_reason() -> None:
    """No number of machines makes one request faster; the plan says what the p95 alone is."""
    found = plan(Demand(target_p95_ms=20, hit_share=0.1), CONSTANTS)
    assert not found.feasible
    assert any("idle server" in warning for warning in found.warnings)


def test_copies_big_collections_and_hits_are_warned_about() -> None:
    """What the model or the release can't do is said."""
    found = plan(Demand(chunks=2_000_000, asks_per_second=60, hit_share=0.6, max_cpus=2), CONSTANTS)
    text = " ".join(found.warnings)
    for words in ("serves a copy", "Divide the corpus", "hit_share"):
        assert words in text


def test_an_llm_that_is_short_of_places_is_found_out() -> None:
    """More processes bring more places, and the plan takes as many as the LLM's load wants."""
    few = plan(Demand(asks_per_second=10, llm_median_ms=1000, target_p95_ms=8000), CONSTANTS)
    assert few.prediction.llm_utilisation <= 0.7
    assert few.replicas * few.workers * 8 * 0.7 >= 7


def test_uploads_take_processors_and_a_parsers_memory() -> None:
    """A million documents a day keep processors busy before the first question."""
    quiet = plan(Demand(), CONSTANTS)
    busy = plan(Demand(uploads_per_day=20_000), CONSTANTS)
    assert busy.background_cpus == pytest.approx(20_000 / 86_400 * (8 * 1024 / 750 + 0.5) * 0.02)
    assert busy.memory.parser_mb > quiet.memory.parser_mb == 0
    assert busy.prediction.utilisation > quiet.prediction.utilisation


def test_memory_and_disk_are_linear_in_the_corpus() -> None:
    """Ten times the passages add nine times the bytes of one."""
    small = plan(Demand(documents=10_000), CONSTANTS)
    large = plan(Demand(documents=100_000), CONSTANTS)
    assert large.chunks == pytest.approx(10 * small.chunks, rel=1e-4)
    assert large.memory.vectors_mb == pytest.approx(10 * small.memory.vectors_mb, rel=1e-3)
    assert large.disk.store_gb == pytest.approx(10 * small.disk.store_gb, rel=1e-2)
    assert large.disk.volume_gb >= 2 * large.disk.store_gb


def test_passages_follow_from_documents() -> None:
    """A document is its characters over a passage's and half a passage; a known number wins."""
    assert passages(Demand(documents=100, mean_kb=7.5), CONSTANTS) == math.ceil(
        100 * (7.5 * 1024 / 750 + 0.5)
    )
    assert passages(Demand(documents=100, mean_kb=0.01), CONSTANTS) == 100
    assert passages(Demand(documents=100, chunks=7), CONSTANTS) == 7


def test_larger_corpora_take_longer_to_search() -> None:
    """100,000 passages more add what was measured to an uncached question, none to a cached."""
    before = {flow.name: flow for flow in flows(Demand(), CONSTANTS, 0)}
    after = {flow.name: flow for flow in flows(Demand(), CONSTANTS, 100_000)}
    assert after["ask"].alone_ms - before["ask"].alone_ms == pytest.approx(12.8)
    assert after["hit"] == before["hit"]


def test_the_cost_is_prices_times_needs() -> None:
    """Each part is its price, and the parts are the whole."""
    prices = Prices(0.05, 0.01, 0.2, 0.001, "EUR")
    demand = Demand(asks_per_second=2, hit_share=0.5, llm_median_ms=500, target_p95_ms=5000)
    found = plan(demand, CONSTANTS, prices)
    assert found.cost.cpu == pytest.approx(found.replicas * found.cpus * 0.05 * 730)
    assert found.cost.disk == pytest.approx(found.replicas * found.disk.volume_gb * 0.2)
    assert found.cost.llm == pytest.approx(1 * 3600 * 730 * 0.001)
    total = found.cost.cpu + found.cost.memory + found.cost.disk + found.cost.llm
    assert found.cost.month == pytest.approx(total)
    assert found.cost.currency == "EUR"


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(0.01, 200),
    hits=st.floats(0, 1),
    documents=st.integers(1, 200_000),
    uploads=st.floats(0, 50_000),
    llm=st.sampled_from([0.0, 300.0, 2000.0]),
    target=st.floats(50, 20_000),
)
def test_every_demand_has_a_plan_that_keeps_its_word(
    rate: float, hits: float, documents: int, uploads: float, llm: float, target: float
) -> None:
    """Feasible plans keep target and utilisation, others say why not; nothing raises."""
    found = plan(
        Demand(
            documents=documents,
            asks_per_second=rate,
            hit_share=hits,
            uploads_per_day=uploads,
            llm_median_ms=llm,
            target_p95_ms=target,
            max_cpus=4,
        ),
        CONSTANTS,
    )
    if found.feasible:
        assert found.prediction.p95_ms <= target
        assert found.prediction.utilisation <= 0.7
        assert found.max_per_second >= 0.95 * found.prediction.per_second
    else:
        assert found.warnings
    assert found.memory.limit_mb >= found.memory.needed_mb


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"hit_share": 1.5}, "hit_share"),
        ({"mean_kb": 0}, "mean_kb"),
        ({"documents": -1}, "documents"),
        ({"max_cpus": 0}, "max_cpus"),
        ({"max_utilisation": 1.0}, "max_utilisation"),
        ({"target_p95_ms": 0}, "target_p95_ms"),
        ({"asks_per_second": 0}, "asks_per_second"),
        ({"llm_median_ms": 900, "llm_p95_ms": 100}, "llm_p95_ms"),
        ({"asks_per_second": math.nan}, "asks_per_second"),
    ],
)
def test_wrong_demands_name_field_value_and_remedy(values: dict[str, Any], field: str) -> None:
    """The error has the field, what was given, and what to do."""
    with pytest.raises(InputError) as raised:
        Demand(**values)
    assert raised.value.field == field
    assert f"{field}={values[field]}" in str(raised.value)
    assert ";" in str(raised.value) or ":" in str(raised.value)


def test_wrong_prices_name_themselves() -> None:
    """A negative price is no price."""
    with pytest.raises(InputError, match="per_gb_hour=-1 is no price"):
        Prices(per_gb_hour=-1)


def _as_json(constants: Constants) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(constants)))  # type: ignore[no-any-return]


def test_constants_are_read_from_either_form(tmp_path: Path) -> None:
    """The object itself, or a file of `bench/run.py --json` that holds it as `sizing`."""
    plain, wrapped = tmp_path / "a.json", tmp_path / "b.json"
    plain.write_text(json.dumps(_as_json(CONSTANTS)))
    wrapped.write_text(json.dumps({"query": [], "sizing": _as_json(CONSTANTS)}))
    assert read_constants(plain) == read_constants(wrapped) == CONSTANTS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("process_mb"), "constants.process_mb is missing"),
        (lambda d: d.update(cache_mb="much"), "constants.cache_mb='much' must be a number"),
        (lambda d: d.update(cache_mb=-1), "constants.cache_mb=-1 must be"),
        (lambda d: d.update(cache_mb=True), "constants.cache_mb=True must be"),
        (lambda d: d["kinds"].pop("ask"), "constants.kinds.ask is missing"),
        (lambda d: d["kinds"]["hit"].pop("scv"), "constants.kinds.hit.scv=None"),
        (lambda d: d.update(kinds=[]), "constants.kinds is no JSON object"),
    ],
)
def test_wrong_constants_name_the_field_and_the_remedy(
    tmp_path: Path, change: Any, words: str
) -> None:
    """Which member is wrong, and how to measure new ones."""
    given = _as_json(CONSTANTS)
    change(given)
    file = tmp_path / "constants.json"
    file.write_text(json.dumps(given))
    with pytest.raises(InputError) as raised:
        read_constants(file)
    assert words in str(raised.value)
    assert "make sizing-constants" in str(raised.value)


def test_files_that_cant_be_read_are_named(tmp_path: Path) -> None:
    """A missing file and one that isn't JSON are errors of the option."""
    (tmp_path / "text").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        read_constants(tmp_path / "absent.json")
    with pytest.raises(InputError, match="is not JSON"):
        read_constants(tmp_path / "text")


def test_the_command_prints_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Machines, memory, disk, latencies, cost, and that prices are assumptions."""
    code, out, _ = run(capsys, "--documents", "20000", "--asks-per-second", "3")
    assert code == 0
    for words in ("machines", "processes", "memory", "disk", "p50, p95, p99", "knee", "cost"):
        assert words in out
    assert "assumptions" in out


def test_the_command_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked, what it costs and what was planned, with null for what is endless."""
    code, out, _ = run(capsys, "--asks-per-second", "2", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["demand"]["asks_per_second"] == 2
    assert found["plan"]["prediction"]["p95_ms"] > 0
    code, out, _ = run(capsys, "--target-p95-ms", "1", "--asks-per-second", "500", "--json")
    assert code == 1
    assert json.loads(out)["plan"]["prediction"]["p95_ms"] is None


def test_the_command_refuses_wrong_values(capsys: pytest.CaptureFixture[str]) -> None:
    """A value out of range is exit code 2 and one sentence."""
    code, _, err = run(capsys, "--hit-share", "7")
    assert code == 2
    assert "hit_share=7.0 must be 0 to 1" in err
