# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings with known answers: files of what a driver's flows left, as `record` would have written them."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Mapping

from flows import Flow, Payload, Span
from patched_flows import PatchedFlow

from balloontrace.format.guest_layout import (
    COUNTERS_LAYOUT,
    DEVICES,
    FUNCTION_COUNTERS,
    FUNCTIONS,
    PAYLOAD,
    PAYLOAD_DATA_BYTES,
    PAYLOAD_LAYOUT,
    SPAN,
    SPAN_LAYOUT,
)
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.recording_writer import RecordingWriter
from balloontrace.format.vocabulary import ALLOCATION_TRACEPOINTS, Function

_PAYLOAD = struct.Struct("<QIIIHBx")
_RING = struct.Struct("<II")
# Functions of features that not every device has.
_FEATURES = {
    Function.VIRTBALLOON_FREE_PAGE_REPORT, Function.PAGE_REPORTING_PROCESS,
    Function.REPORT_FREE_PAGE_FUNC, Function.VIRTIO_BALLOON_SHRINKER_SCAN,
}  # fmt: skip
# Traced where it was asked for.
_OPTIONAL = (Function.ALLOCATION_PARTS, *ALLOCATION_TRACEPOINTS)


def pack_spans(spans: Iterable[Span]) -> bytes:
    """Spans as they are in the kernel's ring buffer."""
    names = [name for name, _, _ in SPAN.fields]
    return b"".join(
        _RING.pack(SPAN.size_bytes, 0) + SPAN.decoder.pack(*(getattr(span, name) for name in names))
        for span in spans
    )


def pack_payloads(payloads: Iterable[Payload]) -> bytes:
    """Payloads as the recorder drains them, in pieces of 1 KiB."""
    records = []
    for start_ns, tid, function, data in payloads:
        for offset in range(0, len(data), PAYLOAD_DATA_BYTES):
            piece = data[offset : offset + PAYLOAD_DATA_BYTES]
            head = _PAYLOAD.pack(start_ns, tid, len(data), offset, len(piece), int(function))
            records.append(
                _RING.pack(PAYLOAD.size_bytes, 0) + head + piece.ljust(PAYLOAD_DATA_BYTES, b"\xee")
            )
    return b"".join(records)


def pack_counters(spans: Iterable[Span], *, lost: int = 0) -> bytes:
    """A `struct bt_counters` for these spans, with `lost` sends that found no room."""
    rows = [[0] * len(FUNCTION_COUNTERS.fields) for _ in range(FUNCTIONS)]
    for span in spans:
        row = rows[span.function]
        row[0] += 1
        row[1] += 1
        row[6] += span.duration_ns
        row[7] += span.pages
    rows[Function.TELL_HOST][3] = lost
    return b"".join(FUNCTION_COUNTERS.decoder.pack(*row) for row in rows) + bytes(DEVICES * 32)


def metadata(flows: Iterable[Flow] = (), **changes: object) -> dict[str, object]:
    """What `record` writes at the start, for a Debian guest."""
    flows = list(flows)
    stand_in = not any(flow.fill_is_symbol for flow in flows)
    left_out = {Function.CONFIG_GET, Function.CONFIG_SET, Function.PAYLOAD}
    if not any(isinstance(flow, PatchedFlow) for flow in flows):
        left_out |= {Function.SEND_RESP_DATA, Function.SET_PAGE_BITMAP, Function.EXTEND_PAGE_BITMAP}
    present = {span.function for flow in flows for span in flow.spans}
    left_out |= _FEATURES - present | (set() if Function.ALLOCATION_PARTS in present else set(_OPTIONAL))
    functions = [function for function in Function if function not in left_out]
    probes = [
        {
            "function": function.symbol,
            "symbol": function.symbol,
            "mechanism": "kprobe+kretprobe",
            "stage": "a",
            "status": "inlined" if function == Function.FILL_BALLOON and stand_in else "attached",
            "stands_in_for": (
                "fill_balloon" if function == Function.UPDATE_BALLOON_SIZE_FUNC and stand_in else None
            ),
            "required": function == Function.TELL_HOST,
            "note": None,
        }
        for function in functions
    ]
    return {
        "tool_version": "0.1.0",
        "format": "1.0",
        "command_line": ["balloontrace", "record", "-o", "synthetic.bt"],
        "started": {"realtime_ns": 1_700_000_000_000_000_000, "monotonic_ns": 900_000_000},
        "clock": "CLOCK_MONOTONIC",
        "side": "guest",
        "machine": {
            "hostname": "guest",
            "boot_id": "00000000-0000-0000-0000-000000000000",
            "kernel_release": "6.12.0-amd64",
            "architecture": "x86_64",
            "page_size_bytes": 4096,
            "cpus": 2,
            "memory_bytes": 8 << 30,
        },
        "driver": {"kind": "stock", "module_srcversion": None},
        "devices": [
            {
                "name": f"virtio{flow.device}",
                "index": flow.device,
                "features": ["STATS_VQ"],
                "feature_bits": [1],
            }
            for flow in flows
        ],
        "functions": {str(int(function)): function.symbol for function in Function},
        "span_layout": dict(SPAN_LAYOUT),
        "counters_layout": dict(COUNTERS_LAYOUT),
        "payload_layout": dict(PAYLOAD_LAYOUT),
        "capture": "payload" if any(flow.payloads for flow in flows) else "none",
        "probes": probes,
        "boundaries": {"fill": "update_balloon_size_func" if stand_in else "fill_balloon"},
        "vmstat": {"balloon_inflate": 1000, "balloon_deflate": 1000, "balloon_migrate": 10},
        "label": "guest",
        **changes,
    }


