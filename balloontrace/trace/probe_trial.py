# SPDX-License-Identifier: GPL-2.0-or-later
"""A probe tried out: attached to a function that is called right away, and seen to run or not.

A kernel can take a probe and never run it (`kernel.ftrace_enabled=0`, kprobes disarmed); only trying tells.
Six instructions given to bpf(2) need neither compiler nor headers, and take milliseconds where bcc takes
seconds. The function is eventfd's write, which every kernel with virtio has, and this process calls it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from balloontrace.system import bpf_call
from balloontrace.system.attach_kprobe import attach_kprobe
from balloontrace.system.bpf_call import Instruction, owned
from balloontrace.system.libbpf import BtfError, open_btf
from balloontrace.trace.mechanism import Mechanism

FUNCTION = "eventfd_write"

KPROBES = "sys/bus/event_source/devices/kprobe"
_NAME = b"bt_trial"

_CALLS = 3


@dataclass(frozen=True)
class Trial:
    """What became of a probe of each kind; one that could not be tried is in neither."""

    fired: Mapping[Mechanism, bool] = field(default_factory=dict)
    refused: Mapping[Mechanism, str] = field(default_factory=dict)  # the kernel's reason


def try_probes(root: Path) -> Trial:
    """Try an fentry and a kprobe on the running kernel; raises nothing."""
    fired: dict[Mechanism, bool] = {}
    refused: dict[Mechanism, str] = {}
    for mechanism, attach in _attachers(root):
        try:
            fired[mechanism] = _fires(attach)
        except OSError as error:
            refused[mechanism] = error.strerror or str(error)
    return Trial(fired, refused)


_Attach = Callable[[ExitStack, int], None]
"""Attaches a program that counts into the map of that descriptor, until the stack is left."""


def _attachers(root: Path) -> Iterator[tuple[Mechanism, _Attach]]:
    """How to attach each kind that can be tried here, given what counts its runs."""
    if not bpf_call.is_possible():
        return
    try:
        with open_btf(root) as btf:
            function_id = btf.function_id(FUNCTION)
    except BtfError:
        function_id = None
    if function_id is not None:
        yield Mechanism.FENTRY, partial(_attach_fentry, function_id)
    if (root / KPROBES).exists():
        yield Mechanism.KPROBE, partial(_attach_kprobe, root)


def _fires(attach: _Attach) -> bool:
    """Whether the program ran when the function was called, by any process. OSError when it is refused."""
    with ExitStack() as stack:
        counter = stack.enter_context(owned(bpf_call.create_map(bpf_call.MAP_TYPE_ARRAY, 8, 1)))
        attach(stack, counter)
        eventfd = stack.enter_context(owned(os.eventfd(0)))
        for _ in range(_CALLS):
            os.eventfd_write(eventfd, 1)
        return bpf_call.read_u64(counter) >= _CALLS


def _attach_fentry(function_id: int, stack: ExitStack, counter: int) -> None:
    kind = bpf_call.PROG_TYPE_TRACING
    program = stack.enter_context(owned(bpf_call.load_program(kind, _counting(counter), _NAME, function_id)))
    stack.enter_context(owned(bpf_call.open_raw_tracepoint(program)))


def _attach_kprobe(root: Path, stack: ExitStack, counter: int) -> None:
    program = stack.enter_context(
        owned(bpf_call.load_program(bpf_call.PROG_TYPE_KPROBE, _counting(counter), _NAME))
    )
    stack.enter_context(owned(attach_kprobe(program, 0, returns=False, name=FUNCTION, root=root)))


def _counting(counter: int) -> tuple[Instruction, ...]:
    """`r1 = &counter[0]; r2 = 1; *r1 += r2; r0 = 0; exit`."""
    return (
        (0x18, 1 | bpf_call.PSEUDO_MAP_VALUE << 4, 0, counter),
        (0, 0, 0, 0),
        (0xB7, 2, 0, 1),
        (0xDB, 1 | 2 << 4, 0, 0),
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
    )
