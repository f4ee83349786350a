# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML page: its structure, its numbers against the JSON's, and nothing in it that is not ours."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
from click.testing import CliRunner
from flows import Flow, typical_flow
from html_tree import Element, assert_sound, exactly, parse
from patched_flows import PatchedFlow
from synthetic_both import flow_of, guest_recording
from synthetic_host import batches, host_recording

from balloontrace.analysis.make_pictures import depict
from balloontrace.analysis.make_report import examine
from balloontrace.commands.report import report as report_command
from balloontrace.format.recording import Recording, read_recording
from balloontrace.render.json import render_json
from balloontrace.render.report.html import LISTED_OPERATIONS, render_html
from balloontrace.render.report.page_pictures import DRAWN_OPERATIONS
from balloontrace.units import format_duration_ns
from bench.html_report import write_patched, write_stock
from lab.dashboard_picture import PICTURE as OF_DASHBOARD
from lab.results import PICTURE as OF_RESULTS
from lab.screenshots import PICTURES, SHOTS

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
MOST_BYTES = 2_000_000

Json = dict[str, Any]


def page_of(*recordings: Recording) -> tuple[str, Json]:
    """The page, and the same as JSON."""
    examined = examine(*recordings)
    return render_html(examined.report, depict(examined)), json.loads(render_json(examined.report))


def example(*names: str) -> list[Recording]:
    return [read_recording(EXAMPLES / f"{name}.bt") for name in names]


def assert_numbers_are_those_of_the_json(tree: Element, told: Json) -> None:
    columns = ("count", "total_ns", "share", "p50_ns", "p90_ns", "p99_ns", "max_ns")
    for operation in told["operations"]:
        section = tree.by_id(f"operation-{operation['number']}")
        rows = section.all("tr", lambda row: "data-row" in row.attributes)
        assert [row.attributes["data-row"] for row in rows] == [row["stage"] for row in operation["stages"]]
        for shown, stage in zip(rows, operation["stages"], strict=True):
            assert shown.values == [exactly(stage[name]) for name in columns]
        for name in ("pages", "wall_ns", "sends", "work_items", "target_pages"):
            assert exactly(operation[name]) in section.values
        for sentence in operation["verdict"]:
            assert sentence in [item.text for item in section.all("li")]
        payload = operation["payload"]
        if payload is not None:
            flat = [payload, payload["distinct"], payload["of_records"] or {}]
            for name in (
                "pages_named",
                "pages_repeated",
                "bytes_sent",
                "bytes_per_page",
                "runs",
                "bits_set_share",
            ):
                wanted = [exactly(each[name]) for each in flat if name in each]
                assert set(wanted) <= set(section.values), name
    measured = tree.by_id("measured")
    for check in told["checks"]:
        name = check["name"].replace(", as payloads name", " by payloads")
        row = next(each for each in measured.all("tr") if each.text.startswith(name))
        assert row.values[:2] == [exactly(check["spans"]), exactly(check["independent"])]
    table_rows = measured.all("tr")
    for loss in told["losses"]:
        names = ("entries", "unmatched_returns", "lost", "no_state", "overwritten", "missed")
        found = [each.values for each in table_rows if each.text.startswith(loss["function"])]
        assert [exactly(loss[name]) for name in names] in found
    for sentence in told["not_measured"]:
        assert sentence in [item.text for item in measured.all("li")]
    for warning in told["warnings"]:
        assert warning in [item.text for item in tree.all("li")]


ALONE = ("stock-inflate", "stock-deflate", "bitmap-inflate", "bitmap-deflate", "bitmap-fragmented")


@pytest.mark.parametrize("names", [(name,) for name in ALONE] + [("nested-qemu-guest", "nested-qemu-host")])
def test_pages_of_the_examples(names: tuple[str, ...]) -> None:
    page, told = page_of(*example(*names))
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    text = " ".join(tree.by_id("measured").text.split())
    assert " ".join(told["header"]["command_line"]) in text
    assert told["header"]["machine"]["kernel_release"] in text
    for boundary in told["header"]["boundaries"].values():
        assert boundary in text
    pictures = {each.attributes["id"] for each in tree.all("svg", lambda each: "id" in each.attributes)}
    assert {"stages-1", "time-1"} <= pictures
    assert ("map-1" in pictures) == ("bitmap" in names[0])
    assert ("latency-madvise_dontneed" in pictures) == (len(names) == 2)


