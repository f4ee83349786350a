# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that can be shown about a recording, as plain frozen data; None always means "not measured".

Field names are the names in the JSON report: they are only ever added to. Times are integer nanoseconds,
pages are 4 KiB units, shares are fractions of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from balloontrace.format.stages import Place
from balloontrace.format.vocabulary import Kind, Side

SCHEMA_VERSION = 1

REACHED = "reached"
IN_PROGRESS = "in progress"
STALLED = "stalled"
SUPERSEDED = "superseded"
DRIVER_REMOVED = "driver removed"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a recording was made."""

    hostname: str | None = None
    boot_id: str | None = None
    kernel_release: str | None = None
    architecture: str | None = None
    page_size_bytes: int | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    swap_bytes: int | None = None
    min_free_kbytes: int | None = None  # vm.min_free_kbytes
    numa_nodes: int | None = None
    init_on_alloc: bool | None = None
    init_on_free: bool | None = None
    page_poison: bool | None = None
    thp_enabled: str | None = None
    thp_defrag: str | None = None
    thp_shmem_enabled: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A balloon device, as the kernel names it."""

    name: str
    index: int | None = None
    features: tuple[str, ...] = ()
    feature_bits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DriverGap:
    """A time in which `devices` had no driver: unbound, unplugged or unloaded. Times are of the clock.

    It began between `last_seen_ns` and `gone_ns`, which is None where the driver went and came between two
    looks. It had ended by `back_ns`, None if never. `reattached`: probes had gone with the module and were
    attached to it anew; what moved before `back_ns` was not seen then.
    """

    devices: tuple[str, ...]
    last_seen_ns: int | None = None
    gone_ns: int | None = None
    back_ns: int | None = None
    reattached: bool | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A function that was to be traced, and what came of it."""

    function: str
    symbol: str | None = None
    mechanism: str | None = None
    stage: str | None = None
    status: str | None = None
    stands_in_for: str | None = None
    required: bool | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the recording says of itself."""

    recording: str
    label: str | None = None
    tool_version: str | None = None
    format_version: str | None = None
    command_line: tuple[str, ...] = ()
    side: str | None = None
    clock: str | None = None
    started_realtime_ns: int | None = None
    started_monotonic_ns: int | None = None
    driver_kind: str | None = None
    module_srcversion: str | None = None
    machine: Machine = field(default_factory=Machine)
    devices: tuple[Device, ...] = ()
    probes: tuple[Probe, ...] = ()
    boundaries: Mapping[str, str] = field(default_factory=dict)
    recording_id: str | None = None

    @property
    def is_of_host(self) -> bool:
        """Old recordings name no side, and are of guests."""
        return self.side == Side.HOST


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of a stage table. `part_of` names the stage that a finer row belongs to.

    `count` is how many calls, work items or gaps the row sums up, and the quantiles (nearest rank) are over
    those; `share` is of the operation's wall time.
    """

    stage: str
    name: str
    where: Place
    part_of: str | None = None
    count: int | None = None
    total_ns: int | None = None
    share: float | None = None
    p50_ns: int | None = None
    p90_ns: int | None = None
    p99_ns: int | None = None
    max_ns: int | None = None


@dataclass(frozen=True, slots=True)
class BitmapUse:
    """How the patched driver went through the pages of an operation.

    `passes` are walks over the list of pages; `windows` those of them that found a page; `bitmaps` make up a
    window, at the least in this operation; `bytes_sent` is response data without its headers.
    """

    windows: int | None
    passes: int | None
    bitmaps: int | None
    mid_window_sends: int | None
    bytes_sent: int | None


@dataclass(frozen=True, slots=True)
class PayloadSends:
    """What each send of an operation carried: columns with one entry a send, in order.

    `state` is whole, cut, invalid or missing. Of what is missing nothing is known but perhaps its length.
    `new_pages` are those that neither this send nor one before it in the operation had named.
    """

    start_ns: tuple[int, ...]
    state: tuple[str, ...]
    bytes_sent: tuple[int | None, ...]
    records: tuple[int | None, ...]
    bitmap_words: tuple[int | None, ...]
    plain_runs: tuple[int | None, ...]
    bits_set: tuple[int | None, ...]
    runs_named: tuple[int | None, ...]
    pages: tuple[int | None, ...]
    new_pages: tuple[int | None, ...]
    first_pfn: tuple[int | None, ...]
    last_pfn: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """What the host did for the sends of one operation, all of which were matched with their buffers.

    `calls` are those that give memory back or take it, `errors` the failed ones among them. A page of memory
    that is backed by a file may be in both `madvise_bytes` and `fallocate_bytes`. `thp_splits` are huge pages
    split inside the calls; None where their probe was not attached.
    """

    buffers: int
    calls: int
    errors: int
    madvise_bytes: int
    fallocate_bytes: int
    thp_splits: int | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One inflate or deflate of one device towards a target; `outcome` is one of the words above."""

    number: int
    device: str
    kind: Kind
    outcome: str | None
    started_ns: int
    wall_ns: int
    pages: int | None
    target_pages: int | None
    targets_pages: tuple[int, ...]
    actual_before_pages: int | None
    actual_after_pages: int | None
    rate_bytes_per_s: float | None
    sends: int | None
    work_items: int
    starts_at: str
    started_before_recording: bool | None
    short_work_items: int
    short_ns: int
    oom_notifications: int | None
    oom_pages: int | None
    verdict: tuple[str, ...]
    stages: tuple[StageRow, ...]
    bitmap: BitmapUse | None = None
    payload: PayloadStatistics | None = None
    payload_sends: PayloadSends | None = None
    served: Served | None = None


