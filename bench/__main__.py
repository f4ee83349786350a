# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: measure every figure, or those named, print a line each, fail when one misses its target.

ONLY=name measures one figure (and whatever is measured with it), or a group; BENCH_JSON=file receives all as
JSON. ONLY=soak takes half an hour or more, and is made only so.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from bench import (
    bitmap_overhead,
    both_sides_cost,
    compare_folders,
    coverage,
    decode_payloads,
    fleet,
    getting_ready,
    host_overhead,
    host_vms,
    html_report,
    matching,
    overhead,
    page_reporting_overhead,
    reporting,
    reporting_while_inflating,
    startup,
    strangers,
)
from bench.figures import Benchmark, Figure
from lab.script import run

BENCHMARKS: tuple[Benchmark, ...] = (
    *decode_payloads.BENCHMARKS,
    *fleet.BENCHMARKS,
    *reporting.BENCHMARKS,
    *compare_folders.BENCHMARKS,
    *coverage.BENCHMARKS,
    *html_report.BENCHMARKS,
    *matching.BENCHMARKS,
    *startup.BENCHMARKS,
    *getting_ready.BENCHMARKS,
    *strangers.BENCHMARKS,
    *overhead.BENCHMARKS,
    *page_reporting_overhead.BENCHMARKS,
    *reporting_while_inflating.BENCHMARKS,
    *bitmap_overhead.BENCHMARKS,
    *host_overhead.BENCHMARKS,
    *host_vms.BENCHMARKS,
    *both_sides_cost.BENCHMARKS,
)


def main() -> int:
    """Run the benchmarks; 0 when every target is met, 1 when one is short, 2 for an unknown name."""
    only = os.environ.get("ONLY", "")
    chosen = [
        benchmark
        for benchmark in BENCHMARKS
        if (not only and not benchmark.long) or only in (*benchmark.names, benchmark.group)
    ]
    if not chosen:
        names = ", ".join(name for benchmark in BENCHMARKS for name in benchmark.names)
        print(f"bench: no figure is called {only}; there are {names}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    for benchmark in chosen:
        for figure in benchmark.measure():
            if only in ("", figure.name, benchmark.group):
                figures.append(figure)
                print(figure.line(), flush=True)
    target = os.environ.get("BENCH_JSON")
    if target:
        Path(target).write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    return int(any(figure.verdict == "SHORT" for figure in figures))


if __name__ == "__main__":
    run(main, __doc__)
