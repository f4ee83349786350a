# SPDX-License-Identifier: GPL-2.0-or-later
"""A device slowed on purpose, on a clock of instructions: what it spends is in c, its calls' time in d."""

from __future__ import annotations

from pathlib import Path

from pairs import FULL_MIB, MOVE_S, SPLIT, booted, report_both, top_stages, top_sum_ns
from slowing import MS, TIMED, Times, alternate, find_slowed, inflate_and_deflate
from tracing import MIB_PAGES, Json, assert_whole, outcomes, start_recording

from lab.boot_retries import retry_lost
from lab.vhost import ExtraTime

PRIME_MIB = 7
# Half a second and more each, where an inflate of this size takes some 17 ms.
EXTRAS = alternate(
    [
        ExtraTime(per_buffer_ns=101 * MS),
        ExtraTime(per_discard_ns=MS * 2 // 5),
        ExtraTime(in_discard_ns=MS * 2 // 5),
        ExtraTime(per_buffer_ns=101 * MS, in_discard_ns=MS * 2 // 5),
    ]
)
# On this clock what was spent is found to so much of it.
FOUND = 0.03


def test_what_a_device_spends_is_found_in_its_stage(tmp_path: Path) -> None:
    found, spent = retry_lost(lambda: record(tmp_path))
    assert_whole(found)
    kinds = ("inflate", "deflate") * len(EXTRAS)
    assert outcomes(found) == [(kind, "reached", PRIME_MIB * MIB_PAGES) for kind in kinds]
    pairs = found["host"]["pairing"]
    assert pairs["pairs"] == pairs["delimited"] == 2 * len(EXTRAS) * PRIME_MIB
    for operation in found["operations"]:
        assert top_stages(operation) == SPLIT
        assert top_sum_ns(operation) == operation["wall_ns"]
    for slowed in find_slowed(found, EXTRAS, spent):
        slowed.assert_spent(PRIME_MIB, PRIME_MIB * MIB_PAGES)
        slowed.assert_found({"c": slowed.outside_ns, "d": slowed.inside_ns}, FOUND)


def record(folder: Path) -> tuple[Json, list[Times]]:
    """What both sides say, and what the device says. The clock of such a host is not the world's: a pair."""
    with booted(icount=True, device="backend", backend_args=TIMED) as pair:
        words = ("--side", "host", "-p", str(pair.vmm_pid), "--pair", "slowed")
        in_host = start_recording(pair.host, "/root/host.bt", *words).wait_attached()
        in_guest = start_recording(pair.guest, "/root/guest.bt", "--pair", "slowed").wait_attached()
        spent = inflate_and_deflate(pair.guest, FULL_MIB, PRIME_MIB, EXTRAS, MOVE_S)
        in_guest.end()
        in_host.end()
        return report_both(in_guest.pull(folder), in_host.pull(folder)), spent
