# SPDX-License-Identifier: GPL-2.0-or-later
"""A million sends: held here with slack for busy machines, and strictly by `make bench`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import synthetic

from balloontrace.events import Function, SpanFlag
from balloontrace.layout import parse_span_layout
from balloontrace.recording import RecordingWriter
from balloontrace.wire import span_dtype

ROOT = Path(__file__).parents[2]
SENDS = 1_000_000
SENDS_PER_OPERATION = 7168
LIMIT_S = 5
SLACK = 2
LIMIT_BYTES = 1 << 30

# Processor time, not wall time: other tests and other people share the machine.
REPORT = """
import json, resource, sys
from balloontrace.commands.report import report
report.main([sys.argv[1], "--format", "json", "-o", sys.argv[2]], standalone_mode=False)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


def write_large(path: Path) -> int:
    """A recording of a million sends, inflates and deflates of 7 GiB in turn; returns their time in ns."""
    records = np.zeros((SENDS, 2), dtype=span_dtype(parse_span_layout(None)))
    send, work = records[:, 0], records[:, 1]
    send_ns = 100_000 + np.arange(SENDS) * 7919 % 800_000
    work_ns = send_ns + 50_000
    start_ns = 1_000_000_000 + np.cumsum(work_ns + 3_000) - work_ns
    step = np.arange(SENDS) % SENDS_PER_OPERATION + 1
    inflating = np.arange(SENDS) // SENDS_PER_OPERATION % 2 == 0
    full_pages = SENDS_PER_OPERATION * 256
    send["start_ns"], send["duration_ns"], send["pages"] = start_ns + 30_000, send_ns, 256
    send["function"], send["queue"] = Function.TELL_HOST, ~inflating
    send["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE | SpanFlag.PAGES
    work["start_ns"], work["duration_ns"] = start_ns, work_ns
    work["function"], work["config_calls"], work["config_ns"] = Function.UPDATE_BALLOON_SIZE_FUNC, 2, 9_000
    work["flags"] = SpanFlag.DEVICE | SpanFlag.TARGET | SpanFlag.ACTUAL | SpanFlag.CONFIG
    work["target_pages"] = np.where(inflating, full_pages, 0)
    work["actual_pages"] = np.where(inflating, step, SENDS_PER_OPERATION - step) * 256
    raw = records.reshape(-1).view(np.uint8).reshape(-1, 64)
    raw[:, 0] = 56
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    writer = RecordingWriter(fd)
    writer.write_metadata(synthetic.metadata([synthetic.Flow()]))
    writer.write_spans(raw.tobytes())
    writer.write_end(synthetic.end_record([]))
    os.close(fd)
    return int(send_ns.sum())


def test_a_million_sends_are_reported_in_seconds(tmp_path: Path) -> None:
    path, target = tmp_path / "large.bt", tmp_path / "report.json"
    send_ns = write_large(path)
    done = subprocess.run(
        [sys.executable, "-c", REPORT, path, target],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    cpu_s, peak_bytes = json.loads(done.stdout)
    described = json.loads(target.read_text())
    assert sum(operation["sends"] for operation in described["operations"]) == SENDS
    assert len(described["operations"]) == -(-SENDS // SENDS_PER_OPERATION)
    assert sum(total["stages"][1]["total_ns"] for total in described["totals"]) == send_ns
    assert peak_bytes < LIMIT_BYTES
    assert cpu_s < LIMIT_S * SLACK
