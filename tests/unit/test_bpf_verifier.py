# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of the guest's side, as compilers make them of it, are taken by this machine's kernel."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from c_layout import C_DEFINITIONS

from balloontrace.system.kernel import KNOWN_MEMBERS, read_layout
from balloontrace.trace.engines.constants import NAMES, c_definitions
from balloontrace.trace.engines.libbpf import BpfObject
from balloontrace.trace.engines.shipped import bpf_folder

# One compiler often has two names.
CLANGS = sorted(
    {
        Path(path).resolve(): name
        for name in ("clang", *(f"clang-{n}" for n in range(11, 30)))
        if (path := shutil.which(name))
    }.values()
)
RING_BYTES = 1 << 16
_BPF = {"x86_64": 321, "aarch64": 280}


def may_load() -> bool:
    """Whether the kernel has bpf(2) and lets this user make maps: here a queue of 8 bytes."""
    attributes = (ctypes.c_uint32 * 32)(22, 0, 8, 1)
    libc = ctypes.CDLL(None)
    fd: int = libc.syscall(_BPF.get(os.uname().machine, -1), 0, attributes, ctypes.sizeof(attributes))
    if fd >= 0:
        os.close(fd)
    return fd >= 0


@pytest.mark.skipif(not CLANGS, reason="needs clang")
@pytest.mark.skipif(not may_load(), reason="needs to load BPF programs")
@pytest.mark.parametrize("clang", CLANGS)
@pytest.mark.parametrize("instructions", ["v1", pytest.param("v2", marks=pytest.mark.thorough), "v3"])
def test_the_verifier_takes_them(tmp_path: Path, clang: str, instructions: str) -> None:
    """bcc has LLVM make code without 32-bit arithmetic, where LLVM 14 loses what is known of a length."""
    path = tmp_path / "guest.bpf.o"
    flags = ["-target", "bpfel", "-g", "-O2", "-w", "-DPREBUILT", "-DSPAN_RING_PAGES=1"]
    flags += [*C_DEFINITIONS, *(f"-D{name}={mark}" for name, mark in c_definitions().items())]
    source = bpf_folder() / "guest.bpf.c"
    subprocess.run([clang, *flags, f"-mcpu={instructions}", "-c", source, "-o", path], check=True)
    with BpfObject("guest", path.read_bytes()) as found:
        names = ("TELL_HOST", "SEND_RESP_DATA", "VIRTBALLOON_FREE_PAGE_REPORT")
        sizes = {"PAYLOAD_RING_PAGES": 1, "UNIT_PAGES": 1, "HINT_BLOCK_PAGES": 1024}
        arguments = {**{f"{name}_ARGUMENTS": 1 for name in names}, **sizes}
        offsets = {member.replace(".", "_").upper(): 8 for member in KNOWN_MEMBERS}
        offsets |= {
            "SCATTERLIST_PAGE_LINK": 0,
            "SCATTERLIST_LENGTH": 12,
            "SCATTERLIST_END": 32,
            "PAGE_END": 64,
        }
        # The task is known by its type, so its members have to be where this kernel has them.
        task = {"TASK_STRUCT_SCHED_INFO": -1, "SCHED_INFO_RUN_DELAY": -1}
        known = {name.replace(".", "_").upper(): at for name, at in read_layout("").offsets.items()}
        offsets |= {name: known.get(name, unknown) for name, unknown in task.items()}
        found.set_constants({**dict.fromkeys(NAMES, 0), **offsets, **arguments})
        for ring in ("spans", "payloads"):
            found.set_max_entries(ring, RING_BYTES)
        found.load_only({name for name in found.program_names if name.startswith(("kprobe_", "kretprobe_"))})
        found.load()


@pytest.mark.skipif(not CLANGS, reason="needs clang")
@pytest.mark.parametrize("clang", CLANGS)
@pytest.mark.parametrize("source", ["guest.bpf.c", "host.bpf.c"])
def test_the_oldest_instructions_suffice(tmp_path: Path, clang: str, source: str) -> None:
    """Those that bcc has LLVM use: no addition in memory that returns what was there."""
    flags = ["-target", "bpfel", "-O2", "-w", "-mcpu=v1", "-DPREBUILT"]
    flags += ["-DSPAN_RING_PAGES=1", "-DBATCH_RING_PAGES=1", *C_DEFINITIONS]
    flags += [f"-D{name}={mark}" for name, mark in c_definitions().items()]
    subprocess.run([clang, *flags, "-c", bpf_folder() / source, "-o", tmp_path / "object"], check=True)
