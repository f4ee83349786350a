# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording says of itself, typed: the one place that reads a stranger's JSON.

Every key is optional. A missing key and one of the wrong type both come back as None or empty, which
everywhere means "not measured"; text is printable, for `recording` made it so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import Side
from balloontrace.results.recorder import BpfCost, Loss, OwnCost
from balloontrace.results.recording_header import Device, DriverGap, Header, Machine, Probe

Json = Mapping[str, object]
_T = TypeVar("_T")

IS_PART = "is_part"
"""Set by `processes`, not by a recorder: this is one VM of a recording of many."""

_MAX_ITEMS = 4096
_MAX_TEXT_CHARACTERS = 4096
_MAX_INTEGER = 2**63 - 1
_MAX_FEATURE_BIT = 127

_LOSS_COUNTS = (
    "entries", "returns", "unmatched_returns", "lost", "no_state", "overwritten", "missed", "summed",
    "summed_ns", "summed_pages",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class End:
    """The end record; `vmstat` holds the kernel's own counts when the recording ended.

    `vmstat_traced` are those right before probes were detached, when calls under way can have moved
    `under_way_pages` more or less; None: any number. Recordings before format 1.2 have neither.
    """

    clean: bool | None = None
    reason: str | None = None
    ended_monotonic_ns: int | None = None
    vmstat: Mapping[str, int] = field(default_factory=dict)
    vmstat_traced: Mapping[str, int] = field(default_factory=dict)
    under_way_pages: int | None = None
    balloons: tuple[BalloonSize, ...] = ()
    losses: tuple[Loss, ...] = ()
    own_cost: OwnCost | None = None


def parse_header(recording: Recording) -> Header:
    """The header of the report, from the recording's metadata."""
    metadata = recording.metadata
    started, driver = mapping(metadata, "started"), mapping(metadata, "driver")
    return Header(
        recording=recording.label,
        label=text(metadata, "label"),
        tool_version=text(metadata, "tool_version"),
        format_version=f"{recording.version[0]}.{recording.version[1]}",
        command_line=texts(metadata.get("command_line")),
        side=text(metadata, "side"),
        clock=text(metadata, "clock"),
        started_realtime_ns=integer(started, "realtime_ns"),
        started_monotonic_ns=integer(started, "monotonic_ns"),
        driver_kind=text(driver, "kind"),
        module_srcversion=text(driver, "module_srcversion"),
        machine=_parse_machine(mapping(metadata, "machine")),
        devices=tuple(_each(metadata.get("devices"), _parse_device)),
        probes=tuple(_each(metadata.get("probes"), _parse_probe)),
        boundaries=_text_mapping(mapping(metadata, "boundaries")),
        recording_id=text(metadata, "recording_id"),
        # Before there were two it was bcc.
        engine=text(metadata, "engine") or ("bcc" if text(metadata, "bcc_version") else None),
        engine_version=text(metadata, "engine_version") or text(metadata, "bcc_version"),
        pair=(text(metadata, "pair") or "").strip() or None,  # an empty name is none: it would prove anything
    )


def is_of_host(recording: Recording) -> bool:
    """Whether a recording is of the host's side; old ones name none, and are of guests."""
    return text(recording.metadata, "side") == Side.HOST


def parse_vmstat(table: Json, key: str = "vmstat") -> Mapping[str, int]:
    """Counts under `key`: name to value, in pages of the kernel's page size."""
    vmstat = mapping(table, key)
    counts = ((name, integer(vmstat, name)) for name in list(vmstat)[:_MAX_ITEMS])
    return {name: value for name, value in counts if value is not None}


def parse_balloons(table: Json) -> tuple[BalloonSize, ...]:
    """What the recorder read of each balloon, under `balloons`; nothing in recordings before 1.2."""
    return tuple(_each(table.get("balloons"), _parse_balloon))


def parse_end(end: Json | None) -> End | None:
    """The end record, or None for a recording that has none."""
    if end is None:
        return None
    return End(
        clean=boolean(end, "clean"),
        reason=text(end, "reason"),
        ended_monotonic_ns=integer(mapping(end, "ended"), "monotonic_ns"),
        vmstat=parse_vmstat(end),
        vmstat_traced=parse_vmstat(end, "vmstat_traced"),
        under_way_pages=integer(end, "under_way_pages"),
        balloons=parse_balloons(end),
        losses=_parse_losses(mapping(end, "losses")),
        own_cost=_parse_own_cost(end.get("own_cost")),
    )


def parse_driver_gaps(recording: Recording) -> tuple[DriverGap, ...]:
    """When the driver was away, from what was written when it went and when it was back."""
    gaps: list[DriverGap] = []
    for event in recording.driver_events:
        at_ns, seen_ns = integer(mapping(event, "at"), "monotonic_ns"), integer(event, "seen_ns")
        devices = texts(event.get("devices"))
        match text(event, "what"):
            case "gone" if at_ns is not None:
                gaps.append(DriverGap(devices=devices, last_seen_ns=seen_ns, gone_ns=at_ns))
            case "back" if at_ns is not None:
                reattached = boolean(event, "reattached")
                if gaps and gaps[-1].back_ns is None:
                    gaps[-1] = replace(gaps[-1], back_ns=at_ns, reattached=reattached)
                else:
                    gaps.append(DriverGap(devices, seen_ns, None, at_ns, reattached))
    return tuple(gaps)


def mapping(table: Json, key: str) -> Json:
    """The object under `key`, empty if there is none."""
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def text(table: Json, key: str) -> str | None:
    """The text under `key`, cut at a length no honest recording has."""
    value = table.get(key)
    return value[:_MAX_TEXT_CHARACTERS] if isinstance(value, str) else None


def integer(table: Json, key: str) -> int | None:
    """The integer under `key`, if it is one that 63 bits hold and not negative."""
    value = table.get(key)
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER
        else None
    )