def longest(operations: Sequence[Operation], most: int) -> list[Operation]:
    """Those that took longest, at most so many, in their order: for where not all can be shown."""
    by_length = sorted(operations, key=lambda operation: operation.wall_ns, reverse=True)
    return sorted(by_length[:most], key=lambda operation: operation.number)


@dataclass(frozen=True, slots=True)
class Total:
    """All operations of one kind together."""

    kind: Kind
    operations: int
    pages: int | None
    wall_ns: int
    rate_bytes_per_s: float | None
    sends: int | None
    stages: tuple[StageRow, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """Two counts of the same thing from independent sources; `agrees` is None if one was not measured."""

    name: str
    spans: int | None
    independent: int | None
    source: str
    agrees: bool | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class BalloonState:
    """A balloon when the recording began or ended, and where each number comes from.

    `present` is False where its device was not there.
    """

    present: bool | None
    size_pages: int | None
    size_source: str | None
    target_pages: int | None
    target_source: str | None


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What left a balloon outside of work items: `how`, in how many calls, and where the last one left it.

    `below_target_pages` is how far the balloon was below its target then.
    """

    how: str
    calls: int
    pages: int | None
    below_target_pages: int | None


@dataclass(frozen=True, slots=True)
class Balloon:
    """Size and target of one balloon at both ends of a recording.

    At its end the balloon was `below_target_pages` too small or `above_target_pages` too large; a target is
    met where the driver, which moves whole pages of its kernel, can come no nearer.
    """

    device: str
    at_start: BalloonState
    at_end: BalloonState
    below_target_pages: int | None
    above_target_pages: int | None
    given_back: tuple[GivenBack, ...] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """What happened at the probes of one function. `events_lost` sums what should have been a span."""

    function: str
    entries: int | None = None
    returns: int | None = None
    unmatched_returns: int | None = None
    lost: int | None = None
    no_state: int | None = None
    overwritten: int | None = None
    missed: int | None = None

    @property
    def events_lost(self) -> int | None:
        """Calls that left no span: no room for it, not followed, return unseen, or missed by the kernel."""
        known = [
            value for value in (self.lost, self.no_state, self.overwritten, self.missed) if value is not None
        ]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class Outside:
    """Calls that belong to no operation, and what they are."""

    what: str
    calls: int
    pages: int | None
    total_ns: int


@dataclass(frozen=True, slots=True)
class BpfCost:
    """How often a BPF program ran, and how long those runs took that the kernel timed."""

    program: str
    runs: int | None = None
    timed_runs: int | None = None
    run_time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class OwnCost:
    """What recording cost the machine it ran on.

    `bpf_time_ns` is the time of all runs of the programs that were timed, at the mean of their timed runs;
    None when none of the programs that ran was timed. `bpf_never_timed` names those that ran and are not in
    it, `bpf_not_counted` those whose runs nobody counted. `bpf_timed_runs` are of `bpf_runs`; on the host at
    most, for there the kernel times runs for other processes too.
    """

    bpf: tuple[BpfCost, ...] = ()
    bpf_runs: int | None = None
    bpf_timed_runs: int | None = None
    bpf_time_ns: int | None = None
    bpf_never_timed: tuple[str, ...] = ()
    bpf_not_counted: tuple[str, ...] = ()
    cpu_ns: int | None = None
    setup_cpu_ns: int | None = None
    peak_memory_bytes: int | None = None
    setup_peak_memory_bytes: int | None = None
    wakeups: int | None = None
    bytes_written: int | None = None
    attach_s: float | None = None


@dataclass(frozen=True, slots=True)
class RunOrder:
    """How many runs of 2^order up to 2^(order+1) - 1 pages there are, and how many pages are in them."""

    order: int
    runs: int
    pages: int


@dataclass(frozen=True, slots=True)
class Contiguity:
    """How some pages lie: in how many runs of consecutive numbers, as long as can be, and in what span.

    `density` is the share of the pages from first to last that are among them.
    """

    pages: int
    pfn_first: int | None
    pfn_last: int | None
    pfn_span: int | None
    density: float | None
    runs: int
    mean_run_pages: float | None
    longest_run_pages: int | None
    run_orders: tuple[RunOrder, ...]


@dataclass(frozen=True, slots=True)
class RecordStatistics:
    """What the records of response data consist of.

    A bitmap word carries 64 bits and names a page for each that is set. So `pages_by_words` is the number of
    bits set, and `bits_set_share` their share of `bits_carried`. A plain run has no word and names
    2^order pages.
    """

    records: int
    bitmap_words: int
    plain_runs: int
    plain_run_orders: tuple[RunOrder, ...]
    pages_by_words: int
    pages_by_runs: int
    bits_carried: int
    bits_set_share: float | None


@dataclass(frozen=True, slots=True)
class PayloadStatistics:
    """What the payloads of one operation's sends named, and at what price. `of_records`: None for PFN arrays.

    Payloads are whole, missing, cut (captured in part only) or invalid (something was refused;
    `first_refusal` is a sentence). Unless all are whole, pages are those that could be decoded.

    `bytes_sent` is of payloads, `header_bytes` of the response headers before them. `bytes_per_page` is both
    over `pages_named`, to be compared with the 4 bytes of a PFN; None when something was not captured.

    `runs_named` counts what a host meets that takes records as they come: each plain run, each stretch of
    bits set in a word; of PFN arrays, the stretches of consecutive numbers in each, once sorted.

    A page counts in `pages_named` as often as it was named, and once in `distinct`; `pages_repeated` is the
    difference. `pages_in_balloon_before` are the distinct ones that the host had before the operation.
    """

    encoding: str
    sends: int
    payloads_whole: int
    payloads_missing: int
    payloads_cut: int
    payloads_invalid: int
    first_refusal: str | None
    bytes_sent: int | None
    header_bytes: int
    bytes_per_page: float | None
    of_records: RecordStatistics | None
    runs_named: int
    pages_named: int
    pages_repeated: int
    pages_in_balloon_before: int | None
    distinct: Contiguity


@dataclass(frozen=True, slots=True)
class Pairing:
    """How a guest's sends and a host's batches were matched, and what is known of both clocks.

    `delimited` pairs have a completion that was seen. `clock_offset_ns` is what to add to the
    guest's clock for the host's, at the first pair, within `clock_error_ns`; `clocks_known` tells whether
    that is close enough to tell the way to the host from the way back.
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
    `calls_ns` is the part of that time inside the calls; None where there is none. `thp_splits` are huge
    pages split inside the calls, None where their probe was not attached.
    """

    header: Header
    process: str | None
    complete: bool
    ended: str | None
    batches: int
    delimited: int
    served_ns: int | None
    calls_ns: int | None
    calls_in_batches: int
    madvise_bytes: int
    fallocate_bytes: int
    thp_splits: int | None
    calls: tuple[HostCalls, ...]
    memory: tuple[HostMemory, ...]
    losses: tuple[Loss, ...]
    events_lost: int | None
    own_cost: OwnCost | None
    pairing: Pairing | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A recording, analysed.

    `events_lost` were lost while recording; `spans_missing` were recorded, and are not in the file any more,
    the host's batches among them. `pages_moved` into and out of balloons while probes were attached, by
    /proc/vmstat; `pages_unseen` of them are in no span.
    """

    schema_version: int
    header: Header
    complete: bool
    ended: str | None
    spans: int
    events_lost: int | None
    events_seen: int | None
    spans_missing: int | None
    warnings: tuple[str, ...]
    operations: tuple[Operation, ...]
    totals: tuple[Total, ...]
    outside: tuple[Outside, ...]
    checks: tuple[Check, ...]
    losses: tuple[Loss, ...]
    not_measured: tuple[str, ...]
    own_cost: OwnCost | None
    host: HostSide | None = None
    pages_moved: int | None = None
    pages_unseen: int | None = None
    balloons: tuple[Balloon, ...] = ()
    driver_gaps: tuple[DriverGap, ...] = ()
