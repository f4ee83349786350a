# SPDX-License-Identifier: GPL-2.0-or-later
"""The child of `trace/engines/bcc`: compiles and attaches BPF programs, passes the descriptors on and ends.

The only importer of bcc. Run as `python -m balloontrace.trace.engines.bcc_child SOCKET_FD`, in a process of
its own: nothing of the recorder then weighs on top of LLVM. For the same reason it imports little.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from balloontrace.system.own_memory import read_peak_memory_bytes
from balloontrace.trace.engines.library_pages import forget_library_pages

REQUEST_BYTES = 1 << 20


# include/uapi/linux/bpf.h: BPF_LD | BPF_DW | BPF_IMM, whose source register tells what the number stands for
_LOAD_64_BITS = 0x18
_PSEUDO_MAP = (1, 2)  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
_FIRST_PLACE = 1 << 24  # no descriptor is so large


class _Instruction(ctypes.Structure):
    """`struct bpf_insn`."""

    _fields_ = (
        ("code", ctypes.c_uint8),
        ("registers", ctypes.c_uint8),  # destination and, in the upper half, source
        ("offset", ctypes.c_int16),
        ("immediate", ctypes.c_int32),
    )


class RefusedError(Exception):
    """The kernel refused a probe."""


class Attacher:
    """One compiled BPF module and the descriptors gathered from it, in the order they are sent."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Compile what `request` names. ImportError without bcc, a bare Exception for bad source."""
        import bcc

        forget_library_pages()
        self.version = str(getattr(bcc, "__version__", "unknown"))
        self.maps: dict[str, int] = {}
        self.programs: dict[str, int] = {}
        self._programs_of: dict[str, set[str]] = {}
        self.links: dict[str, list[int]] = {}  # by function
        self.failures: dict[str, str] = {}
        self._lib = bcc.lib
        source = Path(request["source"])
        flags = [f"-D{name}={value}" for name, value in request["definitions"].items()]
        flags += [f"-D{name}_PLACE={_FIRST_PLACE + place}" for place, name in enumerate(request["maps"])]
        self._bpf = bcc.BPF(text=source.read_text(), cflags=[*flags, f"-I{source.parent}"])
        self.maps = {name: self._bpf[name].map_fd for name in request["maps"]}

    def fds(self) -> list[int]:
        """Everything that must outlive this process."""
        links = [fd for fds in self.links.values() for fd in fds]
        return [*self.maps.values(), *self.programs.values(), *links]

    def attach(self, attachment: dict[str, Any]) -> None:
        """Attach one program; an optional one that is refused is noted, and its whole function left out.

        An entry tells nothing without its return, nor a return without its entry.
        """
        function = attachment["function"]
        if function in self.failures:
            return
        how = {
            "fentry": self._attach_fentry,
            "kprobe": self._attach_kprobe,
            "tracepoint": self._attach_tracepoint,
            "raw_tracepoint": self._attach_raw_tracepoint,
        }[attachment["mechanism"]]
        try:
            program_fd, link_fd = how(attachment)
        except RefusedError as error:
            if attachment["required"]:
                raise
            self.failures[function] = str(error)
            self._take_away(function)
            return
        self.programs[attachment["program"]] = program_fd
        self._programs_of.setdefault(function, set()).add(attachment["program"])
        self.links.setdefault(function, []).append(link_fd)

    def _take_away(self, function: str) -> None:
        """Detach what was attached of a function before one of its probes was refused."""
        links = self.links.pop(function, [])
        programs = [self.programs.pop(name) for name in self._programs_of.pop(function, set())]
        for fd in (*links, *programs):
            os.close(fd)

    def _load(self, attachment: dict[str, Any], kind: int, name: str) -> int:
        """Load the C function under `name`, from which bcc derives the target of an fentry program."""
        module, program = self._bpf.module, attachment["program"].encode()
        start = self._lib.bpf_function_start(module, program)
        if not start:
            raise RefusedError(f"the BPF source has no program {attachment['program']}")
        self._put_map_descriptors(start, self._lib.bpf_function_size(module, program))
        fd: int = self._lib.bcc_func_load(
            module, kind, name.encode(), start, self._lib.bpf_function_size(module, program),
            self._lib.bpf_module_license(module), self._lib.bpf_module_kern_version(module),
            0, None, 0, None, -1,
        )  # fmt: skip
        if fd < 0:
            raise RefusedError(f"{attachment['program']} was not loaded: {os.strerror(ctypes.get_errno())}")
        return fd

    def _put_map_descriptors(self, start: int, size_bytes: int) -> None:
        """Give the program the descriptors of maps that it names by their place in the request.

        All other numbers are descriptors already.
        """
        instructions = (_Instruction * (size_bytes // ctypes.sizeof(_Instruction))).from_address(start)
        fds = list(self.maps.values())
        for instruction in instructions:
            place = instruction.immediate - _FIRST_PLACE
            if (
                instruction.code == _LOAD_64_BITS
                and instruction.registers >> 4 in _PSEUDO_MAP
                and 0 <= place < len(fds)
            ):
                instruction.immediate = fds[place]

    def _attach_fentry(self, attachment: dict[str, Any]) -> tuple[int, int]:
        prefix = "kretfunc" if attachment["returns"] else "kfunc"
        name = f"{prefix}__{attachment['module'] or 'vmlinux'}__{attachment['symbol']}"
        program_fd = self._load(attachment, self._bpf.TRACING, name)
        link_fd: int = self._lib.bpf_attach_kfunc(program_fd)
        if link_fd < 0:
            raise RefusedError(f"{attachment['symbol']} has no fentry: {os.strerror(ctypes.get_errno())}")
        return program_fd, link_fd

    def _attach_kprobe(self, attachment: dict[str, Any]) -> tuple[int, int]:
        """By address where kallsyms shows one: names are not unique (two vp_get in one kernel)."""
        program, address = attachment["program"], attachment["address"]
        program_fd = self.programs.get(program)
        if program_fd is None:
            program_fd = self._load(attachment, self._bpf.KPROBE, program)
        by_name = None if address else attachment["symbol"].encode()
        event = f"bt_{program}_{address:x}_{os.getpid()}".encode()
        link_fd: int = self._lib.bpf_attach_kprobe(
            program_fd, int(attachment["returns"]), event, by_name, address, 0
        )
        if link_fd < 0:
            raise RefusedError(f"{attachment['symbol']} has no kprobe: {os.strerror(ctypes.get_errno())}")
        return program_fd, link_fd

    def _attach_tracepoint(self, attachment: dict[str, Any]) -> tuple[int, int]:
        category, _, event = attachment["symbol"].encode().partition(b":")
        program_fd = self._load(attachment, self._bpf.TRACEPOINT, attachment["program"])
        link_fd: int = self._lib.bpf_attach_tracepoint(program_fd, category, event)
        if link_fd < 0:
            raise RefusedError(f"{attachment['symbol']} is refused: {os.strerror(ctypes.get_errno())}")
        return program_fd, link_fd

    def _attach_raw_tracepoint(self, attachment: dict[str, Any]) -> tuple[int, int]:
        name = attachment["symbol"].partition(":")[2]
        program_fd = self._load(attachment, self._bpf.RAW_TRACEPOINT, attachment["program"])
        link_fd: int = self._lib.bpf_attach_raw_tracepoint(program_fd, name.encode())
        if link_fd < 0:
            raise RefusedError(f"{attachment['symbol']} is refused: {os.strerror(ctypes.get_errno())}")
        return program_fd, link_fd


def serve(end: socket.socket) -> int:
    """Answer the one request waiting on `end`, also with what went wrong. Returns the exit status."""
    started_ns = time.monotonic_ns()
    try:
        request = json.loads(end.recv(REQUEST_BYTES))
        attacher = Attacher(request)
        for attachment in request["attachments"]:
            attacher.attach(attachment)
        reply = {
            "maps": list(attacher.maps),
            "programs": list(attacher.programs),
            "links": sum(map(len, attacher.links.values())),
            "failures": attacher.failures,
            "bcc_version": attacher.version,
            "wall_ns": time.monotonic_ns() - started_ns,
            "peak_memory_bytes": read_peak_memory_bytes(),
        }
        socket.send_fds(end, [json.dumps(reply).encode()], attacher.fds())
    except Exception as error:  # bcc raises nothing more specific, and nobody but the parent can be told
        problem = "refused" if isinstance(error, RefusedError) else type(error).__name__
        with suppress(OSError):
            end.send(json.dumps({"error": str(error), "problem": problem}).encode())
        return 1
    return 0


if __name__ == "__main__":
    # Past Python's and LLVM's clean-up, which frees piece by piece what the kernel frees at once.
    os._exit(serve(socket.socket(fileno=int(sys.argv[1]))))
