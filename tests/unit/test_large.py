# SPDX-License-Identifier: GPL-2.0-or-later
"""Many sends: all of them, and their time to the nanosecond. `make bench` has the speed."""

from __future__ import annotations

from pathlib import Path

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from bench.large import SENDS_PER_OPERATION, write_large

SENDS = 200_000


def test_every_send_of_a_large_recording_is_in_its_report(tmp_path: Path) -> None:
    send_ns = write_large(tmp_path / "large.bt", SENDS)
    report = analyse(read_recording(tmp_path / "large.bt"))
    assert sum(operation.sends or 0 for operation in report.operations) == SENDS
    assert len(report.operations) == -(-SENDS // SENDS_PER_OPERATION)
    assert sum(total.stages[1].total_ns or 0 for total in report.totals) == send_ns
