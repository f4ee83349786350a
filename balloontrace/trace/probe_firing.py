# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kinds of probes would run here once attached, and why others would not.

A switch that is off leaves every probe attached and silent, and a recording then says that nothing moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from balloontrace.system.kernel import read_text
from balloontrace.trace.mechanism import Mechanism
from balloontrace.trace.probe_trial import KPROBES, Trial

_FTRACE = "proc/sys/kernel/ftrace_enabled"
_KPROBES_SWITCH = "sys/kernel/debug/kprobes/enabled"


@dataclass(frozen=True)
class Firing:
    """`unusable` are kinds that would not run, each with the cause; others run, or it is not known."""

    unusable: Mapping[Mechanism, str] = field(default_factory=dict)
    fired: tuple[Mechanism, ...] = ()  # seen to run
    fix: str | None = None

    @property
    def causes(self) -> str:
        """Why, each cause once."""
        return " and ".join(dict.fromkeys(self.unusable.values()))


_ALLOW = "look for what forbids it: lockdown, a security module, or the seccomp profile of a container"
NOTHING_KNOWN = Firing()


def find_firing(root: Path, try_probes: Callable[[Path], Trial] | None) -> Firing:
    """Look at the kernel's switches, and try a probe of each kind where `try_probes` is given.

    What was tried is believed more than a switch: kprobes go through ftrace on some architectures only.
    """
    ftrace_off, kprobes_off = (_is_off(root / path) for path in (_FTRACE, _KPROBES_SWITCH))
    trial = try_probes(root) if try_probes is not None else Trial()
    unusable = {
        mechanism: f"the kernel refuses {mechanism} probes ({reason})"
        for mechanism, reason in trial.refused.items()
    }
    if try_probes is not None and not (root / KPROBES).exists():
        unusable[Mechanism.KPROBE] = "this kernel has no kprobes"
    for mechanism in (Mechanism.FENTRY, Mechanism.KPROBE):
        switch = _switch(mechanism, ftrace_off=ftrace_off, kprobes_off=kprobes_off)
        if mechanism not in trial.fired:
            if switch and mechanism not in unusable:
                unusable[mechanism] = switch
        elif not trial.fired[mechanism]:
            unusable[mechanism] = switch or "a probe that was tried did not run"
    fired = tuple(mechanism for mechanism, fires in trial.fired.items() if fires)
    fix = _fix(ftrace_off=ftrace_off, kprobes_off=kprobes_off) or (
        _ALLOW if trial.refused and not fired else None
    )
    return Firing(unusable, fired, fix if unusable else None)


def _is_off(path: Path) -> bool:
    """Whether a switch is known to be off."""
    return (read_text(path) or "").strip() == "0"


def _switch(mechanism: Mechanism, *, ftrace_off: bool, kprobes_off: bool) -> str | None:
    """The switch that would keep such a probe from running."""
    if mechanism is Mechanism.KPROBE and kprobes_off:
        return "kprobes are disarmed (/sys/kernel/debug/kprobes/enabled is 0)"
    return "kernel.ftrace_enabled is 0" if ftrace_off else None


def _fix(*, ftrace_off: bool, kprobes_off: bool) -> str | None:
    commands = [
        *(["sysctl kernel.ftrace_enabled=1"] if ftrace_off else []),
        *(["echo 1 > /sys/kernel/debug/kprobes/enabled"] if kprobes_off else []),
    ]
    return " and ".join(commands) or None