def test_what_is_not_measured_is_said_in_the_place_of_its_picture() -> None:
    page, _ = page_of(*example("stock-inflate"))
    said = [
        each.text for each in parse(page).all("p", lambda each: each.attributes.get("class") == "missing")
    ]
    assert any("b, c and d apart" in sentence for sentence in said)
    assert any("record --capture payload keeps it" in sentence for sentence in said)
    page, _ = page_of(*example("nested-qemu-guest", "nested-qemu-host"))
    assert "b, c and d apart" not in page


def test_a_cut_off_recording_without_anything_known() -> None:
    flow = typical_flow(config_traced=False)
    recording = synthetic.recording(flow, ended=False, changes={"command_line": None, "machine": {}})
    page, told = page_of(recording)
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert told["own_cost"] is None
    assert "it is written at the end of a recording" in tree.by_id("measured").text
    facts = tree.by_id("measured").all("dl")[0]
    named = dict(zip([each.text for each in facts.all("dt")], facts.all("dd"), strict=True))
    for name in ("kernel", "command line", "ended"):
        assert named[name].values == [None], name


def test_a_recording_without_an_operation() -> None:
    page, told = page_of(synthetic.recording(Flow()))
    tree = assert_sound(page)
    assert told["operations"] == []
    assert "The balloon did not move" in tree.text
    assert not tree.all("svg")


def test_several_operations_are_shown_in_one_scale() -> None:
    page, told = page_of(synthetic.recording(typical_flow()))
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert len(tree.by_id("stages-overview").all("rect")) == sum(
        sum(bool(row["total_ns"]) for row in operation["stages"] if row["part_of"] is None)
        for operation in told["operations"]
    )
    texts = [text.text for text in tree.by_id("stages-overview").all("text")]
    walls = [format_duration_ns(operation["wall_ns"]) for operation in told["operations"]]
    assert [text for text in texts if "MiB" in text] == [
        f"1 inflate of 16.0 MiB: {walls[0]}", f"2 deflate of 15.6 MiB: {walls[1]}",
    ]  # fmt: skip


@pytest.mark.thorough
def test_hundreds_of_operations_do_not_bury_the_page() -> None:
    flow = Flow()
    for _ in range(150):
        flow.resize(256)
        flow.now += 1_000_000
        flow.resize(0)
        flow.now += 1_000_000
    page, told = page_of(synthetic.recording(flow))
    tree = assert_sound(page)
    assert len(told["operations"]) == 300
    assert len(page) < MOST_BYTES
    assert f"The {DRAWN_OPERATIONS} longest of 300" in tree.text
    listed = {row.all("th")[0].text: row.values for row in tree.by_id("operations").all("tr")}
    names = ("pages", "pages", "wall_ns", "rate_bytes_per_s", "sends")
    shown = [each for each in told["operations"] if str(each["number"]) in listed]
    assert len(shown) == LISTED_OPERATIONS
    for each in shown:
        assert listed[str(each["number"])] == [exactly(each[name]) for name in names]
    for total in told["totals"]:
        rows = tree.by_id("operations").all("tr", lambda row: "data-row" in row.attributes)
        assert exactly(total["stages"][0]["total_ns"]) in [value for row in rows for value in row.values]


def test_both_sides_and_each_alone() -> None:
    flow = flow_of()
    host = host_recording(batches(flow))
    page, told = page_of(guest_recording(flow), host)
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert exactly(told["host"]["pairing"]["pairs"]) in tree.by_id("host").values
    page, told = page_of(host)
    tree = assert_sound(page)
    assert "What the host did" in tree.text
    assert exactly(told["host"]["served_ns"]) in tree.by_id("host").values
    assert "time-1" not in page


