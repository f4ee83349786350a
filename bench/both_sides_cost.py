# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's recorder costs a balloon, on a host that counts instructions: `lab.nested(icount=True)`.

The guest's recorder measures each move, alone and with the host's beside it, in turn. Its own cost, which is
there in both, is what `overhead` measures.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import lab
from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Kind
from bench.figures import Benchmark, Figure, say
from lab.boot_retries import retry_lost
from lab.scenario import record_both, record_moves
from lab.topology_nested import Nested

GUEST_MIB = 1024
INFLATE_MIB = 512
ROUNDS = 2
LOOK_EVERY_S = 2.0
# One call a page takes 6 100 ns of the host untraced; a pair of empty programs alone makes that 5 % more.
MOST_PERCENT = 15.0

_Walls = dict[Kind, list[int]]


def measure_host_cost() -> Iterator[Figure]:
    """How much longer an inflate and a deflate take with the host's recorder, in percent."""
    alone, beside = retry_lost(_measure)
    for kind, name in ((Kind.INFLATE, "inflate"), (Kind.DEFLATE, "deflate")):
        percent = 100 * (statistics.median(beside[kind]) / statistics.median(alone[kind]) - 1)
        yield Figure(f"host_recorder_{name}_overhead", percent, "%", at_most=MOST_PERCENT)


def _measure() -> tuple[_Walls, _Walls]:
    alone: _Walls = {Kind.INFLATE: [], Kind.DEFLATE: []}
    beside: _Walls = {Kind.INFLATE: [], Kind.DEFLATE: []}
    with lab.nested(icount=True, memory_mib=GUEST_MIB) as pair:
        for number in range(ROUNDS):
            for walls, recording in ((alone, _alone(pair, number)), (beside, _beside(pair, number))):
                for operation in analyse(read_recording(recording)).operations:
                    walls[operation.kind].append(operation.wall_ns)
                    say(f"{recording.name}: {operation.kind} {operation.wall_ns / 1e6:.1f} ms")
    return alone, beside


def _alone(pair: Nested, number: int) -> Path:
    return record_moves(pair.guest, f"alone-{number}.bt", _targets(), look_every_s=LOOK_EVERY_S)


def _beside(pair: Nested, number: int) -> Path:
    return record_both(pair, f"beside-{number}", _targets(), look_every_s=LOOK_EVERY_S)[0]


def _targets() -> tuple[int, int]:
    return GUEST_MIB - INFLATE_MIB, GUEST_MIB


BENCHMARKS = (
    Benchmark(("host_recorder_inflate_overhead", "host_recorder_deflate_overhead"), measure_host_cost),
)
