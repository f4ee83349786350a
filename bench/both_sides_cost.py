# SPDX-License-Identifier: GPL-2.0-or-later
"""What recorders cost a balloon, on a host that counts instructions: none, either side's, both, both by bcc.

Stage d, less what tracing adds to it, is also held against bpftrace's measure of the same calls.

The guest's stopwatch times every move, whoever records. `python -m bench.both_sides_cost` prints the table of
docs/overhead.md: the wall time, and each stage that these recorders see.
"""

from __future__ import annotations

import math
import secrets
import signal
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
from balloontrace.format.vocabulary import Kind
from balloontrace.units import format_duration_ns
from bench.bpftrace_calls import measure_added_ns, timed_calls
from bench.figures import Benchmark, Figure, say
from bench.overhead import time_move
from lab.boot_retries import retry_lost
from lab.results_tables import parse_operation, read_report
from lab.scenario import END_S, START_S
from lab.script import run

GUEST_MIB = 1024
INFLATE_MIB = 512
ROUNDS = 2
# In a host VM each sample that the stopwatch takes, and each look outside, takes the host's time.
STOPWATCH = ("--interval-us", "20000")
LOOK_EVERY_S = 2.0
MOVE_S = 600
# Estimates may be so far off what is traced, less what tracing added, beyond the error that they show.
MOST_PERCENT_OFF = 2.0
# One call a page takes 6 100 ns of the host untraced; a pair of empty programs alone makes that 5 % more.
MOST_PERCENT = {"guest": 2.0, "host": 15.0, "both": 17.0, "sampled": 0.5}
# A deflate takes the host less time for a buffer: what a timer takes for each is more of it.
MOST_PERCENT_DEFLATE = {**MOST_PERCENT, "sampled": 1.0}
WANTED_PERCENT = {"guest": 0.5, "host": 3.0, "both": 3.5, "sampled": 0.5}
KINDS = (Kind.INFLATE, Kind.DEFLATE)
WALL, SERVED = "wall", "b+c+d"
COLUMNS = (WALL, "a", SERVED, "b", "c", "d", "other")
CALLS = {"madvise_dontneed": Kind.INFLATE, "madvise_willneed": Kind.DEFLATE}
ADVICES = {4: Kind.INFLATE, 3: Kind.DEFLATE}  # MADV_DONTNEED and MADV_WILLNEED, as QEMU's balloon gives them

Json = dict[str, Any]
# Nanoseconds of each run, by kind and column.
Times = dict[tuple[Kind, str], list[float]]


@dataclass(frozen=True)
class Mode:
    """Which recorders are at work. Their stages are held against those of the mode `against`."""

    name: str
    sides: Sequence[str] = ()
    engine: str = "prebuilt"
    sampled: bool = False  # the host's calls
    is_bpftrace: bool = False


NONE, GUEST, HOST, BOTH = Mode("none"), Mode("guest", ("guest",)), Mode("host", ("host",)), ("host", "guest")
SAMPLED, BOTH_SAMPLED = Mode("sampled", HOST.sides, sampled=True), Mode("both, sampled", BOTH, sampled=True)
BOTH_TRACED = Mode("both", BOTH)
BPFTRACE = Mode("bpftrace", is_bpftrace=True)
MODES = (NONE, GUEST, HOST, SAMPLED, BOTH_TRACED, BOTH_SAMPLED, Mode("both, bcc", BOTH, "bcc"), BPFTRACE)


def measure_cost() -> Iterator[Figure]:
    """How much longer an inflate and a deflate take with recorders, in percent."""
    times = retry_lost(measure_modes)
    for name in MOST_PERCENT:
        for kind, most in zip(KINDS, (MOST_PERCENT[name], MOST_PERCENT_DEFLATE[name]), strict=True):
            percent = longer_percent(times[name][kind, WALL], times[NONE.name][kind, WALL])
            wanted = WANTED_PERCENT.get(name)
            yield Figure(f"{name}_recorder_{kind}_overhead", percent, "%", at_most=most, wanted=wanted)
    traced, sampled = times[BOTH_TRACED.name], times[BOTH_SAMPLED.name]
    for stage in "cd":
        percent = off_percent(traced, sampled, (Kind.INFLATE, stage))
        yield Figure(f"sampled_{stage}_off", percent, "%", at_most=MOST_PERCENT_OFF)
    for kind in KINDS:
        found_ns, wanted_ns = (
            less_tracing_ns(traced, kind, "d"),
            statistics.mean(times[BPFTRACE.name][kind, "d"]),
        )
        say(f"{kind} d: {found_ns / 1e6:.2f} ms, {wanted_ns / 1e6:.2f} by bpftrace")
        percent = 100 * abs(found_ns / wanted_ns - 1)
        yield Figure(f"{kind}_d_off_bpftrace", percent, "%", at_most=MOST_PERCENT_OFF)


def off_percent(traced: Times, sampled: Times, what: tuple[Kind, str]) -> float:
    """How far estimates of a stage are off beyond their error, of what was traced less what that added."""
    kind, stage = what
    wanted_ns = less_tracing_ns(traced, kind, stage)
    off_ns = statistics.mean(sampled[what]) - wanted_ns
    errors_ns = sampled[kind, f"error_{stage}"]
    error_ns = math.hypot(*errors_ns) / len(errors_ns)
    say(f"{kind} {stage}: {off_ns / 1e6:+.2f} ms of {wanted_ns / 1e6:.1f}, an error of {error_ns / 1e6:.2f}")
    return 100 * max(0.0, abs(off_ns) - error_ns) / wanted_ns


