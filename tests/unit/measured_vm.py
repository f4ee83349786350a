# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM whose balloon is a number, a guest on this machine, and a `balloontrace record` that is a script."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balloontrace.measure.guest import Guest, GuestFacts
from balloontrace.measure.recorder import ChildRecorder
from balloontrace.measure.vm import Vm, VmGone, VmName

FULL_BYTES = 1 << 30
TAKE = 256 << 20
_RECORDS = """
import os, sys
sys.stderr.write("balloontrace: probes attached\\n"); sys.stderr.flush()
os.write(1, b"x" * 100)
while os.read(0, 100): pass
os.write(1, b"end")
"""


class NumberVm(Vm):
    """Its balloon is where it is told to be after `looks` looks; it is gone at move `ends_at`."""

    def __init__(self, *, looks: int = 1, ends_at: int | None = None, stuck_at: int | None = None) -> None:
        self.named = VmName("vm1", 1)
        self.targets: list[int] = []
        self._size, self._target, self._looks, self._left = FULL_BYTES, FULL_BYTES, looks, 0
        self._ends_at, self._stuck_at = ends_at, stuck_at

    def read_size_bytes(self) -> int:
        self._check()
        self._left -= 1
        if self._left <= 0 and len(self.targets) != self._stuck_at:
            self._size = self._target
        return self._size

    def set_size_bytes(self, size_bytes: int) -> None:
        self.targets.append(size_bytes)
        self._check()
        self._target, self._left = size_bytes, self._looks

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self._ends_at is not None and len(self.targets) >= self._ends_at:
            raise VmGone("the VM vm1 has ended")


def start_recorder(path: Path, script: str = _RECORDS, *, own_session: bool = True) -> ChildRecorder:
    return ChildRecorder("the recorder", [sys.executable, "-c", script], path, own_session=own_session)


class ScriptGuest(Guest):
    """A guest whose recorder is a script here; touching takes so long."""

    def __init__(self, script: str | None = None, available_bytes: int | None = None) -> None:
        super().__init__("root@vm1")
        self.facts = GuestFacts("vm1", True, True, True, available_bytes, {"kernel": "6.12"})
        self.options: list[Sequence[str]] = []
        self.touches = 0
        self._script = script

    def _reach(self) -> str:
        raise NotImplementedError

    def _copy(self, bundle: bytes) -> None:
        raise NotImplementedError

    def ask(self, *words: str, timeout_s: float) -> dict[str, Any]:
        assert words == ("touch", str(TAKE))
        assert timeout_s > 0
        self.touches += 1
        return {"touched_ns": 1000 * self.touches}

    def start_recorder(self, options: Sequence[str], path: Path) -> ChildRecorder:
        self.options.append(options)
        return start_recorder(path) if self._script is None else start_recorder(path, self._script)

    def close(self) -> None:
        pass
