# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches that are two things: discards of a file, and then a buffer that the device found by looking.

A kick begins a batch. Without one, what the thread did just before a buffer is in the buffer's batch. Where
the same file was discarded alone elsewhere, those calls are known, and how long one takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from balloontrace.format.vocabulary import BatchFlag, Call

_Column = NDArray[np.generic]
_Integers = NDArray[np.int64]

_DELIMITED = int(BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN)
_NO_FILE = 0
_HOLES = tuple(f"calls_{int(call)}" for call in (Call.FALLOCATE_PUNCH_HOLE, Call.FALLOCATE_OTHER))
_OTHERS = tuple(name for name in (f"calls_{int(call)}" for call in Call) if name not in _HOLES)
_OF_BUFFER = ("done_ns", "flags", "madvise_bytes", "errors", "last_errno", "thp_splits", "address")


def part_unkicked(columns: Mapping[str, _Column]) -> dict[str, _Column]:
    """The columns of batches with each such batch as two, all in order of their first call.

    What a discard took is the mean of those of the file that are alone; the buffer's calls are taken to come
    one right after the other. Calls that need both sorts for each page have as many of one as of the other,
    and stay as they are.
    """
    rows = _mixed(columns)
    if not len(rows):
        return dict(columns)
    calls_ns, holes_ns = _int64(columns, "calls_ns")[rows], _holes_ns(columns, rows)
    first_ns, last_ns = _int64(columns, "first_call_ns")[rows], _int64(columns, "last_return_ns")[rows]
    discards = _changed(
        columns, rows, (*_OTHERS, *_OF_BUFFER), last_return_ns=first_ns + holes_ns, calls_ns=holes_ns
    )
    rest_ns = calls_ns - holes_ns
    buffers = _changed(
        columns, rows, (*_HOLES, "fallocate_bytes", "file"), first_call_ns=last_ns - rest_ns, calls_ns=rest_ns
    )
    joined = {
        name: np.concatenate([np.delete(values, rows), discards[name], buffers[name]])
        for name, values in columns.items()
    }
    order = np.argsort(_int64(joined, "first_call_ns"), kind="stable")
    return {name: values[order] for name, values in joined.items()}


def _mixed(columns: Mapping[str, _Column]) -> NDArray[np.intp]:
    """Batches without a kick that have discards of a file, and more or fewer calls of another sort."""
    holes, others, seen = _sum(columns, _HOLES), _sum(columns, _OTHERS), _seen(columns)
    mixed = (seen == int(BatchFlag.DONE_SEEN)) & (holes > 0) & (others > 0) & (holes != others)
    file = _int64(columns, "file")
    return np.flatnonzero(mixed & np.isin(file, file[_alone(columns)]))


def _alone(columns: Mapping[str, _Column]) -> NDArray[np.bool_]:
    """Discards of a file that nothing delimits."""
    holes, others = _sum(columns, _HOLES), _sum(columns, _OTHERS)
    has_file = _int64(columns, "file") != _NO_FILE
    found: NDArray[np.bool_] = (_seen(columns) == 0) & (holes > 0) & (others == 0) & has_file
    return found


def _holes_ns(columns: Mapping[str, _Column], rows: NDArray[np.intp]) -> _Integers:
    """How long the discards of these batches took, at most as long as all their calls."""
    alone, file = _alone(columns), _int64(columns, "file")
    holes, calls_ns = _sum(columns, _HOLES), _int64(columns, "calls_ns")
    files, place = np.unique(file[alone], return_inverse=True)
    mean_ns = np.bincount(place, calls_ns[alone]) / np.bincount(place, holes[alone])
    # Before they are integers: a stranger's numbers need not be possible together.
    took_ns = np.minimum(mean_ns[np.searchsorted(files, file[rows])] * holes[rows], calls_ns[rows])
    return np.round(took_ns).astype(np.int64)


def _changed(
    columns: Mapping[str, _Column], rows: NDArray[np.intp], cleared: Iterable[str], **values: _Integers
) -> dict[str, _Column]:
    changed = {name: column[rows] for name, column in columns.items()}
    changed |= {name: np.zeros_like(changed[name]) for name in cleared}
    return changed | {name: value.astype(columns[name].dtype) for name, value in values.items()}


def _sum(columns: Mapping[str, _Column], names: Iterable[str]) -> _Integers:
    total = np.zeros(len(columns["flags"]), dtype=np.int64)
    for name in names:
        total += _int64(columns, name)
    return total


def _seen(columns: Mapping[str, _Column]) -> _Integers:
    return _int64(columns, "flags") & _DELIMITED


def _int64(columns: Mapping[str, _Column], name: str) -> _Integers:
    return columns[name].astype(np.int64, copy=False)
