# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of stages by single call: they add up to their stage, and over an operation to the report's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import collection
import pandas as pd
import pytest
import synthetic
from allocation import hold_up
from click.testing import CliRunner
from flows import Flow, Times
from patched_flows import PatchedFlow
from report_checks import total_ns

from balloontrace.analysis.make_report import Examined, examine
from balloontrace.commands.export import export
from balloontrace.export.event_rows import SPAN_COLUMNS, described_events, span_rows
from balloontrace.export.make_time_line import build_timeline
from balloontrace.export.stage_columns import PART_COLUMNS, STAGE_COLUMNS
from balloontrace.format.stages import A_REST, ALLOCATION_PARTS
from balloontrace.format.vocabulary import Function, Part, Status
from balloontrace.results.operation import Operation
from balloontrace.results.time_line import Slice, Track

NAMES = [name for name, _ in PART_COLUMNS.values()]
RUNNING_NS = 41_000


def held_up(flow: Flow) -> Flow:
    """Three kinds of parts in two work items, then a deflate."""
    flow.resize(1024)
    hold_up(flow, Part.RECLAIM, 700, 3, item=0)
    hold_up(flow, Part.LOCK, 900, 1, item=0)
    hold_up(flow, Part.OFF_CPU, 50, 2, item=-1)
    flow.now += 10**6
    flow.resize(0)
    return flow


def flows() -> list[Any]:
    return [
        pytest.param(Flow(), id="stock"),
        pytest.param(Flow(fill_is_symbol=True), id="fill traced"),
        pytest.param(PatchedFlow(sends_of_windows=(2, 1)), id="page bitmaps"),
    ]


def examined_of(flow: Flow, **changes: object) -> Examined:
    return examine(synthetic.recording(flow, changes=changes))


def rows_of(examined: Examined) -> pd.DataFrame:
    assert examined.guest is not None
    return pd.DataFrame(list(span_rows(examined.guest)), columns=list(SPAN_COLUMNS), dtype=object)


def items_of(examined: Examined, operation: Operation) -> pd.DataFrame:
    """The work items of an operation that did something."""
    rows = rows_of(examined)
    inside = (rows.start_ns >= operation.started_ns) & (
        rows.start_ns < operation.started_ns + operation.wall_ns
    )
    return rows[inside & (rows.function == "update_balloon_size_func")]


@pytest.mark.parametrize("flow", flows())
def test_parts_add_up_to_a_in_each_row_and_over_an_operation(flow: Flow) -> None:
    examined = examined_of(held_up(flow))
    inflate, deflate = examined.report.operations
    items = items_of(examined, inflate)
    assert len(items) == inflate.work_items
    for _, row in items.iterrows():
        assert sum(row[name] for name in NAMES) + row["a_rest_ns"] == row["a_ns"]
    assert items.a_ns.sum() == total_ns(inflate, "a")
    assert items.a_rest_ns.sum() == total_ns(inflate, A_REST.code)
    by_stage = {row.stage: row for row in inflate.stages}
    for stage, (duration_name, count_name) in zip(ALLOCATION_PARTS, PART_COLUMNS.values(), strict=True):
        assert items[duration_name].sum() == by_stage[stage.code].total_ns
        assert items[count_name].sum() == by_stage[stage.code].count
    released = items_of(examined, deflate)
    assert released.a_ns.sum() == total_ns(deflate, "a")
    assert released[[*NAMES, "a_rest_ns"]].isna().all(axis=None)


@pytest.mark.parametrize("flow", flows())
def test_parts_of_a_deflate_add_up_as_well(flow: Flow) -> None:
    held_up(flow)
    hold_up(flow, Part.OFF_CPU, 60, 2)
    examined = examined_of(flow, parts_of_a=["inflate", "deflate"])
    _, deflate = examined.report.operations
    released = items_of(examined, deflate)
    assert released.a_off_cpu_ns.sum() == 60
    assert released[[*NAMES, "a_rest_ns"]].sum(axis=None) == released.a_ns.sum() == total_ns(deflate, "a")
    names = [each.name for each in track_of(examined, "stage a in parts").slices]
    assert names[-3:] == ["release", "time off the processor", "releasing, and what is left"]


