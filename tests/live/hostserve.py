# SPDX-License-Identifier: GPL-2.0-or-later
"""`hostserve` in a guest: a process that serves buffers on command, as a VMM would."""

from __future__ import annotations

from pathlib import Path

from tracing import shell

import lab

SOURCE = Path(__file__).with_name("hostserve.c")
WARM_UP = "none 0"  # a read of the kick that began before probes were attached is not seen


def build_hostserve(guest: lab.Guest) -> None:
    source = guest.push(SOURCE)
    guest.run(["gcc", "-O2", "-Wall", "-pthread", "-o", "/tmp/hostserve", source], timeout_s=120, check=True)


class Server:
    """`hostserve` in a guest, obeying orders."""

    def __init__(self, guest: lab.Guest, name: str, *, vm: str | None = None) -> None:
        """With `vm` it looks like a VMM of that VM: by its command line, and by what it has open."""
        self.guest = guest
        self.orders = f"/tmp/{name}.orders"
        guest.run(["mkfifo", self.orders], check=True)
        looks = f"-name guest={vm} 9<>/dev/kvm" if vm else ""
        self.process = guest.start(shell(f"exec /tmp/hostserve {looks} <> {self.orders}"))
        self.process.wait_for(b"serving", 60, stream="stdout")
        self.pid = self.process.pid
        self._done = 0

    def serve(self, *orders: str) -> None:
        """Has it serve one buffer per order."""
        lines = "".join(f"{order}\\n" for order in orders)
        self.guest.run(shell(f"printf '{lines}' > {self.orders}"), check=True)
        self._done += len(orders)
        wanted = b"done\n" * self._done
        self.process.wait_for(wanted, 60, stream="stdout")

    def end(self) -> None:
        self.guest.run(shell(f"echo exit > {self.orders}"), check=True)
        self.process.wait(30)
        self.guest.run(["rm", self.orders], check=True)
