# SPDX-License-Identifier: GPL-2.0-or-later
"""What a live balloon is doing, from looks at the sums: numbers of an interval and since the start.

A look is what the kernel's sums are at one time. Whatever two looks do not tell is None.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.guest_counters import Counters, FunctionCounts
from balloontrace.format.guest_layout import DEVICES
from balloontrace.format.host_counters import HostCounters
from balloontrace.format.live_counters import LiveBatches, LiveSums
from balloontrace.format.stages import BCD, BUILD, OTHER, A, C, D, Stage
from balloontrace.format.vocabulary import COUNTED_ONLY, Call, Function
from balloontrace.results.live_view import (
    GUEST_STAGES,
    HOST_STAGES,
    CallView,
    GuestView,
    HostView,
    OtherCalls,
    Share,
    Spread,
)
from balloontrace.results.other_operation import COMPACTION, FREEZE, OUT_OF_MEMORY, REMOVAL
from balloontrace.units import NS_PER_S, pages_to_bytes

_OTHERS = {
    Function.VIRTIO_BALLOON_OOM_NOTIFY: OUT_OF_MEMORY,
    Function.VIRTBALLOON_MIGRATEPAGE: COMPACTION,
    Function.VIRTBALLOON_FREEZE: FREEZE,
    Function.VIRTBALLOON_REMOVE: REMOVAL,
    Function.STATS_REQUEST: "statistics",
}

RATE_INTERVALS = 5
"""The time left is computed from the rate of at most so many intervals: a single one is too uneven."""


@dataclass(frozen=True)
class GuestLook:
    """The guest's sums at `time_ns` (CLOCK_MONOTONIC).

    `balloon_pages` are in all balloons of this guest, by /proc/vmstat; `bpf_ns` is what the programs have
    taken so far, by those of their runs that were timed; `sizes` are what the devices say, by index.
    """

    time_ns: int
    counters: Counters
    live: LiveSums
    balloon_pages: int | None = None
    bpf_ns: int | None = None
    sizes: Mapping[int, BalloonSize] = field(default_factory=dict)


@dataclass(frozen=True)
class HostLook:
    """The sums of one process on the host at `time_ns` (CLOCK_MONOTONIC)."""

    time_ns: int
    counters: HostCounters
    batches: LiveBatches
    bpf_ns: int | None = None


class GuestViews:
    """Makes views of looks that come one after the other."""

    def __init__(self, first: GuestLook, *, balloons: int) -> None:
        """`balloons` is how many devices the guest has: of several, /proc/vmstat tells only the sum."""
        self._first = first
        self._looks = deque([first], maxlen=RATE_INTERVALS + 1)
        self._balloons = balloons

    def view(self, now: GuestLook) -> GuestView:
        """What happened since the look before; `now` is the next one's."""
        before = self._looks[-1]
        self._looks.append(now)
        live, was, first = now.live, before.live, self._first.live
        device = _device(now)
        size, target = self._size(now, device), _target(now, device)
        sizes = [(look.time_ns, self._size(look, device)) for look in self._looks]
        known = live.unknown_sends == was.unknown_sends
        all_known = live.unknown_sends == first.unknown_sends
        entered_ns = None if device is None else live.devices[device].entered_ns
        return GuestView(
            interval_ns=now.time_ns - before.time_ns,
            running_ns=now.time_ns - self._first.time_ns,
            device=device,
            size_pages=size,
            target_pages=target,
            rate_bytes_per_s=growth_bytes_per_s(sizes[-2:]),
            left_ns=time_left_ns(size, target, growth_bytes_per_s(sizes_of_move(sizes))),
            under_way_ns=max(now.time_ns - entered_ns, 0) if entered_ns else None,
            inflated_pages=live.inflated_pages - was.inflated_pages if known else None,
            deflated_pages=live.deflated_pages - was.deflated_pages if known else None,
            all_inflated_pages=live.inflated_pages - first.inflated_pages if all_known else None,
            all_deflated_pages=live.deflated_pages - first.deflated_pages if all_known else None,
            sends=live.sends - was.sends,
            all_sends=live.sends - first.sends,
            failed_allocations=live.failed_allocations - was.failed_allocations,
            all_failed_allocations=live.failed_allocations - first.failed_allocations,
            calls=sum(counts.entries for counts in _followed(now.counters)),
            lost=sum(counts.no_state + counts.overwritten for counts in _followed(now.counters)),
            bpf_share=_share(now.bpf_ns, live.item_ns),
            stages=_guest_stages(first, was, live),
            send_times=_send_times(first, was, live),
            reports=_reports(before, now)[0],
            all_reports=_reports(self._first, now)[0],
            all_reported_pages=_reports(self._first, now)[1],
            others=tuple(_others(self._first, before, now)),
            hinted_pages=_hinted_pages(before, now),
            all_hinted_pages=_hinted_pages(self._first, now),
            run_delay_share=_run_delay_share(was, live),
            all_run_delay_share=_run_delay_share(first, live),
        )

    def _size(self, look: GuestLook, device: int | None) -> int | None:
        if self._balloons == 1 and look.balloon_pages is not None:
            return look.balloon_pages
        read = _all_told(each.size_pages for each in _sizes_of(look, device))
        if read is not None:
            return read
        if device is None or not look.counters.devices[device].changed_ns:
            return None
        return look.counters.devices[device].actual_pages


