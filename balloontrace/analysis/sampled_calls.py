# SPDX-License-Identifier: GPL-2.0-or-later
"""What samples tell of the host's part of each send: the time inside calls, by operation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Batches, Column
from balloontrace.analysis.operations import NO_OPERATION
from balloontrace.analysis.sampled_time import estimate_inside
from balloontrace.analysis.send_series import NOT_SERVED, HostTimes
from balloontrace.format.vocabulary import Call


def estimate_calls(
    times: HostTimes,
    operation_of_span: Column,
    batches: Batches,
    span: NDArray[np.intp],
    batch: NDArray[np.intp],
    period_ns: int | None,
) -> HostTimes:
    """`times` with an estimate of the time inside calls; `span` and `batch` are pairs.

    The samples of one send are too few to tell anything: each send of an operation is given the same part of
    its time, so that the operation has what was estimated for it. Without a sample nothing is known of c and
    d, and its sends count as not served.
    """
    served_ns, calls_ns = times.served_ns.copy(), times.calls_ns.copy()
    operation = operation_of_span[span]
    errors_ns = np.zeros(int(operation_of_span.max(initial=NO_OPERATION)) + 1, dtype=np.int64)
    samples, inside = batches.int64("samples")[batch], batches.calls(*Call)[batch]
    for number in np.unique(operation).tolist():
        mine = np.flatnonzero(operation == number)
        of_sends = span[mine]
        found = estimate_inside(int(served_ns[of_sends].sum()), samples[mine], inside[mine], period_ns)
        if found is None:
            served_ns[of_sends] = NOT_SERVED
            continue
        calls_ns[of_sends] = _divide(found.inside_ns, served_ns[of_sends])
        if number != NO_OPERATION:
            errors_ns[number] = found.error_ns
    return replace(times, served_ns=served_ns, calls_ns=calls_ns, calls_error_ns=errors_ns)


def _divide(total_ns: int, by_ns: Column) -> Column:
    """`total_ns` in whole numbers as `by_ns` is, so that they add up."""
    until = np.concatenate([[0], np.cumsum(by_ns)])
    edges = np.rint(until * (total_ns / max(1, int(until[-1])))).astype(np.int64)
    return np.minimum(np.diff(edges), by_ns)