def less_tracing_ns(traced: Times, kind: Kind, stage: str) -> float:
    """A stage less what the report says that tracing added to it, the mean of all runs."""
    return statistics.mean(traced[kind, stage]) - statistics.mean(traced[kind, f"tracing_{stage}"])


def measure_modes() -> Mapping[str, Times]:
    """Every mode in turn, ROUNDS times, after a round that does not count. Raises LabError."""
    times: dict[str, Times] = {mode.name: defaultdict(list) for mode in MODES}
    with lab.nested(icount=True, memory_mib=GUEST_MIB) as pair:
        for number in range(ROUNDS + 1):
            for mode in (MODES if number % 2 else MODES[::-1]) if number else (MODES[-1],):
                for (kind, column), time_ns in measure_mode(pair, mode).items():
                    say(f"{number}, {mode.name}: {kind} {column} {time_ns / 1e6:.2f} ms")
                    if number:
                        times[mode.name][kind, column].append(time_ns)
    return times


def measure_mode(pair: lab.Nested, mode: Mode) -> dict[tuple[Kind, str], float]:
    """One inflate and one deflate beside a mode's recorders. Raises LabError."""
    name, times = secrets.token_hex(8), {}
    with ExitStack() as stack:
        recordings = [stack.enter_context(_recorder(pair, side, mode, name)) for side in mode.sides]
        timed = stack.enter_context(timed_calls(pair.host, pair.vmm_pid)) if mode.is_bpftrace else None
        for kind, target_mib in zip(KINDS, (GUEST_MIB - INFLATE_MIB, GUEST_MIB), strict=True):
            seconds = time_move(
                pair.guest, kind, target_mib, INFLATE_MIB << 20, words=STOPWATCH,
                look_every_s=LOOK_EVERY_S, timeout_s=MOVE_S,
            )  # fmt: skip
            times[kind, WALL] = seconds * 1e9
    if recordings:
        times |= parse_stages(read_report(*reversed(recordings)))
    if timed is not None:
        added_ns = measure_added_ns(pair.host)
        for advice, kind in ADVICES.items():
            times[kind, "d"] = timed.total_ns[advice] - timed.calls[advice] * added_ns
    return times


@contextmanager
def _recorder(pair: lab.Nested, side: str, mode: Mode, name: str) -> Iterator[Path]:
    """A recorder at work on one side; where its recording is when it has ended."""
    machine = pair.guest if side == "guest" else pair.host
    argv = ["balloontrace", "record", "-f", "-o", f"/io/cost-{side}.bt", "--pair", name]
    argv += ["--engine", mode.engine, *(["--sample"] if mode.sampled and side == "host" else [])]
    argv += [] if side == "guest" else ["--side", "host", "-p", str(pair.vmm_pid)]
    process = machine.start(argv)
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield machine.io / f"cost-{side}.bt"
    process.signal(signal.SIGINT)
    process.wait(END_S, check=True)


def parse_stages(report: Json) -> dict[tuple[Kind, str], float]:
    """Time by kind and stage. The host's alone has d only, and says of which kind it is by the call."""
    found: dict[tuple[Kind, str], float] = {}
    for each in map(parse_operation, report["operations"]):
        stages_ns = each.stages_ns
        served_ns = {SERVED: sum(stages_ns[name] for name in "bcd")} if "b" in stages_ns else {}
        found |= {(Kind(each.kind), name): ns for name, ns in {**stages_ns, **served_ns}.items()}
    for operation in report["operations"]:
        found |= {(Kind(operation["kind"]), name): ns for name, ns in _of_calls(operation)}
    if not found:
        found = {
            (CALLS[each["call"]], "d"): each["total_ns"]
            for each in report["host"]["calls"]
            if each["call"] in CALLS
        }
    return found


def _of_calls(operation: Json) -> Iterator[tuple[str, float]]:
    """What tracing added to c and d, or by how much their estimates may be off."""
    served = operation["served"] or {}
    for row in operation["stages"]:
        if row["stage"] in ("c", "d"):
            for name, ns in (
                ("tracing", served.get(f"tracing_{row['stage']}_ns")),
                ("error", row["error_ns"]),
            ):
                if ns is not None:
                    yield f"{name}_{row['stage']}", ns


def longer_percent(times_ns: Sequence[float], than_ns: Sequence[float]) -> float:
    """By how much one median is longer than another."""
    return 100 * (statistics.median(times_ns) / statistics.median(than_ns) - 1)


def render_table(times: Mapping[str, Times]) -> str:
    """As Markdown: medians, and by how much they are longer than in the first mode that has them."""
    lines = [f"| recorders | kind | {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * len(COLUMNS)}"]
    for mode in MODES:
        for kind in KINDS:
            cells = [_cell(times, mode, kind, column) for column in COLUMNS]
            lines.append(f"| {mode.name} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(times: Mapping[str, Times], mode: Mode, kind: Kind, column: str) -> str:
    here_ns = times[mode.name].get((kind, column))
    if not here_ns:
        return "-"
    median = format_duration_ns(round(statistics.median(here_ns)))
    first = next(each for each in MODES if times[each.name].get((kind, column)))
    if first == mode:
        return median
    return f"{median}, {longer_percent(here_ns, times[first.name][kind, column]):+.1f} %"


def main() -> int:
    """Prints the table."""
    print(render_table(retry_lost(measure_modes)))
    return 0


BENCHMARKS = (
    Benchmark(
        (
            *(f"{name}_recorder_{kind}_overhead" for name in MOST_PERCENT for kind in KINDS),
            "sampled_c_off",
            "sampled_d_off",
            *(f"{kind}_d_off_bpftrace" for kind in KINDS),
        ),
        measure_cost,
        group="both_sides_cost",
    ),
)


if __name__ == "__main__":
    run(main, __doc__)
