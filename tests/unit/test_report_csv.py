# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as CSV: pandas loads it without options, and every number of the JSON report is in it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pandas as pd
import pytest
import synthetic
from collection import NAMES, examined
from flows import typical_flow

from balloontrace.analysis.make_report import analyse
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import COLUMNS, LARGEST_EXACT, render_csv

# What CSV calls otherwise, or has once for several.
STAGE = {"share": "share_ratio"}
SEND = {"start_ns": "started_ns", "new_pages": "pages", "pages": "pages_named", "bits_set": "pages_by_words"}
SEND |= {"first_pfn": "pfn_first", "last_pfn": "pfn_last", "state": "payload"}


@cache
def rendered(name: str) -> tuple[pd.DataFrame, str]:
    report = examined(name).report
    return pd.read_csv(io.StringIO(render_csv(report))), render_json(report)


def load(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The report of a recording as pandas has it from CSV, and as JSON."""
    table, described = rendered(name)
    return table, json.loads(described)


def is_same(cell: object, value: object) -> bool:
    """Whether a cell of a table holds a value of JSON; what is null there is empty here."""
    if value is None or (isinstance(cell, float) and math.isnan(cell)):
        return value is None and isinstance(cell, float) and math.isnan(cell)
    if isinstance(value, int | float) and isinstance(cell, int | float):
        # pandas keeps a column with an empty cell as floats, and reads those to within their last bit.
        return math.isclose(cell, value, rel_tol=4e-16)
    return cell == value


def assert_row(row: dict[str, Any], described: dict[str, Any], names: dict[str, str]) -> None:
    """All fields of a row that JSON has by name are the same."""
    for field, value in described.items():
        column = names.get(field, field)
        if column in COLUMNS and not isinstance(value, dict | list):
            assert is_same(row[column], value), (field, row[column], value)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def rows(table: pd.DataFrame, level: str, **where: object) -> list[dict[str, Any]]:
    chosen = table[table.level == level]
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    return records(chosen)


def numbers(described: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number in JSON, and the way to it: entries of a list by their first field if that differs."""
    if isinstance(described, dict):
        for name, value in described.items():
            yield from numbers(value, f"{place}.{name}" if place else name)
    elif isinstance(described, list):
        keys: list[Any] = [next(iter(each.values())) for each in described if isinstance(each, dict)]
        if len(set(keys)) < len(described):
            keys = list(range(len(described)))
        for key, value in zip(keys, described, strict=True):
            yield from numbers(value, f"{place}.{key}")
    elif isinstance(described, int | float) and not isinstance(described, bool):
        yield place, described


def without(described: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in described.items() if name not in names}


def assert_values(found: list[dict[str, Any]], wanted: list[tuple[str, float]]) -> None:
    assert [row["name"] for row in found] == [name for name, _ in wanted]
    for row, (name, value) in zip(found, wanted, strict=True):
        assert is_same(row["value"], value), (name, row["value"], value)
        if isinstance(value, int) and abs(value) > LARGEST_EXACT:
            assert row["note"] == f"exactly {value}"


@pytest.mark.parametrize("name", NAMES)
def test_operations_stages_and_totals_are_those_of_json(name: str) -> None:
    table, described = load(name)
    assert tuple(table.columns) == COLUMNS
    operations = rows(table, "operation")
    assert len(operations) == len(described["operations"])
    for row, operation in zip(operations, described["operations"], strict=True):
        assert row["operation"] == operation["number"]
        assert_row(row, operation, {})
        assert_row(row, operation["bitmap"] or {}, {})
        stages = rows(table, "stage", operation=operation["number"])
        for stage, each in zip(stages, operation["stages"], strict=True):
            assert_row(stage, each, STAGE)
    totals = rows(table, "total")
    for row, total in zip(totals, described["totals"], strict=True):
        assert_row(row, total, {"operations": "count"})
        for stage, each in zip(rows(table, "total_stage", kind=total["kind"]), total["stages"], strict=True):
            assert_row(stage, each, STAGE)
    assert [row["note"] for row in rows(table, "warning")] == described["warnings"]


@pytest.mark.parametrize("name", NAMES)
def test_payloads_are_those_of_json(name: str) -> None:
    table, described = load(name)
    for operation in described["operations"]:
        number, statistics = operation["number"], operation["payload"]
        if statistics is None:
            assert not rows(table, "send", operation=number)
            continue
        (row,) = rows(table, "payload", operation=number)
        assert_row(row, statistics, {})
        assert_row(row, statistics["distinct"], {})
        assert_row(row, statistics["of_records"] or {}, {})
        columns = operation["payload_sends"]
        sends = rows(table, "send", operation=number)
        assert len(sends) == statistics["sends"]
        for index, send in enumerate(sends):
            assert_row(send, {field: values[index] for field, values in columns.items()}, SEND)
        for level, orders in (
            ("run_order", statistics["distinct"]["run_orders"]),
            ("record_order", (statistics["of_records"] or {}).get("plain_run_orders", [])),
        ):
            for order, each in zip(rows(table, level, operation=number), orders, strict=True):
                assert_row(order, each, {})


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_every_other_number_is_a_value(name: str) -> None:
    table, described = load(name)
    values = table[(table.level == "value") & table.operation.isna()]
    reporting = described["page_reporting"] or {}
    cycles = reporting.pop("each_cycle", [])
    for row, cycle in zip(rows(table, "report_cycle"), cycles, strict=True):
        assert_row(row, cycle, {})
    wanted = list(numbers(without(described, "operations", "totals")))
    assert_values(records(values), wanted)
    assert any(place == "schema_version" for place, _ in wanted)
    for operation in described["operations"]:
        left = without(operation, "number", "stages", "payload_sends", "what_if")
        orders = ("payload.distinct.run_orders", "payload.of_records.plain_run_orders")
        wanted = [
            (place, value)
            for place, value in numbers(left)
            if place.split(".")[-1] not in COLUMNS and not place.startswith(orders)
        ]
        assert_values(rows(table, "value", operation=operation["number"]), wanted)


def test_both_sides_are_in_it() -> None:
    table, described = load("nested-qemu")
    value = table[table.level == "value"].set_index("name").value
    assert value["host.pairing.pairs"] == 1024
    assert value["host.calls.madvise_dontneed.bytes"] == 1 << 30
    assert value["losses.tell_host.entries"] == 1024
    assert value["host.pairing.clock_error_ns"] == described["host"]["pairing"]["clock_error_ns"]
    assert value["checks.balloon_inflate.spans"] == 262144


def test_entries_of_one_name_are_told_apart() -> None:
    devices = [{"name": "virtio0", "index": index} for index in (0, 7)]
    recording = synthetic.recording(typical_flow(), changes={"devices": devices})
    table = pd.read_csv(io.StringIO(render_csv(analyse(recording))))
    value = table[table.level == "value"].set_index("name").value
    assert [value["header.devices.0.index"], value["header.devices.1.index"]] == [0, 7]
