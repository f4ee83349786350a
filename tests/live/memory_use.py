# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of a guest that is used, and freed when its test says so."""

from __future__ import annotations

import lab

# Freed at the first signal, and the program stays: its end would free more.
_USE = """
import mmap, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
memory = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, len(memory), 4096):
    memory[page] = 1
print("used", flush=True)
signal.sigwait({signal.SIGUSR1})
memory.close()
print("freed", flush=True)
signal.sigwait({signal.SIGUSR1})
"""


def use_memory(guest: lab.Guest, mib: int) -> lab.GuestProcess:
    """A program that says `used`, at SIGUSR1 `freed`, and ends at the next."""
    return guest.start(["python3", "-c", _USE, str(mib)])
