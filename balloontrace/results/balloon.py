# SPDX-License-Identifier: GPL-2.0-or-later
"""The balloons at both ends of a recording, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BalloonState:
    """A balloon when the recording began or ended, and where each number comes from.

    `present` is False where its device was not there.
    """

    present: bool | None
    size_pages: int | None
    size_source: str | None
    target_pages: int | None
    target_source: str | None


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What left a balloon outside of work items: `how`, in how many calls, and where the last one left it.

    `below_target_pages` is how far the balloon was below its target then.
    """

    how: str
    calls: int
    pages: int | None
    below_target_pages: int | None


@dataclass(frozen=True, slots=True)
class Balloon:
    """Size and target of one balloon at both ends of a recording.

    At its end the balloon was `below_target_pages` too small or `above_target_pages` too large; a target is
    met where the driver, which moves whole pages of its kernel, can come no nearer.
    """

    device: str
    at_start: BalloonState
    at_end: BalloonState
    below_target_pages: int | None
    above_target_pages: int | None
    given_back: tuple[GivenBack, ...] = ()
