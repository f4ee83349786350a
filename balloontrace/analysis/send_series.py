# SPDX-License-Identifier: GPL-2.0-or-later
"""What each send is made of, in ns: by the guest's interrupts alone, and by what the host knows of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Spans
from balloontrace.format.stages import (
    BACK,
    BCD_FOUND,
    BCD_INTERRUPT,
    BCD_RUNNING,
    INTERRUPT_BACK,
    RUNNING,
    TO_HOST,
    B,
    C,
    D,
)
from balloontrace.format.vocabulary import SpanFlag

NOT_SERVED = -1


@dataclass(frozen=True, slots=True)
class HostTimes:
    """What the host knows of each span that is a send, in ns; NOT_SERVED (-1) for all others.

    `to_host_ns` is from the entry of the send until the host had seen the kick, `back_ns` from the completion
    until the send returned; None when the offset of the clocks is not known well enough. Where calls were
    sampled, `calls_ns` add up to an estimate by operation, which `calls_error_ns` says the error of.
    """

    served_ns: Column
    calls_ns: Column
    to_host_ns: Column | None
    back_ns: Column | None
    calls_error_ns: Column | None = None


class Without(enum.Enum):
    """What a row shows of an operation in which its series has nothing."""

    ZERO = enum.auto()
    NOT_MEASURED = enum.auto()
    NO_ROW = enum.auto()


@dataclass(frozen=True, slots=True)
class Series:
    """Durations of one stage, each with the operation it belongs to."""

    values_ns: Column
    operation: Column
    without: Without = Without.ZERO


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


def series_of_answers(spans: Spans, sends: NDArray[np.intp], operation: Column) -> dict[str, Series]:
    """The sends by their interrupts, as the guest alone knows them; no row where none was traced."""
    acked = spans.has(SpanFlag.ACK)[sends]
    if not acked.any():
        return {}
    duration_ns, acked_ns = spans.int64("duration_ns")[sends], spans.int64("wait_ns")[sends]
    told, of = np.flatnonzero(acked), operation[acked]
    return {
        BCD_INTERRUPT.code: Series(acked_ns[told], of),
        BCD_RUNNING.code: Series((duration_ns - acked_ns)[told], of),
        BCD_FOUND.code: Series(duration_ns[~acked], operation[~acked], Without.NO_ROW),
    }


def series_of_host(
    spans: Spans, sends: NDArray[np.intp], operation: Column, host: HostTimes | None
) -> dict[str, Series]:
    """The sends less the host's time, and that time in its parts; of sends that were seen being served."""
    codes, nothing = (B.code, C.code, D.code), np.empty(0, dtype=np.int64)
    if host is None:
        return {code: Series(nothing, nothing) for code in codes}
    which = host.served_ns[sends] != NOT_SERVED
    matched, of = sends[which], operation[which]
    ways = ways_of_sends(spans, matched, host)
    served_ns, calls_ns = host.served_ns[matched], host.calls_ns[matched]
    transport_ns = spans.int64("duration_ns")[matched] - served_ns
    values_ns = (transport_ns, served_ns - calls_ns, calls_ns)
    return {code: Series(part_ns, of) for code, part_ns in zip(codes, values_ns, strict=True)} | {
        code: Series(way.ns, of[way.rows], way.without) for code, way in ways.items()
    }


class Way(NamedTuple):
    """A part of b: how long it took of some sends, by their place among those asked for."""

    rows: NDArray[np.intp]
    ns: Column
    without: Without = Without.NOT_MEASURED


def ways_of_sends(spans: Spans, sends: NDArray[np.intp], host: HostTimes) -> dict[str, Way]:
    """How b of these sends divides, by the codes of its parts; all of them were served.

    From the interrupt on no clock of the host is needed. The host may find its own completion later than the
    guest's interrupt, by what the clocks are not known: no part is longer than what there is.
    """
    every, none = np.arange(len(sends)), np.empty(0, dtype=np.intp)
    acked = spans.has(SpanFlag.ACK)[sends]
    told, found = np.flatnonzero(acked), np.flatnonzero(~acked)
    since_ns = spans.int64("duration_ns")[sends] - spans.int64("wait_ns")[sends]
    if host.to_host_ns is None or host.back_ns is None:
        transport_ns = spans.int64("duration_ns")[sends] - host.served_ns[sends]
        unknown = Way(none, none.astype(np.int64))
        running = Way(told, np.minimum(since_ns, transport_ns)[told])
        parts = {INTERRUPT_BACK.code: unknown, RUNNING.code: running} if len(told) else {BACK.code: unknown}
        return {TO_HOST.code: unknown, **parts}
    to_host_ns, back_ns = host.to_host_ns[sends], host.back_ns[sends]
    running_ns = np.minimum(since_ns, back_ns)
    if not len(told):
        return {TO_HOST.code: Way(every, to_host_ns), BACK.code: Way(every, back_ns)}
    return {
        TO_HOST.code: Way(every, to_host_ns),
        INTERRUPT_BACK.code: Way(told, (back_ns - running_ns)[told]),
        RUNNING.code: Way(told, running_ns[told]),
        BACK.code: Way(found, back_ns[found], Without.NO_ROW),
    }
