# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's own balloon device: compiles `lab/backend/`, starts it beside QEMU, and asks it what it did."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import folders
from lab.cache import cache_folder, locked
from lab.errors import LabError
from lab.packages import Requirement, ensure_packages, tail_lines
from lab.progress import Progress

SOURCES = Path(__file__).parent / "backend"
CONTROL_SOCKET = "balloon"
LOG = "backend.log"
DUMP = "payloads.bin"
MESSAGES = "backend.err"
TO_COMPILE = (
    Requirement("gcc", "gcc"),
    Requirement("libc6-dev", "/usr/include/stdio.h"),
    Requirement("make", "make"),
)
_KEPT_BUILDS = 8
_TAIL_LINES = 40
_ANSWERS_S = 30


@dataclass(frozen=True)
class ExtraTime:
    """Time that the device spends on purpose; the first two are the device's own, the third the kernel's.

    To a tracer of the host the first two are translating (c), the third is discarding (d). Without one all
    three are what a send waits for.
    """

    per_buffer_ns: int = 0  # once a buffer is served, before it is given back
    per_discard_ns: int = 0  # before each call, deflating too
    in_discard_ns: int = 0  # inside each call that frees memory: inflating

    def words(self) -> list[str]:
        """As options of balloon-backend."""
        options = {
            "--extra-ns-per-buffer": self.per_buffer_ns,
            "--extra-ns-per-discard": self.per_discard_ns,
            "--extra-ns-in-discard": self.in_discard_ns,
        }
        return [word for option, time_ns in options.items() if time_ns for word in (option, str(time_ns))]


NO_EXTRA = ExtraTime()


@dataclass(frozen=True)
class BackendOptions:
    """What kind of device; `arguments` go to balloon-backend as they are."""

    page_bitmap: bool = False  # offer feature bit 3, meaning page bitmaps
    dump: bool = False  # keep the payload of every buffer
    sanitize: bool = False  # with address and undefined-behaviour sanitizers: slower, and strict
    arguments: tuple[str, ...] = ()
    extra: ExtraTime = NO_EXTRA

    def words(self, folder: Path) -> list[str]:
        """The command line without the two descriptors."""
        return [
            *("--log", str(folder / LOG)),
            *(("--dump", str(folder / DUMP)) if self.dump else ()),
            *(("--page-bitmap",) if self.page_bitmap else ()),
            *self.extra.words(),
            *self.arguments,
        ]


# ---- building ----


def build_backend(*, sanitize: bool = False, progress: Progress | None = None) -> Path:
    """The folder with `balloon-backend` and `decode-payload`, compiled if need be. Raises LabError."""
    ensure_packages(TO_COMPILE, progress)
    builds = cache_folder() / "backend"
    builds.mkdir(exist_ok=True)
    folder = builds / backend_key(sanitize=sanitize)
    with locked(builds / "build.lock"):
        if not folder.exists():
            _compile(folder, sanitize=sanitize)
            _remove_old_builds(builds)
    return folder


