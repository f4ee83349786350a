# SPDX-License-Identifier: GPL-2.0-or-later
"""What two sets of recordings should have in common, and have not.

The driver is what is compared, and named; so is what comes with it: the feature bit of page bitmaps and the
boundaries of functions that only one of the drivers has. All else is a reason to doubt the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from balloontrace.analysis.cost_sentences import name_troubles
from balloontrace.compare.replicates import Found
from balloontrace.format.vocabulary import Side, Status
from balloontrace.results.comparison import Difference
from balloontrace.results.recording_header import Machine
from balloontrace.results.report import Report
from balloontrace.units import format_bytes, format_count, format_pages_as_bytes

# VIRTIO_BALLOON_F_PAGE_BITMAP of the patch; mainline gave the bit to FREE_PAGE_HINT later.
PAGE_BITMAP_BIT = 3

UNKNOWN = "unknown"
_NONE = "none"
_ALL_DRIVERS = ("update_balloon_size_func", "leak_balloon", "tell_host")


@dataclass(frozen=True, slots=True)
class _Trait:
    """Something each recording says of itself; `deliberate` where a difference is what is compared."""

    name: str
    value: Callable[[Report], str | None]
    deliberate: bool = False
    told_lately: bool = False  # recordings of before format 1.2 do not tell: unknown differs from nothing


def _settings(side: Side, machine: Callable[[Report], Machine]) -> tuple[_Trait, ...]:
    """What of a machine's settings changes how long its pages take."""

    def switch(name: str) -> Callable[[Report], str | None]:
        return lambda report: {True: "1", False: "0"}.get(getattr(machine(report), name))

    def shown(name: str, show: Callable[[int | None], str | None]) -> Callable[[Report], str | None]:
        return lambda report: show(getattr(machine(report), name))

    def word(name: str) -> Callable[[Report], str | None]:
        return lambda report: getattr(machine(report), name)

    values = {
        f"swap of the {side}": shown("swap_bytes", lambda size: _bytes(size)),
        f"vm.min_free_kbytes of the {side}": shown("min_free_kbytes", lambda size: _count(size)),
        f"NUMA nodes of the {side}": shown("numa_nodes", lambda count: _count(count)),
        f"init_on_alloc of the {side}": switch("init_on_alloc"),
        f"init_on_free of the {side}": switch("init_on_free"),
        f"page_poison of the {side}": switch("page_poison"),
        f"THP of the {side} (enabled)": word("thp_enabled"),
        f"THP of the {side} (defrag)": word("thp_defrag"),
        f"THP of the {side} (shmem_enabled)": word("thp_shmem_enabled"),
    }
    return tuple(_Trait(name, value, told_lately=True) for name, value in values.items())


_TRAITS = (
    _Trait("driver", lambda report: report.header.driver_kind, deliberate=True),
    _Trait("driver's srcversion", lambda report: report.header.module_srcversion, deliberate=True),
    _Trait("version of balloontrace", lambda report: report.header.tool_version, deliberate=True),
    _Trait("kernel", lambda report: report.header.machine.kernel_release),
    _Trait("architecture", lambda report: report.header.machine.architecture),
    _Trait("page size", lambda report: _bytes(report.header.machine.page_size_bytes)),
    _Trait("CPUs of the guest", lambda report: _count(report.header.machine.cpus)),
    _Trait("memory of the guest", lambda report: _bytes(report.header.machine.memory_bytes)),
    *_settings(Side.GUEST, lambda report: report.header.machine),
    _Trait("way of attaching probes", lambda report: _mechanisms(report)),
    _Trait("engine", lambda report: report.header.engine, told_lately=True),
    _Trait("capture of payloads", lambda report: _capture(report)),
    _Trait("order of page reporting", lambda report: _reporting(report, "from_order"), told_lately=True),
    _Trait("delay of page reporting in ms", lambda report: _reporting(report, "delay_ms"), told_lately=True),
)

_HOST_TRAITS = (
    _Trait("kernel of the host", lambda report: _host_machine(report).kernel_release),
    _Trait("CPUs of the host", lambda report: _count(_host_machine(report).cpus)),
    _Trait("memory of the host", lambda report: _bytes(_host_machine(report).memory_bytes), told_lately=True),
    *_settings(Side.HOST, lambda report: _host_machine(report)),
    _Trait("process that serves", lambda report: _process(report), deliberate=True),
    _Trait("calls of the host", lambda report: _calls(report)),
)


def find_differences(before: Sequence[Report], after: Sequence[Report]) -> list[Difference]:
    """Whatever recordings say of themselves that is not the same in all of both sides."""
    traits = [*_TRAITS, *(_HOST_TRAITS if any(each.host for each in (*before, *after)) else ())]
    found = [
        _difference(trait.name, _values(before, trait), _values(after, trait), deliberate=trait.deliberate)
        for trait in traits
    ]
    other_driver = any(each is not None and each.name == "driver" and each.expected for each in found)
    found += _boundaries(before, after, other_driver=other_driver)
    found += [_features(before, after, other_driver=other_driver), _losses(before, after)]
    return [each for each in found if each is not None]


