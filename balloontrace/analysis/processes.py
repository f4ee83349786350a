# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's recording of many processes as one recording of each, which all else understands.

Each has its own batches, sums and what was read of it when it came and when it ended. What the recorder did,
and what it cost, is that of all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import count

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.metadata import IS_PART, Json, boolean, integer, mapping, text
from balloontrace.analysis.record_table import record_table
from balloontrace.errors import RecordingError
from balloontrace.format.guest_layout import parse_record_layout
from balloontrace.format.host_layout import BATCH
from balloontrace.format.process_layout import PROCESS_FIELD
from balloontrace.format.recording import Recording

_OF_ONE = ("process", "memory_slots", "memory", "regions", "files")
_AT_END = ("memory", "regions", "files", "eventfds", "has_hugetlb", "losses", "reason", "ended")
_LONGEST_LIST, _LONGEST_FILE = 12, 100
_NOT_IN_FILES = re.compile(r"[^\w.-]+", re.ASCII)


def is_of_many(recording: Recording) -> bool:
    """Whether a recording is of all VMMs of a host."""
    return boolean(recording.metadata, "is_of_many") is True


def split_processes(recording: Recording) -> tuple[Recording, ...]:
    """A recording for each process that came, in that order; of one process, that recording itself.

    RecordingError when its description makes no sense.
    """
    if not is_of_many(recording):
        return (recording,)
    came, ended = _events(recording)
    batches, torn = _batches(recording)
    damage = (*recording.damage, *(["a piece of batches ends with part of one"] if torn else []))
    return tuple(
        _part(replace(recording, damage=damage), event, ended.get(number), batches.get(number, b""))
        for number, event in came.items()
    )


def vm_name(recording: Recording) -> str:
    """What the VM of a part is called: by its name, else by its process."""
    process = mapping(recording.metadata, "process")
    pid, vm, comm = integer(process, "pid"), text(process, "vm"), text(process, "comm") or "process"
    if vm:
        return vm if integer(process, "backend_of") is None else f"{vm}/{comm}"
    return f"{comm}-{'?' if pid is None else pid}"


def file_names(parts: Sequence[Recording]) -> list[str]:
    """A name for the files of each part: that of its VM, without what a stranger should not choose."""
    found: list[str] = []
    for part in parts:
        name = _NOT_IN_FILES.sub("_", vm_name(part))[:_LONGEST_FILE].lstrip(".") or "vm"
        numbers = (f"{name}-{number}" for number in count(2))
        found.append(name if name not in found else next(each for each in numbers if each not in found))
    return found


def choose_parts(recording: Recording, vm: str | None) -> tuple[Recording, ...]:
    """The parts whose VM is called as the pattern `vm` says; all without one.

    RecordingError where there is none.
    """
    parts = split_processes(recording)
    if vm is None:
        if not parts:
            raise RecordingError(f"{recording.label} has no VM: none ran while it was recorded")
        return parts
    # A backend is called after its VM, so that a name alone means the VM itself.
    found = tuple(part for part in parts if vm_name(part) == vm)
    found = found or tuple(part for part in parts if _is_called(part, vm))
    if not found:
        raise RecordingError(f"{recording.label} has no VM called {vm}: it has {list_vms(parts)}")
    return found


def list_vms(parts: Sequence[Recording]) -> str:
    """Their names, some of many."""
    names = sorted({vm_name(part) for part in parts})
    more = f" and {len(names) - _LONGEST_LIST} more" if len(names) > _LONGEST_LIST else ""
    return ", ".join(names[:_LONGEST_LIST]) + more if names else "none"


def _is_called(part: Recording, vm: str) -> bool:
    names = (vm_name(part), text(mapping(part.metadata, "process"), "vm_uuid"))
    return any(name and fnmatchcase(name, vm) for name in names)


def _events(recording: Recording) -> tuple[dict[int, Json], dict[int, Json]]:
    """What was written of each process when it came, and when it ended, by its number."""
    came: dict[int, Json] = {}
    ended: dict[int, Json] = {}
    for event in recording.processes:
        number = integer(event, "number")
        if number is not None:
            (ended if "ended" in event else came).setdefault(number, event)
    return came, ended


def _batches(recording: Recording) -> tuple[Mapping[int, bytes], int]:
    """The records of each process, and how many pieces end with part of one."""
    known = (*BATCH.fields, PROCESS_FIELD)
    layout = parse_record_layout(recording.metadata.get("batch_layout"), "batch_layout", known)
    place = next((at for name, kind, at in layout.fields if (name, kind) == PROCESS_FIELD[:2]), None)
    records, torn = record_table(recording.batches, layout)
    if place is None or not len(records):
        return {}, torn
    start = layout.header_bytes + place
    numbers: NDArray[np.uint32] = np.ascontiguousarray(records[:, start : start + 4]).view("<u4").reshape(-1)
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    groups = np.split(order, first[1:])
    return {int(number): records[rows].tobytes() for number, rows in zip(found, groups, strict=True)}, torn


def _part(recording: Recording, came: Json, ended: Json | None, batches: bytes) -> Recording:
    number = integer(came, "number") or 0
    started = mapping(came, "came")
    identity = text(recording.metadata, "recording_id")
    metadata = {
        **{key: value for key, value in recording.metadata.items() if key != "is_of_many"},
        **{key: came[key] for key in _OF_ONE if key in came},
        IS_PART: True,
        "recording_id": identity and f"{identity}-{number}",
        "started": started or recording.metadata.get("started"),
    }
    end = None
    if ended is not None:
        end = {"clean": True, "own_cost": None, **(recording.end or {})}
        end |= {key: ended[key] for key in _AT_END if key in ended}
    return replace(
        recording,
        metadata=metadata,
        end=end,
        batches=(memoryview(batches),) if batches else (),
        counters=recording.process_counters.get(number),
        processes=(),
        process_counters={},
    )
