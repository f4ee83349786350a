# SPDX-License-Identifier: GPL-2.0-or-later
"""Can a process that serves a balloon be traced here, and which processes are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from balloontrace.errors import CannotTraceError
from balloontrace.format.vocabulary import Side
from balloontrace.system import kernel
from balloontrace.system.kernel import KVM_MODULE, Symbol
from balloontrace.system.libbpf import BtfError, open_btf
from balloontrace.system.vmm import Process, find_vmms, read_process, require_first_pid_namespace
from balloontrace.trace.host.probes import SYMBOL_NAMES, HostPlan, make_host_plan
from balloontrace.trace.machine_checks import (
    Diagnosis,
    Finding,
    State,
    can_search_modules,
    check_firing,
    look_at_machine,
)
from balloontrace.trace.probe_trial import Trial

_TRACEPOINTS = "sys/kernel/tracing/events/syscalls/sys_enter_madvise"


@dataclass(frozen=True)
class HostDiagnosis(Diagnosis[HostPlan]):
    """What there is to trace on a host."""

    vmms: tuple[Process, ...]

    def describe(self) -> dict[str, object]:
        """What `doctor --format json` shows of this side alone."""
        return {
            "side": str(Side.HOST),
            "vmms": [asdict(vmm) for vmm in self.vmms],
            "boundaries": self.plan.boundaries({}),
        }


def diagnose_host(
    root: Path = kernel.ROOT,
    *,
    engine: str = "auto",
    pid: int | None = None,
    trial: Callable[[Path], Trial] | None = None,
) -> HostDiagnosis:
    """Look at this system; never raises for something it could report.

    `pid` is a process that was named: UsageError if it is none. `engine`, `trial`: as for `look_at_machine`.
    """
    machine = look_at_machine(SYMBOL_NAMES, root, engine, trial)
    plan = make_host_plan(
        machine.symbols,
        fentry_functions=_known_functions(machine.symbols, root) if machine.can_fentry else frozenset(),
        tracepoints=_has_tracepoints(root),
        page_layout=kernel.read_page_layout(root),
        slot_layout=_read_slot_layout(machine.symbols, root),
    )
    vmms, namespace = find_vmms(root), _check_namespace(root)
    findings = (
        *machine.findings,
        namespace,
        check_firing(machine.firing, plan.attachable),
        _check_kvm(plan),
        # In a container its number means another process, or none.
        _check_vmms(vmms) if pid is None or namespace else _check_process(pid, root),
        _check_plan(plan),
    )
    found = tuple(each for each in findings if each)
    return HostDiagnosis(found, plan, machine.firing, machine.engines, vmms)


def _check_namespace(root: Path) -> Finding | None:
    """What `record` refuses: programs see the numbers that processes have outside of any container."""
    try:
        require_first_pid_namespace(root)
    except CannotTraceError as error:
        return Finding("processes", State.PROBLEM, str(error))
    return None


def _has_tracepoints(root: Path) -> bool:
    # tracefs is often mounted in debugfs alone; the kernel then has them in any case that matters.
    return (root / _TRACEPOINTS).exists() or not (root / "sys/kernel/tracing/events").exists()


def _known_functions(symbols: Iterable[Symbol], root: Path) -> frozenset[str]:
    """Of the functions to probe those that type information describes, the kernel's or that of module kvm."""
    # Type information takes longest to say that something is not there.
    names = {symbol.name for symbol in symbols} & set(SYMBOL_NAMES)
    found: set[str] = set()
    for module in ("", KVM_MODULE) if can_search_modules(root) else ("",):
        with suppress(BtfError), open_btf(root, module) as btf:
            found.update(name for name in names if btf.has_function(name))
    return frozenset(found)


def _read_slot_layout(symbols: Iterable[Symbol], root: Path) -> dict[str, int]:
    """Where KVM has its memory slots; empty where it is not loaded or may not be looked into."""
    has_kvm = any(symbol.name == "kvm_vm_ioctl" for symbol in symbols)
    return kernel.read_slot_layout(root) if has_kvm and can_search_modules(root) else {}


def _check_kvm(plan: HostPlan) -> Finding:
    if plan.probe("kvm_vm_ioctl") in plan.attachable:
        module = plan.probe("kvm_vm_ioctl").symbol
        place = f"module {module.module} is loaded" if module and module.module else "kvm is built in"
        return Finding("kvm", State.OK, place)
    return Finding(
        "kvm", State.OK, "kvm is not loaded; a process that serves a balloon by eventfds can be traced"
    )


def _check_vmms(vmms: Iterable[Process]) -> Finding:
    listed = "; ".join(vmm.description for vmm in vmms)
    return Finding("vmm", State.OK, listed or "no process has /dev/kvm open: name one with record -p PID")


def _check_process(pid: int, root: Path) -> Finding:
    return Finding("vmm", State.OK, f"process {read_process(pid, root).description}")


def _check_plan(plan: HostPlan) -> Finding:
    missing = ", ".join(probe.point.name for probe in plan.missing_required)
    if missing:
        return Finding(
            "probes", State.WARNING, f"required system calls cannot be probed: {missing}",
            "record --missing-probes warn traces what is left",
        )  # fmt: skip
    blind = [end for end, function in plan.boundaries({}).items() if function is None]
    if blind:
        return Finding("probes", State.WARNING, f"the {' and the '.join(blind)} of a buffer cannot be seen")
    return Finding("probes", State.OK, f"{len(plan.attachable)} probe points")
