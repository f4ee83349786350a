# SPDX-License-Identifier: GPL-2.0-or-later
"""An aged guest: its free memory in small pieces, and how small they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from signal import SIGTERM

from lab.guest import Guest
from lab.kernels import ImageSpec
from lab.patched_driver import ensure_driver

_FILL_S = 180
_END_S = 60


@contextmanager
def fragmented(
    guest: Guest, *, mib: int, keep_percent: int = 10, seed: int = 1, spec: ImageSpec | None = None
) -> Iterator[str]:
    """A guest of which `mib` were filled and given back page by page, except for `keep_percent` at random.

    Yields what the program said it kept; at the end the rest is given back too. Raises LabError.
    """
    inside = guest.push(ensure_driver(spec).fragment)
    argv = [inside, "--mib", str(mib), "--keep-percent", str(keep_percent), "--seed", str(seed)]
    program = guest.start(argv)
    try:
        program.wait_for(b"pages\n", _FILL_S, stream="stdout")
        yield program.read("stdout").decode().strip()
    finally:
        program.signal(SIGTERM)
        program.wait(_END_S)


def read_free_blocks(guest: Guest) -> tuple[int, ...]:
    """Free blocks of 1, 2, 4, ... pages in the guest, of all its zones together."""
    return parse_buddyinfo(guest.run(["cat", "/proc/buddyinfo"], check=True).stdout)


def parse_buddyinfo(text: str) -> tuple[int, ...]:
    """Free blocks by order, added up over all lines of /proc/buddyinfo."""
    rows = [[int(word) for word in line.split()[4:]] for line in text.splitlines()]
    return tuple(sum(column) for column in zip(*rows, strict=True))


def free_pages(blocks: Sequence[int]) -> int:
    """Pages in all these blocks together."""
    return sum(count << order for order, count in enumerate(blocks))


def share_in_small_blocks(blocks: Sequence[int], below_order: int = 4) -> float:
    """How much of the free memory is in blocks of less than 2^below_order pages: 0 fresh, 1 in pieces."""
    return free_pages(blocks[:below_order]) / max(1, free_pages(blocks))
