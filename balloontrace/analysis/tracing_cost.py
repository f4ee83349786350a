# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing added to the host's stages: calls times what the recorder measured while it attached."""

from __future__ import annotations

from dataclasses import dataclass

from balloontrace.analysis.metadata import Json, mapping, number


@dataclass(frozen=True, slots=True)
class TracingCost:
    """What each traced call takes longer, in ns: between the calls, and inside them."""

    c_ns: float
    d_ns: float

    def of_calls(self, calls: int, calls_ns: int) -> tuple[int, int]:
        """What tracing added to c and to d of so many calls; to d no more than they took."""
        return round(calls * self.c_ns), min(round(calls * self.d_ns), calls_ns)


def parse_tracing_cost(metadata: Json) -> TracingCost | None:
    """What the recorder measured; None where it did not, or contradicts itself."""
    measured = mapping(metadata, "call_cost")
    added_ns, inside_ns = number(measured, "added_ns"), number(measured, "inside_ns")
    if added_ns is None or inside_ns is None or inside_ns > added_ns:
        return None
    return TracingCost(added_ns - inside_ns, inside_ns)
