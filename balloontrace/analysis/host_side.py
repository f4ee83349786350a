# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of the host's side into what the report shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from balloontrace.analysis.columns import Batches, Column, Mask, decode_batches
from balloontrace.analysis.guest_memory import GuestMemory, parse_guest_memory
from balloontrace.analysis.host_kicks import Kicks, parse_kicks, with_kicks
from balloontrace.analysis.host_memory import HostMemoryTable
from balloontrace.analysis.host_queues import UNTOLD, find_queues
from balloontrace.analysis.host_readings import parse_host_readings
from balloontrace.analysis.host_regions import parse_regions
from balloontrace.analysis.metadata import (
    IS_PART,
    End,
    Json,
    boolean,
    integer,
    mapping,
    parse_end,
    parse_files,
    parse_header,
    text,
)
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.other_buffers import tell_apart, with_files
from balloontrace.analysis.record_table import Recorded
from balloontrace.analysis.report_losses import missing_batches
from balloontrace.analysis.sampled_batches import decode_sampled_batches
from balloontrace.analysis.sampled_time import SampledTime, estimate_inside
from balloontrace.analysis.tracing_cost import TracingCost, parse_tracing_cost
from balloontrace.format.host_counters import CallSums, parse_host_counters
from balloontrace.format.host_layout import (
    FREED_COUNTS,
    parse_batch_layout,
    parse_sampled_layout,
    parse_sums_layout,
)
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import BatchFlag, Call, Status
from balloontrace.results.host_side import HostCalls, HostMemory, HostSide, OtherBuffers
from balloontrace.results.recorder import Loss
from balloontrace.results.recording_header import Header
from balloontrace.units import format_count, format_things

_HUGETLB = "hugetlb_bytes"
_MEMORY = ("rss_anon_bytes", "rss_file_bytes", "rss_shmem_bytes", _HUGETLB)
_MAX_FILES = 64
_MAX_SUM = 1 << 62
_SPLIT_PROBE = "split_huge_pmd"
_FREES = frozenset({Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE, Call.FALLOCATE_PUNCH_HOLE})
# What leaves a file is free, so that where only unmapping was counted, these were counted rightly.
_FREES_FILES = _FREES - {Call.MADVISE_DONTNEED}


@dataclass(frozen=True, slots=True)
class _Freed:
    """What of calls that free is known: by which of them nothing became free, and how much became free."""

    calls: frozenset[Call] = frozenset()
    has_bytes: bool = False
    missing: str | None = None  # why not all is known, one sentence


@dataclass(frozen=True, slots=True)
class HostRecording:
    """A host's recording, decoded. `calls_seen` is None where not all of them were counted."""

    header: Header
    batches: Batches
    end: End | None
    side: HostSide
    warnings: tuple[str, ...]
    not_measured: tuple[str, ...]
    memory: HostMemoryTable
    guest_memory: GuestMemory
    cost: TracingCost | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    kicks: tuple[Kicks, ...] = ()
    calls_seen: int | None = None