def growth_bytes_per_s(sizes: Sequence[tuple[int, int | None]]) -> float | None:
    """Bytes a second that the balloon grew by from the first of `sizes` (ns, pages) to the last."""
    if len(sizes) < 2:
        return None
    (start_ns, start), (end_ns, end) = sizes[0], sizes[-1]
    if start is None or end is None or end_ns <= start_ns:
        return None
    return pages_to_bytes(end - start) * NS_PER_S / (end_ns - start_ns)


def sizes_of_move(sizes: Sequence[tuple[int, int | None]]) -> Sequence[tuple[int, int | None]]:
    """The last of `sizes` (ns, pages) between which the balloon kept moving in one direction."""
    first = len(sizes) - 1
    way = 0
    for earlier in range(len(sizes) - 2, -1, -1):
        step = _step(sizes[earlier][1], sizes[earlier + 1][1])
        if not step or (way and step != way):
            break
        first, way = earlier, step
    return sizes[first:]


def _step(before: int | None, now: int | None) -> int:
    """Which way it moved: 1, -1, or 0 where it did not or it is not known."""
    return 0 if before is None or now is None else (now > before) - (now < before)


def time_left_ns(size: int | None, target: int | None, bytes_per_s: float | None) -> int | None:
    """How long until `size` pages have become `target` pages; None when that is not where it is going."""
    if size is None or target is None or not bytes_per_s or size == target:
        return None
    left_s = pages_to_bytes(target - size) / bytes_per_s
    return int(left_s * NS_PER_S) if left_s > 0 else None


def _others(first: GuestLook, before: GuestLook, now: GuestLook) -> Iterator[OtherCalls]:
    """Those that ran since the start."""
    for function, what in _OTHERS.items():
        began, was, calls = (look.counters.functions[function].entries for look in (first, before, now))
        if calls > began:
            yield OtherCalls(what, calls - was, calls - began)


def _reports(before: GuestLook, now: GuestLook) -> tuple[int, int | None]:
    """Reports of free pages that were answered, and their pages: no report is of none."""
    was, counts = (look.counters.functions[Function.VIRTBALLOON_FREE_PAGE_REPORT] for look in (before, now))
    reports, pages = counts.returns - was.returns, counts.pages - was.pages
    return reports, pages if pages or not reports else None


def _hinted_pages(before: GuestLook, now: GuestLook) -> int:
    was, counts = (look.counters.functions[Function.REPORT_FREE_PAGE_FUNC] for look in (before, now))
    return counts.pages - was.pages