def backend_key(sources: Path = SOURCES, *, sanitize: bool = False) -> str:
    """Hex name of a build: the same exactly when sources, options and compiler are the same."""
    digest = hashlib.sha256(repr(sanitize).encode())
    digest.update(subprocess.run(["gcc", "--version"], capture_output=True).stdout)
    for path in sorted((*sources.glob("*.[ch]"), sources / "Makefile")):
        digest.update(f"\0{path.name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _compile(folder: Path, *, sanitize: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="new-", dir=folder.parent) as name:
        partial = Path(name) / "out"
        partial.mkdir()
        command = [
            "make", "--silent", "-C", str(SOURCES), f"OUT={partial}", *(["SANITIZE=1"] if sanitize else []),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"The balloon device does not compile:\n{tail_lines(done.stderr, _TAIL_LINES)}")
        partial.rename(folder)


def _remove_old_builds(builds: Path) -> None:
    by_age = sorted((path for path in builds.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime)
    for folder in by_age[:-_KEPT_BUILDS]:
        shutil.rmtree(folder, ignore_errors=True)


# ---- running ----


def start_backend(
    build: Path, options: BackendOptions, folder: Path, frontend: socket.socket, control: socket.socket
) -> subprocess.Popen[bytes]:
    """Starts the device with these two sockets; it ends by itself when the frontend's other end closes."""
    descriptors = (frontend.fileno(), control.fileno())
    command = [
        str(build / "balloon-backend"), "--fd", str(descriptors[0]), "--control-fd", str(descriptors[1]),
        *options.words(folder),
    ]  # fmt: skip
    with (folder / MESSAGES).open("wb") as messages:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
            pass_fds=descriptors, start_new_session=True,
        )  # fmt: skip


class BackendClient:
    """The control socket of a device, and the files it writes into its folder."""

    def __init__(self, folder: Path, connect: Callable[[], socket.socket] | None = None) -> None:
        self.folder = folder
        self._connect = connect or (lambda: folders.connect(folder, CONTROL_SOCKET))
        self._connection: socket.socket | None = None
        self._unread = b""

    def close(self) -> None:
        """Ends the connection; the device goes on."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def set_target_pages(self, pages: int) -> None:
        """Sets how many pages the balloon should hold; the guest is told at once. Raises LabError."""
        self.command(f"target {pages}")

    def set_extra_time(self, extra: ExtraTime) -> None:
        """From the next buffer on; in place of what was set before. Raises LabError."""
        self.command(f"extra {extra.per_buffer_ns} {extra.per_discard_ns} {extra.in_discard_ns}")

    def discard_disk(self, calls: int, size_bytes: int) -> None:
        """Makes holes in the file of `--disk`, in the thread that serves the queues. Raises LabError."""
        self.command(f"discard {calls} {size_bytes}")

    def actual_pages(self) -> int:
        """How many pages the driver has said the balloon holds. Raises LabError."""
        return int(self.status()["actual_pages"])

    def pid(self) -> int:
        """The process id of the device, for who wants to trace it. Raises LabError."""
        return int(self.status()["pid"])

    def status(self) -> dict[str, Any]:
        """Target, actual, mode and totals of each queue; what they count is in `log`. Raises LabError."""
        return self.command("status")

    def log(self) -> list[dict[str, Any]]:
        """The events so far. Raises LabError."""
        self.status()
        return parse_log((self.folder / LOG).read_text())

    def buffers(self, queue: str | None = None) -> list[dict[str, Any]]:
        """The `buffer` events, of one queue or all."""
        return [e for e in self.log() if e["event"] == "buffer" and queue in (None, e["queue"])]

    def payloads(self, queue: str | None = None) -> list[bytes]:
        """What each buffer contained, in the order of `buffers`; the device must have been told to dump."""
        found = self.buffers(queue)
        dump = (self.folder / DUMP).read_bytes()
        return [dump[e["dump_offset"] : e["dump_offset"] + e["bytes"]] for e in found]

    def command(self, line: str) -> dict[str, Any]:
        """Sends a line, returns the answer. Raises LabError when it is refused or the device is gone."""
        try:
            answer = json.loads(self._exchange(line))
        except (OSError, ValueError) as error:
            self.close()
            raise LabError(f"The balloon device does not answer `{line}`: {error}") from None
        if "error" in answer:
            raise LabError(f"The balloon device refused `{line}`: {answer['error']}")
        return dict(answer)

    def _exchange(self, line: str) -> bytes:
        if self._connection is None:
            self._connection = self._connect()
            self._connection.settimeout(_ANSWERS_S)
            self._unread = b""
        self._connection.sendall(line.encode() + b"\n")
        while b"\n" not in self._unread:
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionError("it closed the connection")
            self._unread += received
        answer, _, self._unread = self._unread.partition(b"\n")
        return answer


def parse_log(text: str) -> list[dict[str, Any]]:
    """The events of a log; a last line that is still being written is left out."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