def analyse_host(recording: Recording) -> HostRecording:
    """Everything the report shows of the host's side. RecordingError when its description makes no sense."""
    header, end = parse_header(recording), parse_end(recording.end)
    period_ns = _sample_period_ns(recording)
    counts_splits = any(
        probe.function == _SPLIT_PROBE and probe.status == Status.ATTACHED for probe in header.probes
    )
    recorded = Recorded(header.started_monotonic_ns, end.ended_monotonic_ns if end else None)
    batches = replace(_decode(recording, recorded), splits_counted=counts_splits)
    summed = _sums(recording)
    totals = {call: sums for call, sums in summed.items() if _possible(sums)}
    counted = recording.counters is not None and not batches.sampled and len(totals) == len(summed)
    losses = end.losses if end else ()
    lost = [loss.events_lost for loss in losses if loss.events_lost is not None]
    delimited = batches.has(BatchFlag.KICK_SEEN) & batches.has(BatchFlag.DONE_SEEN)
    served_ns = (batches.int64("done_ns") - batches.int64("kick_ns"))[delimited]
    freed = _freed(recording)
    cost = parse_tracing_cost(recording.metadata)
    calls_ns = int(batches.int64("calls_ns")[delimited].sum())
    calls = int(batches.calls(*Call)[delimited].sum())
    tracing_ns = cost.of_calls(calls, calls_ns) if cost and delimited.any() else (None, None)
    files = parse_files(recording.metadata, recording.end or {})
    kicks = parse_kicks(recording.end or {})
    regions = parse_regions(recording.metadata, recording.end or {})
    guest_memory = parse_guest_memory(recording.metadata, recording.end or {}, regions)
    memory = HostMemoryTable(
        batches,
        parse_host_readings(recording),
        regions,
        files,
        header.machine,
    )
    estimate = None
    if batches.sampled:
        samples, inside = batches.int64("samples")[delimited], batches.calls(*Call)[delimited]
        estimate = estimate_inside(int(served_ns.sum()), samples, inside, period_ns)
    side = HostSide(
        header=header,
        process=_process(mapping(recording.metadata, "process")),
        complete=recording.complete and not batches.damaged and (end is None or end.clean is not False),
        ended=end.reason if end else None,
        batches=len(batches),
        delimited=int(delimited.sum()),
        served_ns=int(served_ns.sum()) if delimited.any() else None,
        calls_ns=_calls_ns(calls_ns if delimited.any() else None, batches, estimate),
        tracing_c_ns=tracing_ns[0],
        tracing_d_ns=tracing_ns[1],
        calls_in_batches=_counted(batches, batches.calls(*Call)),
        madvise_bytes=_counted(batches, batches.int64("madvise_bytes")),
        fallocate_bytes=_counted(batches, batches.int64("fallocate_bytes")),
        thp_splits=int(batches.int64("thp_splits").sum()) if counts_splits else None,
        discards=int(batches.int64("discards").sum()) if batches.counts_discards else None,
        discarded_bytes=int(batches.int64("discarded_bytes").sum()) if batches.counts_discards else None,
        calls=tuple(_calls(call, sums, freed) for call, sums in totals.items() if sums.calls),
        memory=tuple(_memory(recording.metadata, recording.end or {})),
        losses=losses,
        events_lost=sum(lost) if lost else None,
        own_cost=end.own_cost if end else None,
        others=with_files(_others(batches, delimited, guest_memory), files),
        queues=with_kicks(find_queues(batches, np.full(len(batches), UNTOLD, dtype=np.int64)), kicks),
        sample_period_ns=period_ns,
        samples=estimate.samples if estimate else None,
        samples_inside=estimate.samples_inside if estimate else None,
        calls_error_ns=estimate.error_ns if estimate else None,
        regions=memory.discarded(),
        periods=memory.periods(),
        guest_memory_bytes=guest_memory.bytes,
    )
    return HostRecording(
        header,
        batches,
        end,
        side,
        (
            *_warnings(recording, batches, end, losses, len(summed) - len(totals)),
            *_warn_of_missing(missing_batches(side, batches)),
        ),
        tuple(
            _not_measured(
                header,
                batches,
                int(delimited.sum()),
                _missing_freed(freed, side.calls),
                is_part=boolean(recording.metadata, IS_PART) is True,
            )
        ),
        memory,
        guest_memory,
        cost,
        files,
        kicks,
        calls_seen=sum(sums.calls for sums in totals.values()) if counted else None,
    )


def _others(batches: Batches, delimited: Mask, guest_memory: GuestMemory) -> tuple[OtherBuffers, ...]:
    """What is no buffer, by its calls; nothing where no buffer was seen whole, for then nothing tells."""
    if not delimited.any():
        return ()
    no_report = np.full(len(batches), NO_SPAN, dtype=np.int64)
    rest, buffers = np.flatnonzero(~delimited), np.flatnonzero(delimited)
    return tell_apart(batches, rest, buffers, no_report, guest_memory=guest_memory, by_calls=False)


