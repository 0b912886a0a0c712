#!/usr/bin/env python3
"""Writes deploy/monitoring/grafana/dashboards/ragdock.json from the panels below.

    python scripts/dashboard.py           write it
    python scripts/dashboard.py --check   exit 1 if the file would change

Half of a dashboard's JSON is where things stand and what never differs; here is the other half.
tests/test_monitoring.py runs the check, and holds that every query names metrics that exist.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "deploy/monitoring/grafana/dashboards/ragdock.json"
COLUMNS: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
GREEN, ORANGE, RED = "green", "orange", "red"

Query = tuple[str, str]
Step = tuple[str, float | None]


def queries(pairs: Sequence[Query], *, instant: bool) -> list[dict[str, Any]]:
    """Targets, lettered as Grafana letters them."""
    return [
        {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "instant": instant,
            "legendFormat": legend,
            "range": not instant,
            "refId": chr(ord("A") + number),
        }
        for number, (expression, legend) in enumerate(pairs)
    ]


def thresholds(steps: Sequence[Step]) -> dict[str, Any]:
    """Colours from a value on; the first has none."""
    return {
        "mode": "absolute",
        "steps": [{"color": color, "value": value} for color, value in steps],
    }


def panel(
    kind: str,
    title: str,
    text: str,
    pairs: Sequence[Query],
    *,
    unit: str = "short",
    width: int = 8,
    height: int = 8,
    steps: Sequence[Step] = ((GREEN, None),),
    **field: Any,
) -> dict[str, Any]:
    """One panel; `text` is what a reader sees at its (i)."""
    instant = kind in ("stat", "table")
    return {
        "datasource": SOURCE,
        "description": text,
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": thresholds(steps), **field},
            "overrides": [],
        },
        "gridPos": {"w": width, "h": height},
        "options": {},
        "targets": queries(pairs, instant=instant),
        "title": title,
        "type": kind,
    }


def stat(title: str, text: str, expression: str, **options: Any) -> dict[str, Any]:
    """One number, coloured by its thresholds."""
    made = panel("stat", title, text, [(expression, "")], width=4, height=4, **options)
    made["options"] = {
        "colorMode": "background",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    return made


def graph(title: str, text: str, *pairs: Query, **options: Any) -> dict[str, Any]:
    """Lines over time, with a table of the last and the largest value below."""
    custom = {
        "drawStyle": "line",
        "fillOpacity": 10,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": 60_000,
        **options.pop("custom", {}),
    }
    made = panel("timeseries", title, text, pairs, custom=custom, **options)
    made["options"] = {
        "legend": {
            "calcs": ["lastNotNull", "max"],
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def states(title: str, text: str, *pairs: Query, **options: Any) -> dict[str, Any]:
    """Bars over time, one row a series, coloured by value."""
    custom = {"fillOpacity": 80, "lineWidth": 0}
    made = panel("state-timeline", title, text, pairs, custom=custom, **options)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    made["options"] = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return made


def table(title: str, text: str, expression: str, hidden: Sequence[str]) -> dict[str, Any]:
    """The series themselves, one a row."""
    made = panel("table", title, text, [(expression, "")], width=24, height=5)
    made["targets"][0]["format"] = "table"
    made["options"] = {"showHeader": True, "cellHeight": "sm"}
    made["transformations"] = [
        {"id": "organize", "options": {"excludeByName": dict.fromkeys(hidden, True)}}
    ]
    return made


def values(names: dict[float, tuple[str, str]]) -> list[dict[str, Any]]:
    """Texts and colours in place of values."""
    return [
        {
            "type": "value",
            "options": {
                f"{value:g}": {"text": text, "color": color, "index": index}
                for index, (value, (text, color)) in enumerate(names.items())
            },
        }
    ]


HEALTH = (
    'max(rag_health_status{status="unavailable"}) * 2 + max(rag_health_status{status="degraded"})'
)
OF = '{container=~"$container"}'
BY = "{{container}}"


def now() -> list[dict[str, Any]]:
    """What a glance should tell."""
    return [
        stat(
            "Health",
            "What /health says; the worst of all replicas.",
            HEALTH,
            steps=((GREEN, None), (ORANGE, 1), (RED, 2)),
            mappings=values({0: ("ok", GREEN), 1: ("degraded", ORANGE), 2: ("unavailable", RED)}),
        ),
        stat(
            "Restarts, last hour",
            "Restarts by Docker's restart policy, of all containers.",
            "sum(increase(rag_container_restarts_total[1h]))",
            steps=((GREEN, None), (ORANGE, 1), (RED, 4)),
            decimals=0,
        ),
        stat(
            "Error budget left, 14 days",
            "99.5 % of the requests are to be answered without an error of the server's.",
            "rag:error_budget:remaining14d",
            unit="percentunit",
            steps=((RED, None), (ORANGE, 0.25), (GREEN, 0.5)),
            decimals=1,
        ),
        stat(
            "p95 of questions",
            "95 % of POST /v1/ask were answered in less.",
            'rag:request_seconds:p95_5m{route="/v1/ask"}',
            unit="s",
            steps=((GREEN, None), (ORANGE, 1), (RED, 2.5)),
        ),
        stat(
            "Documents waiting",
            "Accepted and not yet searchable.",
            'sum(max by (state) (rag_queue_documents{state=~"pending|processing"}))',
            steps=((GREEN, None), (ORANGE, 100), (RED, 1000)),
        ),
        stat(
            "Documents given up",
            "Parked as failed: `ragdock jobs ls --status failed`.",
            'max(rag_queue_documents{state="failed"})',
            steps=((GREEN, None), (RED, 1)),
        ),
        table(
            "Alerts",
            "What fires now; docs/runbook.md says what to do.",
            'ALERTS{alertstate="firing"}',
            ("Time", "Value", "__name__", "alertstate", "job"),
        ),
    ]


def requests() -> list[dict[str, Any]]:
    """Rate, errors, duration."""
    quantiles = [
        graph(
            f"Latency p{n} by route",
            f"{n} % of the requests took less. Streams of events are left out.",
            (f"rag:request_seconds:p{n}_5m", "{{route}}"),
            unit="s",
        )
        for n in (50, 95, 99)
    ]
    return [
        *quantiles,
        graph(
            "Requests by route",
            "Of /v1; probes and scrapes are left out.",
            ("sum by (route) (rag:requests:rate5m)", "{{route}}"),
            unit="reqps",
        ),
        graph(
            "Requests by status",
            "499 is a client that left.",
            ("sum by (status) (rag:requests:rate5m)", "{{status}}"),
            unit="reqps",
        ),
        graph(
            "Refused, and in work",
            "Refusals by the limit that was reached; requests being worked on.",
            ("sum by (reason) (rate(rag_refused_total[5m]))", "refused: {{reason}}"),
            ("sum(rag_requests_in_flight)", "in work"),
        ),
    ]


def objective() -> list[dict[str, Any]]:
    """The error budget, and how fast it goes."""
    return [
        graph(
            "Error budget left",
            "1 is all of what 14 days may fail; at 0 it is spent.",
            ("rag:error_budget:remaining14d", "left"),
            unit="percentunit",
            width=12,
        ),
        graph(
            "Burn rate",
            "1 spends the budget in its 14 days. Alerts fire at 14.4 (an hour) and 6 (six hours).",
            ("rag:request_errors:ratio_rate5m / 0.005", "5 minutes"),
            ("rag:request_errors:ratio_rate1h / 0.005", "1 hour"),
            ("rag:request_errors:ratio_rate6h / 0.005", "6 hours"),
            width=12,
            steps=((GREEN, None), (ORANGE, 6), (RED, 14.4)),
        ),
    ]


def containers() -> list[dict[str, Any]]:
    """What Docker knows."""
    full = ((GREEN, None), (ORANGE, 0.8), (RED, 0.9))
    return [
        graph(
            "Restarts",
            "By Docker's restart policy, within the last 10 minutes; above 3 an alert fires.",
            (f"increase(rag_container_restarts_total{OF}[10m])", BY),
            steps=((GREEN, None), (RED, 3)),
        ),
        graph(
            "Starts, ends and OOM kills",
            "Events within 10 minutes, those by hand and those of child processes too.",
            (
                f'increase(rag_container_events_total{{event!="unhealthy",{OF[1:]}[10m])',
                f"{BY} {{{{event}}}}",
            ),
        ),
        states(
            "Health",
            "Red is unhealthy, orange is starting, green is healthy or has no check.",
            (
                f'max by (container) (rag_container_health{{status="unhealthy",{OF[1:]} * 2 '
                f'or rag_container_health{{status="starting",{OF[1:]})',
                BY,
            ),
            steps=((GREEN, None), (ORANGE, 1), (RED, 2)),
        ),
        graph(
            "Memory of the limit",
            "The working set: what is in use without file cache that the kernel can take back.",
            (f"rag:container_memory:ratio{OF}", BY),
            unit="percentunit",
            steps=full,
        ),
        graph(
            "Memory",
            "The same in bytes.",
            (f"rag_container_memory_working_set_bytes{OF}", BY),
            unit="bytes",
        ),
        graph(
            "CPU of the limit",
            "Time used of the time that it may use.",
            (f"rag:container_cpu:ratio_rate5m{OF}", BY),
            unit="percentunit",
            steps=full,
        ),
        graph(
            "CPU throttled",
            "Share of the periods in which the limit stopped it, of those in which it wanted CPU.",
            (f"rag:container_cpu_throttled:ratio_rate5m{OF}", BY),
            unit="percentunit",
        ),
        graph(
            "Processes and threads",
            "Of what it may have.",
            (f"rag_container_pids{OF} / rag_container_pids_limit{OF}", BY),
            unit="percentunit",
            steps=full,
        ),
        graph(
            "Network",
            "Received, and sent (below zero).",
            (f"rate(rag_container_network_receive_bytes_total{OF}[5m])", f"{BY} in"),
            (f"-rate(rag_container_network_transmit_bytes_total{OF}[5m])", f"{BY} out"),
            unit="Bps",
        ),
    ]


def caching() -> list[dict[str, Any]]:
    """The cache, in the processes and in Redis."""
    return [
        graph(
            "Cache hit rate by kind",
            "Of answers, searches and embeddings, wherever they were found.",
            ("rag:cache_hits:ratio_rate5m", "{{kind}}"),
            unit="percentunit",
            min=0,
            max=1,
        ),
        graph(
            "Redis memory",
            "At the limit it drops what was used least recently.",
            ("max(rag_redis_memory_bytes)", "used"),
            ("max(rag_redis_memory_limit_bytes)", "limit"),
            unit="bytes",
        ),
        graph(
            "Redis keys that went",
            "Evicted for want of memory, and expired.",
            ("max(rate(rag_redis_evicted_keys_total[5m]))", "evicted"),
            ("max(rate(rag_redis_expired_keys_total[5m]))", "expired"),
            unit="ops",
        ),
        graph("Redis keys", "In our database.", ("max(rag_redis_keys)", "keys")),
        graph(
            "Redis hits and misses",
            "What the processes' own caches didn't have.",
            ("max(rate(rag_redis_hits_total[5m]))", "hits"),
            ("max(rate(rag_redis_misses_total[5m]))", "misses"),
            unit="ops",
        ),
        graph(
            "Errors",
            "Calls of the cache that failed, and rate limits decided without Redis.",
            ("sum(rate(rag_cache_errors_total[5m]))", "cache"),
            ("sum(rate(rag_rate_limit_fallback_total[5m]))", "rate limits"),
            unit="ops",
        ),
    ]


def ingestion() -> list[dict[str, Any]]:
    """The queue and the models."""
    return [
        graph(
            "Queue",
            "Documents by state.",
            ("max by (state) (rag_queue_documents)", "{{state}}"),
        ),
        graph(
            "Age of the queue",
            "How long the oldest document has waited or been worked on.",
            ("max by (state) (rag_queue_oldest_seconds)", "{{state}}"),
            unit="s",
        ),
        graph(
            "Documents finished",
            "A minute, by outcome; and passages indexed.",
            ("rag:ingested_documents:rate5m * 60", "{{outcome}}"),
            ("sum(rate(rag_ingest_chunks_total[5m])) * 60", "passages"),
        ),
        graph(
            "Model time",
            "Seconds of a second that embedding (of documents and of queries) and the LLM took.",
            ('sum(rate(rag_ingest_stage_seconds_sum{stage="embed"}[5m]))', "embed documents"),
            ('sum(rate(rag_query_stage_seconds_sum{stage="embed"}[5m]))', "embed queries"),
            ('sum(rate(rag_query_stage_seconds_sum{stage="generate"}[5m])) or vector(0)', "LLM"),
            unit="s",
        ),
        graph(
            "Stages of a query, p95",
            "Without those that the cache answered.",
            (
                "histogram_quantile(0.95, sum by (stage, le) "
                "(rate(rag_query_stage_seconds_bucket[5m])))",
                "{{stage}}",
            ),
            unit="s",
        ),
        graph(
            "Stages of a document, p95",
            "Parsing, chunking, embedding and writing of a part.",
            (
                "histogram_quantile(0.95, sum by (stage, le) "
                "(rate(rag_ingest_stage_seconds_bucket[5m])))",
                "{{stage}}",
            ),
            unit="s",
        ),
        graph(
            "Answers",
            "By who wrote them and what they were; `fallback` is an LLM that failed.",
            (
                "sum by (generator, result) (rate(rag_answers_total[5m]))",
                "{{generator}} {{result}}",
            ),
            unit="ops",
        ),
        states(
            "Dependencies",
            "Red is one that doesn't answer.",
            ("min by (dependency) (rag_dependency_up)", "{{dependency}}"),
            steps=((RED, None), (GREEN, 1)),
        ),
        graph(
            "Searchable",
            "Documents and passages.",
            ("max(rag_documents)", "documents"),
            ("max(rag_chunks)", "passages"),
        ),
    ]


def data() -> list[dict[str, Any]]:
    """The disk."""
    return [
        graph(
            "Room on the disk",
            "Of the data directory's file system. When it is full, writes are refused.",
            ("min(rag_data_free_bytes)", "free"),
            ("min(rag_data_size_bytes)", "all"),
            unit="bytes",
        ),
        graph(
            "Data",
            "By part.",
            ("max by (part) (rag_data_bytes)", "{{part}}"),
            ("max(rag_queue_bytes)", "uploads that wait"),
            unit="bytes",
            custom={"stacking": {"mode": "none", "group": "A"}},
        ),
        graph(
            "Age of the last backup",
            "By `ragdock backup`; nothing until there is one.",
            ("time() - max(rag_backup_time_seconds)", "age"),
            unit="s",
        ),
    ]


ROWS = (
    ("Now", now),
    ("Requests", requests),
    ("Objective: 99.5 % of requests without an error", objective),
    ("Containers", containers),
    ("Cache and Redis", caching),
    ("Ingestion and models", ingestion),
    ("Data", data),
)


def placed() -> list[dict[str, Any]]:
    """All panels, from left to right and downwards, with ids."""
    found: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS:
        found.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [],
             "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y}}
        )  # fmt: skip
        y, x, tallest = y + 1, 0, 0
        for each in panels():
            width, height = each["gridPos"]["w"], each["gridPos"]["h"]
            if x + width > COLUMNS:
                y, x, tallest = y + tallest, 0, 0
            each["gridPos"] |= {"x": x, "y": y}
            x, tallest = x + width, max(tallest, height)
            found.append(each)
        y += tallest
    return [{"id": number, **each} for number, each in enumerate(found, 1)]


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    variable = {
        "name": "container",
        "label": "Container",
        "type": "query",
        "datasource": SOURCE,
        "query": {
            "query": "label_values(rag_container_restarts_total, container)",
            "refId": "containers",
        },
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }
    return {
        "annotations": {"list": []},
        "description": "Made by scripts/dashboard.py; docs/monitoring.md explains it.",
        "editable": False,
        "graphTooltip": 1,
        "links": [],
        "panels": placed(),
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["ragdock"],
        "templating": {"list": [variable]},
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "title": "ragdock",
        "uid": "ragdock",
        "version": 1,
    }


def main(arguments: list[str]) -> int:
    """Write the file, or with --check only say whether it is out of date."""
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    stale = not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text
    if arguments == ["--check"]:
        return int(stale)
    TARGET.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
