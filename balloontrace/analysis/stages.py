# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations into stage tables: integer nanoseconds which add up to the wall time exactly.

Seen from the guest alone: `a` is the fill or leak (or the work item that stands in for it) less its sends,
configuration accesses and `b.build`; `b.build`, of the patched driver only, is `set_page_bitmap` less its
sends; `b+c+d` is the time inside the sends (`tell_host` or `send_resp_data`), which only the host's side can
split; `other` is the wall time less all those, and the rows below it say where it went. Where sends were not
traced, a cannot be told from b+c+d either, and their sum stands as `a+b+c+d`.

With the host's side, where every send of an operation has its served buffer: `c+d` is from when the host
had seen the kick until it wrote the completion. `d` is the part of it inside the calls that give memory back,
`c` the rest. `b` is `b.build` and the part of the sends that is neither c nor d. Where the clocks are known
well enough, `b.to_host` and `b.back` split that. Each row says where it ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Spans
from balloontrace.analysis.group_statistics import Distribution, distributions, sums
from balloontrace.analysis.operations import NO_OPERATION, Operations, operation_of_spans
from balloontrace.errors import RecordingError
from balloontrace.format.vocabulary import Function, Kind
from balloontrace.results.report import StageRow

STAGE_A = "a"
STAGE_BUILD = "b.build"
STAGE_BCD = "b+c+d"
STAGE_B = "b"
STAGE_C = "c"
STAGE_D = "d"
STAGE_OTHER = "other"
STAGE_UNSPLIT = "a+b+c+d"

GUEST_KERNEL = "guest kernel"
GUEST_AND_HOST = "guest and host"
HOST_USER = "host user space"
HOST_KERNEL = "host kernel"

_VERBS = {Kind.INFLATE: "allocate", Kind.DEFLATE: "release"}

NOT_SERVED = -1

# The rules before should have left such records out; what they missed is not shown either.
_CONTRADICTION = (
    "the recording's times contradict each other: parts are longer than the whole; it is unusable"
)


@dataclass(frozen=True, slots=True)
class HostTimes:
    """What the host knows of each span that is a send, in ns; NOT_SERVED (-1) for all others.

    `to_host_ns` is from the entry of the send until the host had seen the kick, `back_ns` from the completion
    until the send returned; None when the offset of the clocks is not known well enough.
    """

    served_ns: Column
    calls_ns: Column
    to_host_ns: Column | None
    back_ns: Column | None


