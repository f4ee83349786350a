# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing needs of the machine and the user, whichever side is traced."""

from __future__ import annotations

import abc
import enum
import importlib.util
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from balloontrace.errors import CannotTraceError
from balloontrace.system import kernel
from balloontrace.system.kernel import Symbol
from balloontrace.trace.engines import prebuilt
from balloontrace.trace.engines.choose import Engine, engines_of
from balloontrace.trace.mechanism import Mechanism
from balloontrace.trace.plan import Plan, PlannedProbe, Point
from balloontrace.trace.probe_firing import Firing, find_firing
from balloontrace.trace.probe_trial import KPROBES, Trial, try_probes

# include/uapi/linux/capability.h
_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39

# Kernel functions whose presence says what the kernel can do; detected by symbol, never by version.
_RING_BUFFER = "bpf_ringbuf_reserve"
_TRAMPOLINE = "bpf_trampoline_link_prog"
_TYPED_READS = "bpf_rdonly_cast"

_FOR_PROBES = {"privilege", "lockdown", "kernel"}  # findings without which no probe can be tried

_BCC_WITH_MODULE_FENTRY = (0, 28)  # the first release that attaches fentry programs to functions of a module


_Plan = TypeVar("_Plan", bound=Plan[PlannedProbe[Point]], covariant=True)


class State(enum.StrEnum):
    """How a finding bears on tracing."""

    OK = "ok"
    WARNING = "warning"  # tracing works, something is not measured
    PROBLEM = "problem"  # tracing is impossible


@dataclass(frozen=True)
class Finding:
    """One line of `doctor`."""

    name: str
    state: State
    text: str
    fix: str | None = None  # what to do about it

    @property
    def sentence(self) -> str:
        """The finding and its fix in one sentence."""
        return f"{self.text}: {self.fix}" if self.fix else self.text


@dataclass(frozen=True)
class Diagnosis(abc.ABC, Generic[_Plan]):
    """What `doctor` shows of a side and `record` needs to know."""

    findings: tuple[Finding, ...]
    plan: _Plan
    firing: Firing
    engines: tuple[Engine, ...]  # those that can be had here, in the order in which they are tried

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What makes tracing impossible."""
        return tuple(finding for finding in self.findings if finding.state is State.PROBLEM)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What will not be measured."""
        return tuple(finding for finding in self.findings if finding.state is State.WARNING)

    @property
    def is_planned(self) -> bool:
        """Whether there is anything that a plan could be made for."""
        return True

    @abc.abstractmethod
    def describe(self) -> dict[str, object]:
        """What `doctor --format json` shows of this side alone."""


@dataclass(frozen=True)
class Bcc:
    """What is known of bcc without importing it (that takes 78 MB)."""

    found: bool
    version: tuple[int, ...] = ()
    foreign: bool = False  # the unrelated package of the same name


@dataclass(frozen=True)
class Machine:
    """What is known of the machine before anything is planned."""

    symbols: tuple[Symbol, ...]
    findings: tuple[Finding, ...]
    firing: Firing
    engines: tuple[Engine, ...]  # those asked for that can be had here
    can_fentry: bool  # kernel and the first engine can hook functions, those of modules too, by fentry


def look_at_machine(
    names: Iterable[str], root: Path, engine: str, trial: Callable[[Path], Trial] | None = None
) -> Machine:
    """What both sides need of machine and user, and the symbols of `names`.

    `engine` is the word of `--engine`; `trial` tries probes out, by default where it can be done, on the
    running kernel.
    """
    symbols, bcc = _read_symbols(names, root), find_bcc()
    engines, of_engines = _check_engines(engines_of(engine), bcc, root)
    findings = (*_check_machine(symbols, engines, root), *of_engines)
    firing = find_firing(root, _trial_for(root, findings) if trial is None else trial)
    has_trampoline = any(symbol.plain_name == _TRAMPOLINE for symbol in symbols)
    # Without any engine the plan is what one of today's would attach.
    knows_modules = Engine.PREBUILT in engines or not bcc.found or bcc.version >= _BCC_WITH_MODULE_FENTRY
    can_fentry = knows_modules and has_trampoline and Mechanism.FENTRY not in firing.unusable
    return Machine(symbols, findings, firing, engines, can_fentry)