def end_record(flows: Iterable[Flow], **changes: object) -> dict[str, object]:
    """What `record` writes at the end."""
    flows = list(flows)
    names = ("balloon_inflate", "balloon_deflate", "balloon_migrate")
    before = {"balloon_inflate": 1000, "balloon_deflate": 1000, "balloon_migrate": 10}
    calls: dict[int, int] = {}
    for flow in flows:
        for span in flow.spans:
            calls[span.function] = calls.get(span.function, 0) + 1
    zero = dict.fromkeys(("unmatched_returns", "lost", "no_state", "overwritten", "missed"), 0)
    return {
        "clean": True,
        "reason": "stopped by the user",
        "ended": {"monotonic_ns": 10**13, "realtime_ns": 1_700_000_010_000_000_000},
        "vmstat": {name: before[name] + sum(flow.vmstat[name] for flow in flows) for name in names},
        "losses": {
            Function(number).symbol: {"entries": count, "returns": count, **zero}
            for number, count in sorted(calls.items())
        },
        "own_cost": {
            "bpf": [{"program": "fentry_tell_host", "runs": 20, "timed_runs": 10, "run_time_ns": 4_500}],
            "cpu_ns": 31_000_000,
            "setup_cpu_ns": 1_900_000_000,
            "peak_memory_bytes": 90 << 20,
            "setup_peak_memory_bytes": 130 << 20,
            "wakeups": 4,
            "bytes_written": 12345,
            "attach_s": 1.5,
        },
        **changes,
    }


def recording_bytes(
    *flows: Flow,
    ended: bool = True,
    pieces: int = 3,
    lost: int = 0,
    changes: Mapping[str, object] | None = None,
    end: Mapping[str, object] | None = None,
) -> bytes:
    """A whole file: the spans of all flows in order of return; `changes` are made to its metadata.

    `end` changes its end record.
    """
    spans = sorted((span for flow in flows for span in flow.spans), key=lambda span: span.end_ns)
    read_fd = os.memfd_create("synthetic")
    write_fd = os.dup(read_fd)
    try:
        writer = RecordingWriter(write_fd)
        writer.write_metadata(metadata(flows, **(changes or {})))
        step = max(1, -(-len(spans) // pieces))
        for start in range(0, len(spans), step):
            writer.write_spans(pack_spans(spans[start : start + step]))
            writer.write_counters(pack_counters(spans[: start + step], lost=lost))
        for flow in flows:
            writer.write_payloads(pack_payloads(flow.payloads))
        if ended:
            writer.write_end(end_record(flows, **(end or {})))
        os.lseek(read_fd, 0, os.SEEK_SET)
        with open(read_fd, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(read_fd)
        os.close(write_fd)


def recording(
    *flows: Flow, ended: bool = True, lost: int = 0, changes: Mapping[str, object] | None = None
) -> Recording:
    """The same, read back."""
    return read_recording(io.BytesIO(recording_bytes(*flows, ended=ended, lost=lost, changes=changes)))
