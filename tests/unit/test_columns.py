# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
import synthetic
from c_layout import assert_is_c
from flows import Span

from balloontrace.analysis.columns import decode_counters, decode_spans
from balloontrace.analysis.record_table import span_dtype
from balloontrace.errors import RecordingError
from balloontrace.format import guest_layout
from balloontrace.format.vocabulary import Function, SpanFlag

TODAY = guest_layout.parse_span_layout(None)

TABLES = {
    "bt_span": guest_layout.SPAN.fields,
    "bt_payload": guest_layout.PAYLOAD.fields,
    "bt_block": guest_layout.BLOCK.fields,
    "bt_function_counters": guest_layout.FUNCTION_COUNTERS.fields,
    "bt_device_state": guest_layout.DEVICE_STATE.fields,
    "bt_live_device": guest_layout.LIVE_DEVICE.fields,
    "bt_live": guest_layout.LIVE.fields,
}


def span(start_ns: int, duration_ns: int = 10, function: int = 4) -> Span:
    return Span(start_ns, duration_ns, tid=7, cpu=1, function=function)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_layout_is_what_a_c_compiler_makes_of_the_header(tmp_path: Path) -> None:
    sizes = {
        "bt_span": guest_layout.SPAN.size_bytes,
        "bt_payload": guest_layout.PAYLOAD.size_bytes,
        "bt_block": guest_layout.BLOCK.size_bytes,
        "bt_function_counters": guest_layout.FUNCTION_COUNTERS.size_bytes,
        "bt_device_state": guest_layout.DEVICE_STATE.size_bytes,
        "bt_live_device": guest_layout.LIVE_DEVICE.size_bytes,
        "bt_live": guest_layout.LIVE.size_bytes,
        "bt_counters": guest_layout.COUNTERS.size_bytes,
    }
    numbers = {
        **{f"sizeof(struct {name})": size for name, size in sizes.items()},
        "offsetof(struct bt_counters, devices)": int(
            str(guest_layout.COUNTERS_LAYOUT["devices_offset_bytes"])
        ),
        "offsetof(struct bt_live, devices)": guest_layout.LIVE.offsets["devices"],
        "offsetof(struct bt_live, buckets)": guest_layout.LIVE.offsets["buckets"],
        "BT_FUNCTIONS": guest_layout.FUNCTIONS,
    }
    assert_is_c(tmp_path, "balloon_events.h", TABLES, numbers)
    assert max(Function) < guest_layout.FUNCTIONS


def test_numpy_sees_each_field_behind_the_ring_header() -> None:
    kinds = span_dtype(TODAY)
    assert kinds.itemsize == 80
    assert kinds.fields is not None
    assert kinds.fields["config_ns"][1] == 8 + 48


def test_spans_come_back_in_order_of_start_the_outer_call_first() -> None:
    raw = [span(50), span(10, 5), span(10, 30), span(1)]
    spans = decode_spans([synthetic.pack_spans(raw[:1]), synthetic.pack_spans(raw[1:])], TODAY)
    assert spans.int64("start_ns").tolist() == [1, 10, 10, 50]
    assert spans.int64("duration_ns").tolist() == [10, 30, 5, 10]
    assert spans.damaged == spans.unknown == 0


@pytest.mark.parametrize("ring", [72 | 1 << 31, 72 | 1 << 30, 64, 73, 0])
def test_records_with_an_odd_ring_header_are_counted_not_decoded(ring: int) -> None:
    raw = bytearray(synthetic.pack_spans([span(1), span(2), span(3)]))
    struct.pack_into("<I", raw, 80, ring)
    spans = decode_spans([bytes(raw)], TODAY)
    assert spans.int64("start_ns").tolist() == [1, 3]
    assert spans.damaged == 1


def test_impossible_times_torn_ends_and_unknown_functions_are_counted() -> None:
    raw = synthetic.pack_spans([span(1), span(2**63), span(3, 2**60), span(4, function=99)])
    spans = decode_spans([raw + b"torn"], TODAY)
    assert spans.int64("start_ns").tolist() == [1]
    assert (spans.damaged, spans.unknown) == (3, 1)


def test_no_pieces_are_no_spans() -> None:
    assert len(decode_spans([], TODAY)) == 0


def test_a_later_layout_with_appended_fields_is_understood() -> None:
    later = {
        "stride_bytes": 88,
        "header_bytes": 8,
        "fields": [*(list(field) for field in guest_layout.SPAN.fields), ["order", "u64", 72]],
    }
    record = struct.pack("<II", 80, 0) + synthetic.pack_spans([span(5)])[8:] + bytes(8)
    spans = decode_spans([record * 2], guest_layout.parse_span_layout(later))
    assert spans.int64("start_ns").tolist() == [5, 5]
    assert spans.damaged == 0


@pytest.mark.parametrize(("passes", "kept"), [(3, [3]), (70_000, [])])
def test_a_wider_member_never_wraps(passes: int, kept: list[int]) -> None:
    older = {
        "stride_bytes": 88,
        "header_bytes": 8,
        "fields": [
            ["passes", "u32", 72] if name == "passes" else [name, kind, offset]
            for name, kind, offset in guest_layout.SPAN.fields
        ],
    }
    record = struct.pack("<II", 80, 0) + synthetic.pack_spans([span(5)])[8:] + struct.pack("<II", passes, 0)
    spans = decode_spans([record], guest_layout.parse_span_layout(older))
    assert spans.int64("passes").tolist() == kept
    assert spans.damaged == 1 - len(kept)


@pytest.mark.parametrize(
    "change",
    [
        {"stride_bytes": 0},
        {"stride_bytes": 2**40},
        {"stride_bytes": "64"},
        {"header_bytes": -8},
        {"header_bytes": 16},
        {"fields": None},
        {"fields": [["start_ns", "u64", 68]]},
        {"fields": [["start_ns", "u64", -8]]},
        {"fields": [["start_ns", "double", 0]]},
        {"fields": [["start_ns", "u64", 0], ["duration_ns", "u64", 4]]},
        {"fields": [["start_ns", "u64", 0], ["start_ns", "u64", 8]]},
    ],
)
def test_layouts_that_cannot_be_meant_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RecordingError):
        guest_layout.parse_span_layout({**guest_layout.SPAN_LAYOUT, **change})


def test_counters_are_rows_by_function_and_device() -> None:
    raw = synthetic.pack_counters([span(1), span(2)], lost=3)
    functions, devices = decode_counters(raw, guest_layout.parse_counters_layout(None))
    assert functions[Function.TELL_HOST]["entries"] == 2
    assert functions[Function.TELL_HOST]["lost"] == 3
    assert len(functions) == guest_layout.FUNCTIONS
    assert [device["moving"] for device in devices] == [0] * guest_layout.DEVICES
    assert decode_counters(raw[:100], guest_layout.parse_counters_layout(None)) == (functions[:1], [])


def test_there_is_room_for_eight_more_flags() -> None:
    raw = synthetic.pack_spans([span(1)._replace(flags=1 << 15 | SpanFlag.BYTES)])
    assert decode_spans([raw], TODAY).columns["flags"].tolist() == [1 << 15 | SpanFlag.BYTES]
