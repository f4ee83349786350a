# SPDX-License-Identifier: GPL-2.0-or-later
"""Readings of the machine at wake-ups: which of them a recording keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

State = Mapping[str, object]


class Readings:
    """Keeps the last reading before something moved, those while it moves, and the first one behind.

    So each operation has a reading before it and one after it, within a wake-up or two, and a recorder that
    waits for days writes none. A reading is taken before the counters that tell whether something moved:
    what they do not show yet, it does not have in it.
    """

    def __init__(self, write: Callable[[State], None]) -> None:
        """`write` appends one to the recording."""
        self._write = write
        self._unwritten: State | None = None
        self._activity: object = None
        self._is_first = True
        self._was_moving = False

    def look(self, state: State, activity: object) -> None:
        """Take a reading; `activity` differs from the last one if something has moved since.

        Nothing is kept of an empty `state`. OSError as writing raises it.
        """
        moving = not self._is_first and activity != self._activity
        self._follow(state, activity, keep=moving or self._was_moving)
        self._was_moving = moving

    def finish(self, state: State, activity: object) -> None:
        """Take the last reading: kept if something moved since the last one that was written."""
        self._follow(state, activity, keep=activity != self._activity or self._was_moving)

    def _follow(self, state: State, activity: object, *, keep: bool) -> None:
        self._is_first, self._activity = False, activity
        if not state:
            return
        reading = {"monotonic_ns": time.monotonic_ns(), **state}
        if not keep:
            self._unwritten = reading
            return
        if self._unwritten is not None:
            self._write(self._unwritten)
            self._unwritten = None
        self._write(reading)
