# SPDX-License-Identifier: GPL-2.0-or-later
"""Run in a host VM that counts instructions: its guest leaves at once after KVM has injected an interrupt.

QEMU's `helper_vmrun` (11.1 and older) leaves its number where it keeps exceptions, until the
guest's next exit. Should QEMU's own turn end before, it delivers the interrupt once more, whether or not the
guest allows interrupts. So an interrupt of the host's own is pending at such an entry, and ends it before the
guest's first instruction. The kernel sends it to itself, to end what was written to a BPF ring (irq_work).
"""

from __future__ import annotations

import mmap
import threading
import time

from balloontrace.system import bpf_call
from balloontrace.system.bpf_call import Instruction

_NAME = b"lab_injection"
_RESERVE, _DISCARD = 131, 133  # bpf_ringbuf_reserve, bpf_ringbuf_discard: include/uapi/linux/bpf.h
_FORCE_WAKEUP = 2
_RING_BYTES = 1 << 22  # for 262 144 interrupts
_EMPTY_EVERY_S = 20


def start() -> None:
    """Attaches what does so, as long as this process lives. OSError as the kernel says."""
    pending = bpf_call.create_map(bpf_call.MAP_TYPE_ARRAY, 8, 1)
    ring = bpf_call.create_map(bpf_call.MAP_TYPE_RINGBUF, 0, _RING_BYTES)
    for tracepoint, instructions in (
        (b"kvm_inj_virq", _note(pending)),
        (b"kvm_entry", _interrupt_ourselves(pending, ring)),
    ):
        program = bpf_call.load_program(bpf_call.PROG_TYPE_RAW_TRACEPOINT, instructions, _NAME)
        bpf_call.open_raw_tracepoint(program, tracepoint)
    threading.Thread(target=_keep_empty, args=(ring,), daemon=True).start()


def _note(pending: int) -> tuple[Instruction, ...]:
    """`*pending = 1; return 0`."""
    return (
        (0x18, 1 | bpf_call.PSEUDO_MAP_VALUE << 4, 0, pending),
        (0, 0, 0, 0),
        (0x7A, 1, 0, 1),
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
    )


def _interrupt_ourselves(pending: int, ring: int) -> tuple[Instruction, ...]:
    """`if (*pending) { *pending = 0; discard(reserve(ring, 8, 0), FORCE_WAKEUP); } return 0`."""
    return (
        (0x18, 1 | bpf_call.PSEUDO_MAP_VALUE << 4, 0, pending),
        (0, 0, 0, 0),
        (0x79, 2 | 1 << 4, 0, 0),
        (0x15, 2, 10, 0),
        (0x7A, 1, 0, 0),
        (0x18, 1 | bpf_call.PSEUDO_MAP_FD << 4, 0, ring),
        (0, 0, 0, 0),
        (0xB7, 2, 0, 8),
        (0xB7, 3, 0, 0),
        (0x85, 0, 0, _RESERVE),
        (0x15, 0, 3, 0),
        (0xBF, 1, 0, 0),
        (0xB7, 2, 0, _FORCE_WAKEUP),
        (0x85, 0, 0, _DISCARD),
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
    )


def _keep_empty(ring: int) -> None:
    """What was discarded keeps its room until the reader's place, a ring's first number, is behind it."""
    page = mmap.PAGESIZE
    with mmap.mmap(ring, page) as read, mmap.mmap(ring, page, prot=mmap.PROT_READ, offset=page) as written:
        while True:
            time.sleep(_EMPTY_EVERY_S)
            read[:8] = written[:8]
