# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics as plain data, before any library: names, labels and values by Prometheus's conventions.

Names have base units (seconds, bytes), and counters end in `_total`. What was not measured has no sample.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TypeAlias

from balloontrace.units import NS_PER_S

PREFIX = "balloontrace_"


class Kind(enum.StrEnum):
    """What a family's values are, by OpenMetrics's words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Histogram:
    """Cumulative counts by upper bound in seconds, the last one being of all; and their sum in seconds."""

    buckets: tuple[tuple[str, int], ...]
    sum_s: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """Those of its buckets, how many all are, and their sum: in the order of the text formats."""
        counts = [count for _, count in self.buckets]
        return (*counts, counts[-1], self.sum_s)


Sample: TypeAlias = tuple[tuple[str, ...], float | Histogram]
"""One value, after those of its family's labels. A plain tuple: a host has a thousand at each scrape."""


@dataclass(frozen=True)
class Family:
    """A metric; `name` is without the suffix of its kind."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]


def counter(
    name: str, text: str, samples: Iterable[tuple[tuple[str, ...], float | None]], labels: Sequence[str] = ()
) -> Family:
    """A sum that only grows."""
    return _family(Kind.COUNTER, name, text, samples, labels)


def gauge(
    name: str, text: str, samples: Iterable[tuple[tuple[str, ...], float | None]], labels: Sequence[str] = ()
) -> Family:
    """How something stands."""
    return _family(Kind.GAUGE, name, text, samples, labels)


def histogram(
    name: str, text: str, samples: Iterable[tuple[tuple[str, ...], Histogram]], labels: Sequence[str] = ()
) -> Family:
    """How long things took."""
    return Family(PREFIX + name, Kind.HISTOGRAM, text, tuple(labels), tuple(samples))


def as_histogram(counts: Sequence[int], sum_ns: int, powers: Sequence[int]) -> Histogram:
    """Of `counts` by powers of two of ns, cumulative ones up to 2 to each of `powers` ns, then of all."""
    below = [0, *accumulate(counts)]
    bounds = [(_bound(power), below[min(power, len(counts))]) for power in powers]
    return Histogram((*bounds, ("+Inf", below[-1])), sum_ns / NS_PER_S)


@cache
def _bound(power: int) -> str:
    return f"{2**power / NS_PER_S:.9g}"


def seconds(time_ns: int | None) -> float | None:
    """Nanoseconds in the unit of metrics."""
    return None if time_ns is None else time_ns / NS_PER_S


def _family(
    kind: Kind,
    name: str,
    text: str,
    samples: Iterable[tuple[tuple[str, ...], float | None]],
    labels: Sequence[str],
) -> Family:
    known = tuple((key, value) for key, value in samples if value is not None)
    return Family(PREFIX + name, kind, text, tuple(labels), known)