def _sample_period_ns(recording: Recording) -> int | None:
    """What lay between two samples of a thread; None where calls were traced."""
    period_ns = integer(mapping(recording.metadata, "sampling"), "period_ns")
    return period_ns if period_ns and 0 < period_ns <= _MAX_SUM else None


def _decode(recording: Recording, recorded: Recorded) -> Batches:
    """Batches with their calls, or with samples of them."""
    if _sample_period_ns(recording) is not None:
        layout = parse_sampled_layout(recording.metadata.get("sampled_layout"))
        counts = bool(text(mapping(recording.metadata, "sampling"), "discards_by"))
        return decode_sampled_batches(recording.sampled, layout, recorded, discards=counts)
    return decode_batches(
        recording.batches, parse_batch_layout(recording.metadata.get("batch_layout")), recorded
    )


def _counted(batches: Batches, column: Column) -> int | None:
    """The sum of what was counted of calls; None where they were sampled."""
    return None if batches.sampled else int(column.sum())


def _calls_ns(traced_ns: int | None, batches: Batches, estimate: SampledTime | None) -> int | None:
    """The time inside calls, measured or estimated."""
    if batches.sampled:
        return estimate.inside_ns if estimate else None
    return traced_ns


def _process(process: Json) -> str | None:
    pid, comm, vm = integer(process, "pid"), text(process, "comm"), text(process, "vm")
    if pid is None:
        return None
    of_backend = "" if integer(process, "backend_of") is None else "backend of "
    return f"{pid} ({comm or 'no name'}{f', {of_backend}VM {vm}' if vm else ''})"


def _sums(recording: Recording) -> Mapping[Call, CallSums]:
    """Sums by kind of call; none where the recording has none. RecordingError as for spans."""
    if recording.counters is None:
        return {}
    layout = parse_sums_layout(recording.metadata.get("counters_layout"))
    return parse_host_counters(recording.counters, layout).calls


def _possible(sums: CallSums) -> bool:
    """Whether sums of calls can be: no counter gets that far."""
    return max(sums.calls, sums.bytes, sums.duration_ns, sums.freed_bytes, *sums.buckets, 0) <= _MAX_SUM


def _freed(recording: Recording) -> _Freed:
    metadata, end = recording.metadata, recording.end or {}
    in_use = any(integer(mapping(side, "memory"), _HUGETLB) for side in (metadata, end))
    if in_use or end.get("has_hugetlb") is True:
        return _Freed(missing="memory of hugetlbfs goes back to its pool by functions that are not probed")
    asked = text(metadata, "freed_counts") == FREED_COUNTS
    if not text(metadata, "freed_by"):
        why = "not all functions that show it could be probed" if asked else "record --count-freed counts it"
        return _Freed(missing=why)
    if asked:
        return _Freed(_FREES, has_bytes=True)
    return _Freed(
        _FREES_FILES,
        missing="this recording counts pages unmapped, and a page that was unmapped need not be free"
        + ("; the files behind its shared memory kept theirs" if _kept(metadata, end) else ""),
    )


def _kept(metadata: Json, end: Json) -> bool:
    """Whether files behind shared memory are known, and all take as much at the end as at the beginning."""
    before, after = (_files(mapping(side, "memory")) for side in (metadata, end))
    return bool(before) and before == after and None not in before.values()


def _missing_freed(freed: _Freed, calls: Sequence[HostCalls]) -> str | None:
    """What of the calls there are is not known, and why; None when all is."""
    names = {call.name.lower() for call in _FREES}
    unknown = [each.call for each in calls if each.call in names and each.freed_nothing is None]
    if not unknown or freed.missing is None:
        return None
    of_some = f"{' and '.join(unknown)} " if freed.calls else ""
    return f"host: what {of_some or 'the '}calls freed: {freed.missing}"


