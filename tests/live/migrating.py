# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations that go nowhere: QEMU reads and sends all of a guest, which goes on where it is."""

from __future__ import annotations

import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracing import ATTACH_S, ATTACHED, Recorder

import lab

# QEMU does not migrate a guest with folders of this machine. No program may have a file of theirs open.
_AWAY = """
exec </dev/null >/dev/null 2>&1
grep -E ' (9p|overlay) ' /proc/mounts >/root/mounts
come_back() {
    while read -r tag place type options rest; do
        mount -t "$type" -o "$options" "$tag" "$place" || exit 1
    done </root/mounts
    kill $!
    exit 0
}
trap come_back USR1
umount /repo /lab/repo /io
sleep 1000 &
wait
"""
_ENDED = ("completed", "failed", "cancelled")
_POP = re.compile(r"virtqueue_pop vq (0x[0-9a-f]+) .* in_num (\d+) out_num (\d+)$")
TRACE = "virtqueue_pop"
TO_NOBODY = "exec:cat >/dev/null"


@contextmanager
def without_folders(guest: lab.Guest) -> Iterator[None]:
    """Meanwhile no command can be started: what it says would go into a folder."""
    away = guest.start(["sh", "-c", _AWAY])
    yield
    away.signal(signal.SIGUSR1)
    away.wait(60, check=True)


def start_migration(guest: lab.Guest, bytes_per_s: int) -> None:
    """Begins as soon as the guest has let go of its folders."""
    guest.qmp("migrate-set-parameters", max_bandwidth=bytes_per_s)
    guest.wait_until(lambda: _is_taken(guest), 60, what="a guest without folders")


def _is_taken(guest: lab.Guest) -> bool:
    try:
        guest.qmp("migrate", uri=TO_NOBODY)
    except lab.QmpError as error:
        if "VirtFS" in str(error):
            return False
        raise
    return True


def end_migration(guest: lab.Guest) -> dict[str, int]:
    """As fast as can be; QEMU's own figures of memory. The guest goes on."""
    guest.qmp("migrate-set-parameters", max_bandwidth=1 << 40)
    guest.wait_until(lambda: _status(guest) in _ENDED, 120, what="the end of the migration")
    assert _status(guest) == "completed"
    told: dict[str, int] = guest.qmp("query-migrate")["ram"]
    guest.qmp("cont")
    return told


def migrated_bytes(guest: lab.Guest) -> int:
    """How much QEMU has sent so far."""
    return int(guest.qmp("query-migrate").get("ram", {}).get("transferred", 0))


def cancel_migration(guest: lab.Guest) -> None:
    guest.qmp("migrate_cancel")
    guest.wait_until(lambda: _status(guest) in _ENDED, 60, what="the end of a cancelled migration")


def _status(guest: lab.Guest) -> str:
    return str(guest.qmp("query-migrate")["status"])


def start_apart(guest: lab.Guest, words: str, says: str) -> lab.GuestProcess:
    """A command that has no file of this machine's folders open."""
    return guest.start(["sh", "-c", f"exec {words} </dev/null >/dev/null 2>{says}"])


def record_apart(guest: lab.Guest, name: str, options: str = "") -> Recorder:
    """A recorder of that kind, whose probes are not yet attached."""
    path, says = f"/root/{name}.bt", f"/root/{name}.err"
    return Recorder(guest, path, start_apart(guest, f"balloontrace record -o {path} {options}", says))


def wait_attached_apart(guest: lab.Guest, name: str) -> None:
    says = ["cat", f"/root/{name}.err"]
    guest.wait_until(
        lambda: ATTACHED in guest.run(says).stdout_bytes, ATTACH_S, what="probes attached", every_s=0.5
    )


class HintQueue:
    """What QEMU took from the balloon's queue of hints, by its own trace."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def read(self) -> Counter[str]:
        """How many ids and blocks: this queue alone has elements of both kinds."""
        queues: dict[str, Counter[str]] = defaultdict(Counter)
        kinds = {("0", "1"): "ids", ("1", "0"): "blocks"}
        for line in self.log.read_text().splitlines():
            if found := _POP.search(line):
                queues[found[1]][kinds.get((found[2], found[3]), "others")] += 1
        hints = [each for each in queues.values() if each["ids"] and each["blocks"]]
        assert len(hints) <= 1, hints
        return hints[0] if hints else Counter()