def _read_symbols(names: Iterable[str], root: Path) -> tuple[Symbol, ...]:
    """Symbols of `names`, and of what tells the kernel's abilities; none where they cannot be read."""
    try:
        return kernel.read_symbols((*names, _RING_BUFFER, _TRAMPOLINE, _TYPED_READS), root)
    except OSError:
        return ()


def can_search_modules(root: Path) -> bool:
    """Whether libbpf may walk all type information for a module's (BPF_BTF_GET_NEXT_ID)."""
    return bool(kernel.read_effective_capabilities(root) >> _CAP_SYS_ADMIN & 1)


def _check_machine(symbols: tuple[Symbol, ...], engines: Iterable[Engine], root: Path) -> tuple[Finding, ...]:
    names = {symbol.plain_name for symbol in symbols}
    return (
        _check_privilege(root),
        _check_lockdown(root, names, engines),
        _check_kernel(root, names),
        _check_symbols(symbols),
    )


def _check_engines(
    asked: Iterable[Engine], bcc: Bcc, root: Path
) -> tuple[tuple[Engine, ...], tuple[Finding, ...]]:
    """Which of the engines asked for can be had here, and what was found of each."""
    findings = {
        engine: (_check_prebuilt(),) if engine is Engine.PREBUILT else (_check_bcc(bcc), _check_headers(root))
        for engine in asked
    }
    usable = tuple(
        engine for engine, found in findings.items() if all(each.state is State.OK for each in found)
    )
    said = tuple(each for found in findings.values() for each in found)
    # What only another engine needs is no problem.
    return usable, tuple(map(_not_needed, said)) if usable else said


def _not_needed(finding: Finding) -> Finding:
    if finding.state is State.OK:
        return finding
    return Finding(finding.name, State.OK, f"not needed: {finding.text}")


def _trial_for(root: Path, machine: Iterable[Finding | None]) -> Callable[[Path], Trial] | None:
    """What tries probes out: on the running kernel, unless it is known already that it would refuse."""
    refused = any(
        each is not None and each.state is State.PROBLEM and each.name in _FOR_PROBES for each in machine
    )
    return None if refused or root != kernel.ROOT else try_probes


def check_firing(firing: Firing, probes: Iterable[PlannedProbe[Point]]) -> Finding | None:
    """Whether the probes of a plan would run; None where nothing is known of it."""
    # Of functions of one name each may have a kind of its own.
    unusable = firing.unusable.keys()
    silent = [probe for probe in probes if probe.mechanisms & unusable]
    needed = ", ".join(
        probe.name for probe in silent if probe.point.required and probe.mechanisms <= unusable
    )
    others = ", ".join(probe.name for probe in silent)
    ran = f"tried, and ran: {', '.join(firing.fired)}" if firing.fired else ""
    if needed:
        text = f"{firing.causes}, so required probes would not run: {needed}"
        return Finding("firing", State.PROBLEM, text, firing.fix)
    if others:
        text = f"{firing.causes}, so not all probes would run: {others}"
        return Finding("firing", State.WARNING, text, firing.fix)
    if firing.fix:
        return Finding(
            "firing", State.WARNING, f"{firing.causes}, so not every kind of probe runs", firing.fix
        )
    text = "; ".join(filter(None, (ran, firing.causes)))
    return Finding("firing", State.OK, text) if text else None


