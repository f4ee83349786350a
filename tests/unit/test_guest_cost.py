# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operation cost its guest: differences of the readings around it, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import synthetic
from flows import Flow, Times
from people import render_table
from report_checks import stage

from balloontrace.analysis.make_report import analyse
from balloontrace.results.guest_cost import GuestCost
from balloontrace.results.operation import Operation

S = 1_000_000_000
COUNTS = (
    "allocstall_dma", "allocstall_normal", "pgsteal_kswapd", "pgsteal_direct", "pswpin", "pswpout",
    "pgmajfault", "compact_stall", "thp_split_page", "thp_collapse_alloc", "oom_kill",
)  # fmt: skip
MIB = 1 << 20


def reading(at_ns: int, *, killed: object = (), **counts: int) -> dict[str, object]:
    """One of a kernel with everything, at rest but for `counts`."""
    base = dict.fromkeys(COUNTS, 1000)
    pressure = {"memory_some": 5_000, "memory_full": 100, "cpu_some": 70}
    ticks = {"user": 50, "idle": 900, "steal": 3}
    for table in (base, pressure, ticks):
        table.update((name, value + counts.pop(name)) for name, value in table.items() if name in counts)
    return {
        "monotonic_ns": at_ns,
        "memory_bytes": {"MemAvailable": counts.pop("available_mib", 900) * MIB},
        "counts": {**base, **counts},
        "pressure_us": pressure,
        "cpu_ticks": ticks,
        "killed": killed,
    }


def operation_with(*readings: dict[str, object], page_bytes: int | None = 4096) -> Operation:
    """An inflate from 1 s on, with these readings in its recording."""
    flow = Flow(times=Times())
    flow.resize(1024)
    machine: dict[str, Any] = dict(synthetic.metadata([flow])["machine"])  # type: ignore[call-overload]
    changes = {"machine": {**machine, "page_size_bytes": page_bytes}}
    recording = replace(synthetic.recording(flow, changes=changes), readings=readings)
    (operation,) = analyse(recording).operations
    return operation


def cost_of(*readings: dict[str, object], page_bytes: int | None = 4096) -> GuestCost:
    cost = operation_with(*readings, page_bytes=page_bytes).guest_cost
    assert cost is not None
    return cost


