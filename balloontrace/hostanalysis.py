# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of the host's side into what the report shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from balloontrace.events import BatchFlag, Call
from balloontrace.hostcounters import CallSums, parse_host_counters
from balloontrace.hostlayout import parse_batch_layout, parse_sums_layout
from balloontrace.metadata import End, Json, integer, mapping, parse_end, parse_header, text
from balloontrace.recording import Recording
from balloontrace.results import Header, HostCalls, HostMemory, HostSide, Loss
from balloontrace.units import format_count, format_things
from balloontrace.wire import Batches, decode_batches

_RSS = ("rss_anon_bytes", "rss_file_bytes", "rss_shmem_bytes")
_MAX_FILES = 64
_SPLIT_PROBE = "split_huge_pmd"
_ATTACHED = "attached"
_FREES = frozenset({Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE, Call.FALLOCATE_PUNCH_HOLE})


@dataclass(frozen=True, slots=True)
class HostRecording:
    """A host's recording, decoded."""

    header: Header
    batches: Batches
    end: End | None
    side: HostSide
    warnings: tuple[str, ...]
    not_measured: tuple[str, ...]


def analyse_host(recording: Recording) -> HostRecording:
    """Everything the report shows of the host's side. RecordingError when its description makes no sense."""
    header, end = parse_header(recording), parse_end(recording.end)
    batches = decode_batches(recording.batches, parse_batch_layout(recording.metadata.get("batch_layout")))
    totals = _sums(recording)
    losses = end.losses if end else ()
    lost = [loss.events_lost for loss in losses if loss.events_lost is not None]
    delimited = batches.has(BatchFlag.KICK_SEEN) & batches.has(BatchFlag.DONE_SEEN)
    served_ns = (batches.int64("done_ns") - batches.int64("kick_ns"))[delimited]
    counts_freed = bool(text(recording.metadata, "freed_by"))
    counts_splits = any(
        probe.function == _SPLIT_PROBE and probe.status == _ATTACHED for probe in header.probes
    )
    side = HostSide(
        header=header,
        process=_process(mapping(recording.metadata, "process")),
        complete=recording.complete and not batches.damaged,
        ended=end.reason if end else None,
        batches=len(batches),
        delimited=int(delimited.sum()),
        served_ns=int(served_ns.sum()) if delimited.any() else None,
        calls_ns=int(batches.int64("calls_ns")[delimited].sum()) if delimited.any() else None,
        calls_in_batches=int(batches.calls(*Call).sum()),
        madvise_bytes=int(batches.int64("madvise_bytes").sum()),
        fallocate_bytes=int(batches.int64("fallocate_bytes").sum()),
        thp_splits=int(batches.int64("thp_splits").sum()) if counts_splits else None,
        calls=tuple(_calls(call, sums, counts_freed) for call, sums in totals.items() if sums.calls),
        memory=tuple(_memory(recording.metadata, recording.end or {})),
        losses=losses,
        events_lost=sum(lost) if lost else None,
        own_cost=end.own_cost if end else None,
    )
    return HostRecording(
        header,
        batches,
        end,
        side,
        tuple(_warnings(recording, batches, end, losses)),
        tuple(_not_measured(header, batches, int(delimited.sum()))),
    )


def _process(process: Json) -> str | None:
    pid, comm = integer(process, "pid"), text(process, "comm")
    return None if pid is None else f"{pid} ({comm or 'no name'})"


def _sums(recording: Recording) -> Mapping[Call, CallSums]:
    """Sums by kind of call; none where the recording has none. RecordingError as for spans."""
    if recording.counters is None:
        return {}
    layout = parse_sums_layout(recording.metadata.get("counters_layout"))
    return parse_host_counters(recording.counters, layout).calls


def _calls(call: Call, sums: CallSums, counts_freed: bool) -> HostCalls:
    return HostCalls(
        call=call.name.lower(),
        calls=sums.calls,
        bytes=sums.bytes,
        errors=sums.errors,
        no_bytes=sums.no_bytes,
        freed_nothing=sums.freed_nothing if counts_freed and call in _FREES else None,
        total_ns=sums.duration_ns,
        buckets=sums.buckets,
    )


def _memory(metadata: Json, end: Json) -> Iterator[HostMemory]:
    """Resident memory by kind, and what the files behind shared memory take."""
    before, after = mapping(metadata, "memory"), mapping(end, "memory")
    for name in _RSS:
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
    recording: Recording, batches: Batches, end: End | None, losses: Sequence[Loss]
) -> Iterator[str]:
    """What keeps the host's recording from being whole."""
    yield from (f"host: {sentence}" for sentence in (*recording.damage, *recording.notes))
    if batches.damaged:
        yield f"host: {format_things(batches.damaged, 'batch', 'batches')} could not be decoded"
    if end is None:
        yield "host: the recording has no end record: it was cut off, and what came after is unknown"
    elif end.clean is False:
        yield f"host: the recording did not end normally: {end.reason or 'no reason is given'}"
    for loss in losses:
        if loss.events_lost:
            yield f"host: {format_count(loss.events_lost)} {loss.function} were lost, so counts are too low"


def _not_measured(header: Header, batches: Batches, delimited: int) -> Iterator[str]:
    missing = [probe for probe in header.probes if probe.status not in (_ATTACHED, "not needed")]
    for probe in missing:
        yield f"host: {probe.function}: {probe.status or 'not attached'}"
    if delimited < len(batches):
        yield (
            f"host: when {format_count(len(batches) - delimited)} of {format_count(len(batches))} buffers "
            "were kicked or completed: this VMM learns of it, or tells it, in a way that is not traced"
        )
