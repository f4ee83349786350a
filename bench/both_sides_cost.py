# SPDX-License-Identifier: GPL-2.0-or-later
"""What recorders cost a balloon, on a host that counts instructions: none, either side's, both, both by bcc.

Stage d, less what tracing adds to it, is also held against bpftrace's measure of the same calls.

The guest's stopwatch times every move, whoever records. `python -m bench.both_sides_cost` prints the table of
docs/overhead.md: the wall time, and each stage that these recorders see. It takes the modes that are named,
all of them where none is. Each round has every mode in turn.
"""

from __future__ import annotations

import math
import secrets
import signal
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import lab
from balloontrace.format.vocabulary import Kind
from balloontrace.units import format_duration_ns
from bench.bpftrace_calls import measure_added_ns, timed_calls
from bench.figures import Benchmark, Figure, say
from bench.overhead import time_move
from bench.rounds import Change, compare_pairs, whole_rounds
from lab.errors import LabError
from lab.results_tables import parse_operation, read_report
from lab.scenario import END_S, START_S
from lab.steady import make_steady

GUEST_MIB = 1024
INFLATE_MIB = 512
# Moves of one kind differ by 0.1 to 0.5 %.
ROUNDS, MOVES = 3, 2
# A host stands still after some minutes, a round takes as long.
BOOTS = 20
# In a host VM each sample that the stopwatch takes, and each look outside, takes the host's time.
STOPWATCH = ("--interval-us", "20000")
LOOK_EVERY_S = 2.0
MOVE_S = 600
# The recorder wakes each second, and writes what it has of the move before when it has found twice that the
# balloon rests. Longer than that only gives the host more time to stand still.
SETTLE = ("sleep", "2.5")
# Estimates may be so far off what is traced, less what tracing added, beyond the error that they show.
MOST_PERCENT_OFF = 2.0
# One call a page takes 6 100 ns of the host untraced; a pair of empty programs alone makes that 5 % more.
MOST_PERCENT = {
    "guest": 0.5, "guest-all": 0.8, "host": 15.0, "both": 17.0, "sampled": 0.5, "sampled-all": 3.0,
}  # fmt: skip
# A deflate takes the host less time for a buffer: what a timer takes for each is more of it.
MOST_PERCENT_DEFLATE = {**MOST_PERCENT, "sampled": 1.0}
WANTED_PERCENT = {"host": 3.0, "both": 3.5, "sampled": 0.5}
KINDS = (Kind.INFLATE, Kind.DEFLATE)
WALL, SERVED = "wall", "b+c+d"
COLUMNS = (WALL, "a", SERVED, "b", "c", "d", "other")
CALLS = {"madvise_dontneed": Kind.INFLATE, "madvise_willneed": Kind.DEFLATE}
ADVICES = {4: Kind.INFLATE, 3: Kind.DEFLATE}  # MADV_DONTNEED and MADV_WILLNEED, as QEMU's balloon gives them

Json = dict[str, Any]
# Nanoseconds of each move, by kind and column.
What = tuple[Kind, str]
Times = Mapping[What, Sequence[float]]
# The times of each mode, by its name.
Round = Mapping[str, Times]


@dataclass(frozen=True)
class Mode:
    """Which recorders are at work, and with which options of `record` beside those that all have."""

    name: str
    sides: Sequence[str] = ()
    engine: str = "prebuilt"
    guest_options: Sequence[str] = ()
    host_options: Sequence[str] = ()
    is_bpftrace: bool = False


BOTH, SAMPLE = ("host", "guest"), ("--sample",)
NONE, GUEST, HOST = Mode("none"), Mode("guest", ("guest",)), Mode("host", ("host",))
GUEST_ALL = Mode("guest-all", ("guest",), guest_options=("--split-allocation",))
SAMPLED, SAMPLED_ALL, BOTH_SAMPLED = (
    Mode("sampled", HOST.sides, host_options=SAMPLE),
    Mode("sampled-all", HOST.sides, host_options=(*SAMPLE, "--time-faults", "--count-discards")),
    Mode("both-sampled", BOTH, host_options=SAMPLE),
)
BOTH_TRACED = Mode("both", BOTH)
BPFTRACE = Mode("bpftrace", is_bpftrace=True)
MODES = (
    NONE, GUEST, GUEST_ALL, HOST, SAMPLED, SAMPLED_ALL, BOTH_TRACED, BOTH_SAMPLED,
    Mode("both-bcc", BOTH, "bcc"), BPFTRACE,
)  # fmt: skip