def test_what_allocates_nothing_has_no_stage_a() -> None:
    flow = held_up(Flow())
    flow.migrate()
    flow.idle_item()
    rows = rows_of(examined_of(flow))
    others = rows[rows.function != "update_balloon_size_func"]
    assert others[[*NAMES, "a_ns", "a_rest_ns"]].isna().all(axis=None)
    assert rows.a_ns.iloc[-1] is None


def test_without_parts_there_is_a_alone() -> None:
    flow = Flow()
    flow.resize(512)
    examined = examined_of(flow)
    rows = rows_of(examined)
    assert rows.a_ns.sum() == total_ns(examined.report.operations[0], "a")
    assert rows[[*NAMES, "a_rest_ns", "running_ns"]].isna().all(axis=None)


def test_without_sends_a_is_not_told() -> None:
    flow = held_up(Flow())
    flow.drop(Function.TELL_HOST)
    probe = {"function": "tell_host", "status": str(Status.ABSENT)}
    others = [
        {"function": function.symbol, "status": "attached"}
        for function in (Function.UPDATE_BALLOON_SIZE_FUNC, Function.LEAK_BALLOON)
    ]
    assert rows_of(examined_of(flow, probes=[probe, *others]))["a_ns"].isna().all()


def test_a_part_that_no_tracepoint_tells_is_empty() -> None:
    flow = held_up(Flow())
    probes: Any = synthetic.metadata([flow])["probes"]
    for probe in probes:
        if probe["function"] == Function.CONTENTION_END.symbol:
            probe["status"] = str(Status.ABSENT)
    examined = examined_of(flow, probes=probes)
    items = items_of(examined, examined.report.operations[0])
    assert items.a_lock_ns.isna().all()
    assert items.a_reclaim_ns.sum() == 700
    assert items.a_rest_ns.sum() == total_ns(examined.report.operations[0], A_REST.code)


def test_parts_longer_than_their_whole_are_empty() -> None:
    flow = held_up(Flow())
    hold_up(flow, Part.RECLAIM, 1 << 40, item=1)
    examined = examined_of(flow)
    first, damaged, *_ = items_of(examined, examined.report.operations[0]).to_dict("records")
    assert (first["a_reclaim_ns"], damaged["a_reclaim_ns"], damaged["a_rest_ns"]) == (700, None, None)
    assert damaged["a_ns"] is not None


@pytest.mark.parametrize("flow", [Flow, PatchedFlow])
def test_until_the_interrupt_and_until_running_are_the_send(flow: type[Flow]) -> None:
    made = flow(times=Times(running=RUNNING_NS))
    made.resize(1024)
    examined = examined_of(made)
    rows = rows_of(examined)
    sends = rows[rows.running_ns.notna()]
    assert set(sends.function) == {"tell_host" if flow is Flow else "send_resp_data"}
    assert (sends.acked_ns + sends.running_ns == sends.duration_ns).all()
    operation = examined.report.operations[0]
    assert len(sends) == operation.sends
    assert sends.running_ns.sum() == total_ns(operation, "b+c+d.running")
    assert sends.acked_ns.sum() == total_ns(operation, "b+c+d.interrupt")


@pytest.mark.parametrize("name", ["stock-inflate", "stock-deflate", "nested-qemu"])
def test_recordings_made_in_a_guest_add_up_too(name: str) -> None:
    examined = collection.examined(name)
    (operation,) = examined.report.operations
    rows = rows_of(examined)
    assert rows.a_ns.sum() == total_ns(operation, "a")
    sends = rows[rows.running_ns.notna()]
    assert (sends.acked_ns + sends.running_ns == sends.duration_ns).all()
    if any(row.stage == "b+c+d.running" for row in operation.stages):
        assert sends.running_ns.sum() == total_ns(operation, "b+c+d.running")


