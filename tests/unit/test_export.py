# SPDX-License-Identifier: GPL-2.0-or-later
"""Single events as CSV and NDJSON: pandas loads them without options, and they agree with each other."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import collection
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from collection import NAMES, ROOT
from flows import Flow
from synthetic_host import batches, host_recording, pack_batch

from balloontrace.analysis.make_report import examine
from balloontrace.commands.export import export
from balloontrace.commands.formats import offered
from balloontrace.errors import RecordingError, UsageError
from balloontrace.export.event_rows import (
    BATCH_COLUMNS,
    PAYLOAD_COLUMNS,
    SPAN_COLUMNS,
    batch_rows,
    described_events,
    payload_rows,
    span_rows,
)
from balloontrace.format.vocabulary import Call
from balloontrace.render.csv_rows import render_chunks
from balloontrace.render.export.ndjson import render_ndjson

EXAMPLES = ROOT / "examples"
TABLES = {"span": ("spans", SPAN_COLUMNS), "payload": ("payloads", PAYLOAD_COLUMNS)}
TABLES["batch"] = ("batches", BATCH_COLUMNS)


def run(*words: object) -> Result:
    return CliRunner().invoke(export, [str(word) for word in words])


@functools.cache
def objects(name: str) -> list[dict[str, Any]]:
    """What is written as NDJSON, for tests that only look."""
    lines = "".join(render_ndjson(described_events(collection.examined(name)))).splitlines()
    return [json.loads(line) for line in lines]


def tables(name: str, folder: Path) -> dict[str, pd.DataFrame]:
    """The CSV tables of a recording by what a row of them is, as pandas has them without any option."""
    examined = collection.examined(name)
    rows: dict[str, Any] = {}
    if examined.guest is not None:
        rows["span"] = span_rows(examined.guest)
        rows["payload"] = payload_rows(examined.guest)
    if examined.host is not None:
        rows["batch"] = batch_rows(examined.host.batches, examined.both)
    for kind, each in rows.items():
        (folder / f"{kind}.csv").write_text("".join(render_chunks(TABLES[kind][1], each)))
    return {kind: pd.read_csv(folder / f"{kind}.csv") for kind in rows}


def plain(frame: pd.DataFrame, column: str) -> list[object]:
    """A column as JSON has it: None for what is empty."""
    values = frame[column].astype(object).where(frame[column].notna(), None).tolist()
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_csv_and_ndjson_say_the_same(name: str, tmp_path: Path) -> None:
    described = objects(name)
    for kind, frame in tables(name, tmp_path).items():
        rows = [each for each in described if each["type"] == kind]
        assert list(frame.columns) == list(TABLES[kind][1])
        assert len(frame) == len(rows)
        assert [row["index"] for row in rows] == list(range(len(rows)))
        for column in frame.columns:
            assert plain(frame, column) == [row[column] for row in rows], column


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_ndjson_begins_with_metadata_and_ends_with_losses(name: str) -> None:
    report = collection.examined(name).report
    first, *events, last = objects(name)
    assert (first["type"], last["type"]) == ("recording", "end")
    assert first["header"]["recording"] == report.header.recording
    kinds = [event["type"] for event in events]
    assert {plural: kinds.count(kind) for kind, (plural, _) in TABLES.items()} == {
        plural: last[plural] for plural, _ in TABLES.values()
    }
    assert last["spans"] == report.spans
    assert last["events_lost"] == report.events_lost
    assert last["warnings"] == list(report.warnings)
    assert [loss["events_lost"] for loss in last["losses"]] == [loss.events_lost for loss in report.losses]
    if report.host is not None:
        assert last["batches"] == report.host.batches


@pytest.mark.parametrize("name", ["nested-qemu", "both sides"])
def test_a_batch_names_its_send(name: str) -> None:
    described = objects(name)
    spans = [each for each in described if each["type"] == "span"]
    batches = [each for each in described if each["type"] == "batch"]
    report = collection.examined(name).report
    assert report.host is not None
    assert report.host.pairing is not None
    paired = [batch for batch in batches if batch["send"] is not None]
    assert len(paired) == report.host.pairing.pairs
    offset_ns = described[0]["pairing"]["clock_offset_ns"]
    for batch in paired:
        send = spans[batch["send"]]
        assert send["function"] == "tell_host"
        calls = sum(batch[f"{call.name.lower()}_calls"] for call in Call)
        assert calls == send["pages"]
        kick_ns = batch["kick_ns"] - offset_ns
        slack_ns = described[0]["pairing"]["clock_error_ns"] + 1_000
        assert send["start_ns"] - slack_ns <= kick_ns <= send["start_ns"] + send["duration_ns"] + slack_ns


def test_payloads_say_what_the_report_says() -> None:
    described = objects("bitmap-fragmented")
    (operation,) = collection.examined("bitmap-fragmented").report.operations
    assert operation.payload is not None
    payloads = [each for each in described if each["type"] == "payload" and each["operation"] == 1]
    assert len(payloads) == operation.payload.sends
    assert sum(each["sent_bytes"] for each in payloads) == operation.payload.bytes_sent
    assert sum(each["new_pages"] for each in payloads) == operation.payload.distinct.pages == 1 << 20
    spans = [each for each in described if each["type"] == "span"]
    for each in payloads:
        assert spans[each["span"]]["function"] == each["function"] == "send_resp_data"
        assert spans[each["span"]]["bytes"] == each["sent_bytes"]


def test_what_was_not_measured_is_null() -> None:
    spans = [each for each in objects("targets unknown") if each["type"] == "span"]
    assert all(each["target_pages"] is None and each["config_ns"] is None for each in spans)
    assert all(each["passes"] is None and each["bitmaps"] is None and each["bytes"] is None for each in spans)


def test_a_batch_without_its_delimiters_has_no_times_for_them() -> None:
    flow = Flow()
    flow.resize(512)
    found = batches(flow)
    raw = b"".join(pack_batch(batch, flags=0) for batch in found)
    (batch, _) = (
        each for each in described_events(examine(host_recording(found, raw=raw))) if each["type"] == "batch"
    )
    assert [batch[name] for name in ("kick_ns", "done_ns", "kick_by", "done_by", "send", "last_errno")] == (
        [None] * 6
    )
    assert batch["finished"] is True


def test_a_folder_holds_every_table(tmp_path: Path) -> None:
    guest, host = EXAMPLES / "nested-qemu-guest.bt", EXAMPLES / "nested-qemu-host.bt"
    assert run(guest, host, "-o", tmp_path / "both").exit_code == 0
    names = {path.name for path in (tmp_path / "both").iterdir()}
    assert names == {"spans.csv", "batches.csv", "counters.csv", "metadata.json", "host-metadata.json"}
    spans = pd.read_csv(tmp_path / "both" / "spans.csv")
    batches = pd.read_csv(tmp_path / "both" / "batches.csv")
    sends = spans.iloc[batches.send]
    assert set(sends.function) == {"tell_host"}
    assert sends.pages.tolist() == batches.madvise_dontneed_calls.tolist()
    described = json.loads((tmp_path / "both" / "host-metadata.json").read_text())
    assert described["metadata"]["side"] == "host"
    assert run(EXAMPLES / "bitmap-inflate.bt", "-o", tmp_path / "payloads").exit_code == 0
    payloads = pd.read_csv(tmp_path / "payloads" / "payloads.csv")
    assert payloads.pages.sum() == 1_835_008


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "counters.csv").write_text("kept")
    assert isinstance(run(EXAMPLES / "bitmap-inflate.bt", "-o", folder).exception, UsageError)
    assert contents(folder) == {"counters.csv": b"kept"}
    assert run(EXAMPLES / "bitmap-inflate.bt", "-o", folder, "-f").exit_code == 0
    (folder / "notes.txt").write_text("mine")
    guest, host = EXAMPLES / "nested-qemu-guest.bt", EXAMPLES / "nested-qemu-host.bt"
    assert run(guest, host, "-o", folder, "-f").exit_code == 0
    assert run(guest, host, "-o", tmp_path / "new").exit_code == 0
    assert contents(folder) == {**contents(tmp_path / "new"), "notes.txt": b"mine"}


def test_csv_needs_a_folder_or_a_name_for_it(tmp_path: Path) -> None:
    taken = tmp_path / "existing.txt"
    taken.write_text("kept")
    failure = run(EXAMPLES / "stock-inflate.bt", "-o", taken, "-f").exception
    assert isinstance(failure, UsageError)
    assert str(failure) == f"{taken} is a file: CSV goes into a folder, or into one file named *.csv"
    assert taken.read_text() == "kept"
    for form in ("csv", "ndjson"):
        assert isinstance(
            run(EXAMPLES / "stock-inflate.bt", "--format", form, "-o", "").exception, UsageError
        )


def test_a_host_alone_is_its_batches(tmp_path: Path) -> None:
    done = run(EXAMPLES / "nested-qemu-host.bt", "-o", tmp_path / "batches.csv")
    assert done.exit_code == 0
    table = pd.read_csv(tmp_path / "batches.csv")
    assert len(table) == 1024
    assert table.send.isna().all()
    assert table.madvise_bytes.sum() == 1 << 30


def test_two_tables_do_not_go_into_one_file(tmp_path: Path) -> None:
    files = [EXAMPLES / f"nested-qemu-{side}.bt" for side in ("guest", "host")]
    for output in ("-", str(tmp_path / "both.csv")):
        failure = run(*files, "-o", output).exception
        assert isinstance(failure, UsageError)
        assert str(failure) == "spans and batches are two tables: give a folder for them with -o"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", offered("export"))
def test_files_are_not_replaced_unasked(form: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    words = [EXAMPLES / "bitmap-inflate.bt", "--format", form, "-o", out]
    assert run(*words).exit_code == 0
    before = out.read_bytes()
    assert isinstance(run(*words).exception, UsageError)
    assert run(*words, "-f").exit_code == 0
    assert out.read_bytes() == before == run(*words[:-2]).stdout.encode()


@pytest.mark.parametrize("form", offered("export"))
def test_recordings_that_do_not_belong_together(form: str, tmp_path: Path) -> None:
    words = [EXAMPLES / "stock-inflate.bt", EXAMPLES / "nested-qemu-host.bt", "--format", form]
    failure = run(*words, "-o", tmp_path / "out").exception
    assert isinstance(failure, RecordingError)
    assert "\n" not in str(failure)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_ndjson_loads_with_pandas(tmp_path: Path) -> None:
    out = tmp_path / "spans.ndjson"
    assert run(EXAMPLES / "stock-deflate.bt", "--format", "ndjson", "-o", out).exit_code == 0
    frame = pd.read_json(out, lines=True)
    sends = frame[(frame.type == "span") & (frame.function == "tell_host")]
    assert sends.pages.sum() == 1_835_008
