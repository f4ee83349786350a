# SPDX-License-Identifier: GPL-2.0-or-later
"""A figure: one measured number, and the target it is held to, if it has one."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None  # neither: shown for comparison only
    wanted: float | None = None  # less than `at_most`, and not reached yet: docs/overhead.md says why

    @property
    def verdict(self) -> str:
        """`ok`, `SHORT` when the target is missed, `-` when there is none."""
        if self.at_most is None and self.at_least is None:
            return "-"
        met = self.value <= (math.inf if self.at_most is None else self.at_most)
        return "ok" if met and self.value >= (self.at_least or -math.inf) else "SHORT"

    def line(self) -> str:
        """Name, value, unit, target and verdict in columns."""
        target = "-" if self.at_most is None else f"<= {self.at_most:g}"
        target = target if self.at_least is None else f">= {self.at_least:g}"
        short = self.wanted is not None and self.value > self.wanted
        wanted = f", wanted <= {self.wanted:g}" if short else ""
        return f"{self.name:<36} {self.value:>10.3f} {self.unit:<4} {target:>9}  {self.verdict}{wanted}"

    def as_json(self) -> dict[str, object]:
        """What goes to BENCH_JSON."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Benchmark:
    """A measurement that yields figures; ONLY can ask for one of `names`, or for all as `group`.

    A `long` one is made only where it is asked for.
    """

    names: tuple[str, ...]
    measure: Callable[[], Iterable[Figure]]
    group: str = ""
    long: bool = False


def say(text: str) -> None:
    """Progress, which is no figure, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)
