# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user asks of tracing: one object, made once by the command, that travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from balloontrace.trace.attached_programs import DEFAULT_RING_BYTES


@dataclass(frozen=True)
class TraceOptions:
    """What is traced and how, and for a recording when it stops and what it is called."""

    side: str = "auto"  # guest, host or auto
    pid: int | None = None
    vm: str | None = None  # what its VM is called: a pattern
    all_vms: bool = False  # every VMM of the host, or of those whose VM is called as `vm` says
    missing_probes: str = "error"  # or warn
    attach: str = "auto"  # kprobe, and on the host tracepoint
    engine: str = "auto"  # prebuilt or bcc
    ring_bytes: int = DEFAULT_RING_BYTES  # 0: no records, sums instead
    capture: bool = False  # payloads
    offsets: Mapping[str, int] = field(default_factory=dict)  # by struct.member, as the user knows them
    count_freed: bool = False
    split_allocation: bool = False  # what the driver does while it allocates
    sample: bool = False  # calls, instead of tracing each
    time_faults: bool = False  # beside samples; where calls are traced, faults are anyway
    count_discards: bool = False  # beside samples; where calls are traced, they are counted
    duration_s: float | None = None
    operations: int | None = None
    until_eof: bool = False  # of standard input
    command: Sequence[str] = ()
    label: str | None = None
    pair: str | None = None  # the same on both sides of one balloon
    show_progress: bool = False
    started_ns: int = 0  # when the program was started (CLOCK_MONOTONIC), for the cost of attaching
