# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched driver with QEMU's own balloon, which offers no bitmaps: it does what the stock driver does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracing import (
    MIB_PAGES,
    Json,
    assert_no_trace,
    assert_summed_up,
    assert_sums,
    assert_whole,
    change,
    migrate_pages,
    move,
    outcomes,
    record,
    report,
    shell,
)

import lab
from lab.aging import fragmented, free_pages, read_free_blocks, share_in_small_blocks
from lab.patched_driver import load_patched, load_stock, unload

SMALL_MIB = 1024
# Prime, so that a count that comes out right is not right by accident.
PRIME_MIB = 509
COUNTERS = ("balloon_inflate", "balloon_deflate")
DOCTOR_S = 60
PAGE_BITMAP_BIT = 3
COMPLAINTS = ("BUG", "WARNING", "Oops", "KASAN", "general protection", "page_fault", "cannot queue")


@pytest.fixture(scope="module")
def small() -> Iterator[lab.Guest]:
    with lab.solo(memory_mib=SMALL_MIB) as booted:
        yield booted


@pytest.fixture
def patched(small: lab.Guest) -> Iterator[lab.Guest]:
    """A guest with the patched driver; empty, and its kernel content, after the test."""
    load_patched(small)
    yield small
    assert_no_trace(small)
    move(small, SMALL_MIB)
    assert complaints(small) == []


def complaints(guest: lab.Guest) -> list[str]:
    lines = guest.run(["dmesg"], check=True).stdout.splitlines()
    return [line for line in lines if any(word in line for word in COMPLAINTS)]


def features(guest: lab.Guest) -> str:
    script = 'for d in /sys/bus/virtio/drivers/virtio_balloon/virtio*; do cat "$d/features"; done'
    return guest.run(shell(script), check=True).stdout.strip()


def doctor(guest: lab.Guest) -> Json:
    done = guest.run(["balloontrace", "doctor", "--format", "json"], timeout_s=DOCTOR_S)
    assert done.status == 0, done.describe()
    found: Json = json.loads(done.stdout)
    return found


def total_kib(guest: lab.Guest) -> int:
    (line,) = [line for line in guest.pull("/proc/meminfo").decode().splitlines() if "MemTotal" in line]
    return int(line.split()[1])


def test_inflate_and_deflate_to_the_page(patched: lab.Guest) -> None:
    before, total = patched.vmstat(), total_kib(patched)
    move(patched, SMALL_MIB - PRIME_MIB)
    assert total - total_kib(patched) == PRIME_MIB * 1024
    move(patched, SMALL_MIB)
    assert total_kib(patched) == total
    assert change(before, patched.vmstat(), COUNTERS) == [PRIME_MIB * MIB_PAGES] * 2
    assert features(patched)[PAGE_BITMAP_BIT] == "0"


def test_unload_with_pages_in_the_balloon_and_back(patched: lab.Guest) -> None:
    total, before = total_kib(patched), patched.vmstat()
    move(patched, SMALL_MIB - PRIME_MIB)
    unload(patched)
    assert total_kib(patched) == total
    assert change(before, patched.vmstat(), COUNTERS) == [PRIME_MIB * MIB_PAGES] * 2
    assert patched.balloon_actual_bytes() == SMALL_MIB << 20
    # The target still stands: each driver that comes fills the balloon again.
    for load in (load_patched, load_stock, load_patched):
        load(patched)
        patched.wait_balloon()
        assert total - total_kib(patched) == PRIME_MIB * 1024


def test_loading_many_times_leaks_nothing(patched: lab.Guest) -> None:
    load = shell(
        "for i in 1 2 3 4 5 6 7 8 9 10 11; do rmmod virtio_balloon; insmod /io/virtio_balloon.ko; done"
    )
    patched.run(load, check=True)

    def slab_kib() -> int:
        return int(patched.run(shell("awk '/^SUnreclaim/ {print $2}' /proc/meminfo"), check=True).stdout)

    before_kib = slab_kib()
    patched.run(load, check=True)
    # An instance is 2 KiB, and 66 KiB where bitmaps are used. Counters of processors are summed up late.
    patched.wait_until(
        lambda: slab_kib() - before_kib < 256, 60, what="as much unreclaimable memory as before"
    )


def test_doctor_knows_it_with_type_information(patched: lab.Guest) -> None:
    found = doctor(patched)
    assert found["driver"] == {"kind": "patched", "module": "virtio_balloon"}
    assert found["boundaries"]["send"] == "tell_host"
    assert found["boundaries"]["fill"] == "update_balloon_size_func"
    assert found["layout"]["source"] == "btf"


def test_doctor_knows_it_without(patched: lab.Guest) -> None:
    load_patched(patched, btf=False)
    assert patched.run(["ls", "/sys/kernel/btf/virtio_balloon"]).status != 0
    assert doctor(patched)["driver"] == {"kind": "patched", "module": "virtio_balloon"}


def test_functions_that_are_symbols(patched: lab.Guest) -> None:
    text = patched.run(["grep", "-w", "virtio_balloon", "/proc/kallsyms"], check=True).stdout
    symbols = {line.split()[2] for line in text.splitlines() if line.split()[1] in "tT"}
    assert symbols >= {
        *("tell_host", "send_resp_data", "set_page_bitmap", "extend_page_bitmap", "leak_balloon"),
        *("virtballoon_migratepage", "update_balloon_size_func", "virtballoon_changed"),
        *("virtio_balloon_oom_notify", "balloon_ack"),
    }
    inlined = {"fill_balloon", "set_bulk_pages", "do_set_resp_bitmap", "tell_host_one_page"}
    assert not symbols & (inlined | {"free_extended_page_bitmap", "update_bmap_pfn_range"})


