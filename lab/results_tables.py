# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of docs/results.md, made of reports of both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balloontrace.units import format_count, format_duration_ns, format_share
from lab.errors import LabError

BEGIN, END = "<!-- made by make results: begin -->\n", "<!-- made by make results: end -->\n"
MARKS = "<!-- made by make results, {name}: {end} -->\n"
STAGES = ("a", "b", "c", "d", "other")
HEADERS = ("memory", "kind", "wall", "GiB/s", *STAGES, "sends", "discards")
COUNTED_SHARE = 0.05  # a stage that is smaller is not held to anything
_GIB_BYTES = 1 << 30
_PAGE_BYTES = 4096

Json = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One inflate or deflate as the report of both sides has it."""

    kind: str
    pages: int
    wall_ns: int
    stages_ns: dict[str, int]
    sends: int
    calls: int | None


@dataclass(frozen=True)
class Run:
    """One pair of recordings."""

    kernel: str
    version: str
    operations: tuple[Operation, ...]
    clock_error_ns: int | None


def read_run(guest: Path, host: Path) -> Run:
    """What the tool reports of two recordings. Raises LabError."""
    return parse_run(read_report(guest, host))


def read_report(*recordings: Path) -> Json:
    """The JSON of a report. Raises LabError."""
    words = [sys.executable, "-m", "balloontrace", "report", "--format", "json", *map(str, recordings)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{', '.join(each.name for each in recordings)}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def parse_run(report: Json) -> Run:
    """A run from the JSON of a report."""
    return Run(
        kernel=report["header"]["machine"]["kernel_release"],
        version=report["header"]["tool_version"],
        operations=tuple(parse_operation(each) for each in report["operations"]),
        clock_error_ns=report["host"]["pairing"]["clock_error_ns"],
    )


def parse_operation(operation: Json) -> Operation:
    """An operation from the JSON of a report."""
    served = operation["served"]
    return Operation(
        kind=operation["kind"],
        pages=operation["pages"],
        wall_ns=operation["wall_ns"],
        stages_ns={row["stage"]: row["total_ns"] for row in operation["stages"] if row["part_of"] is None},
        sends=operation["sends"],
        calls=served["calls"] if served else None,
    )


def render_tables(
    rows: Sequence[tuple[str, Sequence[str], Run | None]], repeats: Sequence[Sequence[Run | None]], qemu: str
) -> str:
    """All tables, as Markdown. `rows`: title, what memory was taken in turn, and the run if there is one.

    `repeats` are the runs of the same scenario, for each of them.
    """
    found = [run for _, _, run in rows if run is not None]
    return "\n".join(
        [
            render_versions(found, qemu),
            *(render_run(title, moves, run) for title, moves, run in rows if run is not None),
            *(render_spread([run for run in runs if run]) for runs in repeats if sum(map(bool, runs)) > 1),
        ]
    )


def render_versions(runs: Sequence[Run], qemu: str) -> str:
    """Of what these runs are."""
    kernels = ", ".join(sorted({run.kernel for run in runs}))
    versions = ", ".join(sorted({run.version for run in runs}))
    return f"Both kernels {kernels}; {qemu} around the host; balloontrace {versions}.\n"


def render_run(title: str, moves: Sequence[str], run: Run) -> str:
    """One scenario: a row for each operation."""
    memory = [name for name in moves for _ in ("inflate", "deflate")]
    lines = [
        f"### {capitalised(title)}", "",
        f"| {' | '.join(HEADERS)} |", f"|---|---|{'---:|' * (len(HEADERS) - 2)}",
        *(f"| {' | '.join(cells(name, each))} |" for name, each in zip(memory, run.operations, strict=True)),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def cells(memory: str, operation: Operation) -> tuple[str, ...]:
    """One row."""
    gib_per_s = operation.pages * _PAGE_BYTES / _GIB_BYTES / (operation.wall_ns / 1e9)
    return (
        memory,
        operation.kind,
        format_duration_ns(operation.wall_ns),
        f"{gib_per_s:.2f}",
        *(_stage(operation, name) for name in STAGES),
        format_count(operation.sends),
        format_count(operation.calls),
    )


def render_spread(runs: Sequence[Run]) -> str:
    """How far several runs of one scenario are apart: the wall time, and each stage of at least 5 %."""
    lines = [
        f"### The same {len(runs)} times", "",
        "The largest difference between any two runs, in percent of the smaller one: the wall time and each",
        "stage of 5 % and more.", "",
        f"| operation | wall | {' | '.join(STAGES)} |", f"|---|{'---:|' * (len(STAGES) + 1)}",
    ]  # fmt: skip
    for number, same in enumerate(zip(*(run.operations for run in runs), strict=True), 1):
        walls = [each.wall_ns for each in same]
        spreads = [_spread(walls), *(_stage_spread(same, name) for name in STAGES)]
        lines.append(f"| {number} {same[0].kind} | {' | '.join(spreads)} |")
    return "\n".join([*lines, ""])


def replace_tables(page: str, tables: str, titles: Sequence[str]) -> str:
    """The page with other tables between its two marks. Raises LabError when they are not there.

    A table that is not among the new ones stays: its recordings are elsewhere. `titles` says the order.
    """
    before, old, after = split_page(page, BEGIN, END)
    head, sections = split_sections(tables)
    kept = split_sections(old)[1] | sections
    order = [*(title for title in titles if title in kept), *(title for title in kept if title not in titles)]
    merged = "\n".join(part.strip("\n") + "\n" for part in (head, *(kept[title] for title in order)))
    return f"{before}{BEGIN}\n{merged}\n{END}{after}"


def replace_between(page: str, name: str, text: str) -> str:
    """The page with `text` where `name` has its marks. Raises LabError when they are not there."""
    begin, end = (MARKS.format(name=name, end=end) for end in ("begin", "end"))
    before, _, after = split_page(page, begin, end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def split_page(page: str, begin: str, end: str) -> tuple[str, str, str]:
    """What is before, between and after two marks. Raises LabError."""
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise LabError("docs/results.md has no place for the tables.")
    before, rest = page.split(begin)
    old, after = rest.split(end)
    return before, old, after


def split_sections(tables: str) -> tuple[str, dict[str, str]]:
    """What is before the first table, and the tables by their titles."""
    head, *parts = tables.split("\n### ")
    return head, {part.split("\n")[0]: f"### {part}" for part in parts}


def capitalised(title: str) -> str:
    """A scenario's title as it stands above its table."""
    return f"{title[0].upper()}{title[1:]}"


def _stage(operation: Operation, name: str) -> str:
    total_ns = operation.stages_ns.get(name)
    if total_ns is None:
        return "-"
    return f"{format_duration_ns(total_ns)}, {format_share(total_ns / operation.wall_ns)}"


def _stage_spread(same: Sequence[Operation], name: str) -> str:
    totals_ns = [each.stages_ns.get(name) for each in same]
    known_ns = [total_ns for total_ns in totals_ns if total_ns is not None]
    if len(known_ns) < len(same) or max(known_ns) < COUNTED_SHARE * same[0].wall_ns:
        return "-"
    return _spread(known_ns)


def _spread(values_ns: Sequence[int]) -> str:
    return f"{100 * (max(values_ns) / min(values_ns) - 1):.1f} %" if min(values_ns) > 0 else "-"
