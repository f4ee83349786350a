# SPDX-License-Identifier: GPL-2.0-or-later
"""What every way into a guest can do, and what is made of its answers."""

from __future__ import annotations

import abc
import json
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import balloontrace
from balloontrace.errors import BalloontraceError
from balloontrace.measure.recorder import Recorder
from balloontrace.untrusted import made_printable, printable

OLDEST_PYTHON = [3, 11]
BUNDLE = "balloontrace.pyz"


class GuestGone(BalloontraceError):  # noqa: N818
    """The guest, or the way to it, is gone."""


@dataclass(frozen=True)
class GuestFacts:
    """What a guest says of itself."""

    hostname: str
    is_root: bool
    may_trace: bool  # being root, or by sudo
    has_balloontrace: bool  # of this version
    available_bytes: int | None
    conditions: dict[str, Any]


class Guest(abc.ABC):
    """A way into a guest, open until `close`."""

    name: str
    facts: GuestFacts

    @abc.abstractmethod
    def ask(self, *words: str, timeout_s: float) -> dict[str, Any]:
        """Run `measure/facts` in the guest with these words. Raises GuestGone, BalloontraceError."""

    @abc.abstractmethod
    def start_recorder(self, options: Sequence[str], path: Path) -> Recorder:
        """Start `balloontrace record` with more options; its recording comes to `path` here."""

    @abc.abstractmethod
    def close(self) -> None:
        """Remove what was copied, and leave. Never raises."""

    @property
    def kept(self) -> str | None:
        """Where what was copied stays in the guest; None for nothing."""
        return None

    def read_balloon_bytes(self) -> int:
        """How large the balloon is, by the guest's kernel. Raises GuestGone, BalloontraceError."""
        found = self.ask("balloon", timeout_s=60)["balloon_bytes"]
        if not isinstance(found, int):
            raise BalloontraceError("the guest's kernel does not count its balloon: give --read-balloon CMD")
        return found

    def touch(self, size_bytes: int, timeout_s: float) -> int:
        """Have the guest write to so much memory and free it; how long that took, in ns."""
        return int(self.ask("touch", str(size_bytes), timeout_s=timeout_s)["touched_ns"])


def facts_source() -> str:
    """The program that a guest is sent."""
    content = pkgutil.get_data("balloontrace", "measure/facts.py")
    assert content is not None  # it is part of this package
    return content.decode()


def parse_answer(text: str) -> dict[str, Any]:
    """What `measure/facts` printed last. BalloontraceError when that is something else, or an error."""
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = None
    if not isinstance(found, dict):
        raise BalloontraceError("the guest answers, but not as python3 there should")
    if "error" in found:
        raise BalloontraceError(f"the guest could not do it: {printable(str(found['error']))}")
    return made_printable(found)


@contextmanager
def made_meanwhile(make: Callable[[], bytes]) -> Iterator[Callable[[], bytes]]:
    """What `make` makes beside what is done here; calling it waits until that is made."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(make).result


def parse_facts(found: dict[str, Any]) -> GuestFacts:
    """What a guest has answered. BalloontraceError when its Python is too old."""
    python = found.get("python")
    if not isinstance(python, list) or python < OLDEST_PYTHON:
        shown = ".".join(map(str, python)) if isinstance(python, list) else "unknown"
        raise BalloontraceError(f"the guest needs Python 3.11 or newer, and has {shown}")
    available = found.get("available_bytes")
    conditions = found.get("conditions")
    return GuestFacts(
        hostname=str(found.get("hostname") or "guest"),
        is_root=found.get("uid") == 0,
        may_trace=found.get("may_trace") is True,
        has_balloontrace=found.get("balloontrace") == balloontrace.__version__,
        available_bytes=available if isinstance(available, int) else None,
        conditions=conditions if isinstance(conditions, dict) else {},
    )
