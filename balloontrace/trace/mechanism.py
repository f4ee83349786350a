# SPDX-License-Identifier: GPL-2.0-or-later
"""How a function is hooked: the same words for both sides."""

from __future__ import annotations

import enum


class Mechanism(enum.StrEnum):
    """How a function is hooked; the value is what the BPF source calls it."""

    FENTRY = "fentry"  # fentry/fexit: a third of the cost, needs BTF and an exact name
    KPROBE = "kprobe"  # kprobe/kretprobe: any symbol, by address
    TRACEPOINT = "tracepoint"  # of system calls, on the host's side only
    RAW_TRACEPOINT = "raw_tracepoint"  # the same, with the arguments as the kernel has them

    def program(self, *, returns: bool) -> str:
        """The kernel's word for the program at the function's entry or return, e.g. `kretprobe`."""
        if self is Mechanism.FENTRY:
            return "fexit" if returns else "fentry"
        if self is Mechanism.TRACEPOINT:
            return "exit" if returns else "enter"
        if self is Mechanism.RAW_TRACEPOINT:
            return "raw"
        return "kretprobe" if returns else "kprobe"
