# SPDX-License-Identifier: GPL-2.0-or-later
"""What was lost while recording, what is missing from the file, and which functions were traced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balloontrace.analysis.columns import Batches, Spans, decode_counters
from balloontrace.analysis.metadata import End
from balloontrace.format.guest_layout import parse_counters_layout
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import COUNTED_ONLY, Function, Status
from balloontrace.results.host_side import HostSide
from balloontrace.results.recorder import Loss
from balloontrace.results.recording_header import Header


def find_losses(recording: Recording, end: End | None) -> tuple[Loss, ...]:
    """Losses per function: from the end record, else from the last counters written before it was cut."""
    if end is not None and end.losses:
        return end.losses
    if recording.counters is None:
        return ()
    rows, _ = decode_counters(
        recording.counters, parse_counters_layout(recording.metadata.get("counters_layout"))
    )
    return tuple(
        Loss(function.symbol, lost=row.get("lost"), no_state=row.get("no_state"))
        if function is Function.ALLOCATION_PARTS
        else Loss(
            function.symbol,
            entries=row.get("entries"),
            returns=row.get("returns"),
            unmatched_returns=row.get("unmatched_returns"),
            lost=row.get("lost"),
            no_state=row.get("no_state"),
            overwritten=row.get("overwritten"),
            summed=row.get("summed"),
            summed_ns=row.get("summed_ns"),
            summed_pages=row.get("summed_pages"),
        )
        for function in Function
        if function not in COUNTED_ONLY and function < len(rows) and any((row := rows[function]).values())
    )


def events_lost(losses: Sequence[Loss]) -> int | None:
    """Calls that left no span; None where nobody counted."""
    known = [loss.events_lost for loss in of_calls(losses) if loss.events_lost is not None]
    return sum(known) if known else None


def events_seen(losses: Sequence[Loss]) -> int | None:
    """Calls that were seen; None where nobody counted."""
    known = [loss.entries for loss in of_calls(losses) if loss.entries is not None]
    return sum(known) if known else None


def of_calls(losses: Sequence[Loss]) -> list[Loss]:
    """Losses of spans; that a payload is lost makes no time and no count wrong."""
    return [loss for loss in losses if loss.function != Function.PAYLOAD.symbol]


def missing_spans(spans: Spans, losses: Sequence[Loss]) -> dict[Function, int]:
    """Spans that were handed over while recording, by the counters, and are not in the file."""
    present = np.bincount(spans.columns["function"], minlength=max(Function) + 1)
    known = {function.symbol: function for function in Function}
    return {
        function: max(0, _spans_made(loss) - int(present[function]))
        for loss in of_calls(losses)
        if (function := known.get(loss.function)) is not None
    }


def _spans_made(loss: Loss) -> int:
    """Where no return is probed the entry makes the span, else the return of an entry that was seen."""
    calls = loss.entries if loss.returns is None else loss.returns - (loss.unmatched_returns or 0)
    return (calls or 0) - (loss.lost or 0) - (loss.summed or 0)


def missing_batches(side: HostSide, batches: Batches) -> int | None:
    """The same of batches, some of them left out or parted; None where it is not told how many there were."""
    made = [
        loss.entries - (loss.lost or 0)
        for loss in side.losses
        if loss.function == "batches" and loss.entries is not None
    ]
    return max(0, made[0] - (side.batches - batches.parted) - batches.left_out) if made else None


def find_traced(header: Header, spans: Spans, losses: Sequence[Loss]) -> frozenset[Function]:
    """Functions that were attached, by the metadata, or else that evidently left something."""
    attached = {probe.function for probe in header.probes if probe.status == Status.ATTACHED}
    counted = {loss.function for loss in losses if loss.entries}
    present = set(np.unique(spans.columns["function"]).tolist())
    return frozenset(
        function for function in Function if function.symbol in attached | counted or int(function) in present
    )
