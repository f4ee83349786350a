# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of an engine that attaches BPF programs, and what it answers: the same for every engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from balloontrace.errors import BalloontraceError

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""What rings and maps are whole numbers of."""

PROCESSES = "PROCESSES"
"""Of `definitions`: how many processes are traced at once, each with what is its own; prebuilt only."""

SAMPLED = "SAMPLED"
"""Of `definitions`: calls are sampled instead of traced; prebuilt only."""


@dataclass(frozen=True)
class Attachment:
    """One program and where it goes."""

    program: str  # C function, e.g. "entry_tell_host"
    function: str  # the traced function this is for, e.g. "tell_host"
    returns: bool
    mechanism: str  # "fentry" or "kprobe"
    symbol: str
    address: int  # 0: attach by name
    module: str  # "" for the kernel image
    required: bool


@dataclass(frozen=True)
class LoadRequest:
    """Which programs to load, what their source leaves open, and where to attach them."""

    source: str  # in bpf/, e.g. "guest.bpf.c"
    definitions: Mapping[str, str | int]
    attachments: tuple[Attachment, ...]
    maps: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """What an engine left behind; the descriptors are this process's to close."""

    maps: dict[str, int]
    programs: dict[str, int]
    links: list[int]
    failures: dict[str, str]  # optional functions that could not be attached, and why
    engine: str  # "bcc" or "prebuilt"
    engine_version: str
    setup_cpu_ns: int
    setup_peak_memory_bytes: int | None
    setup_wall_ns: int

    @property
    def bcc_version(self) -> str | None:
        """Of bcc, where it was that."""
        return self.engine_version if self.engine == "bcc" else None


class AttachError(BalloontraceError):
    """The kernel refused a required probe."""
