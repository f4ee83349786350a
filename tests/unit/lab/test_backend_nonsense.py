# SPDX-License-Identifier: GPL-2.0-or-later
"""What no driver sends: refused, counted and logged, and the device goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backend_device import NOWHERE, PFN, counts, started
from frontend import (
    BIT_3,
    HIGH_PFN,
    INDIRECT,
    INFLATE,
    LOW_BYTES,
    MIB,
    NEXT,
    PAGE,
    RING_SIZE,
    VERSION_1,
    WRITE,
    Descriptor,
    Device,
    Frontend,
    Queue,
    pack64,
    pfns,
    plain,
    response,
    word,
)

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
