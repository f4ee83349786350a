# SPDX-License-Identifier: GPL-2.0-or-later
"""Where time goes by kernel and driver, and how fast each stage gives memory.

Percentiles are of single operations. So that an engine need not sort hundreds of millions of rates, it counts
them in bins of 2^(1/32): a percentile is the middle of its bin, and off by 1.1 % at most.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from balloontrace.fleet.question import Found, Options, Question, Row, share_of
from balloontrace.format.stages import STAGES
from balloontrace.results.fleet_answer import AnswerColumn, Cell, Picture, Unit
from balloontrace.units import GIB_BYTES

if TYPE_CHECKING:
    import ibis.expr.types as ir

_BINS_A_DOUBLING = 32
_GROUP = ("kernel_release", "driver_kind", "kind")
_COLUMNS = (
    AnswerColumn("kernel_release", label="kernel", most=14),
    AnswerColumn("driver_kind", label="driver", most=8),
    AnswerColumn("kind", label="kind", most=8),
    AnswerColumn("stage", label="stage", most=8),
    AnswerColumn("operations", Unit.COUNT, "ops"),
    AnswerColumn("total_ns", Unit.NS),
    AnswerColumn("share", Unit.SHARE, "share"),
    AnswerColumn("ns_per_gib", Unit.NS),
    AnswerColumn("p10_bytes_per_s", Unit.RATE, "p10"),
    AnswerColumn("p50_bytes_per_s", Unit.RATE, "median"),
    AnswerColumn("p90_bytes_per_s", Unit.RATE),
)
_PLACES = {stage.code: place for place, stage in enumerate(STAGES)}


def _ask(tables: Mapping[str, ir.Table], _options: Options) -> ir.Table:
    every = tables["stages"]
    whole = every.filter(every.part_of.isnull() & every.total_ns.notnull())
    rate = whole.bytes.cast("float64") * 1e9 / whole.total_ns.nullif(0)
    # A stage that took no time, or moved nothing, has no rate.
    rate_bin = (rate.nullif(0).ln() * (_BINS_A_DOUBLING / math.log(2))).floor().cast("int16")
    binned = whole.select(*_GROUP, "stage", "total_ns", "bytes", rate_bin=rate_bin)
    return binned.group_by([*_GROUP, "stage", "rate_bin"]).aggregate(
        operations=binned.count(), total_ns=binned.total_ns.sum(), bytes=binned.bytes.sum()
    )


def _finish(rows: Sequence[Row], _options: Options) -> Found:
    found: dict[tuple[str | None, ...], list[Row]] = defaultdict(list)
    walls: dict[tuple[str | None, ...], int] = defaultdict(int)
    for row in rows:
        group = tuple(row[name] for name in _GROUP)
        found[*group, row["stage"]].append(row)
        walls[group] += row["total_ns"]
    sizes = {
        group: max(_sum(rows, "bytes") for key, rows in found.items() if key[:-1] == group) for group in walls
    }
    keys = sorted(found, key=lambda key: (*(word or "" for word in key[:-1]), _PLACES.get(str(key[-1]), 99)))
    note = "rates are the operation's bytes by the stage's time; percentiles are off by 1.1 % at most"
    return Found(
        [_describe(key, found[key], walls[key[:-1]], sizes[key[:-1]]) for key in keys],
        (note,) if keys else (),
    )


def _sum(rows: Sequence[Row], column: str) -> int:
    """Of what was measured."""
    return sum(row[column] or 0 for row in rows)


def _describe(
    key: tuple[str | None, ...], bins: Sequence[Row], wall_ns: int, size_bytes: int
) -> tuple[Cell, ...]:
    """One row; `size_bytes` is what all operations of its group moved, those without this stage too."""
    total_ns = _sum(bins, "total_ns")
    rates = sorted((row["rate_bin"], row["operations"]) for row in bins if row["rate_bin"] is not None)
    quantiles = (_quantile(rates, share) for share in (0.1, 0.5, 0.9))
    for_each_gib_ns = share_of(total_ns * GIB_BYTES, size_bytes)
    share = share_of(total_ns, wall_ns)
    return (*key, _sum(bins, "operations"), total_ns, share, for_each_gib_ns, *quantiles)


def _quantile(rates: Sequence[tuple[int, int]], share: float) -> float | None:
    """Nearest rank, as reports have it."""
    left = max(1, -(-sum(count for _, count in rates) * share // 1))
    for rate_bin, count in rates:
        left -= count
        if left <= 0:
            return float(2 ** ((rate_bin + 0.5) / _BINS_A_DOUBLING))
    return None


QUESTION = Question(
    text="where the time goes by kernel and driver",
    columns=lambda _options: _COLUMNS,
    ask=_ask,
    finish=_finish,
    picture=lambda _options: Picture(
        _GROUP, "ns_per_gib", "stage", "Time for each GiB moved, in the stages, with the slowest first."
    ),
)
