# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report of a guest alone may not say where its host's recording shows another thing."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

# Parts that stand for what a recording cannot tell apart, by the stages that it can.
_SUMS = {"b+c+d": ("b", "c", "d")}
_OF_GUEST, _OF_HOST = "guest slow", "host slow"
_ANSWER = "sending and the interrupt"
_PROCESSOR = "waiting for a processor after"


def assert_no_contradiction(alone: Json, both: Json) -> int:
    """Both reports are of one guest's recording, the second with its host's; returns how many it compared."""
    assert len(alone["operations"]) == len(both["operations"])
    compared = 0
    for first, second in zip(alone["operations"], both["operations"], strict=True):
        assert first["wall_ns"] == second["wall_ns"]
        totals, split = _totals(first), _totals(second)
        if "c" not in split:
            continue
        compared += 1
        assert totals["a"] == split["a"]
        assert totals["other"] == split["other"]
        assert totals["b+c+d"] == sum(split[code] for code in _SUMS["b+c+d"]) - split.get("b.build", 0)
        running_ns = split.get("b.running")
        if running_ns is not None:
            # With the host known it is cut to what the host leaves; the guest alone does not know that.
            assert running_ns <= totals["b+c+d.running"]
        _assert_same_blame("\n".join(first["verdict"]), "\n".join(second["verdict"]))
    return compared


def _assert_same_blame(alone: str, both: str) -> None:
    if _OF_GUEST in alone:
        assert _OF_HOST not in both, (alone, both)
    if _ANSWER in alone:
        assert _PROCESSOR not in both, (alone, both)
    assert _OF_HOST not in alone


def _totals(operation: Json) -> dict[str, int]:
    return {row["stage"]: row["total_ns"] for row in operation["stages"] if row["total_ns"] is not None}