def find_group_differences(title: str, before: Sequence[Found], after: Sequence[Found]) -> list[Difference]:
    """What operations of one kind and size should have in common; `title` says which they are."""
    found = (
        _difference(
            f"size of the balloon before {title}",
            [_pages(each.operation.actual_before_pages) for each in before],
            [_pages(each.operation.actual_before_pages) for each in after],
        ),
        _difference(
            f"beginning of {title}",
            [each.operation.starts_at for each in before],
            [each.operation.starts_at for each in after],
        ),
        _difference(
            f"trouble of the guest in {title}",
            _troubles(before),
            _troubles(after),
        ),
    )
    return [each for each in found if each is not None]


def _troubles(side: Iterable[Found]) -> list[str]:
    """What each of them did to the guest, of those of which that was read."""
    return [
        ", ".join(name_troubles(each.operation.guest_cost)) or _NONE
        for each in side
        if each.operation.guest_cost is not None
    ]


def _difference(
    name: str, before: Iterable[str | None], after: Iterable[str | None], *, deliberate: bool = False
) -> Difference | None:
    """None when all values are the same; a deliberate one is expected only if neither side mixes values."""
    first, second = ({UNKNOWN if value is None else value for value in side} for side in (before, after))
    if len(first | second) < 2 or not (first and second):
        return None
    said, said_after = (" and ".join(sorted(side)) for side in (first, second))
    return Difference(
        name,
        said,
        said_after,
        expected=deliberate and len(first) == len(second) == 1,
        text=f"{name}: {said} before, {said_after} after",
    )


def _values(reports: Sequence[Report], trait: _Trait) -> list[str | None]:
    values = [trait.value(report) for report in reports]
    return [value for value in values if value is not None] if trait.told_lately else values


def _boundaries(
    before: Sequence[Report], after: Sequence[Report], *, other_driver: bool
) -> Iterator[Difference | None]:
    """A stage may begin or end elsewhere; one that only one of two drivers has is no surprise."""
    stages = dict.fromkeys(stage for report in (*before, *after) for stage in report.header.boundaries)
    for stage in stages:
        first, second = (
            [report.header.boundaries.get(stage, _NONE) for report in side] for side in (before, after)
        )
        absent = _NONE in first or _NONE in second
        yield _difference(f"boundary of {stage}", first, second, deliberate=other_driver and absent)


def _features(before: Sequence[Report], after: Sequence[Report], *, other_driver: bool) -> Difference | None:
    """Features that driver and device agreed on, of all balloons of a guest."""
    bits = [{_feature_bits(report) for report in side} for side in (before, after)]
    changed = frozenset().union(*(first ^ second for first in bits[0] for second in bits[1]))
    return _difference(
        "features of the device",
        map(_feature_names, before),
        map(_feature_names, after),
        deliberate=other_driver and changed <= {PAGE_BITMAP_BIT},
    )


def _feature_bits(report: Report) -> frozenset[int]:
    return frozenset(bit for device in report.header.devices for bit in device.feature_bits)


def _feature_names(report: Report) -> str | None:
    if not report.header.devices:
        return None
    names = dict.fromkeys(name for device in report.header.devices for name in device.features)
    return ", ".join(names) or _NONE


def _losses(before: Sequence[Report], after: Sequence[Report]) -> Difference | None:
    """Losses are worth a warning even where both sides have as many."""
    lost = [lost_events(side) for side in (before, after)]
    if lost == [0, 0]:
        return None
    said = [UNKNOWN if count is None else format_count(count) for count in lost]
    text = f"events lost while recording: {said[0]} before, {said[1]} after"
    if any(lost):
        text += "; times and counts are too low there"
    return Difference("events lost", said[0], said[1], expected=False, text=text)


def lost_events(reports: Iterable[Report]) -> int | None:
    """Events lost in all recordings, those of the hosts too; None when one does not say."""
    sides = [side for report in reports for side in (report, report.host) if side is not None]
    counts = [side.events_lost for side in sides]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _mechanisms(report: Report) -> str | None:
    """How the functions were probed that every driver has; where it depends on the function, all ways."""
    used = {
        probe.mechanism
        for probe in report.header.probes
        if probe.function in _ALL_DRIVERS and probe.status == Status.ATTACHED and probe.mechanism
    }
    return " and ".join(sorted(used)) or None


def _capture(report: Report) -> str | None:
    if not report.operations:
        return None
    return "yes" if any(operation.payload for operation in report.operations) else "no"


def _host_machine(report: Report) -> Machine:
    return report.host.header.machine if report.host else Machine()


def _reporting(report: Report, setting: str) -> str | None:
    return _count(getattr(report.page_reporting, setting)) if report.page_reporting else None


def _process(report: Report) -> str | None:
    """The name of the process: its number differs from run to run."""
    process = report.host.process if report.host else None
    return None if process is None else process.partition("(")[2].removesuffix(")")


def _calls(report: Report) -> str | None:
    """Whether d was measured or estimated."""
    if report.host is None:
        return None
    return "traced" if report.host.sample_period_ns is None else "sampled"


def _bytes(value: int | None) -> str | None:
    return None if value is None else format_bytes(value)


def _count(value: int | None) -> str | None:
    return None if value is None else format_count(value)


def _pages(value: int | None) -> str | None:
    return None if value is None else format_pages_as_bytes(value)
