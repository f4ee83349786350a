# SPDX-License-Identifier: GPL-2.0-or-later
"""`make compare SELF=stock`: a driver against itself, 20 times over, and how often something is found.

One recording holds all operations. The first 20 inflates make the first comparison, dealt in turn as `make
compare` makes them: before, after, after, before; the next 20 the next, and so with deflates. No operation
is in two comparisons. The driver is not loaded anew in between and the probes stay attached, or it would take
hours.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tabulate import tabulate

from balloontrace.compare.inputs import read_side
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.errors import BalloontraceError
from balloontrace.format.vocabulary import Kind
from balloontrace.results.comparison import SAME, UNDECIDED, Row
from balloontrace.results.report import Report
from lab.compare_drivers import DRIVERS, EITHER_DRIVER, Plan, check_device, parse_plan, warm_up
from lab.errors import LabError
from lab.scenario import record_moves
from lab.topology_solo import solo

COMPARISONS = 20
SIZE = "256M"
RECORDING = "self.bt"
KINDS = tuple(Kind)
_CLAIMS_NOTHING = (None, UNDECIDED, SAME)
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """One comparison of a driver with itself: the row of the wall time, and the rows that claim something."""

    kind: str
    wall: Row
    claims: tuple[str, ...]


def main() -> int:
    """Record and judge, or judge the recording that is named; 1 when the lab failed."""
    try:
        plan, comparisons = parse_self(os.environ)
        recording = Path(sys.argv[1]) if sys.argv[1:] else record_self(plan, comparisons)
        outcomes = list(judge(read_report(recording), comparisons, plan.rounds))
    except LabError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(render(outcomes))
    return 0


def parse_self(environment: Mapping[str, str]) -> tuple[Plan, int]:
    """The plan, both of whose sides are SELF, and COMPARISONS. Raises LabError."""
    driver = environment.get("SELF") or next(iter(DRIVERS))
    if driver not in DRIVERS:
        raise LabError(f"SELF={driver}: the lab's drivers are {' and '.join(DRIVERS)}.")
    comparisons = environment.get("COMPARISONS") or str(COMPARISONS)
    if not comparisons.isdecimal() or not 1 <= int(comparisons) <= 999:
        raise LabError(f"COMPARISONS={comparisons}: a number from 1 to 999 is needed.")
    size = environment.get("SIZE") or SIZE
    plan = parse_plan({**environment, "SIZE": size, "BEFORE": driver, "AFTER": driver})
    return plan, int(comparisons)


def record_self(plan: Plan, comparisons: int) -> Path:
    """One recording of as many inflates and deflates as all comparisons need. Raises LabError."""
    folder = plan.out or Path(tempfile.mkdtemp(prefix="balloontrace-compare-"))
    if (folder / RECORDING).exists():
        raise LabError(f"{folder / RECORDING} exists; name another OUT, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    pairs = 2 * plan.rounds * comparisons
    _say(f"{pairs} inflates and deflates of {plan.size_mib} MiB")
    with solo(
        memory_mib=plan.memory_mib, device="backend", page_bitmap=True, backend_args=EITHER_DRIVER
    ) as guest:
        DRIVERS[plan.drivers["before"]](guest)
        warm_up(guest, plan)
        targets_mib = (plan.memory_mib - plan.size_mib, plan.memory_mib) * pairs
        recording = record_moves(guest, RECORDING, targets_mib)
        shutil.copyfile(recording, folder / RECORDING)
        check_device(guest)
    _say(f"the recording stays in {folder}")
    return folder / RECORDING


def deal(operations: Sequence[T], runs: int) -> Iterator[tuple[tuple[T, ...], tuple[T, ...]]]:
    """Each 2 * `runs` operations, dealt in turn to two sides; what is left over makes no comparison."""
    for start in range(0, len(operations) - 2 * runs + 1, 2 * runs):
        first = range(start, start + 2 * runs, 2)
        yield (
            tuple(operations[at + number % 2] for number, at in enumerate(first)),
            tuple(operations[at + 1 - number % 2] for number, at in enumerate(first)),
        )


def read_report(recording: Path) -> Report:
    """A recording, analysed. Raises LabError when it cannot be."""
    try:
        (report,) = read_side(str(recording), sys.stdin.buffer).reports
    except BalloontraceError as error:
        raise LabError(f"{error}.") from None
    return report


def judge(report: Report, comparisons: int, runs: int) -> Iterator[Outcome]:
    """What `balloontrace compare` says of each. Raises LabError when there are not enough operations."""
    name = report.header.recording
    for kind in KINDS:
        dealt = list(deal([each for each in report.operations if each.kind == kind], runs))[:comparisons]
        if len(dealt) < comparisons:
            raise LabError(f"{name} has {kind}s for {len(dealt)} comparisons of {runs} and {runs} only.")
        for sides in dealt:
            given = [Recordings(name, (replace(report, operations=side),)) for side in sides]
            (group,) = compare(given[0], given[1], (kind,)).groups
            claims = [row.label for row in group.times if row.verdict not in _CLAIMS_NOTHING]
            yield Outcome(kind, group.wall, tuple(claims))


def render(outcomes: Sequence[Outcome]) -> str:
    """A line for each comparison, and how many of each kind claim nothing."""
    rows = [
        (
            each.kind,
            *(f"{(side.median or 0) / 1e6:.1f}" for side in (each.wall.before, each.wall.after)),
            *(_number(value) for value in (each.wall.ratio, each.wall.ratio_low, each.wall.ratio_high)),
            ", ".join(each.claims) or UNDECIDED,
        )
        for each in outcomes
    ]
    headers = ("kind", "before, ms", "after, ms", "ratio", "low", "high", "claims")
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * 5, "left"))
    return "\n".join(
        [table, "", *(summary(outcomes, kind) for kind in dict.fromkeys(o.kind for o in outcomes))]
    )


def summary(outcomes: Sequence[Outcome], kind: str) -> str:
    """How many comparisons of a kind claim nothing."""
    of_kind = [each for each in outcomes if each.kind == kind]
    runs = f"{of_kind[0].wall.before.n} and {of_kind[0].wall.after.n} runs"
    return f"{kind}: ~ in {sum(not each.claims for each in of_kind)} of {len(of_kind)} comparisons of {runs}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _say(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
