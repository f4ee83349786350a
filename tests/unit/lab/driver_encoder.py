# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched driver's encoder in user space, with sanitizers: from pages to what would have been sent."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bitmap_reference import BITMAP_PAGES, Record, decode

HERE = Path(__file__).parent
DRIVER = HERE.parents[2] / "lab" / "driver"
FLAGS = (
    *("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DPAGES_PER_LOCK=7"),
)


@dataclass(frozen=True)
class Told:
    windows: int
    disturbed: int
    payloads: list[list[int]]

    def records(self) -> list[Record]:
        return [record for payload in self.payloads for record in decode(payload)]

    def pages(self) -> Counter[int]:
        return Counter(page for record in self.records() for page in record.pages())


class Encoder:
    """The compiled program; a fault that a sanitizer finds ends it, and the test."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tell(
        self,
        new: Sequence[int],
        old: Sequence[int] = (),
        *,
        gib: int = 1,
        bitmaps: int = 32,
        disturb: bool = False,
    ) -> Told:
        if self._process.poll() is not None:
            self._process = self._start()  # one fault fails one test
        head = (gib * BITMAP_PAGES, bitmaps, disturb, len(new), len(new) + len(old))
        assert self._process.stdin is not None
        self._process.stdin.write(struct.pack(f"<{5 + head[4]}Q", *head, *new, *old))
        self._process.stdin.flush()
        windows, disturbed, sends = self._read(3)
        return Told(windows, disturbed, [self._read(self._read(1)[0]) for _ in range(sends)])

    def _read(self, count: int) -> list[int]:
        assert self._process.stdout is not None
        raw = self._process.stdout.read(8 * count)
        assert len(raw) == 8 * count, f"the encoder ended with status {self._process.wait()}"
        return list(struct.unpack(f"<{count}Q", raw))

    def close(self) -> int:
        self._process.communicate(timeout=30)
        return self._process.returncode


@contextmanager
def running_encoder(folder: Path) -> Iterator[Encoder]:
    """Compiles it into `folder` and runs it; skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = folder / "encoder"
    subprocess.run([compiler, *FLAGS, f"-I{DRIVER}", "-o", program, HERE / "encoder.c"], check=True)
    running = Encoder(program)
    yield running
    assert running.close() == 0, "memory leaked"
