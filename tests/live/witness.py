# SPDX-License-Identifier: GPL-2.0-or-later
"""What kernel and device say of the time of a test, the device being the lab's own."""

from __future__ import annotations

import struct

from tracing import Json, change

import lab

QUEUES = ("inflate", "deflate")


def difference(before: Json, after: Json) -> Json:
    return {name: after[name] - before[name] for name in after}


class Witness:
    """What kernel and device have counted since this was made."""

    def __init__(self, guest: lab.Guest) -> None:
        self._guest = guest
        self._vmstat = guest.vmstat()
        self._status = guest.backend.status()
        self._known = len(guest.backend.buffers())

    def vmstat(self) -> list[int]:
        """Pages inflated and deflated, as the kernel counts them."""
        return change(self._vmstat, self._guest.vmstat(), ("balloon_inflate", "balloon_deflate"))

    def migrated(self) -> int:
        return change(self._vmstat, self._guest.vmstat(), ["balloon_migrate"])[0]

    def totals(self) -> Json:
        """The device's counts, by queue."""
        now = self._guest.backend.status()
        return {queue: difference(self._status[queue], now[queue]) for queue in QUEUES}

    def buffers(self) -> list[Json]:
        """The device's log of each buffer, with its bytes as `raw`."""
        device = self._guest.backend
        both = zip(device.buffers()[self._known :], device.payloads()[self._known :], strict=True)
        return [{**event, "raw": raw} for event, raw in both]

    def sent_words(self) -> list[tuple[Json, list[int]]]:
        """Each buffer as the device logged it, and the words of its payload without the header."""
        found = []
        for buffer in self.buffers():
            head, *words = struct.unpack(f"<{len(buffer['raw']) // 8}Q", buffer["raw"])
            assert head == len(words) * 8 << 32
            found.append((buffer, words))
        return found