def number(table: Json, key: str) -> float | None:
    """The number under `key`, whole or not, if it is not negative."""
    value = table.get(key)
    if not isinstance(value, float):
        return integer(table, key)
    return value if 0 <= value <= _MAX_INTEGER else None


def boolean(table: Json, key: str) -> bool | None:
    """The truth value under `key`."""
    value = table.get(key)
    return value if isinstance(value, bool) else None


def _each(value: object, parse: Callable[[Json], _T | None]) -> list[_T]:
    items = value[:_MAX_ITEMS] if isinstance(value, list) else []
    parsed = (parse(item) for item in items if isinstance(item, dict))
    return [item for item in parsed if item is not None]


def texts(value: object) -> tuple[str, ...]:
    """The texts of a list, of no length that a stranger chooses."""
    items = value[:_MAX_ITEMS] if isinstance(value, list) else []
    return tuple(item[:_MAX_TEXT_CHARACTERS] for item in items if isinstance(item, str))


def _integers(value: object) -> tuple[int, ...] | None:
    """A list's integers that `integer` takes; None of what is no list."""
    if not isinstance(value, list):
        return None
    found = (integer({"": item}, "") for item in value[:_MAX_ITEMS])
    return tuple(item for item in found if item is not None)


def parse_files(*tables: Json) -> Mapping[str, str]:
    """Files that a process had open, by descriptor; none that was another one's name at another time."""
    found: dict[str, str] = {}
    for names in (_text_mapping(mapping(table, "files")) for table in tables):
        found |= {key: name if found.get(key, name) == name else "" for key, name in names.items()}
    return {key: name for key, name in found.items() if name}


def _text_mapping(table: Json) -> Mapping[str, str]:
    pairs = ((key[:_MAX_TEXT_CHARACTERS], text(table, key)) for key in list(table)[:_MAX_ITEMS])
    return {key: value for key, value in pairs if value is not None}


def _parse_machine(table: Json) -> Machine:
    return Machine(
        hostname=text(table, "hostname"),
        boot_id=text(table, "boot_id"),
        kernel_release=text(table, "kernel_release"),
        architecture=text(table, "architecture"),
        page_size_bytes=integer(table, "page_size_bytes"),
        cpus=integer(table, "cpus"),
        memory_bytes=integer(table, "memory_bytes"),
        swap_bytes=integer(table, "swap_bytes"),
        min_free_kbytes=integer(table, "min_free_kbytes"),
        numa_nodes=integer(table, "numa_nodes"),
        init_on_alloc=boolean(table, "init_on_alloc"),
        init_on_free=boolean(table, "init_on_free"),
        page_poison=boolean(table, "page_poison"),
        thp_enabled=text(table, "thp_enabled"),
        thp_defrag=text(table, "thp_defrag"),
        thp_shmem_enabled=text(table, "thp_shmem_enabled"),
        khugepaged_max_ptes_none=integer(table, "khugepaged_max_ptes_none"),
        thp_bytes=integer(table, "thp_bytes"),
        thp_sizes_bytes=_integers(table.get("thp_sizes_bytes")),
    )


