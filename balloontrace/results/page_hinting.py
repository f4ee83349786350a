# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest hinted of its free pages while it migrated, as frozen data; None means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass

NO_BLOCK_LEFT = "no free block left"
STOPPED = "stopped by the device"
ANOTHER_COMMAND = "another command"
DONE = "done"
SHRINKER = "shrinker"


@dataclass(frozen=True, slots=True)
class HintRound:
    """Blocks sent to the host under one command id; it ended by one of the first four words above."""

    command_id: int
    started_ns: int
    duration_ns: int
    blocks: int | None
    pages: int
    rate_bytes_per_s: float | None
    ended_by: str


@dataclass(frozen=True, slots=True)
class HintReturn:
    """Hinted pages given back to the allocator for one reason: DONE, or SHRINKER where memory is short.

    `started_ns` is when the first of these calls began; `duration_ns` is the time inside them.
    """

    why: str
    calls: int
    started_ns: int
    duration_ns: int
    blocks: int | None
    pages: int


@dataclass(frozen=True, slots=True)
class HintOperation:
    """Everything hinted of one device from a first command id until it said that it is done.

    `wall_ns` lasts until the last page was back; None where that was not seen. `sending_ns` and the rate are
    of its rounds alone. `held_pages` are those that the driver still had at the end.
    """

    number: int
    device: str
    started_ns: int
    wall_ns: int | None
    blocks: int | None
    pages: int
    sending_ns: int
    rate_bytes_per_s: float | None
    held_pages: int | None
    rounds: tuple[HintRound, ...]
    returns: tuple[HintReturn, ...]


@dataclass(frozen=True, slots=True)
class PageHinting:
    """Free blocks that the host need not migrate; the guest's driver keeps them meanwhile.

    `calls` of the work item took `calls_ns`. Where `unknown_calls` are not 0, what these did could not be
    read, and they are part of no operation. A block has 2^`order` pages of the guest's kernel.
    """

    calls: int
    calls_ns: int
    unknown_calls: int
    order: int | None
    operations: tuple[HintOperation, ...] = ()