def measure_cost() -> Iterator[Figure]:
    """How much longer an inflate and a deflate take with recorders, in percent."""
    rounds = list(measure_rounds(MODES))
    for name in MOST_PERCENT:
        for kind, most in zip(KINDS, (MOST_PERCENT[name], MOST_PERCENT_DEFLATE[name]), strict=True):
            longer = compare(rounds, name, NONE.name, (kind, WALL))
            say(f"{name}, {kind}: {longer}")
            wanted = WANTED_PERCENT.get(name)
            yield Figure(overhead_name(name, kind), longer.percent, "%", at_most=most, wanted=wanted)
    traced, sampled = (joined(rounds, mode.name) for mode in (BOTH_TRACED, BOTH_SAMPLED))
    for stage in "cd":
        percent = off_percent(traced, sampled, (Kind.INFLATE, stage))
        yield Figure(f"sampled_{stage}_off", percent, "%", at_most=MOST_PERCENT_OFF)
    for kind in KINDS:
        found_ns, wanted_ns = (
            less_tracing_ns(traced, kind, "d"),
            statistics.mean(joined(rounds, BPFTRACE.name)[kind, "d"]),
        )
        say(f"{kind} d: {found_ns / 1e6:.2f} ms, {wanted_ns / 1e6:.2f} by bpftrace")
        percent = 100 * abs(found_ns / wanted_ns - 1)
        yield Figure(f"{kind}_d_off_bpftrace", percent, "%", at_most=MOST_PERCENT_OFF)


def overhead_name(name: str, kind: Kind) -> str:
    """The figure of a mode."""
    return f"{name.replace('-', '_')}_recorder_{kind}_overhead"


def off_percent(traced: Times, sampled: Times, what: What) -> float:
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


def measure_rounds(
    modes: Sequence[Mode], *, rounds: int = ROUNDS, moves: int = MOVES, boots: int = BOOTS
) -> Iterator[Round]:
    """Whole rounds of all modes, in turn and then backwards. Raises LabError."""

    def make_round(pair: lab.Nested, number: int) -> Round:
        times = {}
        for mode in modes if number % 2 else modes[::-1]:
            times[mode.name] = measure_mode(pair, mode, moves)
            for (kind, column), times_ns in times[mode.name].items():
                shown = ", ".join(f"{time_ns / 1e6:.2f}" for time_ns in times_ns)
                say(f"{number}, {mode.name}: {kind} {column} {shown} ms")
        return times

    @contextmanager
    def boot() -> Iterator[lab.Nested]:
        with lab.nested(icount=True, memory_mib=GUEST_MIB) as pair:
            make_steady(pair)
            measure_mode(pair, modes[-1], moves=1)  # it takes memory that was never used, and is not counted
            yield pair

    return whole_rounds(boot, make_round, wanted=rounds, most_boots=boots)


def measure_mode(pair: lab.Nested, mode: Mode, moves: int) -> Times:
    """So many inflates and deflates, in turn, beside a mode's recorders. Raises LabError.

    One of each comes before, which does not count: what starts or ends uses memory, which the next inflate
    has to free on the host. It took up to 4 % longer. The host's recorder alone has a sum, with these in it.
    """
    name, times = secrets.token_hex(8), defaultdict[What, list[float]](list)
    with ExitStack() as stack:
        recordings = [stack.enter_context(_recorder(pair, side, mode, name)) for side in mode.sides]
        timed = stack.enter_context(timed_calls(pair.host, pair.vmm_pid)) if mode.is_bpftrace else None
        for kind, target_mib in (*zip(KINDS, (GUEST_MIB - INFLATE_MIB, GUEST_MIB), strict=True),) * (
            1 + moves
        ):
            seconds = time_move(
                pair.guest, kind, target_mib, INFLATE_MIB << 20, settle=SETTLE,
                words=STOPWATCH, look_every_s=LOOK_EVERY_S, timeout_s=MOVE_S,
            )  # fmt: skip
            times[kind, WALL].append(seconds * 1e9)
    if recordings:
        report = read_report(*reversed(recordings))
        sends = sum(each["sends"] for each in report["operations"])
        if "guest" in mode.sides and sends != len(KINDS) * (1 + moves) * INFLATE_MIB:
            raise LabError("The recording does not hold every send, so its cost means nothing.")
        times |= parse_stages(report, 1 + moves)
    if timed is not None:
        added_ns = measure_added_ns(pair.host)
        for advice, kind in ADVICES.items():
            times[kind, "d"] = [(timed.total_ns[advice] - timed.calls[advice] * added_ns) / (1 + moves)]
    return {what: times_ns[-moves:] for what, times_ns in times.items()}


