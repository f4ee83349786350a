# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that is slowed on purpose: what it says it spent is found in what sends wait, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from slowing import MS, TIMED, alternate, find_slowed, inflate_and_deflate
from tracing import MIB_PAGES, assert_sums, assert_whole, outcomes, record, report

import lab
from lab.vhost import ExtraTime

FULL_MIB = 1024
PRIME_MIB = 17
# Seconds altogether, where an inflate of this size takes some hundredth of that.
EXTRAS = alternate(
    [
        ExtraTime(per_buffer_ns=211 * MS),
        ExtraTime(per_discard_ns=MS * 4 // 5),
        ExtraTime(in_discard_ns=MS),
        ExtraTime(per_buffer_ns=97 * MS, in_discard_ns=MS // 2),
    ]
)
MOVE_S = 120


def test_what_a_device_spends_is_what_sends_wait(tmp_path: Path) -> None:
    with lab.solo(memory_mib=FULL_MIB, device="backend", backend_args=TIMED) as guest:
        recorder = record(guest, "/root/slowed.bt", "--operations", str(2 * len(EXTRAS)))
        spent = inflate_and_deflate(guest, FULL_MIB, PRIME_MIB, EXTRAS, MOVE_S)
        done = recorder.wait()
        assert done.status == 0, done.describe()
        found = report(recorder.pull(tmp_path))
    assert_whole(found)
    assert_sums(found)
    pages = PRIME_MIB * MIB_PAGES
    kinds = ("inflate", "deflate") * len(EXTRAS)
    assert outcomes(found) == [(kind, "reached", pages) for kind in kinds]
    for slowed in find_slowed(found, EXTRAS, spent):
        slowed.assert_spent(PRIME_MIB, pages)
        assert set(slowed.growth_ns) == {"a", "b+c+d", "other"}
        slowed.assert_found({"b+c+d": slowed.spent_ns})
