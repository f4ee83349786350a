# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of a guest's balloons a host's process serves: all of them, or one of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column
from balloontrace.analysis.matching import TooManyWaysError
from balloontrace.analysis.matching_calls import Calls
from balloontrace.analysis.matching_candidates import Partners
from balloontrace.analysis.nesting import UNKNOWN_DEVICE
from balloontrace.errors import RecordingError
from balloontrace.units import format_things

_Rows = NDArray[np.intp]


def find_sends(
    sends: _Rows, device: Column, as_calls: Callable[[_Rows], Calls], find: Callable[[Calls], Partners]
) -> tuple[_Rows, Calls, Partners]:
    """The sends that a process served, and their partners: all, else those of one balloon.

    `device` has the number of each send's device. RecordingError as `find` says of all sends, where these
    buffers are of no one balloon either; TooManyWaysError where they may be of several.
    """
    guest = as_calls(sends)
    try:
        return sends, guest, find(guest)
    except RecordingError as error:
        devices = np.unique(device).tolist()
        if len(devices) < 2 or UNKNOWN_DEVICE in devices:
            raise
        problem = error
    found = [each for number in devices if (each := _of_one(sends[device == number], as_calls, find))]
    if not found:
        raise problem
    if len(found) > 1:
        raise TooManyWaysError(
            "the recordings cannot be matched: the served buffers agree with the sends of "
            f"{len(found)} balloons"
        )
    mine, guest, partners = found[0]
    others = format_things(len(sends) - len(mine), "send is", "sends are")
    note = f"{others} of other balloons, which this process did not serve"
    return mine, guest, replace(partners, notes=(note, *partners.notes))


def _of_one(
    sends: _Rows, as_calls: Callable[[_Rows], Calls], find: Callable[[Calls], Partners]
) -> tuple[_Rows, Calls, Partners] | None:
    """The same for one balloon; None where these buffers are not its own. TooManyWaysError as `find`."""
    guest = as_calls(sends)
    try:
        return sends, guest, find(guest)
    except TooManyWaysError:
        raise
    except RecordingError:
        return None