def track_of(examined: Examined, start: str) -> Track:
    (guest,) = build_timeline(examined).processes
    (track,) = [track for track in guest.tracks if track.name.startswith(start)]
    return track


def children_of(slices: list[Slice], place: int) -> list[Slice]:
    outer = slices[place]
    return [
        each
        for each in slices[place + 1 :]
        if outer.start_ns <= each.start_ns and each.end_ns <= outer.end_ns
    ]


@pytest.mark.parametrize("flow", flows())
def test_parts_lie_one_after_the_other_inside_a(flow: Flow) -> None:
    examined = examined_of(held_up(flow))
    rows = items_of(examined, examined.report.operations[0]).set_index("start_ns")
    slices = list(track_of(examined, "stage a in parts").slices)
    outer = [place for place, each in enumerate(slices) if each.name == "allocate"]
    with_parts = rows[rows.a_rest_ns < rows.a_ns]
    assert len(outer) == len(with_parts)
    for place, (_, row) in zip(outer, with_parts.iterrows(), strict=True):
        whole, parts = slices[place], children_of(slices, place)
        assert whole.end_ns - whole.start_ns == row["a_ns"]
        assert sum(each.end_ns - each.start_ns for each in parts) == row["a_ns"]
        assert [each.start_ns for each in parts[1:]] == [each.end_ns for each in parts[:-1]]
        assert parts[-1].name == A_REST.name
    named = {each.name: each.arguments.get("count") for each in slices}
    assert (named["direct reclaim"], named["waiting for locks"], named["time off the processor"]) == (3, 1, 2)


def test_there_is_no_such_track_where_nothing_was_told_apart() -> None:
    flow = Flow()
    flow.resize(512)
    (guest,) = build_timeline(examined_of(flow)).processes
    assert not any("in parts" in track.name for track in guest.tracks)


def test_sends_have_their_parts_inside() -> None:
    flow = Flow(times=Times(running=RUNNING_NS))
    flow.resize(1024)
    slices = list(track_of(examined_of(flow), "balloon work").slices)
    sends = [place for place, each in enumerate(slices) if each.name == "tell_host"]
    assert sends
    for place in sends:
        until, running = slices[place + 1 : place + 3]
        assert (until.name, running.name) == ("until the interrupt", "interrupt to running again")
        assert (until.start_ns, running.end_ns) == (slices[place].start_ns, slices[place].end_ns)
        assert until.end_ns == running.start_ns
        assert running.end_ns - running.start_ns == RUNNING_NS


def test_a_send_with_a_call_inside_it_has_no_parts_drawn() -> None:
    """Damaged recordings may say so: then the call is what is inside."""
    flow = Flow(times=Times(running=RUNNING_NS))
    flow.resize(256)
    send = next(span for span in flow.spans if span.function == Function.TELL_HOST)
    flow.spans.append(
        send._replace(
            start_ns=send.start_ns + 10,
            duration_ns=1000,
            function=Function.UPDATE_BALLOON_STATS_FUNC,
            flags=0,
        )
    )
    names = [each.name for each in track_of(examined_of(flow), "balloon work").slices]
    assert "until the interrupt" not in names


def test_both_table_formats_have_them(tmp_path: Path) -> None:
    path = tmp_path / "guest.bt"
    path.write_bytes(synthetic.recording_bytes(held_up(Flow())))
    done = CliRunner().invoke(export, [str(path), "-o", str(tmp_path / "spans.csv")])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "spans.csv")
    described = pd.DataFrame(
        json.loads(json.dumps(each))
        for each in described_events(examined_of(held_up(Flow())))
        if each["type"] == "span"
    )
    for column in STAGE_COLUMNS:
        assert table[column].sum() == described[column].sum(), column
    assert table.a_reclaim_ns.sum() == 700
