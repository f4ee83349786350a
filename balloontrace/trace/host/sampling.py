# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs that sample calls need to know of a kernel."""

from __future__ import annotations

from collections.abc import Mapping

# Where the kernel's way into a system call and back lies, which is no part of the call: for each a function
# on x86-64, and one on arm64.
WAYS: Mapping[str, tuple[str, str]] = {
    "CALL_ENTRY": ("do_syscall_64", "el0_svc"),
    "CALL_TABLE": ("x64_sys_call", "invoke_syscall"),
    "CALL_EXIT": ("syscall_exit_to_user_mode", "do_el0_svc"),
}


def define_ways(ranges: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """What the programs are to know of them; a size of 0 for what a kernel has not."""
    found = {
        word: next((ranges[name] for name in names if name in ranges), (0, 0)) for word, names in WAYS.items()
    }
    return {word: address for word, (address, _) in found.items()} | {
        f"{word}_BYTES": size_bytes for word, (_, size_bytes) in found.items()
    }
