# SPDX-License-Identifier: GPL-2.0-or-later
"""The way to attached probes, the same for both sides and for all that trace; and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from balloontrace.console.stderr import note, say
from balloontrace.errors import CannotTraceError, MissingProbeError, UsageError
from balloontrace.format.balloon_size import BalloonSize, kernel_page_in_pages
from balloontrace.format.vocabulary import Function, Side
from balloontrace.system.kernel import read_balloon_devices
from balloontrace.system.vmm import find_vmms
from balloontrace.trace.attached_programs import AttachedPrograms
from balloontrace.trace.machine_checks import Diagnosis, State, check_firing
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.plan import Plan, PlannedProbe, Point
from balloontrace.trace.side import Attached, TracedSide
from balloontrace.units import format_bytes, format_standing, format_things, off_target_pages

_LOST = ("lost", "no_state", "overwritten", "missed")  # what a report calls lost events

_Plan = TypeVar("_Plan", bound=Plan[PlannedProbe[Point]])
_Diagnosis = TypeVar("_Diagnosis", bound=Diagnosis[Any])
_Attached = TypeVar("_Attached", bound=Attached)


if TYPE_CHECKING:
    from balloontrace.trace.guest.side import AttachedGuest
    from balloontrace.trace.host.all_side import AttachedAll
    from balloontrace.trace.host.side import AttachedHost

    AnySide = TracedSide[Any, Any, AttachedGuest | AttachedHost | AttachedAll]


def make_side(side: str, options: TraceOptions) -> AnySide:
    """Guest or host; what the other takes is not loaded."""
    if side == Side.HOST and options.all_vms:
        from balloontrace.trace.host.all_side import AllSide

        return AllSide(options)
    if side == Side.HOST:
        from balloontrace.trace.host.side import HostSide

        return HostSide(options)
    from balloontrace.trace.guest.side import GuestSide

    return GuestSide(options)


def choose_side(options: TraceOptions) -> AnySide:
    """Guest or host. UsageError for what is asked and cannot be had there."""
    side_word = side_of(options.side, options.pid, options.vm, all_vms=options.all_vms)
    side = make_side(side_word, options)
    side.check_options()
    return side


def side_of(side: str, pid: int | None, vm: str | None = None, *, all_vms: bool = False) -> str:
    """Guest or host: `side` is the word of `--side`. UsageError for a guest with a process named."""
    if pid is not None and vm is not None:
        raise UsageError("-p and --vm both name the process; leave one of them out")
    option = "-p" if pid is not None else "--vm" if vm is not None else "--all" if all_vms else None
    if option is not None:
        if side == Side.GUEST:
            what = "means the VMs" if option == "--all" else "names a process"
            raise UsageError(f"{option} {what} of the host; leave it out, or leave --side guest out")
        return Side.HOST
    if side != "auto":
        return side
    vmms = find_vmms()
    if not read_balloon_devices():
        return Side.HOST if vmms else Side.GUEST
    if vmms:
        say("balloontrace: this machine has a balloon and runs VMs too; tracing its own, as a guest does\n")
    return Side.GUEST


@contextmanager
def attach(side: TracedSide[_Diagnosis, Any, _Attached]) -> Iterator[_Attached]:
    """Diagnose, plan and attach; detached at the end of the context.

    Raises CannotTraceError, MissingProbeError or UsageError, before anything is attached if it can.
    """
    diagnosis = side.diagnose()
    note(lambda: _describe_findings(diagnosis))
    hold_to_problems(diagnosis)
    side.choose_target(diagnosis)
    with side.attached(diagnosis, make_sure_of_plan(side, diagnosis)) as attached:
        note(lambda: _describe_attached(attached.collector))
        yield attached


def hold_to_problems(diagnosis: Diagnosis[Any]) -> None:
    """CannotTraceError for whatever makes tracing impossible."""
    if diagnosis.problems:
        more = (
            f" (and {len(diagnosis.problems) - 1} more: see balloontrace doctor)"
            if diagnosis.problems[1:]
            else ""
        )
        raise CannotTraceError(f"cannot trace here: {diagnosis.problems[0].sentence}{more}")


def make_sure_of_plan(side: TracedSide[_Diagnosis, _Plan, Any], diagnosis: _Diagnosis) -> _Plan:
    """The plan as the user wants it, once all that is missing is accepted and its probes would run."""
    missing = ", ".join(probe.name for probe in diagnosis.plan.missing_required)
    if missing and side.options.missing_probes == "error":
        raise MissingProbeError(f"{side.no_way} {missing}: --missing-probes warn traces what is left")
    plan = side.choose_plan(diagnosis)
    # The way that the user chose may not run, though another would.
    finding = check_firing(diagnosis.firing, plan.attachable)
    if finding is not None and finding.state is State.PROBLEM:
        raise CannotTraceError(f"cannot trace here: {finding.sentence}")
    for warning in diagnosis.warnings:
        say(f"balloontrace: warning: {warning.sentence}\n")
    return plan


def attached_line(attached: Attached) -> str:
    """How many functions have probes, and which have none."""
    plan, failures = attached.collector.plan, attached.collector.loaded.failures
    functions = format_things(len(plan.attachable) - len(failures), "function")
    without = f" without {', '.join(plan.untraced)}" if plan.untraced else ""
    failed = "".join(f"; {name}: {reason}" for name, reason in failures.items())
    return f"probes attached ({functions}{without}{failed}){attached.target}"


def _describe_findings(diagnosis: Diagnosis[Any]) -> Iterator[str]:
    """What was looked at, a line each: for `-v`."""
    for finding in diagnosis.findings:
        yield f"{finding.name}: {finding.sentence}"


def _describe_attached(collector: AttachedPrograms[Any]) -> Iterator[str]:
    """Each probe, where it is and why, and what attaching took: for `-v`."""
    loaded = collector.loaded
    for row in collector.plan.describe(loaded.failures):
        how = f"{row['mechanism']} at {row['symbol']}" if row["status"] == "attached" else row["status"]
        yield f"{row['function']} ({row['stage']}): {how}" + (f"; {row['note']}" if row["note"] else "")
    yield (
        f"attached by {loaded.engine} ({loaded.engine_version}) in {loaded.setup_wall_ns / 1e9:.1f} s, "
        f"{loaded.setup_cpu_ns / 1e9:.1f} s of it processor time, "
        f"{format_bytes(loaded.setup_peak_memory_bytes)} at the peak"
    )


def describe_losses(losses: Mapping[str, Mapping[str, int | None]]) -> str:
    """Lost events, and apart from them pieces of payloads, without which times and counts are whole."""
    if not losses:
        return "losses unknown"
    of_calls = [loss for function, loss in losses.items() if function != Function.PAYLOAD.symbol]
    lost = sum(loss[count] or 0 for loss in of_calls for count in _LOST)
    pieces = losses.get(Function.PAYLOAD.symbol, {}).get("lost")
    return f"{lost} lost" + (
        f", and {pieces} {'piece' if pieces == 1 else 'pieces'} of payloads" if pieces else ""
    )


def describe_off_target(balloons: Iterable[BalloonSize]) -> Iterator[str]:
    """A sentence for each balloon that is smaller or larger than it should be."""
    unit_pages = kernel_page_in_pages(os.sysconf("SC_PAGE_SIZE")) or 1
    for each in balloons:
        if any(off_target_pages(each.size_pages, each.target_pages, unit_pages)):
            standing = format_standing(each.size_pages, each.target_pages, unit_pages)
            yield f"the balloon of {each.device} holds {standing}"
