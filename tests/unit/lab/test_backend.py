# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's balloon device under sanitizers, driven by rings made by hand; its log is the witness."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_device import COUNTS, PFN, counts, started, touch_rings
from bitmap_model import decode, payloads
from frontend import (
    BIT_3,
    DEFLATE,
    GET_QUEUE_NUM,
    HIGH_PFN,
    HIGH_PFNS,
    INFLATE,
    LOW_BYTES,
    LOW_PFNS,
    PAGE,
    RING_SIZE,
    SET_MEM_TABLE,
    USER,
    VERSION_1,
    Descriptor,
    Device,
    Frontend,
    mem_table,
    pack64,
    pfns,
    plain,
    response,
    u64,
    word,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# ---- PFN arrays ----


def test_inflate_gives_pages_back_and_touches_no_other(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    given_away = [PFN, PFN + 2, LOW_PFNS - 1, HIGH_PFN, HIGH_PFN + HIGH_PFNS - 1]
    kept = [PFN + 1, PFN + 3, HIGH_PFN + 1]
    for pfn in given_away + kept:
        frontend.fill(pfn)
    frontend.queues[INFLATE].send(pfns(*given_away))
    assert all(frontend.page(pfn) == bytes(PAGE) for pfn in given_away)
    assert all(frontend.page(pfn) == b"\xa5" * PAGE for pfn in kept)
    event = device.last_buffer()
    assert (event["queue"], event["mode"], event["bytes"]) == ("inflate", "pfn", 20)
    assert counts(event, *COUNTS) == [5, 0, 0, 5, 0, 5, 5 * PAGE, 0, 0]
    assert device.client.payloads() == [pfns(*given_away)]


def test_memory_shrinks(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    touch_rings(device, frontend)
    frontend.fill(PFN, 256)
    before = frontend.resident_pages()
    frontend.queues[INFLATE].send(pfns(*range(PFN, PFN + 256)))
    assert frontend.resident_pages() == before - 256


def test_deflate_keeps_content(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    frontend.queues[INFLATE].send(pfns(PFN))
    frontend.fill(PFN)
    frontend.queues[DEFLATE].send(pfns(PFN))
    assert frontend.page(PFN) == b"\xa5" * PAGE
    event = device.last_buffer()
    assert counts(event, "pages", "already", "discards", "discarded_bytes", "willneeds") == [1, 0, 0, 0, 1]
    assert device.client.status()["ballooned_pages"] == 0


def test_what_is_sent_twice_is_counted(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    inflate, deflate = frontend.queues
    inflate.send(pfns(PFN, PFN + 1, PFN))
    inflate.send(pfns(PFN + 1, PFN + 2))
    deflate.send(pfns(PFN + 2, PFN + 9))
    assert [event["already"] for event in device.client.buffers()] == [1, 1, 1]
    status = device.client.status()
    assert status["ballooned_pages"] == 2
    assert counts(status["inflate"], "buffers", "pages", "already", "discards") == [2, 5, 2, 5]
    assert counts(status["deflate"], "buffers", "pages", "already", "willneeds") == [1, 2, 1, 2]


def test_a_full_ring_comes_back_in_order(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    queue = frontend.queues[INFLATE]
    for round_number in range(5):
        for head in range(RING_SIZE):
            address = queue.data + 64 * head
            frontend.write(address, pfns(PFN + head))
            queue.describe(head, Descriptor(address, 4))
            queue.offer(head, kick=head == RING_SIZE - 1)
        assert [queue.wait() for _ in range(RING_SIZE)] == list(range(RING_SIZE)), round_number
    assert [event["seq"] for event in device.client.buffers()] == list(range(1, 5 * RING_SIZE + 1))


def test_indexes_wrap_around(build: Path, tmp_path: Path) -> None:
    with started(build, tmp_path) as (_, frontend):
        queue = frontend.queues[INFLATE]
        assert queue.stop() == 0
        queue.available = queue.served = 0xFFFE
        queue.set_index(0xFFFE)
        frontend.write(queue.base + 0x2002, struct.pack("<H", 0xFFFE))
        queue.start()
        for _ in range(5):
            queue.send(pfns(PFN))
        assert queue.stop() == 3


def test_chains_are_one_buffer(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    frontend.queues[INFLATE].send(pfns(PFN), pfns(PFN + 1, PFN + 2)[:6], pfns(PFN + 2)[2:])
    assert counts(device.last_buffer(), "bytes", "records", "pages") == [12, 3, 3]


def test_interrupts_only_when_wanted(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    queue = frontend.queues[INFLATE]
    frontend.write(queue.base + 0x1000, struct.pack("<H", 1))
    queue.put(pfns(PFN))
    queue.offer()
    while queue.used_index() == 0:
        device.client.status()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(queue.call_fd)


# ---- page bitmaps ----


def test_bitmap_runs_are_one_discard_each(bitmap_mode: tuple[Device, Frontend]) -> None:
    device, frontend = bitmap_mode
    touch_rings(device, frontend)
    frontend.fill(PFN, 128)
    before = frontend.resident_pages()
    payload = word(PFN, 0b0110_0001) + plain(PFN + 64, 4) + word(HIGH_PFN, 2**64 - 1) + word(PFN, 0)
    frontend.queues[INFLATE].send(*response(payload))
    event = device.last_buffer()
    assert (event["mode"], event["bytes"], event["header"]) == (
        "bitmap",
        8 + len(payload),
        len(payload) << 32,
    )
    assert counts(event, *COUNTS) == [4, 3, 1, 83, 0, 4, 83 * PAGE, 0, 0]
    assert frontend.resident_pages() == before - 3 - 16
    assert frontend.page(PFN) == bytes(PAGE)
    assert frontend.page(PFN + 1) == b"\xa5" * PAGE
    assert frontend.page(PFN + 80) == b"\xa5" * PAGE


def test_bitmap_duplicates(bitmap_mode: tuple[Device, Frontend]) -> None:
    device, frontend = bitmap_mode
    frontend.queues[INFLATE].send(*response(word(PFN, 2**64 - 1) + plain(PFN + 32, 6)))
    assert counts(device.last_buffer(), "pages", "already") == [128, 32]
    frontend.queues[DEFLATE].send(*response(plain(PFN, 7)))
    assert counts(device.last_buffer(), "pages", "already", "willneeds") == [128, 32, 1]


def test_longest_payload(bitmap_mode: tuple[Device, Frontend]) -> None:
    device, frontend = bitmap_mode
    frontend.queues[INFLATE].send(*response(plain(PFN, 0) * 4096))
    assert counts(device.last_buffer(), "bytes", "records", "already", "refused") == [32776, 4096, 4095, 0]
    frontend.queues[INFLATE].send(pack64(0))
    assert counts(device.last_buffer(), "bytes", "records", "refused") == [8, 0, 0]
    frontend.queues[INFLATE].send(pack64(0), pfns(0))
    assert device.refusal() == "response length is not that of its buffers"


def test_a_run_across_regions_that_touch(build: Path, tmp_path: Path) -> None:
    with started(build, tmp_path, "--page-bitmap", features=VERSION_1 | BIT_3) as (device, frontend):
        half = LOW_BYTES // 2
        regions = [(0, half, USER, 0), (half, half, USER + half, half)]
        assert frontend.tell(SET_MEM_TABLE, mem_table(regions), [frontend.memory_fd] * 2)
        frontend.queues[INFLATE].send(*response(plain(half // PAGE - 8, 4)))
        assert counts(device.last_buffer(), "pages", "discards", "discarded_bytes") == [16, 2, 16 * PAGE]


def test_without_bit_3_a_bitmap_device_takes_pfns(build: Path, tmp_path: Path) -> None:
    with started(build, tmp_path, "--page-bitmap") as (device, frontend):
        frontend.queues[INFLATE].send(pfns(PFN))
        assert device.last_buffer()["mode"] == "pfn"


def test_a_device_of_free_page_hints_takes_pfns_and_empties_its_third_queue(
    build: Path, tmp_path: Path
) -> None:
    options = {"features": VERSION_1 | BIT_3, "queues": 3}
    with started(build, tmp_path, "--free-page-hint", "--no-discard", **options) as (device, frontend):
        assert u64(frontend.ask(GET_QUEUE_NUM)) == 3
        frontend.queues[INFLATE].send(*response(word(PFN, 1)))
        # What a patched driver sends would be read as page numbers: the length, a start, a shift, a bitmap.
        event = device.last_buffer()
        assert (event["mode"], event["records"]) == ("pfn", 6)
        frontend.queues[2].send(b"anything")
        assert counts(device.last_buffer(), "bytes", "pages", "refused") == [8, 0, 0]


PFNS = st.one_of(
    st.integers(PFN, LOW_PFNS - 1), st.integers(HIGH_PFN, HIGH_PFN + HIGH_PFNS - 1),
    st.integers(LOW_PFNS - 70, LOW_PFNS + 5), st.integers(0, 2**52 - 1).filter(lambda pfn: pfn >= PFN),
)  # fmt: skip


def is_memory(run: tuple[int, int]) -> bool:
    first, end = run[0], run[0] + run[1]
    return end <= LOW_PFNS or (first >= HIGH_PFN and end <= HIGH_PFN + HIGH_PFNS)


@pytest.fixture(scope="module")
def shared_bitmap_mode(
    build: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Device, Frontend]]:
    """Its pages must not be those of its rings: discarding is off, so that payloads may name any page."""
    options = ("--page-bitmap", "--no-discard")
    with started(build, tmp_path_factory.mktemp("d"), *options, features=VERSION_1 | BIT_3) as pair:
        yield pair


@pytest.mark.thorough
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payload=payloads(PFNS, st.integers(0, 14)), inflate=st.booleans())
def test_any_payload_is_counted_as_another_decoder_does(
    shared_bitmap_mode: tuple[Device, Frontend], payload: bytes, inflate: bool
) -> None:
    device, frontend = shared_bitmap_mode
    before = device.client.status()
    name = "inflate" if inflate else "deflate"
    frontend.queues[INFLATE if inflate else DEFLATE].send(*response(payload) if payload else (pack64(0),))
    found, after = decode(payload), device.client.status()
    change = {key: after[name][key] - before[name][key] for key in after[name]}
    good = [run for run in found.runs if is_memory(run)]
    assert [change[key] for key in ("buffers", "bytes", "records", "words", "plain_runs")] == [
        1, 8 + len(payload), found.records, found.words, found.plains,
    ]  # fmt: skip
    assert change["pages"] == sum(pages for _, pages in good)
    assert change["refused"] == len(found.bad) + len(found.runs) - len(good)
    moved = after["ballooned_pages"] - before["ballooned_pages"]
    assert abs(moved) == change["pages"] - change["already"]
    assert (moved >= 0) == inflate or moved == 0


def test_dump_is_every_payload_byte_for_byte(shared_bitmap_mode: tuple[Device, Frontend]) -> None:
    device, frontend = shared_bitmap_mode
    sent = [b"".join(response(bytes([n]) * (16 * n))) for n in range(5)]
    for data in sent:
        frontend.queues[INFLATE].send(data)
    assert device.client.payloads()[-5:] == sent
