# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's balloon did, from a look at the sums."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.format.vocabulary import COUNTED_ONLY, Function
from balloontrace.live.make_views import GuestLook, send_function
from balloontrace.serve.families import Family, as_histogram, counter, gauge, histogram, seconds
from balloontrace.units import pages_to_bytes

_SEND_POWERS = tuple(range(10, 33))  # 1 us to 4 s
_OTHERS = {
    Function.VIRTIO_BALLOON_OOM_NOTIFY: "out_of_memory",
    Function.VIRTBALLOON_MIGRATEPAGE: "compaction",
    Function.STATS_REQUEST: "statistics",
}


def guest_families(look: GuestLook, *, missed: int = 0) -> Iterator[Family]:
    """All metrics of a guest; sums are since the programs were attached.

    `missed` are calls for which the kernel did not run the programs.
    """
    live, functions = look.live, look.counters.functions
    moved = {"inflate": live.inflated_pages, "deflate": live.deflated_pages}
    yield counter(
        "moved_bytes", "Memory that sends moved into the balloon (inflate) or out of it (deflate).",
        (((queue,), pages_to_bytes(pages)) for queue, pages in moved.items()), ("queue",),
    )  # fmt: skip
    yield counter(
        "moved_pages", "The same in pages of 4 KiB.",
        (((queue,), pages) for queue, pages in moved.items()), ("queue",),
    )  # fmt: skip
    yield counter("sends", "Messages of page numbers to the host.", [((), live.sends)])
    yield counter(
        "sends_of_unknown_pages", "Sends of which the pages are not known.", [((), live.unknown_sends)]
    )
    yield from _operations(look)
    yield from _times(look)
    others = (((what,), functions[each].entries) for each, what in _OTHERS.items())
    yield counter("other_work", "Calls of the driver beside its work items.", others, ("what",))
    yield counter(
        "out_of_memory_bytes", "Memory that left the balloon as the guest was out of memory.",
        [((), pages_to_bytes(live.oom_pages))],
    )  # fmt: skip
    reports, hints = (
        functions[each] for each in (Function.VIRTBALLOON_FREE_PAGE_REPORT, Function.REPORT_FREE_PAGE_FUNC)
    )
    yield counter("page_reports", "Reports of free pages to the host.", [((), reports.returns)])
    yield counter("reported_bytes", "Memory that these named.", [((), pages_to_bytes(reports.pages))])
    yield counter("hinted_bytes", "Memory hinted as free.", [((), pages_to_bytes(hints.pages))])
    followed = [counts for each, counts in functions.items() if each not in (*COUNTED_ONLY, Function.PAYLOAD)]
    lost = sum(counts.no_state + counts.overwritten for counts in followed)
    yield counter("events_lost", "Calls of which nothing is known.", [((), lost + missed)])
    yield counter(
        "program_seconds", "Processor time of the BPF programs, by runs that were timed.",
        [((), seconds(look.bpf_ns))],
    )  # fmt: skip
    yield from _sizes(look)


def _operations(look: GuestLook) -> Iterator[Family]:
    """How inflates and deflates ended, and those that have not: of each device there is one at a time."""
    live, devices = look.live, look.counters.devices
    outcomes = {"reached": look.counters.operations, "superseded": live.superseded}
    yield counter(
        "operations",
        "Inflates and deflates that ended: at their target, or as the host wanted the opposite.",
        (((outcome,), number) for outcome, number in outcomes.items()), ("outcome",),
    )  # fmt: skip
    yield gauge(
        "operations_under_way", "Balloons that are away from their target.",
        [((), sum(device.moving for device in devices))],
    )  # fmt: skip
    stalled = sum(bool(device.left_ns and device.is_short) for device in live.devices)
    yield gauge("operations_stalled", "Of these, those whose last allocation failed.", [((), stalled)])
    yield counter(
        "failed_allocations", "Allocations for the balloon that failed; the driver waits after each.",
        [((), live.failed_allocations)],
    )  # fmt: skip


def _times(look: GuestLook) -> Iterator[Family]:
    live = look.live
    whole_ns = live.item_ns + live.requeue_ns
    stages = {
        "a": live.allocate_ns,
        "build": live.build_ns,
        "bcd": live.send_ns,
        "other": whole_ns - live.allocate_ns - live.build_ns - live.send_ns,
    }
    yield counter(
        "stage_seconds", "Time of the work items: allocating (a), building, sending until answered (bcd).",
        (((stage,), max(time_ns, 0) / 1e9) for stage, time_ns in stages.items()), ("stage",),
    )  # fmt: skip
    yield counter("work_items", "Work items of the driver that ended.", [((), live.items)])
    yield counter(
        "scheduling_delay_seconds", "Time that work items were ready to run and waited for a processor.",
        [((), seconds(live.run_delay_ns) if live.run_delay_items == live.items else None)],
    )  # fmt: skip
    yield counter(
        "send_wakeup_seconds", "Time of sends after the interrupt that answered: waiting for a processor.",
        [((), seconds(live.woken_ns) if live.woken_sends or not live.sends else None)],
    )  # fmt: skip
    yield counter("send_wakeups", "Sends of which that time is known.", [((), live.woken_sends)])
    entered = [device.entered_ns for device in live.devices if device.entered_ns]
    under_way_ns = max((look.time_ns - entered_ns for entered_ns in entered), default=0)
    yield gauge(
        "work_item_under_way_seconds",
        "How long the longest work item under way has been: a stall shows here.",
        [((), max(under_way_ns, 0) / 1e9)],
    )  # fmt: skip
    function = send_function(live)
    sends_ns = look.counters.functions[function].duration_ns
    times = as_histogram(live.buckets[function], sends_ns, _SEND_POWERS)
    yield histogram("send_seconds", "How long sends took.", [((), times)])


def _sizes(look: GuestLook) -> Iterator[Family]:
    """Where each balloon stands: by its device, else by what the driver read and counted last."""
    actual: dict[str, int | None] = {size.device: size.size_pages for size in look.sizes.values()}
    target: dict[str, int | None] = {size.device: size.target_pages for size in look.sizes.values()}
    if look.balloon_pages is not None and len(actual) <= 1:
        actual = dict.fromkeys(actual or ("all",), look.balloon_pages)
    if (len(actual) == 1 and None in target.values()) or not target:
        moved = [
            live.target_pages
            for state, live in zip(look.counters.devices, look.live.devices, strict=True)
            if live.entered_ns or state.changed_ns
        ]
        target = dict.fromkeys(actual, moved[0] if len(moved) == 1 else None)
    for name, text, pages in (
        ("actual_bytes", "Memory in the balloon.", actual),
        ("target_bytes", "Memory that the host wants in the balloon.", target),
        ("shortfall_bytes", "Memory that is missing in the balloon.", _shortfall(actual, target)),
    ):
        values = (
            ((device,), None if each is None else pages_to_bytes(each)) for device, each in pages.items()
        )
        yield gauge(name, text, values, ("device",))


def _shortfall(actual: dict[str, int | None], target: dict[str, int | None]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for device, wanted in target.items():
        size = actual.get(device)
        found[device] = None if wanted is None or size is None else max(wanted - size, 0)
    return found