def _calls(call: Call, sums: CallSums, freed: _Freed) -> HostCalls:
    return HostCalls(
        call=call.name.lower(),
        calls=sums.calls,
        bytes=sums.bytes,
        errors=sums.errors,
        no_bytes=sums.no_bytes,
        freed_nothing=sums.freed_nothing if call in freed.calls else None,
        freed_bytes=sums.freed_bytes if call in freed.calls and freed.has_bytes else None,
        total_ns=sums.duration_ns,
        buckets=sums.buckets,
    )


def _memory(metadata: Json, end: Json) -> Iterator[HostMemory]:
    """Resident memory by kind, and what the files behind shared memory take."""
    before, after = mapping(metadata, "memory"), mapping(end, "memory")
    for name in _MEMORY:
        values = integer(before, name), integer(after, name)
        if any(values):
            yield HostMemory(name.removesuffix("_bytes"), *values)
    taken = [_files(side) for side in (before, after)]
    for name in list(dict.fromkeys((*taken[0], *taken[1])))[:_MAX_FILES]:
        yield HostMemory(f"file {name}", taken[0].get(name), taken[1].get(name))


def _files(memory: Json) -> dict[str, int | None]:
    """What each file takes, by name; further ones of the same name are numbered in their order."""
    files = memory.get("shared_files")
    found = [each for each in files[:_MAX_FILES] if isinstance(each, dict)] if isinstance(files, list) else []
    taken: dict[str, int | None] = {}
    seen: Counter[str] = Counter()
    for each in found:
        name = text(each, "name") or "without a name"
        seen[name] += 1
        taken[name if seen[name] == 1 else f"{name} #{seen[name]}"] = integer(each, "allocated_bytes")
    return taken


def _warnings(
    recording: Recording, batches: Batches, end: End | None, losses: Sequence[Loss], impossible: int
) -> Iterator[str]:
    """What keeps the host's recording from being whole."""
    yield from (f"host: {sentence}" for sentence in (*recording.damage, *recording.notes))
    if batches.damaged:
        damaged = format_things(batches.damaged, "batch that", "batches that")
        yield f"host: left out {damaged} could not be decoded, or with impossible values"
    if impossible:
        kinds = format_things(impossible, "kind of call", "kinds of calls")
        yield f"host: left out the sums of {kinds}, which are impossible"
    if end is None:
        yield "host: the recording has no end record: it was cut off, and what came after is unknown"
    elif end.clean is False:
        yield f"host: the recording did not end normally: {end.reason or 'no reason is given'}"
    for loss in losses:
        if loss.events_lost:
            gone = format_things(loss.events_lost, "was", "were")
            yield f"host: of {loss.function} {gone} lost, so counts are too low"


def _warn_of_missing(batches: int | None) -> Iterator[str]:
    if batches:
        gone = format_things(batches, "recorded batch is", "recorded batches are")
        yield f"host: {gone} not in the file, so times and counts are too low"


def _not_measured(
    header: Header, batches: Batches, delimited: int, freed: str | None, *, is_part: bool
) -> Iterator[str]:
    if batches.counts_discards:
        yield (
            "host: how long each call took, calls that want memory back, and failed ones: record --sample "
            "counts discards alone"
        )
    elif batches.sampled:
        yield "host: calls, how long each took and what it named: record --sample counts none"
    missing = [probe for probe in header.probes if probe.status not in (Status.ATTACHED, Status.NOT_NEEDED)]
    for probe in missing:
        yield f"host: {probe.function}: {probe.status or 'not attached'}"
    if freed is not None:
        yield freed
    if is_part:
        yield (
            "host: page faults, and whether memory became free: record --all does not read what they show; "
            "record one VM with --vm or -p"
        )
    if delimited < len(batches):
        yield (
            f"host: kick or completion of {format_count(len(batches) - delimited)} of "
            f"{format_things(len(batches), 'buffer')}: this VMM learns of it, or tells it, in a way that is "
            "not traced"
        )
