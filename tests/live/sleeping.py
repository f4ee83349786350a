# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that goes to sleep and wakes up at once: drivers freeze and restore their devices."""

from __future__ import annotations

import re

from tracing import shell

import lab

# 9p has no freeze: what it has in flight is lost, and so is its queue. So its folders are not mounted then.
# Nobody's output may go there meanwhile, and what wakes the guest up again is the kernel's own test of sleep.
_SLEEP = """
until umount /io; do sleep 0.1; done
umount /repo /lab/repo
echo 0 > /sys/module/suspend/parameters/pm_test_delay
echo devices > /sys/power/pm_test
echo freeze > /sys/power/state
status=$?
cd /sys/bus/virtio/drivers/9pnet_virtio
for device in virtio*; do
    echo $device > unbind
    echo $device > bind
done
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o ro,$options,cache=loose repo /lab/repo
mount -t overlay -o lowerdir=/lab/repo,upperdir=/lab/repo-upper,workdir=/lab/repo-work overlay /repo
mount -t 9p -o $options,cache=none io /io
echo "slept: $status" > /dev/console
"""
_WAKES_S = 60
_ENDED = re.compile(r"slept: (\d+)\n")  # a console is written letter by letter


def sleep_and_wake(guest: lab.Guest) -> None:
    """Once. Nothing that was started in the guest may have its output in /io, or files of /repo open."""
    told = len(_ENDED.findall(guest.console()))
    guest.run(["sh", "-c", 'echo "$1" > /root/sleep.sh', "sh", _SLEEP], check=True)
    guest.run(shell("cd /; setsid sh /root/sleep.sh </dev/null >/root/sleep.log 2>&1 &"), check=True)
    guest.wait_until(
        lambda: len(_ENDED.findall(guest.console())) > told, _WAKES_S, what="the guest waking up", every_s=0.1
    )
    assert _ENDED.findall(guest.console())[-1] == "0", guest.pull("/root/sleep.log")
