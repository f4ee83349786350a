# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file of a stranger may cost is limited; what is left out is reported. `make bench` has big ones."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from flows import Flow, typical_flow
from mutations import join, split
from sound_reports import assert_sound

from balloontrace.analysis import operations
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.payload_decoding import Encoding
from balloontrace.analysis.payload_statistics import Captured, State, summarise_payloads
from balloontrace.errors import BalloontraceError, RecordingError
from balloontrace.export.make_time_line import build_timeline
from balloontrace.format import recording
from balloontrace.format.guest_layout import (
    PAYLOAD_LAYOUT,
    SPAN_LAYOUT,
    parse_payload_layout,
    parse_span_layout,
)
from balloontrace.format.host_counters import MOST_SLOTS, parse_host_counters
from balloontrace.format.host_layout import THREAD
from balloontrace.format.recording import read_recording
from bench.made_recordings import write
from bench.strangersfiles import FILES


@pytest.mark.thorough
@pytest.mark.parametrize("name", FILES)
def test_files_made_to_be_costly_are_read_or_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path / "file.bt", FILES[name](20_000))
    try:
        report = assert_sound(read_recording(tmp_path / "file.bt"))
    except BalloontraceError as error:
        sentences = [str(error)]
    else:
        sentences = list(report.warnings)
        assert report.spans or report.host or sentences
    assert not [sentence for sentence in sentences if "\n" in sentence]


def test_pieces_beyond_the_most_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_MOST_PIECES", 5)
    pieces = split(synthetic.recording_bytes(typical_flow()))
    read = read_recording(io.BytesIO(join(pieces)))
    assert f"more than 5 pieces: the {len(pieces) - 5} behind them were left out" in read.damage
    assert (len(read.spans), read.end) == (2, None)


def test_operations_beyond_the_most_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow()
    for _ in range(20):
        flow.resize(256)
        flow.resize(0)
    everything = examine(synthetic.recording(flow)).report
    monkeypatch.setattr(operations, "MOST_OPERATIONS", 10)
    report = examine(synthetic.recording(flow)).report
    assert len(everything.operations) == 40
    # The interrupt of the first one left out came before its work item.
    assert [each.pages for each in report.operations] == [each.pages for each in everything.operations[:10]]
    assert any("records from the next one on were left out" in sentence for sentence in report.warnings)
    assert not report.complete


def alternating(payloads: int) -> Captured:
    """Payloads of 32 KiB that name every 16th page."""
    heads = np.arange(payloads * 2048, dtype="<u8") * 64 | np.uint64(12 << 52 | 8 << 58)
    words = np.stack([heads, np.full_like(heads, 0x0001_0001_0001_0001)], axis=1).reshape(payloads, -1)
    return Captured(Encoding.RESPONSE_DATA, [row.tobytes() for row in words])


def test_payloads_beyond_the_most_runs_count_as_missing() -> None:
    # 64 payloads make up a batch, and name half a million runs.
    captured = alternating(2 * 64 + 3)
    tracemalloc.start()
    named = summarise_payloads(captured, limit_runs=1000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert named.left_out == 64 + 3
    assert named.sends.state.tolist() == [State.WHOLE] * 64 + [State.MISSING] * 67
    assert named.statistics.payloads_missing == 67
    assert named.statistics.distinct.runs == named.runs == 64 * 2048 * 4
    assert peak_bytes < 200_000_000


def test_a_time_line_of_more_threads_than_can_be_shown_is_refused() -> None:
    flow = Flow()
    flow.resize(5000 * 256)
    flow.spans = [span._replace(tid=1000 + number) for number, span in enumerate(flow.spans)]
    examined = examine(synthetic.recording(flow))
    with pytest.raises(RecordingError, match="threads cannot be shown"):
        build_timeline(examined)


@pytest.mark.parametrize(
    ("parse", "layout", "stride_bytes"),
    [(parse_span_layout, SPAN_LAYOUT, 24), (parse_payload_layout, PAYLOAD_LAYOUT, 64)],
)
def test_records_smaller_than_any_are_refused(parse: Any, layout: Any, stride_bytes: int) -> None:
    parse(layout)
    with pytest.raises(RecordingError):
        parse({**layout, "stride_bytes": stride_bytes, "fields": []})


def test_sums_of_more_threads_than_there_can_be_are_not_gone_through() -> None:
    slots = parse_host_counters(bytes(THREAD.size_bytes) * 3)
    many = parse_host_counters((b"\1" + bytes(THREAD.size_bytes - 1)) * (MOST_SLOTS + 3))
    assert slots.batches == many.batches == 0