def _device(look: GuestLook) -> int | None:
    """The device that moved last, None before any did."""
    times = [
        max(state.changed_ns, live.entered_ns)
        for state, live in zip(look.counters.devices, look.live.devices, strict=True)
    ]
    latest = max(range(len(times)), key=times.__getitem__)
    return latest if times[latest] else None


def _target(look: GuestLook, device: int | None) -> int | None:
    read = _all_told(each.target_pages for each in _sizes_of(look, device))
    if read is not None or device is None:
        return read
    live, state = look.live.devices[device], look.counters.devices[device]
    return live.target_pages if live.entered_ns or state.changed_ns else None


def _sizes_of(look: GuestLook, device: int | None) -> list[BalloonSize]:
    """Of the device that moved last; of all while none did."""
    return [size for index, size in look.sizes.items() if device in (None, index % DEVICES)]


def _all_told(pages: Iterable[int | None]) -> int | None:
    """Their sum; None where one is unknown, or there is none."""
    known = list(pages)
    return None if not known or None in known else sum(each or 0 for each in known)


def _followed(counters: Counters) -> list[FunctionCounts]:
    """The counts of functions of the driver whose calls are events of their own."""
    others = (*COUNTED_ONLY, Function.PAYLOAD)
    return [counts for function, counts in counters.functions.items() if function not in others]


def _run_delay_share(before: LiveSums, now: LiveSums) -> float | None:
    """How much of their time the work items waited for a processor; None where one of them does not tell."""
    if now.run_delay_items - before.run_delay_items != now.items - before.items:
        return None
    return _share(now.run_delay_ns - before.run_delay_ns, now.item_ns - before.item_ns)


def _guest_stages(first: LiveSums, before: LiveSums, now: LiveSums) -> tuple[Share, ...]:
    """Stages of the work items that ended; of an interval in which none did, nothing is known."""
    interval, total = _guest_times(before, now), _guest_times(first, now)
    shown = [stage for stage in GUEST_STAGES if stage != BUILD or total[BUILD.code]]
    return _shares(shown, interval, total)


def _guest_times(before: LiveSums, now: LiveSums) -> dict[str, int]:
    allocate_ns = now.allocate_ns - before.allocate_ns
    build_ns, send_ns = now.build_ns - before.build_ns, now.send_ns - before.send_ns
    whole_ns = now.item_ns - before.item_ns + now.requeue_ns - before.requeue_ns
    other_ns = whole_ns - allocate_ns - build_ns - send_ns
    return {A.code: allocate_ns, BUILD.code: build_ns, BCD.code: send_ns, OTHER.code: other_ns}


def _shares(
    stages: Sequence[Stage], interval: Mapping[str, int], total: Mapping[str, int]
) -> tuple[Share, ...]:
    interval_ns, total_ns = sum(interval.values()), sum(total.values())
    return tuple(
        Share(
            stage.code,
            stage.name if stage != OTHER else OTHER.short,
            interval[stage.code] if interval_ns else None,
            _share(interval[stage.code], interval_ns),
            total[stage.code] if total_ns else None,
            _share(total[stage.code], total_ns),
        )
        for stage in stages
    )


def send_function(live: LiveSums) -> Function:
    """What a send is: with page bitmaps tell_host is what leads to sends, and no send."""
    by_bitmap = any(live.buckets[Function.SEND_RESP_DATA])
    return Function.SEND_RESP_DATA if by_bitmap else Function.TELL_HOST


def _send_times(first: LiveSums, before: LiveSums, now: LiveSums) -> Spread:
    function = send_function(now)
    return Spread(
        function.symbol,
        _difference(before.buckets[function], now.buckets[function]),
        _difference(first.buckets[function], now.buckets[function]),
    )