def test_the_patched_driver_without_payloads() -> None:
    flow = PatchedFlow(sends_of_windows=(2, 3))
    flow.resize(1 << 16)
    page, told = page_of(synthetic.recording(flow))
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert exactly(told["operations"][0]["bitmap"]["mid_window_sends"]) in tree.by_id("operation-1").values
    assert "record --capture payload keeps it" in tree.by_id("operation-1").text


def test_what_strangers_wrote_is_text() -> None:
    flow = flow_of(3)
    plain = synthetic.metadata([flow])
    assert isinstance(plain["machine"], dict)
    changes = {
        "label": f"label {HOSTILE}",
        "command_line": ["balloontrace", f"argument {HOSTILE}"],
        "tool_version": f"tool {HOSTILE}",
        "clock": f"clock {HOSTILE}",
        "machine": {**plain["machine"], "kernel_release": f"kernel {HOSTILE}", "hostname": HOSTILE},
        "driver": {"kind": f"driver {HOSTILE}", "module_srcversion": f"source {HOSTILE}"},
        "devices": [{"name": f"device {HOSTILE}", "index": 0, "features": [f"feature {HOSTILE}"]}],
        "boundaries": {f"stage {HOSTILE}": f"boundary {HOSTILE}"},
        "probes": [
            {name: f"{name} {HOSTILE}" for name in ("function", "symbol", "mechanism", "status", "note")}
        ],
    }
    host = host_recording(
        batches(flow),
        changes={
            "process": {"pid": 1, "comm": f"comm {HOSTILE}"},
            "memory": {
                "rss_anon_bytes": 1,
                "shared_files": [{"name": f"file {HOSTILE}", "allocated_bytes": 1}],
            },
        },
    )
    guest = synthetic.recording(flow, changes=changes)
    assert guest.end is not None
    guest = replace(guest, end={**guest.end, "clean": False, "reason": f"reason {HOSTILE}"})
    page, _ = page_of(guest, host)
    tree = assert_sound(page)
    assert not tree.all("img")
    assert "<script" not in page
    for what in (
        "label", "argument", "tool", "clock", "kernel", "driver", "source", "device", "feature", "stage",
        "boundary", "function", "symbol", "mechanism", "status", "note", "comm", "file", "reason",
    ):  # fmt: skip
        assert f"{what} {HOSTILE}" in tree.text, what


def test_control_characters_and_damage_leave_a_sound_page() -> None:
    flow = typical_flow()
    data = synthetic.recording_bytes(flow, lost=5, changes={"label": "\x1b[31m\x00" + "x" * 300})
    page, _ = page_of(read_recording(io.BytesIO(data[:-30])))
    assert_sound(page)
    assert "\x1b" not in page
    assert "\x00" not in page


@pytest.mark.thorough
@pytest.mark.parametrize("write", [write_stock, write_patched])
def test_seven_gib_fit_in_two_megabytes(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "seven.bt")
    page, told = page_of(read_recording(tmp_path / "seven.bt"))
    assert told["operations"][0]["pages"] == 7168 * 256
    assert told["operations"][0]["payload"]["distinct"]["pages"] == 7168 * 256
    assert len(page.encode()) < MOST_BYTES
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert tree.by_id("map-1").all("path")


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = CliRunner().invoke(
        report_command, [str(EXAMPLES / "stock-inflate.bt"), "--format", "html", "-o", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "Inflate of 7.00\N{NO-BREAK SPACE}GiB" in out.read_text()


def test_the_pictures_of_the_readme_are_there_and_small() -> None:
    pictures = {path.stem: path.read_bytes() for path in PICTURES.glob("*.png")}
    assert set(pictures) == {*(shot.name for shot in SHOTS), OF_RESULTS.stem, OF_DASHBOARD.stem}
    for name, png in pictures.items():
        assert png.startswith(b"\x89PNG\r\n"), name
        assert len(png) < 200_000, name
