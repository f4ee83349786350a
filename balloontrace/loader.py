# SPDX-License-Identifier: GPL-2.0-or-later
"""Has BPF programs compiled and attached by a child process, and takes over the descriptors.

bcc brings LLVM: 130 MB of memory that a guest being squeezed by its balloon should not hold. The child
(`attacher`) ends once it has attached; maps, programs and probes live on with the descriptors, and vanish
with the process that holds them, however it ends.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from balloontrace.attacher import REQUEST_BYTES
from balloontrace.errors import BalloontraceError, CannotTraceError

_MAXIMUM_FDS = 250  # SCM_MAX_FD is 253
_KEPT_MESSAGE_CHARACTERS = 4000


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
    """What to compile and where to attach it."""

    source: str
    definitions: Mapping[str, str | int]
    attachments: tuple[Attachment, ...]
    maps: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """What the child left behind; the descriptors are this process's to close."""

    maps: dict[str, int]
    programs: dict[str, int]
    links: list[int]
    failures: dict[str, str]  # optional functions that could not be attached, and why
    bcc_version: str
    setup_cpu_ns: int
    setup_peak_memory_bytes: int
    setup_wall_ns: int


class AttachError(BalloontraceError):
    """The kernel refused a required probe."""


def bpf_folder() -> Path:
    """Where the BPF sources are: inside an installed package, or beside it in the source tree."""
    inside = Path(__file__).parent / "bpf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "bpf"


def load(request: LoadRequest) -> Loaded:
    """Compile and attach in a child.

    Raises CannotTraceError when bcc, the headers or the kernel do not allow it, AttachError when a required
    probe was refused, each with the compiler's or the kernel's own words.
    """
    # SEQPACKET keeps request and answer in one piece each; an empty answer is a child that died.
    parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    messages_fd = os.memfd_create("balloontrace-compiler-messages")
    try:
        with parent_end, child_end:
            child = subprocess.Popen(
                _child_command(child_end.fileno()),
                pass_fds=[child_end.fileno()],
                stderr=messages_fd,  # clang writes there and nowhere else
                stdout=subprocess.DEVNULL,
                env=_child_environment(),
                start_new_session=True,  # Ctrl-C is the recorder's to answer
            )
            child_end.close()
            try:
                answer, fds = _ask(parent_end, request)
            except BaseException:  # Ctrl-C above all
                child.kill()
                child.wait()
                raise
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        messages = os.pread(messages_fd, REQUEST_BYTES, 0).decode(errors="replace")
    finally:
        os.close(messages_fd)
    return _loaded(answer, fds, messages[-_KEPT_MESSAGE_CHARACTERS:].strip(), child.returncode, usage)


def _child_command(socket_fd: int) -> list[str]:
    # -P: without it `-m` first searches the folder the command is run in, as root.
    return [sys.executable, "-P", "-m", "balloontrace.attacher", str(socket_fd)]


def _child_environment() -> dict[str, str]:
    """Ours, with this very package found first wherever it lies."""
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _ask(end: socket.socket, request: LoadRequest) -> tuple[bytes, list[int]]:
    """The answer and the descriptors that came with it; both empty when the child died."""
    try:
        end.send(json.dumps(asdict(request)).encode())
        answer, fds, _, _ = socket.recv_fds(end, REQUEST_BYTES, _MAXIMUM_FDS)
    except (BrokenPipeError, ConnectionResetError):  # it died before it had read the request
        return b"", []
    return answer, fds


def _loaded(
    answer: bytes, fds: list[int], messages: str, status: int, usage: resource.struct_rusage
) -> Loaded:
    detail = f"\n{messages}" if messages else ""
    if not answer:
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        raise CannotTraceError(
            f"the process compiling the BPF programs ended with {ended}; it needs some 110 MB{detail}"
        )
    reply: dict[str, Any] = json.loads(answer)
    if reply.get("problem") == "refused":
        raise AttachError(f"{reply['error']}{detail}")
    if "error" in reply:
        raise CannotTraceError(f"the BPF programs cannot be compiled: {reply['error']}{detail}")
    feed = iter(fds)
    return Loaded(
        maps={name: next(feed) for name in reply["maps"]},
        programs={name: next(feed) for name in reply["programs"]},
        links=[next(feed) for _ in range(reply["links"])],
        failures=reply["failures"],
        bcc_version=reply["bcc_version"],
        setup_cpu_ns=int((usage.ru_utime + usage.ru_stime) * 1e9),
        setup_peak_memory_bytes=usage.ru_maxrss * 1024,
        setup_wall_ns=reply["wall_ns"],
    )