def _difference(before: Sequence[int], now: Sequence[int]) -> tuple[int, ...]:
    return tuple(later - earlier for earlier, later in zip(before, now, strict=True))


def _share(part: int | None, whole: int) -> float | None:
    return part / whole if part is not None and whole > 0 else None


_DISCARDS = (Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE, Call.MADVISE_FREE, Call.PROCESS_MADVISE)


class HostViews:
    """Makes views of looks at one process that come one after the other."""

    def __init__(self, first: HostLook) -> None:
        self._first = first
        self._looks = deque([first], maxlen=2)

    def view(self, now: HostLook) -> HostView:
        """What happened since the look before; `now` is the next one's."""
        before, first = self._looks[-1], self._first
        self._looks.append(now)
        counters, was = now.counters, before.counters
        interval_ns = now.time_ns - before.time_ns
        advised = sum(counters.calls[call].bytes - was.calls[call].bytes for call in _DISCARDS)
        hole = Call.FALLOCATE_PUNCH_HOLE
        punched = counters.calls[hole].bytes - was.calls[hole].bytes
        calls_ns = sum(sums.duration_ns for sums in counters.calls.values())
        return HostView(
            interval_ns=interval_ns,
            running_ns=now.time_ns - first.time_ns,
            batches=counters.batches - was.batches,
            all_batches=counters.batches - first.counters.batches,
            calls=counters.all_calls - was.all_calls,
            all_calls=counters.all_calls - first.counters.all_calls,
            bytes_per_s=max(advised, punched) * NS_PER_S / interval_ns if interval_ns else None,
            errors=sum(counters.calls[call].errors - was.calls[call].errors for call in Call),
            all_errors=sum(counters.calls[call].errors - first.counters.calls[call].errors for call in Call),
            thp_splits=counters.thp_splits - was.thp_splits,
            all_thp_splits=counters.thp_splits - first.counters.thp_splits,
            lost=counters.no_state + counters.overwritten,
            bpf_share=_share(now.bpf_ns, calls_ns),
            kinds=tuple(
                _call_view(call, first.counters, was, counters, interval_ns)
                for call, sums in counters.calls.items()
                if sums.calls
            ),
            stages=_host_stages(first.batches, before.batches, now.batches),
            call_times=_call_times(first.counters, was, counters),
        )


def _call_view(
    call: Call, first: HostCounters, was: HostCounters, now: HostCounters, interval_ns: int
) -> CallView:
    sums, before = now.calls[call], was.calls[call]
    calls = sums.calls - before.calls
    return CallView(
        call=call.name.lower(),
        calls=calls,
        all_calls=sums.calls - first.calls[call].calls,
        rate_bytes_per_s=(sums.bytes - before.bytes) * NS_PER_S / interval_ns if interval_ns else None,
        mean_ns=(sums.duration_ns - before.duration_ns) / calls if calls else None,
        errors=sums.errors - before.errors,
        all_errors=sums.errors - first.calls[call].errors,
    )


def _host_stages(first: LiveBatches, before: LiveBatches, now: LiveBatches) -> tuple[Share, ...]:
    """C and d of the buffers whose kick and completion were seen."""
    interval, total = _host_times(before, now), _host_times(first, now)
    return _shares(HOST_STAGES, interval, total)


def _host_times(before: LiveBatches, now: LiveBatches) -> dict[str, int]:
    calls_ns = now.calls_ns - before.calls_ns
    return {C.code: now.served_ns - before.served_ns - calls_ns, D.code: calls_ns}


def _call_times(first: HostCounters, was: HostCounters, now: HostCounters) -> Spread:
    """The calls of every kind together."""
    buckets = [_all_buckets(counters) for counters in (first, was, now)]
    return Spread("call", _difference(buckets[1], buckets[2]), _difference(buckets[0], buckets[2]))


def _all_buckets(counters: HostCounters) -> list[int]:
    return [sum(column) for column in zip(*(sums.buckets for sums in counters.calls.values()), strict=True)]