@dataclass(frozen=True, slots=True)
class _Series:
    """Durations of one stage, each with the operation it belongs to."""

    values_ns: Column
    operation: Column


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the stages of all operations are made of."""

    wall_ns: Column
    series: Mapping[str, _Series]
    config_calls: Column
    config_measured: Column
    served: Column


def possible_times(host: HostTimes, spans: Spans) -> HostTimes:
    """The same without impossible values: a send is served within itself, and its calls fit into that."""
    served_ns, duration_ns = host.served_ns, spans.int64("duration_ns")
    odd = (served_ns < 0) | (served_ns > duration_ns) | (host.calls_ns < 0) | (host.calls_ns > served_ns)
    for way_ns in (host.to_host_ns, host.back_ns):
        if way_ns is not None:
            odd |= way_ns < 0
    if not (odd & (served_ns != NOT_SERVED)).any():
        return host
    return replace(host, served_ns=np.where(odd, NOT_SERVED, served_ns))


class StageTables:
    """Stage rows for each operation and for any grouping of them."""

    def __init__(
        self, spans: Spans, operations: Operations, *, sends_traced: bool, host: HostTimes | None = None
    ) -> None:
        self._sends_traced = sends_traced
        self._kinds = [operation.kind for operation in operations.found]
        self._parts = _measure(spans, operations, host)

    def of_operations(self) -> list[tuple[StageRow, ...]]:
        """The stage rows of every operation, in the order of `Operations.found`."""
        return self._tables(np.arange(len(self._kinds)), self._kinds)

    def of_kinds(self) -> dict[Kind, tuple[StageRow, ...]]:
        """The stage rows of all operations of one kind together, for each kind that occurred."""
        kinds = sorted(set(self._kinds))
        group = np.array([kinds.index(kind) for kind in self._kinds], dtype=np.int64)
        return dict(zip(kinds, self._tables(group, kinds), strict=True))

    def _tables(self, group_of_operation: Column, kinds: list[Kind]) -> list[tuple[StageRow, ...]]:
        """One table a group of operations; `kinds[g]` is what the operations of group g do."""
        parts, groups = self._parts, len(kinds)
        spreads = {
            name: distributions(series.values_ns, group_of_operation[series.operation], groups)
            for name, series in parts.series.items()
        }
        wall_ns = sums(parts.wall_ns, group_of_operation, groups).tolist()
        calls = sums(parts.config_calls, group_of_operation, groups).tolist()
        measured = (sums(parts.config_measured, group_of_operation, groups) > 0).tolist()
        unserved = sums(1 - parts.served, group_of_operation, groups).tolist()
        return [
            _rows(
                kinds[group],
                wall_ns[group],
                {name: spread[group] for name, spread in spreads.items()},
                sends_traced=self._sends_traced,
                split=not unserved[group],
                config_calls=calls[group] if measured[group] else None,
            )
            for group in range(groups)
        ]


def _measure(spans: Spans, operations: Operations, host: HostTimes | None) -> _Parts:
    """Split every active work item and the gaps around them; the sums of one operation are its wall time."""
    items = operations.items
    rows = np.flatnonzero(operations.item_operation != NO_OPERATION)
    operation = operations.item_operation[rows]
    item_ns = items.end_ns[rows] - items.start_ns[rows]
    body_ns, config_ns = items.body_ns[rows], items.config_ns[rows]
    send_in_body_ns, config_in_body_ns = items.send_in_body_ns[rows], items.config_in_body_ns[rows]
    outside_ns = item_ns - body_ns - (items.send_ns[rows] - send_in_body_ns) - (config_ns - config_in_body_ns)
    build_ns = items.build_ns[rows]
    built = build_ns > 0
    bounded = items.body_bounded[rows]
    with_config = items.config_measured[rows]
    same = operation[1:] == operation[:-1]
    gap_ns = items.start_ns[rows][1:] - items.end_ns[rows][:-1]
    firsts = np.flatnonzero(np.append(True, ~same)) if len(rows) else np.empty(0, dtype=np.int64)
    starts_ns = np.array([found.start_ns for found in operations.found], dtype=np.int64)
    ends_ns = np.array([found.end_ns for found in operations.found], dtype=np.int64)
    seen = np.array([found.interrupt_ns is not None for found in operations.found], dtype=np.bool_)
    lead_ns = items.start_ns[rows][firsts] - starts_ns[operation[firsts]]
    sends = np.flatnonzero(operations.send_operation != NO_OPERATION)
    send_operation = operations.send_operation[sends]
    send_ns = spans.int64("duration_ns")[sends]
    count = len(operations.found)
    return _Parts(
        wall_ns=ends_ns - starts_ns,
        series={
            "allocate": _Series(body_ns - send_in_body_ns - config_in_body_ns - build_ns, operation),
            "extend": _extend(spans, operations),
            "build": _Series(build_ns[built], operation[built]),
            "send": _Series(send_ns, send_operation),
            **_host_series(sends, send_operation, send_ns, host),
            "config": _Series(config_ns[with_config], operation[with_config]),
            "outside_body": _Series(outside_ns[bounded], operation[bounded]),
            "requeue": _Series(gap_ns[same], operation[1:][same]),
            "interrupt": _Series(
                lead_ns[seen[operation[firsts]]], operation[firsts][seen[operation[firsts]]]
            ),
        },
        config_calls=sums(items.config_calls[rows], operation, count),
        config_measured=sums(with_config.astype(np.int64), operation, count),
        served=_served(sends, send_operation, host, count),
    )


def _served(sends: NDArray[np.intp], operation: Column, host: HostTimes | None, count: int) -> Column:
    """1 for each operation that sent something, all of which the host's side shows being served; else 0."""
    if host is None:
        return np.zeros(count, dtype=np.int64)
    alone = np.bincount(operation[host.served_ns[sends] == NOT_SERVED], minlength=count)
    sent = np.bincount(operation, minlength=count)
    served: Column = ((sent > 0) & (alone == 0)).astype(np.int64)
    return served


def _host_series(
    sends: NDArray[np.intp], operation: Column, send_ns: Column, host: HostTimes | None
) -> dict[str, _Series]:
    """The sends less the host's time, and that time in its parts; of sends that were seen being served."""
    names = ("transport", "translate", "calls", "to_host", "back")
    if host is None:
        nothing = np.empty(0, dtype=np.int64)
        return {name: _Series(nothing, nothing) for name in names}
    which = host.served_ns[sends] != NOT_SERVED
    matched, of = sends[which], operation[which]
    served_ns, calls_ns = host.served_ns[matched], host.calls_ns[matched]
    series = {
        "transport": _Series(send_ns[which] - served_ns, of),
        "translate": _Series(served_ns - calls_ns, of),
        "calls": _Series(calls_ns, of),
    }
    for name, column in (("to_host", host.to_host_ns), ("back", host.back_ns)):
        series[name] = _Series(of[:0], of[:0]) if column is None else _Series(column[matched], of)
    return series


def _extend(spans: Spans, operations: Operations) -> _Series:
    """Getting memory for bitmaps, in the operation of its work item."""
    operation = operation_of_spans(spans, operations)
    which = spans.of(Function.EXTEND_PAGE_BITMAP) & (operation != NO_OPERATION)
    return _Series(spans.int64("duration_ns")[which], operation[which])