def _parse_device(table: Json) -> Device | None:
    name, index = text(table, "name"), integer(table, "index")
    if name is None and index is None:
        return None
    bits = table.get("feature_bits")
    return Device(
        name=name if name is not None else f"virtio{index}",
        index=index,
        features=texts(table.get("features")),
        feature_bits=tuple(
            bit
            for bit in (bits[:_MAX_ITEMS] if isinstance(bits, list) else [])
            if type(bit) is int and 0 <= bit <= _MAX_FEATURE_BIT
        ),
    )


def _parse_balloon(table: Json) -> BalloonSize | None:
    device = text(table, "device")
    if device is None:
        return None
    return BalloonSize(
        device,
        present=boolean(table, "present") is not False,
        size_pages=integer(table, "size_pages"),
        target_pages=integer(table, "target_pages"),
        source=text(table, "source"),
    )


def _parse_probe(table: Json) -> Probe | None:
    function = text(table, "function")
    if function is None:
        return None
    return Probe(
        function=function,
        symbol=text(table, "symbol"),
        mechanism=text(table, "mechanism"),
        stage=text(table, "stage"),
        status=text(table, "status"),
        stands_in_for=text(table, "stands_in_for"),
        required=boolean(table, "required"),
        note=text(table, "note"),
    )


def _parse_losses(table: Json) -> tuple[Loss, ...]:
    names = [name for name in list(table)[:_MAX_ITEMS] if isinstance(table[name], dict)]
    return tuple(
        Loss(name[:_MAX_TEXT_CHARACTERS], *(integer(mapping(table, name), count) for count in _LOSS_COUNTS))
        for name in names
    )


def _parse_own_cost(value: object) -> OwnCost | None:
    if not isinstance(value, dict):
        return None
    bpf = tuple(_each(value.get("bpf"), _parse_bpf_cost))
    counted = [(program, program.runs) for program in bpf if program.runs is not None]
    return OwnCost(
        bpf=bpf,
        bpf_runs=sum(runs for _, runs in counted) if counted else None,
        # On the host the kernel times runs for other processes too, which no count of runs holds.
        bpf_timed_runs=sum(min(runs, program.timed_runs or 0) for program, runs in counted)
        if counted
        else None,
        bpf_time_ns=_estimate_time_ns(bpf),
        bpf_never_timed=tuple(
            program.program for program, runs in counted if runs and not program.timed_runs
        ),
        bpf_not_counted=tuple(program.program for program in bpf if program.runs is None),
        cpu_ns=integer(value, "cpu_ns"),
        setup_cpu_ns=integer(value, "setup_cpu_ns"),
        peak_memory_bytes=integer(value, "peak_memory_bytes"),
        setup_peak_memory_bytes=integer(value, "setup_peak_memory_bytes"),
        wakeups=integer(value, "wakeups"),
        bytes_written=integer(value, "bytes_written"),
        attach_s=number(value, "attach_s"),
    )


def _parse_bpf_cost(table: Json) -> BpfCost | None:
    program = text(table, "program")
    if program is None:
        return None
    counts = (integer(table, name) for name in ("runs", "timed_runs", "run_time_ns"))
    return BpfCost(program, *counts)


def _estimate_time_ns(bpf: tuple[BpfCost, ...]) -> int | None:
    """All runs at the mean time of the timed ones: the statistics are switched off when they know enough.

    None where no program that ran was timed: that others were timed says nothing of those.
    """
    times_ns = [
        program.run_time_ns * program.runs // program.timed_runs
        for program in bpf
        if program.runs and program.timed_runs and program.run_time_ns is not None
    ]
    return sum(times_ns) if times_ns else None
