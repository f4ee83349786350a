# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested, the lab's own device and the patched driver: driver, device and host count the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pairs import (
    COUNTERS,
    FULL_MIB,
    MOVE_S,
    MOVED_MIB,
    MOVED_PAGES,
    REMOVE,
    assert_rss_followed,
    booted,
    counted_madvise,
    touch_memory,
)
from tracing import change, move

import lab
from lab.patched_driver import load_patched


@pytest.fixture(scope="module")
def pair() -> Iterator[lab.Nested]:
    with booted(device="backend", page_bitmap=True, dump=True) as both:
        load_patched(both.guest)
        yield both


def test_page_bitmaps_on_the_labs_own_device(pair: lab.Nested) -> None:
    host, guest, device = pair.host, pair.guest, pair.guest.backend
    touch_memory(guest)
    before, device_before = guest.vmstat(), device.status()["inflate"]
    before_bytes, known = pair.guest_rss_bytes(), len(device.buffers("inflate"))
    with counted_madvise(host) as calls:
        move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    status = device.status()
    done = {name: status["inflate"][name] - device_before[name] for name in device_before}
    assert (status["mode"], status["ballooned_pages"]) == ("bitmap", MOVED_PAGES)
    assert change(before, guest.vmstat(), COUNTERS) == [MOVED_PAGES, 0]
    assert (done["pages"] - done["already"], done["refused"], done["errors"]) == (MOVED_PAGES, 0, 0)
    assert calls[pair.vmm_pid, REMOVE] == done["discards"] < MOVED_PAGES
    assert_rss_followed(before_bytes, pair.guest_rss_bytes())
    logged = device.buffers("inflate")[known:]
    assert sum(each["pages"] for each in logged) == done["pages"]
    assert [len(raw) for raw in device.payloads("inflate")[known:]] == [each["bytes"] for each in logged]
    move(guest, FULL_MIB, MOVE_S)
    assert device.status()["ballooned_pages"] == 0


def test_a_qemu_that_is_killed_is_a_guest_lost(pair: lab.Nested) -> None:
    host, guest = pair.host, pair.guest
    sleeper = guest.start(["sleep", "1000"])
    device_pid = pair.vmm_pid
    host.run(["kill", "-KILL", str(pair.qemu_pid)], check=True)
    with pytest.raises(lab.VMLost, match="ended by signal 9"):
        sleeper.wait(600)
    with pytest.raises(lab.VMLost):
        guest.run(["true"])
    assert host.run(["cat", f"/proc/{device_pid}/comm"]).status != 0
    host.kill()
    with pytest.raises(lab.VMLost):
        host.run(["true"])
