# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine `bcc`: has a child process compile and attach BPF programs, and takes over the descriptors.

bcc brings LLVM: 130 MB of memory that a guest being squeezed by its balloon should not hold. The child
(`engines/bcc_child`) ends once it has attached; maps, programs and probes live on with the descriptors, and
vanish with the process that holds them, however it ends.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from balloontrace.console.stderr import note
from balloontrace.errors import CannotTraceError
from balloontrace.format.vocabulary import c_definitions
from balloontrace.trace.engines.bcc_child import REQUEST_BYTES
from balloontrace.trace.engines.causes import failure
from balloontrace.trace.engines.request import SAMPLED, AttachError, Loaded, LoadRequest
from balloontrace.trace.engines.shipped import source_folder

_MAXIMUM_FDS = 250  # SCM_MAX_FD is 253


def load(request: LoadRequest) -> Loaded:
    """Compile and attach in a child.

    Raises CannotTraceError when bcc, the headers or the kernel do not allow it, AttachError when a required
    probe was refused. Each has the line of the compiler or the kernel that says why; `-v` shows the rest.
    """
    if SAMPLED in request.definitions:
        raise CannotTraceError("the engine bcc has no timers to sample by: that takes prebuilt")
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
                with source_folder() as folder:
                    answer, fds = _ask(parent_end, request, folder)
            except BaseException:  # Ctrl-C above all
                child.kill()
                child.wait()
                raise
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        messages = os.pread(messages_fd, REQUEST_BYTES, 0).decode(errors="replace")
    finally:
        os.close(messages_fd)
    return _loaded(answer, fds, messages.strip(), child.returncode, usage)


def _child_command(socket_fd: int) -> list[str]:
    # -P: without it `-m` first searches the folder the command is run in, as root.
    return [sys.executable, "-P", "-m", "balloontrace.trace.engines.bcc_child", str(socket_fd)]


def _child_environment() -> dict[str, str]:
    """Ours, with this very package found first wherever it lies."""
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _ask(end: socket.socket, request: LoadRequest, folder: Path) -> tuple[bytes, list[int]]:
    """The answer and the descriptors that came with it; both empty when the child died."""
    try:
        definitions = {**c_definitions(), **request.definitions}
        source = str(folder / request.source)
        asked = {**asdict(request), "source": source, "definitions": definitions}
        end.send(json.dumps(asked).encode())
        answer, fds, _, _ = socket.recv_fds(end, REQUEST_BYTES, _MAXIMUM_FDS)
    except (BrokenPipeError, ConnectionResetError):  # it died before it had read the request
        return b"", []
    return answer, fds


def _loaded(
    answer: bytes, fds: list[int], messages: str, status: int, usage: resource.struct_rusage
) -> Loaded:
    if not answer:
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        raise failure(
            CannotTraceError,
            f"the process compiling the BPF programs ended with {ended}; it needs some 110 MB, "
            "on the host's side up to 235",
            messages,
        )
    reply: dict[str, Any] = json.loads(answer)
    if reply.get("problem") == "refused":
        raise failure(AttachError, reply["error"], messages)
    if "error" in reply:
        raise failure(CannotTraceError, f"the BPF programs cannot be compiled: {reply['error']}", messages)
    if reply["failures"]:
        note(messages.splitlines)
    feed = iter(fds)
    return Loaded(
        maps={name: next(feed) for name in reply["maps"]},
        programs={name: next(feed) for name in reply["programs"]},
        links=[next(feed) for _ in range(reply["links"])],
        failures=reply["failures"],
        engine="bcc",
        engine_version=reply["bcc_version"],
        setup_cpu_ns=int((usage.ru_utime + usage.ru_stime) * 1e9),
        setup_peak_memory_bytes=reply["peak_memory_bytes"],
        setup_wall_ns=reply["wall_ns"],
    )