def find_bcc() -> Bcc:
    """Look for bcc without importing it."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        return Bcc(found=False)
    folder = Path(spec.origin).parent
    if not (folder / "libbcc.py").exists():
        return Bcc(found=False, foreign=True)
    try:
        match = re.search(r"(\d+(?:\.\d+)+)", (folder / "version.py").read_text())
    except OSError:
        match = None
    return Bcc(found=True, version=tuple(int(part) for part in match[1].split(".")) if match else ())


def _check_privilege(root: Path) -> Finding:
    mask = kernel.read_effective_capabilities(root)
    enough = mask >> _CAP_SYS_ADMIN & 1 or (mask >> _CAP_BPF & 1 and mask >> _CAP_PERFMON & 1)
    if enough:
        return Finding("privilege", State.OK, "may load BPF programs")
    return Finding("privilege", State.PROBLEM, "this user may not load BPF programs", "run it with sudo")


def _check_lockdown(root: Path, names: set[str], engines: Iterable[Engine]) -> Finding:
    mode = kernel.read_lockdown(root)
    if kernel.is_confidential(root):
        forbids = "kernel lockdown is in confidentiality mode, which forbids kprobes"
        if Engine.PREBUILT in engines and {_TRAMPOLINE, _TYPED_READS} <= names:
            return Finding("lockdown", State.OK, f"{forbids}: fentry alone is used")
        return Finding(
            "lockdown", State.PROBLEM, forbids,
            "boot without lockdown=confidentiality, or use engine prebuilt on Linux 6.2 or newer",
        )  # fmt: skip
    known = mode or "unknown: securityfs is not mounted, or may not be read"
    return Finding("lockdown", State.OK, f"kernel lockdown: {known}")


def _check_kernel(root: Path, names: set[str]) -> Finding:
    release = platform.release()
    has_kprobes = (root / KPROBES).exists()
    if not has_kprobes and _TRAMPOLINE not in names:
        return Finding(
            "kernel", State.PROBLEM, f"kernel {release} has neither kprobes nor BPF trampolines",
            "use one with CONFIG_KPROBE_EVENTS=y or CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y",
        )  # fmt: skip
    if names and _RING_BUFFER not in names:
        return Finding(
            "kernel", State.PROBLEM, f"kernel {release} has no BPF ring buffer", "use Linux 5.8 or newer"
        )
    way = "kprobes" if has_kprobes else "no kprobes, but BPF trampolines,"
    return Finding("kernel", State.OK, f"kernel {release}: {way} and BPF ring buffer")


def _check_symbols(symbols: tuple[Symbol, ...]) -> Finding:
    if not symbols:
        return Finding(
            "symbols",
            State.PROBLEM,
            "/proc/kallsyms shows no functions",
            "mount /proc and use CONFIG_KALLSYMS=y",
        )
    if all(symbol.address == 0 for symbol in symbols):
        return Finding(
            "symbols", State.WARNING,
            "/proc/kallsyms hides addresses, so functions of the same name cannot be distinguished",
            "run as root, with sysctl kernel.kptr_restrict=1 or 0",
        )  # fmt: skip
    return Finding("symbols", State.OK, "/proc/kallsyms shows functions and addresses")


def _check_bcc(bcc: Bcc) -> Finding:
    fix = "install python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora) and use the distribution's python3"
    if bcc.foreign:
        return Finding(
            "bcc", State.PROBLEM, "the installed Python package bcc is not the BPF Compiler Collection", fix
        )
    if not bcc.found:
        return Finding(
            "bcc", State.PROBLEM, "the BPF Compiler Collection is not installed for this python3", fix
        )
    return Finding("bcc", State.OK, f"bcc {'.'.join(map(str, bcc.version)) or 'of unknown version'}")


def _check_prebuilt() -> Finding:
    try:
        return Finding("prebuilt", State.OK, prebuilt.find())
    except CannotTraceError as error:
        return Finding("prebuilt", State.PROBLEM, str(error))


def _check_headers(root: Path) -> Finding:
    path = kernel.read_headers_path(root)
    release = platform.release()
    if path is None:
        return Finding(
            "headers", State.PROBLEM, f"no kernel headers for {release}",
            f"install linux-headers-{release} (Debian, Ubuntu) or kernel-devel-{release} (Fedora); where the "
            "archive has none of this kernel any more, boot the newest one it has, or use engine prebuilt",
        )  # fmt: skip
    return Finding("headers", State.OK, f"kernel headers in {path}")