@pytest.mark.parametrize("btf", [True, False], ids=["with BTF", "without BTF"])
def test_a_recording_of_it(patched: lab.Guest, tmp_path: Path, btf: bool) -> None:
    load_patched(patched, btf=btf)
    recorder = record(patched, f"/root/patched-{btf}.bt")
    before = patched.vmstat()
    move(patched, SMALL_MIB - PRIME_MIB)
    move(patched, SMALL_MIB)
    after = patched.vmstat()
    recorder.end()
    found = report(recorder.pull(tmp_path))
    pages = PRIME_MIB * MIB_PAGES
    assert change(before, after, COUNTERS) == [pages, pages]
    reached = [(each["kind"], each["outcome"], each["actual_after_pages"]) for each in found["operations"]]
    assert reached == [("inflate", "reached", pages), ("deflate", "reached", 0)]
    assert [operation["sends"] for operation in found["operations"]] == [PRIME_MIB] * 2
    assert_sums(found)
    unmeasured = [sentence.split(":")[0] for sentence in found["not_measured"]]
    assert "what sends named: record --capture payload keeps it" in found["not_measured"]
    assert ("pages of a send" in unmeasured) is not btf
    if btf:
        assert outcomes(found) == [("inflate", "reached", pages), ("deflate", "reached", pages)]
        assert_whole(found)


def test_compaction_moves_its_pages_and_is_summed_up(patched: lab.Guest, tmp_path: Path) -> None:
    """Also in a buffer that has room for 50 spans. By the engine bcc too, says test_engines."""
    before = patched.vmstat()
    fresh = share_in_small_blocks(read_free_blocks(patched))
    with fragmented(patched, mib=600):
        blocks = read_free_blocks(patched)
        assert share_in_small_blocks(blocks) > 0.4 > fresh
        assert free_pages(blocks) > PRIME_MIB * MIB_PAGES
        move(patched, SMALL_MIB - PRIME_MIB)
    recorder = record(patched, "/root/storm.bt", "--buffer", "4K")
    migrate_pages(patched, at_least=1000)
    recorder.end()
    assert_summed_up(report(recorder.pull(tmp_path)))
    migrated = patched.vmstat()["balloon_migrate"] - before["balloon_migrate"]
    assert migrated > 0
    move(patched, SMALL_MIB)
    after = patched.vmstat()
    # A page that was moved is neither inflated nor deflated.
    assert change(before, after, COUNTERS) == [PRIME_MIB * MIB_PAGES] * 2


ON_OOM: dict[str, dict[str, Any]] = {
    "page numbers": {"balloons": [{"deflate-on-oom": "on"}]},
    "bitmaps": {"device": "backend", "page_bitmap": True, "backend_args": ("--deflate-on-oom",)},
}


@pytest.mark.parametrize("by", ON_OOM)
def test_out_of_memory_takes_from_the_balloon(by: str, tmp_path: Path) -> None:
    options = ON_OOM[by]
    with lab.solo(memory_mib=512, **options) as guest:
        load_patched(guest)
        with fragmented(guest, mib=1):
            pass  # its program is there, and in the page cache
        recorder = record(guest, "/root/squeezed.bt", "--capture", "payload")
        empty = guest.vmstat()
        move(guest, 256)
        before, actual_bytes = guest.vmstat(), guest.balloon_actual_bytes()
        hungry = guest.start(["/io/fragment", "--mib", "256", "--keep-percent", "99"])
        hungry.wait_for(b"pages\n", 120, stream="stdout")
        hungry.kill()  # what is out of memory takes more from the balloon at any time
        hungry.wait(60)
        deflated = guest.vmstat()["balloon_deflate"] - before["balloon_deflate"]
        assert deflated > 0
        assert guest.balloon_actual_bytes() - actual_bytes == deflated * 4096
        assert deflated % MIB_PAGES == 0  # oom_pages is 256
        move(guest, 512)
        moved = change(empty, guest.vmstat(), COUNTERS)
        recorder.end()
        assert_no_trace(guest)
        assert complaints(guest) == []
        assert guest.vmstat()["oom_kill"] == 0
        found = report(recorder.pull(tmp_path))
    assert_whole(found)
    outside = {each["what"]: each for each in found["outside"]}
    sends = outside["send of virtio_balloon_oom_notify"]
    assert sends["calls"] == deflated // MIB_PAGES
    if by == "page numbers":
        assert sends["pages"] == deflated
    # What the notifier's sends name counts too: every page that was taken comes back once.
    (named,) = [each for each in found["checks"] if each["name"] == "balloon_deflate, as payloads name"]
    assert named["spans"] == moved[1] == moved[0]


def test_bit_3_of_a_device_that_means_hinting() -> None:
    """The driver takes it for its own; nothing is inflated here, or the host would lose wrong pages."""
    with lab.solo(
        memory_mib=512,
        balloons=[{"free-page-hint": "on", "iothread": "hints"}],
        extra_args=["-object", "iothread,id=hints"],
    ) as guest:
        load_patched(guest)
        assert features(guest)[PAGE_BITMAP_BIT] == "1"
        load_stock(guest)
        assert features(guest)[PAGE_BITMAP_BIT] == "1"
        assert complaints(guest) == []
