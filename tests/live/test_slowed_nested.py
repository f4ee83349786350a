# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested, a device that is slowed on purpose: time it spends itself is found in c, time in its calls in d."""

from __future__ import annotations

import signal

from pairs import FULL_MIB, MOVE_S, SPLIT, booted, report_both, top_stages, top_sum_ns
from slowing import MS, TIMED, alternate, find_slowed, inflate_and_deflate
from tracing import ATTACH_S, ATTACHED, MIB_PAGES, assert_whole, outcomes, start_recording

from lab.vhost import ExtraTime

# Enough sends altogether to be matched by their times alone, and few enough discards to be held long.
PRIME_MIB = 7
EXTRAS = alternate(
    [
        ExtraTime(per_buffer_ns=1009 * MS),
        ExtraTime(per_discard_ns=4 * MS),
        ExtraTime(in_discard_ns=6 * MS),
        ExtraTime(per_buffer_ns=1009 * MS, in_discard_ns=4 * MS),
    ]
)


def test_what_a_device_spends_is_found_in_its_stage() -> None:
    with booted(device="backend", backend_args=TIMED) as pair:
        host_argv = ["balloontrace", "record", "-o", "/io/host.bt", "--side", "host", "-p", str(pair.vmm_pid)]
        on_host = pair.host.start(host_argv)
        on_host.wait_for(ATTACHED, ATTACH_S)
        on_guest = start_recording(pair.guest, "/io/guest.bt", "--operations", str(2 * len(EXTRAS)))
        on_guest.wait_attached()
        spent = inflate_and_deflate(pair.guest, FULL_MIB, PRIME_MIB, EXTRAS, MOVE_S)
        done = on_guest.wait(120)
        assert done.status == 0, done.describe()
        on_host.signal(signal.SIGINT)
        on_host.wait(60, check=True)
        found = report_both(pair.guest.io / "guest.bt", pair.host.io / "host.bt")
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
        slowed.assert_found({"c": slowed.outside_ns, "d": slowed.inside_ns})
