# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording of the host tells, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass

from balloontrace.results.host_memory import DiscardPeriod, HostRegion
from balloontrace.results.recorder import Loss, OwnCost
from balloontrace.results.recording_header import Header


@dataclass(frozen=True, slots=True)
class Pairing:
    """How a guest's sends and a host's batches were matched, and what is known of both clocks.

    `delimited` pairs have a completion that was seen. `clock_offset_ns` is what to add to the
    guest's clock for the host's, at the first pair, within `clock_error_ns`; `clocks_known` tells whether
    that is close enough to tell the way to the host from the way back. `sends_alone` and `batches_alone`
    have no partner, though the other side was recorded as well: it was lost there, or cannot be proved.
    """

    sends: int
    batches: int
    pairs: int
    delimited: int
    clock_offset_ns: int
    clock_error_ns: int
    clock_drift_ppm: float
    clocks_known: bool
    notes: tuple[str, ...] = ()
    reports: int | None = None  # of free pages that were matched too; None where the guest's were not traced
    sends_alone: int = 0
    batches_alone: int = 0


@dataclass(frozen=True, slots=True)
class OtherBuffers:
    """Buffers of one thread and kind of call that are no sends, and discards that are no buffers.

    `what` was told by matching with the guest's recording, by the eventfd that kicked buffers which were
    matched, by KVM's memory slots or the process's mappings, or by the calls alone. `c_ns` is the time
    between the calls, from kick to completion, None unless all of both were seen; `d_ns` that inside them. Of
    calls that were sampled nothing but their kinds is known. A file discard has the `descriptor` of the file,
    and its name where the process had that one open at an end of the recording.
    """

    what: str
    told_by: str
    tid: int
    call: str
    buffers: int
    calls: int | None
    bytes: int | None
    c_ns: int | None
    d_ns: int | None
    descriptor: int | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class HostQueue:
    """Buffers that one eventfd kicked, all of one queue: `inflate`, `deflate`, `report`; None: not known.

    Told by matching `matched` of them with the guest's recording, or by the calls. Those of `statistics` and
    `hint` take no call, so no buffer is seen, and `matched` are kicks. `kicks` is None where not counted.
    """

    eventfd: int
    queue: str | None
    told_by: str | None
    buffers: int
    matched: int
    kicks: int | None = None


@dataclass(frozen=True, slots=True)
class HostCalls:
    """All calls of one kind the traced process made; `buckets[i]` counts those of 2^i to 2^(i+1) - 1 ns.

    `no_bytes` named no memory. By `freed_nothing` of those that did not fail no page became free, those of
    `no_bytes` among them; `freed_bytes` became free inside all calls. Both are None where that
    was not counted, and for calls that are not there to free at once.
    """

    call: str
    calls: int
    bytes: int
    errors: int
    no_bytes: int
    freed_nothing: int | None
    freed_bytes: int | None
    total_ns: int
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Memory of the traced process, in bytes, when the recording began and when it ended."""

    what: str
    before_bytes: int | None
    after_bytes: int | None


@dataclass(frozen=True, slots=True)
class HostSide:
    """What a recording of the host tells: one process, the buffers it served and the calls it made for them.

    `served_ns` is the time of the batches that have both a kick and a completion, `delimited` their number.
    `calls_ns` is the part of that time inside the calls; None where there is none. Of both, `tracing_d_ns` is
    what tracing added inside the calls, by what a call's probes were measured to take while attaching, and
    `tracing_c_ns` what it added between them; None in recordings that did not measure it. `thp_splits` are
    huge pages split inside the calls, None where their probe was not attached.

    `discards` of `discarded_bytes` are what KVM was told to take from the guest, where `--count-discards` was
    given beside samples, else None. A discard of memory that is backed by a file may be two.

    With `sample_period_ns` calls were sampled: `calls_ns` is an estimate then, in 19 of 20 cases off by no
    more than `calls_error_ns`, from `samples` of which `samples_inside` were inside calls. What is counted of
    calls is None. `guest_memory_bytes` is what KVM's memory slots of the process have, None where not known.
    """

    header: Header
    process: str | None
    complete: bool
    ended: str | None
    batches: int
    delimited: int
    served_ns: int | None
    calls_ns: int | None
    tracing_c_ns: int | None
    tracing_d_ns: int | None
    calls_in_batches: int | None
    madvise_bytes: int | None
    fallocate_bytes: int | None
    thp_splits: int | None
    calls: tuple[HostCalls, ...]
    memory: tuple[HostMemory, ...]
    losses: tuple[Loss, ...]
    events_lost: int | None
    own_cost: OwnCost | None
    pairing: Pairing | None = None
    others: tuple[OtherBuffers, ...] = ()
    sample_period_ns: int | None = None
    samples: int | None = None
    samples_inside: int | None = None
    calls_error_ns: int | None = None
    queues: tuple[HostQueue, ...] = ()
    regions: tuple[HostRegion, ...] = ()
    periods: tuple[DiscardPeriod, ...] = ()
    guest_memory_bytes: int | None = None
    discards: int | None = None
    discarded_bytes: int | None = None