def test_differences_are_between_the_last_reading_before_and_the_first_behind() -> None:
    cost = cost_of(
        reading(S // 4, pswpout=1),
        reading(S // 2, pswpout=10, available_mib=800),
        reading(S + 500_000, pswpout=20, available_mib=30),
        reading(
            2 * S,
            pswpout=50,
            allocstall_dma=2,
            allocstall_normal=5,
            memory_some=90,
            steal=7,
            available_mib=200,
        ),
        reading(3 * S, pswpout=5000, available_mib=1),
    )
    assert cost.readings == 3
    assert (cost.before_ns, cost.swapped_out_pages, cost.direct_reclaims) == (S // 2, 40, 7)
    assert (cost.memory_pressure_some_ns, cost.memory_pressure_full_ns) == (90_000, 0)
    assert (cost.steal_ns, cost.processors_ns) == (70_000_000, 70_000_000)
    available = (cost.available_start_bytes, cost.available_least_bytes, cost.available_end_bytes)
    assert available == (800 * MIB, 30 * MIB, 200 * MIB)


def test_pages_are_counted_in_units_of_4_kib() -> None:
    readings = reading(0), reading(2 * S, pswpout=3, pgsteal_direct=2, thp_split_page=1)
    cost = cost_of(*readings, page_bytes=16384)
    assert (cost.swapped_out_pages, cost.reclaimed_directly_pages, cost.thp_splits) == (12, 8, 1)
    for page_bytes in (None, 1 << 32):  # no kernel has the latter
        assert cost_of(*readings, page_bytes=page_bytes).swapped_out_pages is None


@pytest.mark.parametrize(
    "readings", [(), (reading(0),), (reading(2 * S),), (reading(S + 1000), reading(2 * S))]
)
def test_without_a_reading_on_either_side_nothing_is_known(readings: tuple[dict[str, object], ...]) -> None:
    assert operation_with(*readings).guest_cost is None


def test_readings_of_memory_alone_tell_the_least_of_it_and_end_nothing() -> None:
    cost = cost_of(
        reading(0),
        {"monotonic_ns": S + 10, "memory_bytes": {"MemAvailable": 7}},
        {"monotonic_ns": 2 * S, "memory_bytes": {"MemAvailable": 9}},
        reading(3 * S, pswpout=3),
    )
    assert (cost.readings, cost.available_least_bytes, cost.swapped_out_pages) == (4, 7, 3)


def test_what_a_kernel_does_not_show_is_not_measured() -> None:
    bare: dict[str, object] = {"monotonic_ns": 0, "counts": {"something": 0}}
    cost = cost_of(bare, {**bare, "monotonic_ns": 2 * S})
    measured = [name for name in cost.__dataclass_fields__ if getattr(cost, name) not in (None, ())]
    assert measured == ["before_ns", "after_ns", "readings"]
    assert cost_of(reading(0), {"monotonic_ns": 2 * S, "counts": {"oom_kill": 1001}}).oom_kills == 1


def test_what_went_back_is_not_measured() -> None:
    assert cost_of(reading(0, pswpout=10), reading(2 * S)).swapped_out_pages is None


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (
            {"oom_kill": 1, "killed": [{"at_us": 1, "pid": 812, "name": "stress"}]},
            "the out-of-memory killer ended stress (pid 812) meanwhile",
        ),
        ({"oom_kill": 2}, "the out-of-memory killer ended 2 processes meanwhile"),
        ({"pswpout": 512, "pswpin": 256}, "the guest swapped 2.00 MiB out and 1.00 MiB in meanwhile"),
        (
            {"allocstall_normal": 3, "pgsteal_direct": 512},
            "the guest's tasks had to reclaim memory themselves 3 times, for 2.00 MiB meanwhile",
        ),
        ({"compact_stall": 1}, "the guest's tasks had to compact memory themselves once meanwhile"),
        ({"memory_some": 900}, "some task of the guest waited for memory for 900 us meanwhile"),
        (
            {"steal": 10, "idle": 90},
            "the hypervisor took 10.0 % of the guest's processors meanwhile (steal)",
        ),
    ],
)
def test_what_matters_is_said(after: dict[str, Any], sentence: str) -> None:
    assert sentence in operation_with(reading(0), reading(2 * S, **after)).verdict


def test_what_lies_between_the_readings_of_two_operations_may_be_of_either() -> None:
    flow = Flow()
    flow.resize(1024)
    flow.now += 1000
    flow.resize(0)
    flow.now += 2 * S
    flow.resize(1024)
    readings = (reading(0), reading(2 * S, oom_kill=1), reading(8 * S, oom_kill=2))
    first, second, third = analyse(replace(synthetic.recording(flow), readings=readings)).operations
    assert "the out-of-memory killer ended 1 process meanwhile, or in operation 2" in first.verdict
    assert "the out-of-memory killer ended 1 process meanwhile, or in operation 1" in second.verdict
    assert "the out-of-memory killer ended 1 process meanwhile" in third.verdict


def test_swapped_pages_of_zeros_count() -> None:
    before, after = reading(0, swpout_zero=5), reading(2 * S, swpout_zero=500, pswpout=7)
    assert cost_of(before, after).swapped_out_pages == 502


def test_a_guest_at_rest_has_nothing_said_of_it() -> None:
    quiet = operation_with(reading(0), reading(2 * S, pswpout=255, memory_some=20, steal=1, idle=90))
    assert quiet.verdict == operation_with().verdict


def test_whom_the_killer_ended_before_is_no_concern_of_the_operation() -> None:
    earlier = [{"at_us": 1, "pid": 5, "name": "early"}]
    operation = operation_with(reading(0, killed=earlier), reading(2 * S))
    assert not [sentence for sentence in operation.verdict if "killer" in sentence]


@pytest.mark.parametrize("killed", [7, "x", [3, None], [{"pid": -1, "name": 5}], [{}]])
def test_nonsense_in_a_reading_is_left_out(killed: object) -> None:
    operation = operation_with(reading(0), reading(2 * S, killed=killed))
    assert operation.guest_cost is not None
    assert all(each.pid is None for each in operation.guest_cost.killed)


def test_a_table_shows_it_by_operation() -> None:
    flow = Flow()
    flow.resize(1024)
    flow.now += S
    flow.resize(0)
    readings = (
        reading(0, available_mib=800),
        reading(S + S // 2, pswpout=512, available_mib=40),
        reading(4 * S, pswpout=512),
    )
    text = render_table(analyse(replace(synthetic.recording(flow), readings=readings)))
    rows = {line.split("  ")[0]: line.split()[-2:] for line in text.splitlines()}
    assert "What it cost the guest" in text
    assert "available at the least" in text
    assert "2.00 MiB" in text
    assert rows["out-of-memory kills"] == ["0", "0"]


# ---- waiting for a processor ----


def test_waiting_for_a_processor_is_summed_up_over_work_items() -> None:
    flow = Flow(times=Times(run_delay=90_000))
    flow.resize(16 * 256)
    (operation,) = analyse(synthetic.recording(flow)).operations
    assert operation.run_delay_ns == 16 * 90_000
    wall_ns = operation.wall_ns
    assert 0.2 < operation.run_delay_ns / wall_ns < 0.3
    assert operation.verdict[0].startswith("guest short of processor: the balloon's thread was ready to run")
    assert stage(operation.stages, "b+c+d").total_ns is not None


@pytest.mark.parametrize(("run_delay_ns", "known"), [(5_000, 16 * 5_000), (None, None)])
def test_little_waiting_is_not_said_and_unknown_waiting_not_guessed(
    run_delay_ns: int | None, known: int | None
) -> None:
    flow = Flow(times=Times(run_delay=run_delay_ns))
    flow.resize(16 * 256)
    (operation,) = analyse(synthetic.recording(flow)).operations
    assert operation.run_delay_ns == known
    assert not any("processor" in sentence for sentence in operation.verdict)
