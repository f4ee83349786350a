# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of a million sends, made up: for measuring `report`, not for showing anything."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from balloontrace.analysis.record_table import span_dtype
from balloontrace.format.guest_layout import (
    COUNTERS_LAYOUT,
    RING_HEADER_BYTES,
    SPAN,
    SPAN_LAYOUT,
    parse_span_layout,
)
from balloontrace.format.recording_writer import RecordingWriter
from balloontrace.format.vocabulary import Function, SpanFlag

SENDS = 1_000_000
SENDS_PER_OPERATION = 7168


def write_large(path: Path, sends: int = SENDS) -> int:
    """A recording of inflates and deflates of 7 GiB in turn; returns the time of its sends in ns."""
    records = np.zeros((sends, 2), dtype=span_dtype(parse_span_layout(None)))
    send, work = records[:, 0], records[:, 1]
    send_ns = 100_000 + np.arange(sends) * 7919 % 800_000
    work_ns = send_ns + 50_000
    start_ns = 1_000_000_000 + np.cumsum(work_ns + 3_000) - work_ns
    step = np.arange(sends) % SENDS_PER_OPERATION + 1
    inflating = np.arange(sends) // SENDS_PER_OPERATION % 2 == 0
    full_pages = SENDS_PER_OPERATION * 256
    send["start_ns"], send["duration_ns"], send["pages"] = start_ns + 30_000, send_ns, 256
    send["function"], send["queue"] = Function.TELL_HOST, ~inflating
    send["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE | SpanFlag.PAGES
    work["start_ns"], work["duration_ns"] = start_ns, work_ns
    work["function"], work["config_calls"], work["config_ns"] = Function.UPDATE_BALLOON_SIZE_FUNC, 2, 9_000
    work["flags"] = SpanFlag.DEVICE | SpanFlag.TARGET | SpanFlag.ACTUAL | SpanFlag.CONFIG
    work["target_pages"] = np.where(inflating, full_pages, 0)
    work["actual_pages"] = np.where(inflating, step, SENDS_PER_OPERATION - step) * 256
    raw = records.reshape(-1).view(np.uint8).reshape(-1, RING_HEADER_BYTES + SPAN.size_bytes)
    raw[:, 0] = SPAN.size_bytes
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    writer = RecordingWriter(fd)
    writer.write_metadata(
        {
            "functions": {str(int(function)): function.symbol for function in Function},
            "span_layout": dict(SPAN_LAYOUT),
            "counters_layout": dict(COUNTERS_LAYOUT),
            "devices": [{"name": "virtio0", "index": 0}],
            "probes": [
                {"function": function.symbol, "status": "attached"}
                for function in (Function.UPDATE_BALLOON_SIZE_FUNC, Function.TELL_HOST)
            ],
        }
    )
    writer.write_spans(raw.tobytes())
    writer.write_end({"clean": True, "reason": "made up"})
    os.close(fd)
    return int(send_ns.sum())
