# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pictures of one operation are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.operations import FoundOperation, Operations
from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.send_series import HostTimes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a guest's report was made of. `pages` are those each operation named, if its payloads tell."""

    spans: Spans
    operations: Operations
    host: HostTimes | None
    pages: Sequence[PageSet | None]


@dataclass(frozen=True, slots=True)
class Part:
    """One operation, and which spans are of its work items."""

    evidence: Evidence
    index: int
    own: Mask

    @property
    def found(self) -> FoundOperation:
        """The operation itself."""
        return self.evidence.operations.found[self.index]

    @property
    def items(self) -> NDArray[np.intp]:
        """Rows of its work items."""
        return np.flatnonzero(self.evidence.operations.item_operation == self.index)

    @property
    def sends(self) -> NDArray[np.intp]:
        """Indices of the spans that are its sends."""
        return np.flatnonzero(self.evidence.operations.send_operation == self.index)

    def edges(self, columns: int) -> Column:
        """Where columns of equal width begin, and the last one ends."""
        found = self.found
        steps = np.arange(columns + 1, dtype=np.int64)
        # Not (wall * steps) // columns: that overflows after 150 days.
        width, rest = divmod(found.end_ns - found.start_ns, columns)
        return found.start_ns + width * steps + rest * steps // columns
