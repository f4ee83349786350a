# SPDX-License-Identifier: GPL-2.0-or-later
"""From a diagnosis to the plan that is attached, and the messages about it; the same for all that trace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from balloontrace.console.stderr import say
from balloontrace.errors import CannotTraceError, MissingProbeError, UsageError
from balloontrace.format.balloon_size import BalloonSize, kernel_page_in_pages
from balloontrace.format.vocabulary import Function, Side
from balloontrace.system.kernel import read_balloon_devices
from balloontrace.system.vmm import find_vmms
from balloontrace.trace.guest.collector import Collector
from balloontrace.trace.guest.diagnosis import Diagnosis, probed_rows
from balloontrace.trace.guest.probes import Plan, describe
from balloontrace.trace.host.collector import HostCollector
from balloontrace.trace.host.diagnosis import HostDiagnosis, host_probed_rows
from balloontrace.trace.host.probes import HostPlan, describe_host
from balloontrace.trace.machine_checks import Finding, State, check_firing
from balloontrace.units import format_standing, format_things, off_target_pages

_LOST = ("lost", "no_state", "overwritten", "missed")  # what a report calls lost events


def choose_side(side: str, pid: int | None) -> Side:
    """The side that `guest`, `host` or `auto` means here. UsageError when a process is given for a guest."""
    if pid is not None:
        if side == Side.GUEST:
            raise UsageError("-p names a process of the host; leave it out, or leave --side guest out")
        return Side.HOST
    if side != "auto":
        return Side(side)
    vmms = find_vmms()
    if not read_balloon_devices():
        return Side.HOST if vmms else Side.GUEST
    if vmms:
        say("balloontrace: this machine has a balloon and runs VMs too; tracing its own, as a guest does\n")
    return Side.GUEST


def hold_to_problems(diagnosis: Diagnosis | HostDiagnosis) -> None:
    """CannotTraceError for whatever makes tracing impossible."""
    if diagnosis.problems:
        more = (
            f" (and {len(diagnosis.problems) - 1} more: see balloontrace doctor)"
            if diagnosis.problems[1:]
            else ""
        )
        raise CannotTraceError(f"cannot trace here: {diagnosis.problems[0].sentence}{more}")


def plan_guest(diagnosis: Diagnosis, *, missing_probes: str, attach: str) -> Plan:
    """The plan, once nothing makes tracing impossible and the user accepts what is missing.

    `missing_probes` is `error` or `warn`, `attach` is `auto` or `kprobe`. Raises CannotTraceError or
    MissingProbeError.
    """
    hold_to_problems(diagnosis)
    missing = ", ".join(probe.function.symbol for probe in diagnosis.plan.missing_required)
    if missing and missing_probes == "error":
        raise MissingProbeError(f"no symbol for {missing}: --missing-probes warn traces what is left")
    if not diagnosis.plan.attachable:
        raise MissingProbeError(
            "none of the driver's functions is a symbol in this kernel, so nothing can be traced"
        )
    plan = diagnosis.plan.with_kprobes() if attach == "kprobe" else diagnosis.plan
    _hold_to_firing(check_firing(diagnosis.firing, probed_rows(plan)))
    _warn(diagnosis.warnings)
    return plan


def plan_host(
    diagnosis: HostDiagnosis, *, missing_probes: str, attach: str, count_freed: bool = False
) -> HostPlan:
    """The same of the host's side, where `attach` may be `tracepoint` too.

    `count_freed` adds what tells calls that free nothing.
    """
    missing = ", ".join(probe.point.name for probe in diagnosis.plan.missing_required)
    if missing and missing_probes == "error":
        raise MissingProbeError(f"no way to probe {missing}: --missing-probes warn traces what is left")
    plan = diagnosis.plan.counting_freed() if count_freed else diagnosis.plan
    if count_freed and plan.freed_by({}) is None:
        lacking = ", ".join(probe.target or probe.point.name for probe in plan.lacking_freed)
        say(f"balloontrace: warning: what calls free is not counted: no probe of {lacking}\n")
    match attach:
        case "kprobe":
            plan = plan.with_kprobes()
        case "tracepoint":
            plan = plan.with_tracepoints()
    _hold_to_firing(check_firing(diagnosis.firing, host_probed_rows(plan)))
    _warn(diagnosis.warnings)
    return plan


def _hold_to_firing(finding: Finding | None) -> None:
    """CannotTraceError where the way that the user chose would not run, though another would."""
    if finding is not None and finding.state is State.PROBLEM:
        raise CannotTraceError(f"cannot trace here: {finding.sentence}")


def _warn(findings: Sequence[Finding]) -> None:
    for warning in findings:
        say(f"balloontrace: warning: {warning.sentence}\n")


def attached_line(collector: Collector) -> str:
    """How many functions of the guest's side have probes, and which have none."""
    rows = collector.plan.probes
    failed = "".join(f"; {function}: {reason}" for function, reason in collector.loaded.failures.items())
    missing = [probe.function.symbol for probe in rows if probe.status in ("inlined", "absent")]
    without = f" without {', '.join(missing)}" if missing else ""
    return f"probes attached ({format_things(len(collector.plan.attachable), 'function')}{without}){failed}"


