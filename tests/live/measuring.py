# SPDX-License-Identifier: GPL-2.0-or-later
"""What live tests of `measure` share: guests reached by ssh, `measure` at work, and what it may not leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tracing import ROOT, shell

import lab
from lab import ssh
from lab.cache import run_folder
from lab.folders import read_state
from lab.kernels import ImageSpec

MEASURE_S = 600
# A recorder, what was copied and what keeps it, and whatever is attached.
_LEFT = """
pgrep -af '[b]alloontrace'
ls -d /tmp/[b]alloontrace-* /var/tmp/[b]alloontrace-* 2>/dev/null
cat /sys/kernel/debug/kprobes/list /sys/kernel/tracing/enabled_functions
"""
SECOND_QMP, AGENT = "measure.qmp", "agent"
AGENT_PORT = "org.qemu.guest_agent.0"
# Without udev a port has no name in /dev.
START_AGENT = f"""
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" = {AGENT_PORT} ] && exec qemu-ga -m virtio-serial -p /dev/${{port##*/}} -t /run
done
exit 1
"""


@dataclass(frozen=True)
class Reached:
    """A guest whose sshd answers this machine, and the socket through which `measure` drives it."""

    guest: lab.Guest
    sshd: lab.GuestProcess
    way: ssh.Way
    qmp: Path
    agent: Path

    def words(self) -> list[str]:
        """How `measure` reaches both."""
        return ["--qmp", str(self.qmp), *self.words_of_guest()]

    def pid(self) -> int:
        """The process that serves the balloon."""
        state = read_state(run_folder() / self.guest.name)
        assert state is not None
        return state.qemu.pid

    def connections(self) -> int:
        """How often somebody has logged in."""
        return self.sshd.read("stderr").count(b"Accepted publickey")

    def words_of_guest(self) -> list[str]:
        return ["--guest", ssh.DESTINATION, "--ssh", self.way.command]


@contextmanager
def reached(folder: Path, memory_mib: int, spec: ImageSpec) -> Iterator[Reached]:
    """A guest on this machine. The lab keeps QEMU's first QMP socket for itself, so it has a second one."""
    way = ssh.Way(ssh.make_key(folder), ssh.free_port())
    qmp = folder / SECOND_QMP
    agent = folder / AGENT
    options = (
        *ssh.network_arguments(way.port),
        *("-qmp", f"unix:{qmp},server=on,wait=off"),
        *("-chardev", f"socket,id=ga,path={agent},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=ga,name={AGENT_PORT}"),
    )
    with lab.solo(memory_mib=memory_mib, cpus=1, spec=spec, extra_args=options) as guest:
        sshd = ssh.start_sshd(guest, way.key.with_suffix(".pub").read_bytes())
        guest.start(shell(START_AGENT))
        yield Reached(guest, sshd, way, qmp, agent)


class Measuring:
    """`balloontrace measure` at work on this machine; its standard error is read as it comes."""

    def __init__(self, *words: str | Path, python: Sequence[str] = (sys.executable,)) -> None:
        self._process = subprocess.Popen(
            [*python, "-m", "balloontrace", "measure", *words],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = ""

    def wait_for(self, words: str) -> None:
        """Until it says so; an end before is a failure."""
        assert self._process.stderr is not None
        while words not in self.said:
            line = self._process.stderr.readline()
            assert line, f"it ended without {words!r}:\n{self.said}"
            self.said += line

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def threads(self) -> int:
        """How many it has."""
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def children(self) -> list[int]:
        """Its own processes, by their numbers."""
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def wait(self) -> tuple[int, str]:
        """Its exit status and output; all it said is in `said`."""
        output, said = self._process.communicate(timeout=MEASURE_S)
        self.said += said
        return self._process.returncode, output


def assert_nothing_left(guest: lab.Guest) -> None:
    """No recorder runs in the guest, nothing is attached, and nothing copied is there."""

    def is_clean() -> bool:
        return not guest.run(shell(_LEFT), check=True).stdout

    guest.wait_until(is_clean, 60, what="a guest without anything of measure")
