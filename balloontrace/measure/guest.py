# SPDX-License-Identifier: GPL-2.0-or-later
"""What every way into a guest can do, and what is made of its answers."""

from __future__ import annotations

import abc
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import balloontrace
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.answers import is_whole, parse_object
from balloontrace.measure.recorder import Recorder
from balloontrace.untrusted import printable

OLDEST_PYTHON = [3, 11]
QUICK_S = 120.0
BUNDLE = "balloontrace.pyz"
NOT_PYTHON = "the guest answers, but not as python3 there should"


def _nobody(_step: str) -> None:
    """Is told of steps, and does nothing."""


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
    """A way into a guest, open from `open` until `close`."""

    name: str
    facts: GuestFacts

    def __init__(self, name: str, *, keep: bool = False) -> None:
        """Nothing is done yet. With `keep` what is copied there stays."""
        self.name = printable(name)
        self._keep = keep
        self._folder = self._bundle = ""  # in the guest

    def open(self, make_bundle: Callable[[], bytes], done: Callable[[str], None] = _nobody) -> Self:
        """Reach it, ask what it has, copy the recorder if it has none; `done` is told of steps of `STEPS`.

        Raises GuestGone, UsageError, BalloontraceError; nothing is left then.
        """
        try:
            with made_meanwhile(make_bundle) as bundle:
                self._folder = self._reach()
                self.facts = parse_facts(self.ask("facts", timeout_s=QUICK_S))
                if not self.facts.may_trace:
                    raise UsageError(
                        f"{self.name}: that user may not trace, and sudo there wants a password: "
                        "connect as root"
                    )
                done("connect")
                if not self.facts.has_balloontrace:
                    self._bundle = f"{self._folder}/{BUNDLE}"
                    self._copy(bundle())
                    done("copy")
        except BaseException:
            self.close()
            raise
        return self

    @abc.abstractmethod
    def _reach(self) -> str:
        """Make a folder in the guest, for what is copied and recorded there."""

    @abc.abstractmethod
    def _copy(self, bundle: bytes) -> None:
        """Write `self._bundle`, in that folder."""

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
        return self._bundle if self._keep and self._bundle else None

    def program(self) -> list[str]:
        """The words that run balloontrace in the guest."""
        return ["python3", self._bundle] if self._bundle else ["balloontrace"]

    def read_balloon_bytes(self) -> int:
        """How large the balloon is, by the guest's kernel. Raises GuestGone, BalloontraceError."""
        found = self.ask("balloon", timeout_s=60).get("balloon_bytes")
        if not is_whole(found):
            raise BalloontraceError("the guest's kernel does not count its balloon: give --read-balloon CMD")
        return found

    def touch(self, size_bytes: int, timeout_s: float) -> int:
        """Have the guest write to so much memory and free it; how long that took, in ns."""
        found = self.ask("touch", str(size_bytes), timeout_s=timeout_s).get("touched_ns")
        if not is_whole(found):
            raise BalloontraceError(NOT_PYTHON)
        return found


def facts_source() -> str:
    """The program that a guest is sent."""
    content = pkgutil.get_data("balloontrace", "measure/facts.py")
    assert content is not None  # it is part of this package
    return content.decode()


def parse_answer(text: str) -> dict[str, Any]:
    """What `measure/facts` printed last. BalloontraceError when that is something else, or an error."""
    found = parse_object(text.strip().rpartition("\n")[2])
    if found is None:
        raise BalloontraceError(NOT_PYTHON)
    if "error" in found:
        raise BalloontraceError(f"the guest could not do it: {printable(str(found['error']))}")
    return found


@contextmanager
def made_meanwhile(make: Callable[[], bytes]) -> Iterator[Callable[[], bytes]]:
    """What `make` makes beside what is done here; calling it waits until that is made."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(make).result


def parse_facts(found: dict[str, Any]) -> GuestFacts:
    """What a guest has answered. BalloontraceError when its Python is too old."""
    python = found.get("python")
    if not isinstance(python, list) or not all(map(is_whole, python)):
        raise BalloontraceError(NOT_PYTHON)
    if python < OLDEST_PYTHON:
        raise BalloontraceError(f"the guest needs Python 3.11 or newer, and has {'.'.join(map(str, python))}")
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
