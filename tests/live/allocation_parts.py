# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of `record --split-allocation` share: parts that add up, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

from tracing import Json, assert_sums, loss, stage

PARTS = ("a.reclaim", "a.compaction", "a.puff", "a.lock", "a.off_cpu")
SENTENCES = ("of allocating was", "of releasing was")


def split_operations(found: Json) -> list[Json]:
    """The operations, whose parts add up; nothing was lost."""
    assert_sums(found)
    assert loss(found, "allocation_parts")["lost"] == 0
    operations: list[Json] = found["operations"]
    for operation in operations:
        parts = [stage(operation, code) for code in (*PARTS, "a.rest")]
        assert {part["part_of"] for part in parts} == {"a"}
        assert all(part["total_ns"] >= 0 for part in parts)
        assert sum(part["total_ns"] for part in parts) == stage(operation, "a")["total_ns"]
    return operations


def told(operation: Json) -> list[str]:
    """The sentences that name a part."""
    return [sentence for sentence in operation["verdict"] if any(words in sentence for words in SENTENCES)]


def assert_idle(operations: Sequence[Json]) -> None:
    """The guest was idle: allocating has no cause to name."""
    for operation in operations:
        assert told(operation) == []
        assert [stage(operation, code)["total_ns"] for code in PARTS[:4]] == [0, 0, 0, 0]