@contextmanager
def _recorder(pair: lab.Nested, side: str, mode: Mode, name: str) -> Iterator[Path]:
    """A recorder at work on one side; where its recording is when it has ended.

    It writes into memory: what a guest writes outside, its host has to take.
    """
    machine, written = pair.guest if side == "guest" else pair.host, f"/run/cost-{side}.bt"
    argv = ["balloontrace", "record", "-f", "-o", written, "--pair", name]
    argv += ["--engine", mode.engine]
    if side == "guest":
        argv += mode.guest_options
    else:
        argv += ["--side", "host", "-p", str(pair.vmm_pid), *mode.host_options]
    process = machine.start(argv)
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield machine.io / f"cost-{side}.bt"
    process.signal(signal.SIGINT)
    process.wait(END_S, check=True)
    machine.run(["mv", written, "/io"], timeout_s=END_S, check=True)


def parse_stages(report: Json, moves: int = 1) -> dict[What, list[float]]:
    """Times of each operation. The host's alone has d only, of all `moves`; the call says of which kind."""
    found = defaultdict[What, list[float]](list)
    for operation in report["operations"]:
        stages_ns = parse_operation(operation).stages_ns
        served_ns = {SERVED: sum(stages_ns[name] for name in "bcd")} if "b" in stages_ns else {}
        for name, ns in (*stages_ns.items(), *served_ns.items(), *_of_calls(operation)):
            found[Kind(operation["kind"]), name].append(ns)
    if not found:
        for each in report["host"]["calls"]:
            if each["call"] in CALLS:
                found[CALLS[each["call"]], "d"].append(each["total_ns"] / moves)
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


def compare(rounds: Sequence[Round], name: str, with_name: str, what: What) -> Change:
    """How much longer something takes in one mode than in another, each time in the same round."""
    return compare_pairs(
        [(statistics.mean(each[name][what]), statistics.mean(each[with_name][what])) for each in rounds]
    )


def joined(rounds: Sequence[Round], name: str) -> Times:
    """The times of a mode in all rounds."""
    times = defaultdict[What, list[float]](list)
    for each in rounds:
        for what, times_ns in each[name].items():
            times[what].extend(times_ns)
    return times


def render_table(rounds: Sequence[Round]) -> str:
    """As Markdown: means, and by how much they are longer than in the first mode that has them."""
    lines = [f"| recorders | kind | {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * len(COLUMNS)}"]
    for name in rounds[0]:
        for kind in KINDS:
            cells = [_cell(rounds, name, (kind, column)) for column in COLUMNS]
            lines.append(f"| {name} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rounds: Sequence[Round], name: str, what: What) -> str:
    here_ns = joined(rounds, name).get(what)
    if not here_ns:
        return "-"
    mean = format_duration_ns(round(statistics.mean(here_ns)))
    first = next(each for each in rounds[0] if what in rounds[0][each])
    return mean if first == name else f"{mean}, {compare(rounds, name, first, what)}"


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[MODE]...", type=click.Choice([mode.name for mode in MODES]))
@click.option("--rounds", default=ROUNDS, show_default=True, help="So many whole ones.")
@click.option("--moves", default=MOVES, show_default=True, help="Of a kind, of each mode in a round.")
@click.option("--boots", default=BOOTS, show_default=True, help="At most so many.")
def main(names: Sequence[str], rounds: int, moves: int, boots: int) -> None:
    """Prints the table of all rounds that are whole, also when it is interrupted."""
    chosen = [mode for mode in MODES if mode.name in names or not names]
    whole: list[Round] = []
    try:
        for each in measure_rounds(chosen, rounds=rounds, moves=moves, boots=boots):
            whole.append(each)
    except LabError as error:
        sys.exit(f"both_sides_cost: {error}")
    finally:
        if whole:
            print(f"{len(whole)} rounds\n{render_table(whole)}")


BENCHMARKS = (
    Benchmark(
        (
            *(overhead_name(name, kind) for name in MOST_PERCENT for kind in KINDS),
            "sampled_c_off",
            "sampled_d_off",
            *(f"{kind}_d_off_bpftrace" for kind in KINDS),
        ),
        measure_cost,
        group="both_sides_cost",
    ),
)


if __name__ == "__main__":
    main()
