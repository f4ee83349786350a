# SPDX-License-Identifier: GPL-2.0-or-later
"""Time that went to something, as a function of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Time that went to something, as a function of time: straight lines between `at_ns`, sorted."""

    at_ns: Floats
    spent_ns: Floats

    @classmethod
    def of(cls, starts_ns: Column, ends_ns: Column, shares: Floats | None = None) -> Clockwork:
        """Of intervals, which may overlap; of interval i only `shares[i]` counts, everywhere in it alike."""
        share = np.ones(len(starts_ns)) if shares is None else shares
        at_ns = np.concatenate([starts_ns, ends_ns])
        order = np.argsort(at_ns, kind="stable")
        at_ns = at_ns[order]
        slopes = np.cumsum(np.concatenate([share, -share])[order])
        spent_ns = np.zeros(len(at_ns))
        spent_ns[1:] = np.cumsum(slopes[:-1] * np.diff(at_ns))
        return cls(at_ns.astype(np.float64), spent_ns)

    def until(self, times_ns: Column) -> Floats:
        """Nanoseconds that went to it before each of some times."""
        if not len(self.at_ns):
            return np.zeros(len(times_ns))
        return np.interp(times_ns.astype(np.float64), self.at_ns, self.spent_ns)
