# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches whose calls were sampled, as columns like those of others.

A sample is an instant at which the thread was inside a call or not. So of the calls of a batch less is known:
the first and the last instant at which there was one, and of which kinds they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Batches, Column, Mask
from balloontrace.analysis.record_table import (
    MAX_APART_NS,
    Recorded,
    below,
    find_repeated,
    leave_out_far,
    read_columns,
    record_table,
    whole_records,
)
from balloontrace.format.guest_layout import SpanLayout
from balloontrace.format.host_layout import BATCH, CALLS, SAMPLED_BATCH
from balloontrace.format.vocabulary import BatchFlag

_TIMES = ("kick_ns", "first_call_ns", "last_return_ns", "done_ns", "idle_ns")
_SAME = ("tid", "kicked_by", *_TIMES)  # of no two batches
_MAX_NS = 1 << 62
_MOST_SAMPLES = 1 << 40
_NO_EVENTFD = 0
_DISCARDS = ("discards", "discarded_bytes")
_KEPT = ("samples", "kicked_by", "tid", "address", "thp_splits")


def decode_sampled_batches(
    pieces: Sequence[bytes | memoryview], layout: SpanLayout, recorded: Recorded, *, discards: bool = False
) -> Batches:
    """Decode the SMPL pieces of a recording; impossible ones are counted as damaged.

    `calls_N` are samples inside calls of kind N, `samples` all; times inside calls and bytes are 0, as they
    are not known. A batch without a sample inside a call has bounds of its calls that say nothing: the first
    one may be as late as the completion, the last one as early as the kick.

    With `discards` there are columns of what was taken from the guest, `discards` and `discarded_bytes`.
    Left out are batches of eventfds by which no batch had a sample inside a call: those are a disk's, say.
    """
    records, torn = record_table(pieces, layout)
    found = read_columns(records, layout, SAMPLED_BATCH.fields)
    sane = whole_records(records, layout) & _possible(found, recorded)
    sane[sane] = ~find_repeated(*(found[name][sane] for name in _SAME))
    inside = _inside(found)
    kicked_by = found["kicked_by"].astype(np.int64)
    proven = np.setdiff1d(kicked_by[sane & (inside > 0)], [_NO_EVENTFD])
    kept = np.flatnonzero(sane & ((inside > 0) | np.isin(kicked_by, proven)))
    columns = _as_batches({name: values[kept] for name, values in found.items()}, inside[kept])
    if discards:
        columns |= {name: found[name][kept].astype(np.int64) for name in _DISCARDS}
    order = np.lexsort((columns["first_call_ns"], columns["done_ns"]))
    damaged = int(np.count_nonzero(~sane))
    return Batches(
        {name: values[order] for name, values in columns.items()},
        damaged + torn,
        left_out=len(records) - damaged - len(kept),
    )


def _possible(found: Mapping[str, NDArray[np.generic]], recorded: Recorded) -> Mask:
    """Which batches can be: in order, no more samples inside calls than there are."""
    possible: Mask = below(found["samples"], _MOST_SAMPLES) & below(found["discarded_bytes"], _MAX_NS)
    for name in _TIMES:
        possible &= below(found[name], _MAX_NS)
    kick_ns, first_ns, last_ns, done_ns, idle_ns = (found[name].astype(np.uint64) for name in _TIMES)
    inside = _inside(found)
    seen = inside > 0
    start_ns = np.where(kick_ns > 0, kick_ns, idle_ns)
    end_ns = np.where(done_ns > 0, done_ns, last_ns)
    possible &= (
        (inside <= found["samples"].astype(np.int64)) & (seen == (first_ns > 0)) & (start_ns <= end_ns)
    )
    possible &= ~seen | ((start_ns <= first_ns) & (first_ns <= last_ns) & (last_ns <= end_ns))
    begun_ns = np.where(start_ns > 0, start_ns, first_ns)
    possible &= (end_ns - np.minimum(begun_ns, end_ns) <= np.uint64(MAX_APART_NS)) & (end_ns > 0)
    possible &= recorded.holds(begun_ns, end_ns)
    leave_out_far(begun_ns, possible)
    return possible


def _inside(found: Mapping[str, NDArray[np.generic]]) -> Column:
    """Samples inside calls of any kind."""
    total = np.zeros(len(found["samples"]), dtype=np.int64)
    for call in range(CALLS):
        total += found[f"samples_{call}"].astype(np.int64)
    return total


def _as_batches(found: Mapping[str, NDArray[np.generic]], inside: Column) -> dict[str, NDArray[np.generic]]:
    nothing = np.zeros(len(inside), dtype=np.int64)
    columns: dict[str, Column] = {name: nothing for name, _, _ in BATCH.fields}
    columns |= {name: found[name].astype(np.int64) for name in (*_TIMES, *_KEPT)}
    columns |= {f"calls_{call}": found[f"samples_{call}"].astype(np.int64) for call in range(CALLS)}
    columns["flags"] = flags = found["flags"].astype(np.int64)
    start_ns = np.where(columns["kick_ns"] > 0, columns["kick_ns"], columns["idle_ns"])
    end_ns = np.where((flags & BatchFlag.DONE_SEEN) > 0, columns["done_ns"], columns["last_return_ns"])
    columns["first_call_ns"] = np.where(inside > 0, columns["first_call_ns"], end_ns)
    columns["last_return_ns"] = np.where(inside > 0, columns["last_return_ns"], start_ns)
    return {**columns}
