# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's side: the one driver of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from balloontrace.console.stderr import say
from balloontrace.errors import MissingProbeError, UsageError
from balloontrace.format.vocabulary import Function, Status
from balloontrace.system.kernel import is_confidential, read_symbols
from balloontrace.trace.guest.collector import PAYLOAD_RING_BYTES, GuestCollector
from balloontrace.trace.guest.diagnosis import GuestDiagnosis, diagnose
from balloontrace.trace.guest.plan import GuestPlan
from balloontrace.trace.guest.probes import ALLOCATION_SYMBOL_NAMES
from balloontrace.trace.guest.session import GuestSession
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.side import TracedSide

_SHOW_PROGRESS = (Function.CONFIG_GET, Function.CONFIG_SET)  # the balloon's target, and its size
_NO_PAYLOADS = (
    "--capture payload copies memory of the driver, which kernel lockdown in confidentiality mode forbids; "
    "leave it out"
)
_NO_PROGRESS = "--operations needs the balloon's target and size, which this kernel does not show; use -d"


@dataclass(frozen=True)
class AttachedGuest:
    """The driver with its probes attached."""

    collector: GuestCollector
    diagnosis: GuestDiagnosis
    target: str = ""

    def open_session(self, output_fd: int, options: TraceOptions) -> GuestSession:
        """A recording of it into `output_fd`."""
        return GuestSession(self.collector, self.diagnosis, output_fd, options, say=say)


class GuestSide(TracedSide[GuestDiagnosis, GuestPlan, AttachedGuest]):
    """The driver of this machine's balloon."""

    no_way = "no symbol for"

    def check_options(self) -> None:
        """UsageError for what is asked and cannot be had on this side."""
        if self.options.sample:
            raise UsageError("--sample is for the host's side: the guest's takes few events")
        if self.options.count_discards:
            raise UsageError("--count-discards is for the host's side: it takes the memory from its guest")
        if self.options.time_faults:
            raise UsageError("--time-faults is for the host's side: it takes the memory back")
        if self.options.count_freed:
            raise UsageError("--count-freed is for the host's side: nothing is freed on the guest's")
        if self.options.attach == "tracepoint":
            raise UsageError("--attach tracepoint is for the host's side: the driver has no tracepoints")

    def diagnose(self) -> GuestDiagnosis:
        """Look at this system; never raises for something it could report."""
        return diagnose(offsets=self.options.offsets, engine=self.options.engine)

    def choose_plan(self, diagnosis: GuestDiagnosis) -> GuestPlan:
        """The plan, by kprobes alone where that was asked for."""
        if not diagnosis.plan.attachable:
            raise MissingProbeError(
                "none of the driver's functions is a symbol in this kernel, so nothing can be traced"
            )
        plan = diagnosis.plan.with_kprobes() if self.options.attach == "kprobe" else diagnosis.plan
        if not self.options.split_allocation:
            return plan
        return plan.with_allocation(read_symbols(ALLOCATION_SYMBOL_NAMES))

    @contextmanager
    def attached(self, diagnosis: GuestDiagnosis, plan: GuestPlan) -> Iterator[AttachedGuest]:
        """Attach to the driver; detached at the end of the context."""
        options = self.options
        if options.capture:
            if is_confidential():
                raise UsageError(_NO_PAYLOADS)
            _warn_of_missing_payloads(diagnosis)
        needed = needed_for_progress(plan) if options.operations is not None else frozenset()
        payload_ring_bytes = PAYLOAD_RING_BYTES if options.capture else 0
        with GuestCollector(
            plan,
            diagnosis.layout,
            diagnosis.engines,
            ring_bytes=options.ring_bytes,
            payload_ring_bytes=payload_ring_bytes,
        ) as collector:
            if needed & collector.loaded.failures.keys():
                raise UsageError(_NO_PROGRESS)
            yield AttachedGuest(collector, diagnosis)


def _warn_of_missing_payloads(diagnosis: GuestDiagnosis) -> None:
    """Say which payloads cannot be captured: nobody knows where they lie, or what the arguments are."""
    plan = diagnosis.plan
    wanted = {"num_pfns", "pfns"} | ({"resp_data", "resp_pos"} if plan.patched else set())
    unknown = sorted(name for name in wanted if diagnosis.layout.get("virtio_balloon", name) is None)
    if unknown:
        members = ", ".join(f"virtio_balloon.{name}" for name in unknown)
        say(f"balloontrace: warning: payloads are not captured without the offsets of {members}: --layout\n")
    for probe in plan.attachable:
        if probe.function in (Function.TELL_HOST, Function.SEND_RESP_DATA) and not probe.arguments_trusted:
            say(f"balloontrace: warning: payloads of {probe.where} are not captured: {probe.note}\n")


def needed_for_progress(plan: GuestPlan) -> frozenset[str]:
    """Rows without which the end of an operation is not seen. UsageError where `plan` lacks one."""
    rows = [plan.probe(function) for function in _SHOW_PROGRESS]
    # The driver's own num_pages says what it writes, where its place is known.
    needed = [row for row in rows if row.status is not Status.NOT_NEEDED]
    if any(row.status is not Status.ATTACH for row in needed):
        raise UsageError(_NO_PROGRESS)
    return frozenset(row.name for row in needed)
