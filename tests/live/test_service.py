# SPDX-License-Identifier: GPL-2.0-or-later
"""The systemd unit of the Debian package under a real systemd: ready, watched, restarted, hardened, stopped.

The lab's agent is process 1 of every guest, so systemd has a PID namespace of its own, as in a container.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from tracing import shell

import lab
from lab.kernels import SYSTEMD
from lab.metrics_client import raise_loopback
from packages.__main__ import make_all

START_S, WAIT_S = 300, 180
MOST_TENTHS = 40  # of systemd-analyze security
UNIT = "balloontrace.service"
SCRAPE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9435/metrics').read())"
TRACES = (
    "pgrep -af '[b]alloontrace'; cat /sys/kernel/debug/kprobes/list /sys/kernel/tracing/enabled_functions"
)
SHOW = "systemctl show --value -p"
# Each second counts here: by default the watchdog waits for a minute.
DROP_IN = """\
mkdir -p /etc/systemd/system/balloontrace.service.d
printf '[Service]\\nWatchdogSec=20\\nRestartSec=0\\nTimeoutStartSec=300\\n' \\
    > /etc/systemd/system/balloontrace.service.d/quick.conf
"""
# Udev would add all devices anew, which nobody waits for.
SYSTEMD_OF_ITS_OWN = """\
for unit in systemd-udevd systemd-udev-trigger; do ln -sf /dev/null /etc/systemd/system/$unit.service; done
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
exec unshare --mount --pid --cgroup --fork --kill-child --mount-proc \\
    env container=lab /lib/systemd/systemd --unit=basic.target
"""


class Manager:
    """systemd in a guest."""

    def __init__(self, guest: lab.Guest) -> None:
        self._guest = guest
        self._process = guest.start(shell(SYSTEMD_OF_ITS_OWN))
        self.wait_until("test -S /run/systemd/private")

    def wait_until(self, script: str) -> None:
        """Until it is true in the namespace of systemd."""
        looping = f"until {self._inside(script)}; do sleep 1; done"
        self._guest.run(shell(looping), timeout_s=START_S, check=True)

    def run(self, script: str) -> str:
        """A script beside it; what it says."""
        return self._guest.run(shell(self._inside(script)), timeout_s=START_S, check=True).stdout

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.run(f"{SHOW} {name} {UNIT}").strip()

    def end(self) -> None:
        self._process.signal(9)
        self._process.wait(WAIT_S)

    def _inside(self, script: str) -> str:
        # Its process 1 is the only child of unshare, once that has made the namespaces.
        find = f"$(cat /proc/{self._process.pid}/task/{self._process.pid}/children)"
        return f"nsenter -t {find} -m -p -C sh -c {quote(script)}"


@contextmanager
def managed(guest: lab.Guest) -> Iterator[Manager]:
    manager = Manager(guest)
    try:
        yield manager
    finally:
        manager.end()


def test_the_unit_under_systemd(tmp_path: Path) -> None:
    deb = make_all(tmp_path)[-1]
    with lab.solo(spec=SYSTEMD, memory_mib=2048, cpus=1) as guest:
        guest.run(["dpkg", "-i", guest.push(deb)], check=True, timeout_s=START_S)
        guest.run(shell(DROP_IN), check=True)
        raise_loopback(guest)
        with managed(guest) as manager:
            manager.run(f"systemctl start {UNIT}")  # it returns when the service says that it is ready
            assert (manager.show("ActiveState"), manager.show("SubState")) == ("active", "running")
            metrics = guest.run(["python3", "-c", SCRAPE], check=True, timeout_s=WAIT_S).stdout
            assert "balloontrace_actual_bytes" in metrics
            manager.run(f"systemd-analyze security --no-pager --threshold={MOST_TENTHS} {UNIT}")
            first, watched = manager.show("MainPID"), manager.show("WatchdogTimestampMonotonic")
            manager.wait_until(f'test "$({SHOW} WatchdogTimestampMonotonic {UNIT})" != {watched}')
            assert manager.show("NRestarts") == "0"
            manager.run(f"kill -STOP {first}")  # it is heard of no longer, killed, and started anew
            manager.wait_until(f'test "$({SHOW} NRestarts {UNIT})" = 1')
            manager.wait_until(f'test "$(systemctl is-active {UNIT})" = active')
            assert manager.show("MainPID") != first
            manager.run(f"systemctl stop {UNIT}")
            assert (manager.show("Result"), manager.show("ExecMainStatus")) == ("success", "0")
        assert guest.run(shell(TRACES)).stdout == ""
