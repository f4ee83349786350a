# SPDX-License-Identifier: GPL-2.0-or-later
"""bpftrace in a guest or host: what the kernel says of the same calls, without this project's programs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.guest import Guest
from lab.process import GuestProcess
from lab.scenario import END_S, START_S


def start_bpftrace(machine: Guest, program: str, *options: str) -> GuestProcess:
    """A program under way that prints `counting` when it does. Raises LabError."""
    tracer = machine.start(["bpftrace", "-f", "json", *options, "-e", program])
    tracer.wait_for(b"counting", START_S, stream="stdout")
    return tracer


@contextmanager
def bpftraced(machine: Guest, program: str) -> Iterator[dict[str, Any]]:
    """The maps of a program that prints `counting` when it does; there when the block has ended."""
    maps: dict[str, Any] = {}
    tracer = start_bpftrace(machine, program)
    yield maps
    tracer.signal(signal.SIGINT)
    lines = tracer.wait(END_S, check=True).stdout.splitlines()
    for message in [json.loads(line) for line in lines if line]:
        if message["type"] == "map":
            maps |= message["data"]
