"""Reindexing under load: `python bench/reindex.py [--chunks N] [--embedder]`.

A live server with readers and writers, documents whose search results are known beforehand for both
indexes, and a reindex that is killed twice on the way (`tests/support/rehearsal.py`). Exits 1 when
a query failed or found a mixture, or when an acknowledged write was lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

CHUNKS_A_DOCUMENT = 20


def main() -> int:
    """Run, print, judge."""
    from support.rehearsal import Plan, rehearse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--embedder", action="store_true", help="change the embedder, too")
    parser.add_argument("--kills", type=int, default=2)
    arguments = parser.parse_args()
    plan = Plan(
        n_documents=arguments.chunks // CHUNKS_A_DOCUMENT,
        n_paragraphs=CHUNKS_A_DOCUMENT // 2,
        n_queries=300,
        new_dim=96 if arguments.embedder else 64,
        new_chunk_tokens=40,
        n_kills=arguments.kills,
    )
    with tempfile.TemporaryDirectory(prefix="ragdock-bench-") as name:
        report = rehearse(Path(name), plan)
    answers = sum(report.answers.values())
    print(
        f"{report.n_chunks[0]} chunks -> {report.n_chunks[1]} chunks, killed {report.kills} times"
    )
    print(
        f"{report.seconds:.0f} s; writers waited {report.reindex.get('locked_seconds', 0):.2f} s "
        f"for the switch; {report.reindex.get('n_rounds')} rounds"
    )
    print(
        f"{answers} answers, p95 {report.p95_ms:.0f} ms: {report.answers['old']} of the old index, "
        f"{report.answers['new']} of the new one, {report.answers['mixed']} mixed, "
        f"{report.went_back} out of order, {len(report.errors)} failed"
    )
    print(
        f"{report.acknowledged} acknowledged writes, {len(report.lost)} lost, "
        f"{report.refused} refused until the restart"
    )
    for line in (*report.errors[:5], *report.lost[:5]):
        print(line)
    return int(bool(report.errors or report.lost or report.answers["mixed"] or report.went_back))


if __name__ == "__main__":
    sys.exit(main())
