# SPDX-License-Identifier: GPL-2.0-or-later
"""Readings of the machine at wake-ups: which of them a recording keeps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

State = Mapping[str, object]


class Readings:
    """Keeps the last readings before something moved, those while it moves, and the first one behind.

    So each operation has a reading before it and one after it, within a wake-up or two, and a recorder that
    waits for days writes none.
    """

    def __init__(self, write: Callable[[State], None], before: int = 1) -> None:
        """`write` appends one to the recording; so many are kept from before something moved."""
        self._write = write
        self._unwritten: deque[State] = deque(maxlen=before)
        self._activity: object = None
        self._is_first = True
        self.moving = self._was_moving = False  # at the last look

    def follow(self, activity: object) -> bool:
        """Whether something is moving: `activity` differs from the last one if something moved since."""
        self._was_moving = self.moving
        self.moving = not self._is_first and activity != self._activity
        self._is_first, self._activity = False, activity
        return self.moving

    def take(self, state: State) -> None:
        """Take the reading that goes with the last activity. Nothing is kept of an empty one.

        OSError as writing raises it.
        """
        if not state:
            return
        reading = {"monotonic_ns": time.monotonic_ns(), **state}
        if not self.moving and not self._was_moving:
            self._unwritten.append(reading)
            return
        while self._unwritten:
            self._write(self._unwritten.popleft())
        self._write(reading)

    def finish(self, state: State, activity: object) -> None:
        """Take the last reading: kept if something moved since the last one that was written."""
        self.follow(activity)
        self.take(state)
