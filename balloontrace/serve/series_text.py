# SPDX-License-Identifier: GPL-2.0-or-later
"""Families in one format, of which a library writes each series once: after that only its value is new.

To write a line anew takes the library some 100 000 instructions, and most of it never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from balloontrace.serve.families import Family, Histogram


class SeriesText:
    """Keeps the text of the series that were there the last time; what did not change is not written anew."""

    def __init__(self, write_family: Callable[[Family], str], write_value: Callable[[float], str]) -> None:
        """`write_family` gives lines that begin with `#`, then one for each value, which is last in it."""
        self._write_family, self._write_value = write_family, write_value
        self._heads: dict[str, str] = {}
        self._series: dict[str, dict[tuple[str, ...], _Series]] = {}  # by family and labels

    def write(self, families: Iterable[Family]) -> str:
        """All of them as they are now."""
        return "".join(part for family in families for part in self._parts(family))

    def _parts(self, family: Family) -> Iterator[str]:
        known = self._series.setdefault(family.name, {})
        new = tuple(sample for sample in family.samples if sample[0] not in known)
        if new or family.name not in self._heads:
            self._learn(replace(family, samples=new), known)
        yield self._heads[family.name]
        for labels, value in family.samples:
            series = known[labels]
            if series.value != value:
                series.change(value, self._write_value)
            yield series.text
        if len(known) > len(family.samples):
            self._series[family.name] = {labels: known[labels] for labels, _ in family.samples}

    def _learn(self, family: Family, known: dict[tuple[str, ...], _Series]) -> None:
        # Not by splitlines: a label may hold other ends of lines.
        lines = self._write_family(family).split("\n")[:-1]
        head = [line for line in lines if line.startswith("#")]
        self._heads[family.name] = "".join(f"{line}\n" for line in head)
        begins = (line[: line.rindex(" ") + 1] for line in lines[len(head) :])
        for labels, value in family.samples:
            known[labels] = _Series([next(begins) for _ in _numbers(value)])


class _Series:
    """What its lines are without their values, and with those that it had last."""

    __slots__ = ("_begins", "text", "value")

    def __init__(self, begins: Sequence[str]) -> None:
        self._begins, self.text = begins, ""
        self.value: float | Histogram | None = None

    def change(self, value: float | Histogram, write_value: Callable[[float], str]) -> None:
        """Write it anew."""
        lines = zip(self._begins, _numbers(value), strict=True)
        self.text = "".join(f"{begin}{write_value(number)}\n" for begin, number in lines)
        self.value = value


def _numbers(value: float | Histogram) -> tuple[float, ...]:
    """One for each line of a series."""
    return value.numbers if isinstance(value, Histogram) else (value,)