def host_attached_line(collector: HostCollector) -> str:
    """The same of the host's side."""
    failures = collector.loaded.failures
    failed = "".join(f"; {name}: {reason}" for name, reason in failures.items())
    attached = len(collector.plan.attachable) - len(failures)
    return f"probes attached ({format_things(attached, 'function')}{failed})"


def describe_findings(diagnosis: Diagnosis | HostDiagnosis) -> Iterator[str]:
    """What was looked at, a line each: for `-v`."""
    for finding in diagnosis.findings:
        yield f"{finding.name}: {finding.sentence}"


def describe_attached(collector: Collector | HostCollector) -> Iterator[str]:
    """Each probe, where it is and why, and what attaching took: for `-v`."""
    loaded = collector.loaded
    rows = (
        describe(collector.plan, loaded.failures)
        if isinstance(collector, Collector)
        else describe_host(collector.plan, loaded.failures)
    )
    for row in rows:
        how = f"{row['mechanism']} at {row['symbol']}" if row["status"] == "attached" else row["status"]
        yield f"{row['function']} ({row['stage']}): {how}" + (f"; {row['note']}" if row["note"] else "")
    yield (
        f"compiled and attached by bcc {loaded.bcc_version} in {loaded.setup_wall_ns / 1e9:.1f} s, "
        f"{loaded.setup_cpu_ns / 1e9:.1f} s of it processor time, "
        f"{loaded.setup_peak_memory_bytes >> 20} MiB at the peak"
    )


def describe_losses(losses: Mapping[str, Mapping[str, int | None]]) -> str:
    """Lost events, and apart from them pieces of payloads, without which times and counts are whole."""
    if not losses:
        return "losses unknown"
    of_calls = [loss for function, loss in losses.items() if function != Function.PAYLOAD.symbol]
    lost = sum(loss[count] or 0 for loss in of_calls for count in _LOST)
    pieces = losses.get(Function.PAYLOAD.symbol, {}).get("lost")
    return f"{lost} lost" + (f", and {pieces} pieces of payloads" if pieces else "")


def describe_off_target(balloons: Iterable[BalloonSize]) -> Iterator[str]:
    """A sentence for each balloon that is smaller or larger than it should be."""
    unit_pages = kernel_page_in_pages(os.sysconf("SC_PAGE_SIZE")) or 1
    for each in balloons:
        if any(off_target_pages(each.size_pages, each.target_pages, unit_pages)):
            standing = format_standing(each.size_pages, each.target_pages, unit_pages)
            yield f"the balloon of {each.device} holds {standing}"
