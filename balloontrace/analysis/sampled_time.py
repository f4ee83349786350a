# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of some time was inside calls, estimated from samples of it, and how far off that may be.

Samples of one buffer are not independent of each other. So the interval is Wilson's for a proportion, of as
many independent samples as would scatter between buffers as these do (the design effect of Kish, 1965); never
of more than there are. What the thread was not on a processor for has no samples, and may be either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column

_Z = 1.959964  # two-sided, 95 %


@dataclass(frozen=True, slots=True)
class SampledTime:
    """Of some time the part inside calls: an estimate, and by how much it may be off in 19 of 20 cases."""

    inside_ns: int
    error_ns: int
    samples: int
    samples_inside: int


def estimate_inside(
    served_ns: int, samples: Column, inside: Column, period_ns: int | None
) -> SampledTime | None:
    """Of `served_ns`, from samples by buffer; None where there are none.

    With `period_ns` between samples, time without samples is known, and adds to the error.
    """
    count, found = int(samples.sum()), int(inside.sum())
    if not count:
        return None
    low, high = interval(samples, inside)
    share = found / count
    # A sample more or less at either end of so many stretches proves nothing missing.
    unseen_ns = max(0, served_ns - (count + math.isqrt(len(samples)) + 1) * period_ns) if period_ns else 0
    error_ns = max(high - share, share - low) * served_ns + unseen_ns * max(share, 1 - share)
    return SampledTime(round(share * served_ns), min(round(error_ns), served_ns), count, found)


def interval(samples: Column, inside: Column) -> tuple[float, float]:
    """Bounds of the part of all samples that is inside, at 95 %; `samples` and `inside` are by buffer."""
    count = float(samples.sum())
    share = float(inside.sum()) / count
    independent = count / max(1.0, _design_effect(samples, inside, share))
    return wilson_interval(share, independent)


def wilson_interval(share: float, samples: float) -> tuple[float, float]:
    """Bounds of a proportion found in so many independent samples (Wilson, 1927), at 95 %."""
    squared = _Z * _Z / samples
    middle = (share + squared / 2) / (1 + squared)
    half = _Z * math.sqrt(share * (1 - share) / samples + squared / (4 * samples)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def _design_effect(samples: Column, inside: Column, share: float) -> float:
    """By how much shares scatter more between buffers than independent samples would."""
    used: NDArray[np.bool_] = samples > 0
    buffers, count = int(used.sum()), float(samples.sum())
    expected = share * (1 - share) / count
    if buffers < 2 or expected <= 0:
        return 1.0
    apart = inside[used].astype(np.float64) - share * samples[used]
    found = buffers / (buffers - 1) * float((apart * apart).sum()) / count**2
    return found / expected