def _rows(
    kind: Kind,
    wall_ns: int,
    spreads: Mapping[str, Distribution],
    *,
    sends_traced: bool,
    split: bool,
    config_calls: int | None,
) -> tuple[StageRow, ...]:
    """The rows of one table; `spreads` are the series of `_Parts` as they are in it.

    `split` tells whether the host's side is known of all its sends.
    """
    stages = ("allocate", "build", "send")
    other_ns = wall_ns - sum(spreads[name].total_ns for name in stages)
    others = ("config", "outside_body", "requeue", "interrupt")
    rest_ns = other_ns - sum(spreads[name].total_ns for name in others)

    def row(stage: str, label: str, where: str, name: str, *, measured: bool) -> StageRow:
        return _row((stage, label, where, None), spreads[name], wall_ns, measured=measured)

    def part(of: str, stage: str, label: str, name: str, *, measured: bool) -> StageRow:
        return _row((f"{of}.{stage}", label, GUEST_KERNEL, of), spreads[name], wall_ns, measured=measured)

    verb = _VERBS[kind]
    first = (
        (STAGE_A, verb, GUEST_KERNEL) if sends_traced else (STAGE_UNSPLIT, f"{verb}..madvise", GUEST_AND_HOST)
    )
    rows = [row(*first, "allocate", measured=True)]
    if spreads["extend"].count:
        rows.append(part(STAGE_A, "extend", "memory for bitmaps", "extend", measured=True))
    if split:
        rows += _split_rows(wall_ns, spreads)
    elif spreads["build"].count:
        rows.append(row(STAGE_BUILD, "build", GUEST_KERNEL, "build", measured=True))
    if not split:
        rows.append(row(STAGE_BCD, "send..madvise, unsplit", GUEST_AND_HOST, "send", measured=sends_traced))
    config = part(STAGE_OTHER, "config", "reading the target", "config", measured=config_calls is not None)
    outside_measured = spreads["outside_body"].count > 0
    outside = "rest of work item (actual written)"
    rows += [
        _sum_row((STAGE_OTHER, "outside the stages", GUEST_KERNEL, None), other_ns, wall_ns),
        # Quantiles are of the reads of one work item together; the count is of single ones.
        replace(config, count=config_calls),
        part(STAGE_OTHER, "work_item", outside, "outside_body", measured=outside_measured),
        part(STAGE_OTHER, "requeue", "between work items (re-queue)", "requeue", measured=True),
        part(
            STAGE_OTHER,
            "interrupt",
            "interrupt to first work item",
            "interrupt",
            measured=spreads["interrupt"].count > 0,
        ),
        _sum_row((f"{STAGE_OTHER}.rest", "remaining", GUEST_KERNEL, STAGE_OTHER), rest_ns, wall_ns),
    ]
    return tuple(rows)


def _split_rows(wall_ns: int, spreads: Mapping[str, Distribution]) -> list[StageRow]:
    """b, c and d of sends that were all seen being served."""

    def row(
        stage: str, label: str, where: str, name: str, part_of: str | None = None, *, measured: bool = True
    ) -> StageRow:
        return _row((stage, label, where, part_of), spreads[name], wall_ns, measured=measured)

    build, transport = spreads["build"], spreads["transport"]
    rows = [
        _sum_row((STAGE_B, "send", GUEST_AND_HOST, None), build.total_ns + transport.total_ns, wall_ns)
        if build.count
        else row(STAGE_B, "send", GUEST_AND_HOST, "transport")
    ]
    if build.count:
        rows.append(row(STAGE_BUILD, "build", GUEST_KERNEL, "build", STAGE_B))
    clocks_known = spreads["to_host"].count > 0
    return [
        *rows,
        row(f"{STAGE_B}.to_host", "guest to host", GUEST_AND_HOST, "to_host", STAGE_B, measured=clocks_known),
        row(f"{STAGE_B}.back", "host to guest", GUEST_AND_HOST, "back", STAGE_B, measured=clocks_known),
        row(STAGE_C, "translate", HOST_USER, "translate"),
        row(STAGE_D, "madvise", HOST_KERNEL, "calls"),
    ]


def _row(
    what: tuple[str, str, str, str | None], spread: Distribution, wall_ns: int, *, measured: bool
) -> StageRow:
    stage, name, where, part_of = what
    if not measured:
        return StageRow(stage, name, where, part_of)
    if spread.total_ns < 0 or (spread.p50_ns or 0) < 0:
        raise RecordingError(_CONTRADICTION)
    return StageRow(
        stage,
        name,
        where,
        part_of,
        count=spread.count,
        total_ns=spread.total_ns,
        share=_share(spread.total_ns, wall_ns),
        p50_ns=spread.p50_ns,
        p90_ns=spread.p90_ns,
        p99_ns=spread.p99_ns,
        max_ns=spread.max_ns,
    )


def _sum_row(what: tuple[str, str, str, str | None], total_ns: int, wall_ns: int) -> StageRow:
    stage, name, where, part_of = what
    if total_ns < 0:
        raise RecordingError(_CONTRADICTION)
    return StageRow(stage, name, where, part_of, total_ns=total_ns, share=_share(total_ns, wall_ns))


def _share(part_ns: int, wall_ns: int) -> float | None:
    return part_ns / wall_ns if wall_ns else None
