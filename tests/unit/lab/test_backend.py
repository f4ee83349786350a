# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's balloon device under sanitizers, driven by rings made by hand; its log is the witness."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bitmap_model import decode, payloads
from frontend import (
    BIT_3,
    BIT_30,
    CONFIG_CHANGE,
    DEFLATE,
    FIRST_FREE_PFN,
    GET_CONFIG,
    GET_FEATURES,
    GET_QUEUE_NUM,
    GET_VRING_BASE,
    HIGH_BYTES,
    HIGH_PFN,
    HIGH_PFNS,
    INDIRECT,
    INFLATE,
    LOW_BYTES,
    LOW_PFNS,
    MIB,
    NEXT,
    PAGE,
    RING_SIZE,
    SET_CONFIG,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_ERR,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
    VERSION_1,
    WRITE,
    Descriptor,
    Device,
    Frontend,
    Json,
    Queue,
    mem_table,
    pack64,
    pfns,
    plain,
    response,
    running,
    u64,
    word,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.vhost import ExtraTime, backend_key, build_backend, parse_log

PFN = FIRST_FREE_PFN
NOWHERE = LOW_PFNS + 7


@pytest.fixture(scope="session")
def build() -> Path:
    return build_backend(sanitize=True)


@contextmanager
def started(
    build: Path, folder: Path, *options: str, features: int = VERSION_1, queues: int = 2
) -> Iterator[tuple[Device, Frontend]]:
    with running(build, folder, *options) as device:
        frontend = device.connect()
        try:
            frontend.start(features, queues)
            yield device, frontend
        finally:
            frontend.close()


@pytest.fixture
def pfn_mode(build: Path, tmp_path: Path) -> Iterator[tuple[Device, Frontend]]:
    with started(build, tmp_path) as pair:
        yield pair


@pytest.fixture
def bitmap_mode(build: Path, tmp_path: Path) -> Iterator[tuple[Device, Frontend]]:
    with started(build, tmp_path, "--page-bitmap", features=VERSION_1 | BIT_3) as pair:
        yield pair


def counts(event: Json, *names: str) -> list[int]:
    return [int(event[name]) for name in names]


def touch_rings(device: Device, frontend: Frontend) -> None:
    """Rings become memory when they are first looked at; that must not happen while memory is counted."""
    for queue in frontend.queues:
        queue.send(pfns(PFN + 300))
    device.client.status()


COUNTS = (
    "records",
    "words",
    "plain_runs",
    "pages",
    "already",
    "discards",
    "discarded_bytes",
    "refused",
    "errors",
)


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


# ---- nonsense from the guest ----

Nonsense = Callable[[Queue], None]


def chain_of(*descriptors: Descriptor) -> Nonsense:
    def prepare(queue: Queue) -> None:
        for number, descriptor in enumerate(descriptors):
            queue.describe(number, descriptor)

    return prepare


def buffer_of(*parts: bytes) -> Nonsense:
    return lambda queue: queue.put(*parts)


BUFFER = 0x4_0000
NONSENSE_RINGS: dict[str, tuple[Nonsense, str]] = {
    "loop": (chain_of(*(Descriptor(BUFFER, 4, NEXT, 1 - n) for n in (0, 1))), "descriptors form a loop"),
    "itself": (chain_of(Descriptor(BUFFER, 4, NEXT, 0)), "descriptors form a loop"),
    "next": (chain_of(Descriptor(BUFFER, 4, NEXT, RING_SIZE)), "descriptor index outside the ring"),
    "hole": (chain_of(Descriptor(LOW_BYTES, 4)), "descriptor outside memory"),
    "edge": (chain_of(Descriptor(LOW_BYTES - 2, 4)), "descriptor outside memory"),
    "far": (chain_of(Descriptor(2**64 - 2, 4)), "descriptor outside memory"),
    "huge": (chain_of(Descriptor(HIGH_PFN * PAGE, 2**32 - 1)), "descriptor outside memory"),
    "long": (chain_of(Descriptor(MIB, 32777)), "buffer too long"),
    "sum": (chain_of(Descriptor(MIB, 32768, NEXT, 1), Descriptor(MIB, 9)), "buffer too long"),
    "empty": (chain_of(Descriptor(BUFFER, 0)), "empty descriptor"),
    "written": (chain_of(Descriptor(BUFFER, 4, WRITE)), "descriptor to be written"),
    "indirect": (chain_of(Descriptor(BUFFER, 16, INDIRECT)), "indirect descriptor, which was not offered"),
}  # fmt: skip

NONSENSE_PFNS = {
    "odd": (buffer_of(b"\0" * 6), "length is not a multiple of 4", 0),
    "outside": (buffer_of(pfns(PFN, NOWHERE, PFN + 1)), "pages outside memory", 2),
    "last": (buffer_of(pfns(2**32 - 1)), "pages outside memory", 0),
}

NONSENSE_BITMAPS = {
    "short": (buffer_of(b"\0" * 7), "response header cut short", 0),
    "more": (buffer_of(*response(word(PFN, 1), 15)), "response length is not that of its buffers", 0),
    "less": (buffer_of(*response(word(PFN, 1), 17)), "response length is not that of its buffers", 0),
    "command": (buffer_of(*response(word(PFN, 1), low=1)), "response is not one of pages", 0),
    "id": (buffer_of(*response(word(PFN, 1), low=1 << 16)), "response is not one of pages", 0),
    "cut": (buffer_of(*response(plain(PFN, 0) + word(PFN + 1, 1)[:15])), "bitmap word cut short", 1),
    "tail": (buffer_of(*response(plain(PFN, 0) + b"\0")), "record cut short", 1),
    "width": (buffer_of(*response(plain(PFN, 0) + pack64(4 << 58) * 2)), "bitmap length neither 0 nor 8", 1),
    "shift": (buffer_of(*response(word(PFN, 1, 13) + plain(PFN, 0))), "impossible page shift", 1),
    "small": (buffer_of(*response(plain(PFN, -1) + plain(PFN, 0))), "impossible page shift", 1),
    "run": (buffer_of(*response(plain(NOWHERE - 8, 4) + plain(PFN, 0))), "pages outside memory", 1),
    "bit": (buffer_of(*response(word(NOWHERE, 1) + word(PFN, 5))), "pages outside memory", 2),
    "end": (buffer_of(*response(plain(2**52 - 1, 1) + plain(PFN, 0))), "pages beyond 2^52", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def nonsense_pfn(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Frontend]]:
    with started(build, tmp_path_factory.mktemp("n")) as pair:
        yield pair


@pytest.fixture(scope="module")
def nonsense_bitmap(
    build: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Device, Frontend]]:
    with started(build, tmp_path_factory.mktemp("n"), "--page-bitmap", features=VERSION_1 | BIT_3) as pair:
        yield pair


def assert_refused(pair: tuple[Device, Frontend], prepare: Nonsense, why: str, pages: int) -> None:
    """It comes back, the log says why, what was sound in it was done, and the next buffer is served."""
    device, frontend = pair
    queue = frontend.queues[INFLATE]
    prepare(queue)
    queue.send_described()
    event = device.last_buffer()
    assert device.refusal() == why
    assert (event["refused"], event["pages"]) == (1, pages)
    sound = response(word(PFN + 50, 1)) if event["mode"] == "bitmap" else (pfns(PFN + 50),)
    queue.send(*sound)
    assert counts(device.last_buffer(), "pages", "refused") == [1, 0]


@pytest.mark.parametrize("name", NONSENSE_RINGS)
@pytest.mark.parametrize("mode", ["pfn", "bitmap"])
def test_nonsense_in_rings(request: pytest.FixtureRequest, mode: str, name: str) -> None:
    prepare, why = NONSENSE_RINGS[name]
    assert_refused(request.getfixturevalue(f"nonsense_{mode}"), prepare, why, 0)


@pytest.mark.parametrize("name", NONSENSE_PFNS)
def test_nonsense_in_pfn_arrays(nonsense_pfn: tuple[Device, Frontend], name: str) -> None:
    assert_refused(nonsense_pfn, *NONSENSE_PFNS[name])


@pytest.mark.parametrize("name", NONSENSE_BITMAPS)
def test_nonsense_in_bitmaps(nonsense_bitmap: tuple[Device, Frontend], name: str) -> None:
    assert_refused(nonsense_bitmap, *NONSENSE_BITMAPS[name])


def test_a_head_outside_the_ring_is_passed_over(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    queue = frontend.queues[INFLATE]
    queue.put(pfns(PFN))
    queue.offer(RING_SIZE, kick=False)
    queue.send_described()
    assert device.refusal() == "head outside the ring"
    assert device.last_buffer()["pages"] == 1


def test_an_index_that_runs_away_stops_its_queue_until_it_is_set_up_anew(
    pfn_mode: tuple[Device, Frontend],
) -> None:
    device, frontend = pfn_mode
    inflate, deflate = frontend.queues
    inflate.send(pfns(PFN))
    inflate.set_index(1 + RING_SIZE + 1)
    inflate.kick()
    deflate.send(pfns(PFN))
    assert device.refusal() == "available index ran away; queue stopped"
    inflate.set_index(1)
    assert inflate.stop() == 1
    inflate.start()
    inflate.send(pfns(PFN))
    assert len(device.client.buffers("inflate")) == 3


def test_all_that_is_refused_in_a_buffer_is_counted(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    frontend.queues[INFLATE].send(pfns(NOWHERE, PFN, NOWHERE + 1))
    assert device.events("refused")[-1]["count"] == 2
    assert device.events("refused")[-1]["value"] == NOWHERE


# ---- frontend: features, rings, memory, configuration ----


def test_features_offered(build: Path, tmp_path: Path) -> None:
    for number, (options, bit) in enumerate(
        [([], 0), (["--page-bitmap"], BIT_3), (["--free-page-hint"], BIT_3), (["--deflate-on-oom"], 1 << 2)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with running(build, folder, *options) as device:
            frontend = device.connect()
            # Not offered: packed rings (34), indirect descriptors (28), event index (29).
            assert u64(frontend.ask(GET_FEATURES)) == VERSION_1 | BIT_30 | bit
            frontend.close()


@pytest.mark.parametrize(
    ("request_number", "body"),
    [
        (SET_FEATURES, pack64(1 << 34 | VERSION_1 | BIT_30)),
        (SET_FEATURES, pack64(BIT_3 | VERSION_1)),
        (SET_PROTOCOL_FEATURES, pack64(1 << 12)),
        (SET_VRING_NUM, struct.pack("<II", 2, 16)),
        (SET_VRING_BASE, struct.pack("<II", 9, 0)),
        (SET_VRING_NUM, struct.pack("<II", 0, 32)),  # the queue is running
        (SET_VRING_ENABLE, struct.pack("<II", 2, 1)),
        (SET_VRING_ADDR, struct.pack("<IIQQQQ", 2, 0, 0, 0, 0, 0)),
        (SET_VRING_KICK, pack64(0)),
        (SET_VRING_CALL, pack64(0)),
        (SET_VRING_ERR, pack64(7)),
        (SET_CONFIG, struct.pack("<III", 0, 257, 0)),
        (SET_CONFIG, struct.pack("<III", 0, 8, 0) + b"1234"),
        (SET_MEM_TABLE, struct.pack("<II", 9, 0)),
        (SET_MEM_TABLE, mem_table([(0, LOW_BYTES, USER, 0)])),  # no descriptor comes with it
        (77, b""),
    ],
)
def test_a_mistake_of_the_frontend_fails_and_is_logged(
    nonsense_pfn: tuple[Device, Frontend], request_number: int, body: bytes
) -> None:
    device, frontend = nonsense_pfn
    assert not frontend.tell(request_number, body)
    assert device.events("frontend")[-1]["request"] == request_number
    frontend.queues[INFLATE].send(pfns(PFN))
    assert device.last_buffer()["pages"] == 1


@pytest.mark.parametrize(
    "words",
    [
        struct.pack("<III", GET_FEATURES, 2, 0),  # version 2
        struct.pack("<III", GET_FEATURES, 5, 0),  # an answer
        struct.pack("<III", SET_CONFIG, 1, 1 << 20),
        struct.pack("<III", SET_CONFIG, 1, 1025) + bytes(1025),
        struct.pack("<III", SET_FEATURES, 1, 4) + b"1234",
        struct.pack("<III", GET_VRING_BASE, 1, 8) + struct.pack("<II", 5, 0),
    ],
    ids=["version", "answer", "long", "longer by one", "short", "queue"],
)
def test_a_frontend_that_cannot_be_followed_is_disconnected(
    build: Path, tmp_path: Path, words: bytes
) -> None:
    with running(build, tmp_path) as device:
        frontend = device.connect()
        frontend.connection.sendall(words)
        assert frontend.is_disconnected()
        frontend.close()
        again = device.connect()
        again.start()
        again.queues[INFLATE].send(pfns(PFN))
        assert device.last_buffer()["pages"] == 1
        again.close()


BAD_TABLES = {
    "unaligned": [(1, LOW_BYTES, USER, 0)],
    "empty": [(0, 0, USER, 0)],
    "past the file": [(0, LOW_BYTES + HIGH_BYTES + PAGE, USER, 0)],
    "offset past the file": [(0, PAGE, USER, 1 << 40)],
    "too far": [(1 << 44, PAGE, USER, 0)],
    "wraps": [(2**64 - PAGE, PAGE, USER, 0)],
    "user wraps": [(0, PAGE, 2**64 - 1, 0)],
    "overlap": [(0, LOW_BYTES, USER, 0), (LOW_BYTES - PAGE, PAGE, USER + LOW_BYTES, 0)],
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_memory_that_cannot_be_is_refused_and_stops_the_rings(build: Path, tmp_path: Path, name: str) -> None:
    table = BAD_TABLES[name]
    with started(build, tmp_path) as (device, frontend):
        assert not frontend.tell(SET_MEM_TABLE, mem_table(table), [frontend.memory_fd] * len(table))
        frontend.queues[INFLATE].put(pfns(PFN))
        frontend.queues[INFLATE].offer()
        assert device.client.status()["regions"] == 0
        assert device.client.buffers() == []
        frontend.share_memory()
        assert frontend.queues[INFLATE].wait() == 0
        assert device.last_buffer()["pages"] == 1


@pytest.mark.parametrize("shift", [1 << 30, 8, LOW_BYTES + HIGH_BYTES - 0x2000])
def test_rings_outside_memory_are_not_served(build: Path, tmp_path: Path, shift: int) -> None:
    with started(build, tmp_path) as (device, frontend):
        queue = frontend.queues[INFLATE]
        assert frontend.tell(SET_VRING_ADDR, queue.addresses(shift))
        assert device.events("ring-lost")[-1]["why"] == "ring outside memory or not aligned"
        queue.put(pfns(PFN))
        queue.offer()
        assert device.client.buffers() == []
        assert frontend.tell(SET_VRING_ADDR, queue.addresses())
        assert queue.wait() == 0


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_ring_sizes_that_cannot_be(build: Path, tmp_path: Path, size: int) -> None:
    with started(build, tmp_path) as (device, frontend):
        queue = frontend.queues[INFLATE]
        queue.stop()
        assert frontend.tell(SET_VRING_NUM, struct.pack("<II", 0, size))
        assert frontend.tell(SET_VRING_KICK, pack64(0), [queue.kick_fd])
        assert device.events("ring-lost")[-1]["why"] == "ring size is not a power of two up to 32768"


def test_a_queue_that_is_not_enabled_waits(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    queue = frontend.queues[INFLATE]
    assert frontend.tell(SET_VRING_ENABLE, struct.pack("<II", 0, 0))
    queue.put(pfns(PFN))
    queue.offer()
    assert device.client.buffers() == []
    assert frontend.tell(SET_VRING_ENABLE, struct.pack("<II", 0, 1))
    assert queue.wait() == 0


def test_configuration(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    device.client.set_target_pages(53 * 256)
    assert frontend.channel is not None
    assert struct.unpack("<III", frontend.channel.recv(64)) == (CONFIG_CHANGE, 1, 0)
    for size in (16, 4, 8, 60, 256):
        ask = struct.pack("<III", 0, size, 0)
        answer = frontend.ask(GET_CONFIG, ask + bytes(size))
        assert answer == ask + struct.pack("<II", 53 * 256, 0).ljust(size, b"\0")[:size]
    assert frontend.ask(GET_CONFIG, struct.pack("<III", 4, 4, 0)) == struct.pack("<III4x", 4, 4, 0)
    assert frontend.ask(GET_CONFIG, struct.pack("<III", 0, 257, 0)) == b""
    # QEMU hands the whole space back when the driver writes a part of it; only `actual` is the driver's.
    assert frontend.tell(SET_CONFIG, struct.pack("<IIIIIII", 0, 16, 0, 99, 7, 3, 4))
    status = device.client.status()
    assert (status["target_pages"], status["actual_pages"]) == (53 * 256, 7)
    assert device.client.actual_pages() == 7
    assert frontend.tell(SET_CONFIG, struct.pack("<IIIHxx", 4, 2, 0, 1))
    assert device.client.actual_pages() == 7
    assert frontend.tell(SET_CONFIG, struct.pack("<IIII", 4, 4, 0, 2**32 - 1))
    assert device.client.actual_pages() == 2**32 - 1


def test_reset_and_a_new_start(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    inflate = frontend.queues[INFLATE]
    inflate.send(pfns(PFN))
    assert [queue.stop() for queue in frontend.queues] == [1, 0]
    inflate.put(pfns(PFN + 1))
    inflate.offer()
    device.client.status()
    assert len(device.client.buffers()) == 1
    # A driver that was loaded anew: its ring starts from nothing.
    frontend.write(inflate.base, bytes(0x4000))
    inflate.available = inflate.served = 0
    assert frontend.tell(SET_FEATURES, pack64(VERSION_1 | BIT_30))
    for queue in frontend.queues:
        queue.start()
    inflate.send(pfns(PFN + 2))
    assert counts(device.client.status()["inflate"], "buffers", "pages") == [2, 2]


def test_reconnect_forgets_the_guest_and_keeps_the_totals(build: Path, tmp_path: Path) -> None:
    with running(build, tmp_path) as device:
        for number in range(1, 4):
            frontend = device.connect()
            frontend.start()
            frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
            assert frontend.tell(SET_CONFIG, struct.pack("<IIII", 4, 4, 0, 2))
            status = device.client.status()
            assert (status["ballooned_pages"], status["actual_pages"]) == (2, 2)
            assert counts(status["inflate"], "pages", "already") == [2 * number, 0]
            frontend.close()
            while device.client.status()["connected"]:
                pass
        status = device.client.status()
        assert (status["regions"], status["actual_pages"], status["ballooned_pages"]) == (0, 0, 0)
        assert "memfd:guest" not in Path(f"/proc/{device.process.pid}/maps").read_text()
        assert len(device.events("disconnected")) == 3


def test_half_a_message_and_a_gone_frontend(build: Path, tmp_path: Path) -> None:
    with running(build, tmp_path) as device:
        frontend = device.connect()
        frontend.connection.sendall(b"\1\0\0")
        frontend.close()
        again = device.connect()
        again.negotiate()
        again.close()


def test_many_descriptors_are_not_kept(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    descriptors = Path(f"/proc/{device.process.pid}/fd")
    held = len(list(descriptors.iterdir()))
    for _ in range(20):
        frontend.send(SET_VRING_CALL, pack64(0), [frontend.memory_fd] * 8)
        assert not frontend.tell(GET_FEATURES + 100, b"", [frontend.memory_fd] * 20)
        frontend.share_memory()
        frontend.queues[INFLATE].set_call()
    assert len(list(descriptors.iterdir())) == held


# ---- options, control socket, end ----


def spent(event: Json) -> tuple[int, int]:
    """Extra time outside calls and inside, which must both be part of what the buffer took."""
    assert event["extra_ns"] + event["held_ns"] <= event["ns"]
    return event["extra_ns"], event["held_ns"]


def test_extra_time_is_spent_and_told(build: Path, tmp_path: Path) -> None:
    extra = ExtraTime(per_buffer_ns=3_000_000, per_discard_ns=1_000_000, in_discard_ns=2_000_000)
    with started(build, tmp_path, *extra.words()) as (device, frontend):
        frontend.fill(PFN, 2)
        frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
        outside_ns, inside_ns = spent(device.last_buffer())
        assert outside_ns >= 5_000_000
        assert inside_ns >= 4_000_000
        assert frontend.page(PFN) == frontend.page(PFN + 1) == bytes(PAGE)
        assert counts(device.last_buffer(), "discards", "discarded_bytes", "errors") == [2, 2 * PAGE, 0]
        frontend.queues[DEFLATE].send(pfns(PFN, PFN + 1))
        outside_ns, inside_ns = spent(device.last_buffer())
        assert outside_ns >= 5_000_000
        assert inside_ns == 0  # MADV_WILLNEED removes nothing, so nothing holds it
        status = device.client.status()
        for queue, event in zip(("inflate", "deflate"), device.client.buffers(), strict=True):
            assert counts(status[queue], "extra_ns", "held_ns") == counts(event, "extra_ns", "held_ns")


def test_calls_are_timed_when_wanted(build: Path, tmp_path: Path) -> None:
    extra = ExtraTime(per_discard_ns=1_000_000, in_discard_ns=2_000_000)
    with started(build, tmp_path, "--time-calls", *extra.words()) as (device, frontend):
        frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
        frontend.queues[DEFLATE].send(pfns(PFN))
        inflate, deflate = device.client.buffers()
        assert 4_000_000 <= inflate["held_ns"] <= inflate["calls_ns"] <= inflate["ns"] - inflate["extra_ns"]
        assert 0 < deflate["calls_ns"] <= deflate["ns"] - deflate["extra_ns"]
        status = device.client.status()
        assert [status[each["queue"]]["calls_ns"] for each in (inflate, deflate)] == [
            inflate["calls_ns"],
            deflate["calls_ns"],
        ]


def test_calls_that_are_not_timed_have_no_time(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    frontend.queues[INFLATE].send(pfns(PFN))
    assert "calls_ns" not in device.last_buffer()
    assert "calls_ns" not in device.client.status()["inflate"]


def test_extra_time_is_set_and_taken_back_while_it_runs(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    queue = frontend.queues[INFLATE]
    moments = (
        ExtraTime(),
        ExtraTime(per_buffer_ns=2_000_000),
        ExtraTime(in_discard_ns=2_000_000),
        ExtraTime(),
        ExtraTime(per_discard_ns=1_000_000, in_discard_ns=1_000_000),
        ExtraTime(),
    )
    for moment in moments:
        device.client.set_extra_time(moment)
        queue.send(pfns(PFN, PFN + 1, HIGH_PFN))
        outside_ns, inside_ns = spent(device.last_buffer())
        wanted_ns = moment.per_buffer_ns + 3 * moment.per_discard_ns, 3 * moment.in_discard_ns
        assert (outside_ns >= wanted_ns[0], inside_ns >= wanted_ns[1]) == (True, True)
        assert (outside_ns > 0, inside_ns > 0) == (wanted_ns[0] > 0, wanted_ns[1] > 0)
    told = [
        tuple(counts(e, "per_buffer_ns", "per_discard_ns", "in_discard_ns")) for e in device.events("extra")
    ]
    assert told == [(each.per_buffer_ns, each.per_discard_ns, each.in_discard_ns) for each in moments]


def test_new_memory_is_held_too(build: Path, tmp_path: Path) -> None:
    with started(build, tmp_path, *ExtraTime(in_discard_ns=1_000_000).words()) as (device, frontend):
        for _ in range(3):
            frontend.share_memory()
            frontend.queues[INFLATE].send(pfns(HIGH_PFN))
            assert spent(device.last_buffer())[1] >= 1_000_000
        assert device.events("not-held") == []


def test_bit_3_means_what_the_drivers_queues_say(build: Path, tmp_path: Path) -> None:
    """One device, drivers of both kinds one after the other, as when modules are unloaded and loaded."""
    options = ("--page-bitmap", "--free-page-hint")
    with started(build, tmp_path, *options, features=VERSION_1 | BIT_3) as (device, frontend):
        assert u64(frontend.ask(GET_QUEUE_NUM)) == 3
        hints = Queue(frontend, 2)
        hints.set_call()
        for with_hints in (False, True, False, True):
            if with_hints:
                hints.start()
                frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
                assert hints.stop() == 0
            else:
                frontend.queues[INFLATE].send(*response(plain(PFN, 1)))
            mode = "pfn" if with_hints else "bitmap"
            assert (device.last_buffer()["mode"], device.last_buffer()["pages"]) == (mode, 2)
        assert device.events("refused") == []
        hints.close()


def test_nothing_is_discarded_when_told_so(build: Path, tmp_path: Path) -> None:
    with started(build, tmp_path, "--no-discard") as (device, frontend):
        frontend.fill(PFN)
        frontend.queues[INFLATE].send(pfns(PFN))
        frontend.queues[DEFLATE].send(pfns(PFN))
        assert frontend.page(PFN) == b"\xa5" * PAGE
        assert [counts(e, "pages", "discards", "willneeds") for e in device.client.buffers()] == [
            [1, 0, 0]
        ] * 2


@pytest.mark.parametrize(
    "line",
    [
        *("target", "target x", "target -1", "target 4294967296", "hello", "", "target 1 2", "x" * 300),
        *("extra", "extra ", "extra 1", "extra 1 2", "extra 1 2 3 4", "extra 1 2 -3", "extra 1 2 3x"),
    ],
)
def test_commands_that_are_none(build: Path, tmp_path: Path, line: str) -> None:
    with running(build, tmp_path) as device:
        with pytest.raises(LabError, match=r"refused"):
            device.client.command(line)
        device.client.close()
        assert device.client.status()["target_pages"] == 0


def test_totals_go_to_the_log(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    assert device.client.pid() == device.process.pid
    frontend.queues[INFLATE].send(pfns(PFN))
    answer = device.client.command("totals")
    (event,) = device.events("totals")
    assert {key: event[key] for key in answer} == answer


def test_too_many_clients_are_turned_away(build: Path, tmp_path: Path) -> None:
    with running(build, tmp_path) as device:
        clients = [type(device.client)(tmp_path, device.client._connect) for _ in range(9)]
        results = []
        for client in clients:
            try:
                client.status()
                results.append(True)
            except LabError:
                results.append(False)
        assert results == [True] * 7 + [False] * 2
        for client in clients:
            client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(build: Path, tmp_path: Path, number: int) -> None:
    with pytest.raises(LabError), running(build, tmp_path) as device:  # noqa: PT012
        device.client.set_target_pages(5)
        device.process.send_signal(number)
        assert device.process.wait(10) == 0
        device.client.status()
    events = parse_log((tmp_path / "backend.log").read_text())
    assert [event["event"] for event in events] == ["target", "totals"]
    assert not (tmp_path / "vhost").exists()
    assert not (tmp_path / "control").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--socket", "a", "--fd", "0"],
        ["--fd", "0"],
        ["--socket", "a", "more"],
        ["--socket", "a", "--extra-ns-per-buffer", "-1"],
        ["--socket", "a", "--extra-ns-in-discard", "1ms"],
        ["--nonsense"],
    ],
)
def test_usage(build: Path, tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [build / "balloon-backend", *words], cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert b"balloon-backend: " in done.stderr


def test_a_build_is_named_by_its_sources(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int one;\n")
    (tmp_path / "Makefile").write_text("all:\n")
    first = backend_key(tmp_path)
    assert backend_key(tmp_path) == first
    assert backend_key(tmp_path, sanitize=True) != first
    (tmp_path / "one.c").write_text("int two;\n")
    assert backend_key(tmp_path) != first
