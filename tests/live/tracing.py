# SPDX-License-Identifier: GPL-2.0-or-later
"""What live tests of the recorder share: recorders in a guest, what they wrote, a guest left as found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lab
from lab.metrics_client import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
MIB_PAGES = 256
PAGE_BYTES = 4096
FULL_MIB = 8192
ATTACHED = b"probes attached"
GONE = b"is gone: waiting for it to come back"
# Set-up takes 8 to 20 s under emulation, on a busy machine 400 s. A recorder that has died is seen at once.
ATTACH_S = 1200

Json = dict[str, Any]

_DRIVER_FOLDER = "/sys/bus/virtio/drivers/virtio_balloon"
# Every trace that a recorder could leave, as lines; [b] keeps the shell from finding itself. Few programs:
# under emulation each one started takes tens of milliseconds, and this runs after every test.
_TRACES = """
pgrep -af '[b]alloontrace'
cat /sys/kernel/debug/kprobes/list /sys/kernel/tracing/enabled_functions
bpftool prog show
"""
_IS_BOUND = f'set -- {_DRIVER_FOLDER}/virtio*; [ -e "$1" ]'
_BIND = f"""
modprobe virtio_balloon
for device in /sys/bus/virtio/devices/virtio*; do
    [ "$(cat "$device/device")" = 0x0005 ] && [ ! -e "$device/driver" ] &&
        echo "${{device##*/}}" > {_DRIVER_FOLDER}/bind
done
{_IS_BOUND}
"""


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


class Recorder:
    """`balloontrace record` at work in a guest."""

    def __init__(self, guest: lab.Guest, path: str, process: lab.GuestProcess) -> None:
        self.guest = guest
        self.path = path
        self.process = process

    def wait_attached(self) -> Recorder:
        self.process.wait_for(ATTACHED, ATTACH_S)
        return self

    def wait(self, timeout_s: float = 60) -> lab.Completed:
        return self.process.wait(timeout_s)

    def end(self, number: int = signal.SIGINT) -> lab.Completed:
        """Ends it by a signal and expects the end to be in order."""
        self.process.signal(number)
        done = self.wait()
        assert done.status == 0, done.describe()
        return done

    def pull(self, folder: Path) -> Path:
        """Its recording on this machine."""
        return pull(self.guest, self.path, folder)


def start_recording(
    guest: lab.Guest, path: str, *options: str, env: Mapping[str, str] | None = None
) -> Recorder:
    """Starts a recorder without waiting for it: several that set up at once take less time."""
    words = ["balloontrace", "record", "-o", path, *options]
    return Recorder(guest, path, guest.start(words, env=env))


def record(guest: lab.Guest, path: str, *options: str, env: Mapping[str, str] | None = None) -> Recorder:
    """A recorder whose probes are attached."""
    return start_recording(guest, path, *options, env=env).wait_attached()


class PieceRecorder(Recorder):
    """`--archive-every 2s` without pyarrow, so that archiving fails and all pieces stay."""

    def __init__(self, guest: lab.Guest, folder: str, *options: str) -> None:
        none = f"mkdir -p {folder} /root/none; touch /root/none/pyarrow.py /root/none/fsspec.py"
        guest.run(shell(none), check=True)
        words = ["record", "-o", folder, "--archive-every", "2s", "--to", "/root/data", *options]
        environment = {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:/root/none"}
        process = guest.start(["python3", "-P", "-m", "balloontrace", *words], env=environment)
        super().__init__(guest, folder, process)

    def wait_recording(self) -> PieceRecorder:
        """Until its first piece is there."""
        began = lambda: ".bt" in self.guest.run(["ls", self.path], check=True).stdout  # noqa: E731
        self.guest.wait_until(began, ATTACH_S, what="the first piece")
        return self

    def wait_for_next(self) -> None:
        """Until the piece that is being recorded has ended."""
        before = self._ended()
        self.guest.wait_until(lambda: self._ended() > before, 120, what="the next piece")

    def pull_all(self, folder: Path) -> list[Path]:
        """Ends it, and takes its pieces in their order."""
        self.process.signal(signal.SIGTERM)
        done = self.wait(120)
        assert done.status == 1, done.describe()
        assert f"recordings in {self.path} could not be archived; they are tried again" in done.stderr
        assert done.stderr.splitlines()[-1].endswith("--to /root/data --remove")
        names = self.guest.run(["ls", "-A", self.path], check=True).stdout.split()
        return [pull(self.guest, f"{self.path}/{name}", folder) for name in sorted(names)]

    def _ended(self) -> int:
        return self.guest.run(["ls", self.path], check=True).stdout.count(".bt\n")


# Python and its modules take seconds to start under emulation: once for all, then a process forked for each.
_IN_TURN = """
import json, os, sys
from balloontrace.cli import main
import balloontrace.commands.doctor, balloontrace.commands.record, balloontrace.trace.attach
ended = []
for words in json.loads(sys.argv[1]):
    files = [os.memfd_create(name) for name in ("stdout", "stderr")]
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
        main(words)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    ended.append([status, *(os.pread(file, os.fstat(file).st_size, 0).decode() for file in files)])
print(json.dumps(ended))
"""


def run_in_turn(
    guest: lab.Guest, *commands: Sequence[str], within: Sequence[str] = (), timeout_s: float = ATTACH_S
) -> list[lab.Completed]:
    """Runs `balloontrace` with each of these words, one after the other; `within` is what starts Python."""
    argv = [*within, "python3", "-P", "-c", _IN_TURN, json.dumps(commands)]
    done = guest.run(argv, timeout_s=timeout_s, env={"PYTHONPATH": "/repo"})
    assert done.stdout, done.describe()
    return [
        lab.Completed(("balloontrace", *words), status, stdout.encode(), stderr.encode())
        for words, (status, stdout, stderr) in zip(commands, json.loads(done.stdout), strict=True)
    ]


def pull(guest: lab.Guest, path: str, folder: Path) -> Path:
    local = folder / Path(path).name
    local.write_bytes(guest.pull(path))
    return local


def balloontrace(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command on this machine, where reports are made."""
    return subprocess.run(
        [sys.executable, "-m", "balloontrace", *words],
        cwd=cwd, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def report(recording: Path, *options: str) -> Json:
    """The report of a recording, as JSON."""
    done = balloontrace("report", "--format", "json", recording, *options)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def loss(found: Json, function: str) -> Json:
    (row,) = [row for row in found["losses"] if row["function"] == function]
    return dict(row)


def stage(operation: Json, name: str) -> Json:
    (row,) = [row for row in operation["stages"] if row["stage"] == name]
    return dict(row)


def outcomes(found: Json) -> list[tuple[str, str, int]]:
    return [(each["kind"], each["outcome"], each["pages"]) for each in found["operations"]]


def assert_whole(found: Json) -> None:
    """A complete recording that lost nothing and agrees with every independent count."""
    assert found["complete"] is True
    assert found["warnings"] == [], found["warnings"]
    assert found["events_lost"] == 0
    assert {check["name"] for check in found["checks"]} >= {"balloon_inflate", "balloon_deflate"}
    disagreeing = [check for check in found["checks"] if check["agrees"] is not True]
    assert disagreeing == []


def assert_sums(found: Json) -> None:
    """The stages of each operation add up to its wall time, to the nanosecond."""
    for operation in found["operations"]:
        rows = [row for row in operation["stages"] if row["part_of"] is None]
        assert sum(row["total_ns"] or 0 for row in rows) == operation["wall_ns"]


def move(guest: lab.Guest, target_mib: int, timeout_s: float = 120) -> None:
    guest.set_balloon(target_mib=target_mib)
    guest.wait_balloon(timeout_s=timeout_s)


def wait_below(guest: lab.Guest, mib: int, timeout_s: float = 120) -> None:
    """Waits until the balloon has left the guest less than `mib`: it is in the middle of an inflate."""
    guest.wait_until(
        lambda: guest.balloon_actual_bytes() < mib << 20, timeout_s, what=f"the balloon below {mib} MiB"
    )


def change(before: Mapping[str, int], after: Mapping[str, int], names: Sequence[str]) -> list[int]:
    return [after[name] - before[name] for name in names]


# Compaction moves what it thinks worth it, at times nothing; a block taken offline is emptied of all of it.
_MIGRATE = """
echo 1 > /proc/sys/vm/compact_memory
migrated=$(sed -n 's/^balloon_migrate //p' /proc/vmstat)
[ "$migrated" -ge $1 ] && exit
cd /sys/devices/system/memory
for block in $(ls -d memory[0-9]* | sort -rV); do
    echo offline > $block/state && echo online > $block/state
    migrated=$(sed -n 's/^balloon_migrate //p' /proc/vmstat)
    [ "$migrated" -ge $1 ] && exit
done
"""


def migrate_pages(guest: lab.Guest, at_least: int = 1) -> None:
    """Has the kernel move so many pages of the balloon; there must be free memory to move them to."""
    wanted = guest.vmstat()["balloon_migrate"] + at_least
    guest.run(["sh", "-c", _MIGRATE, "sh", str(wanted)], timeout_s=180)
    assert guest.vmstat()["balloon_migrate"] >= wanted


def assert_summed_up(found: Json) -> None:
    """Pages of the balloon were moved: all are counted, and some of it is summed up without spans."""
    assert (found["events_lost"], found["spans_missing"]) == (0, 0)
    (check,) = [each for each in found["checks"] if each["name"] == "balloon_migrate"]
    print(check["spans"], "migrated")
    assert (check["agrees"], check["spans"] > 50) == (True, True)
    losses = {each["function"]: each for each in found["losses"]}
    outside = {each["what"]: each for each in found["outside"]}
    calls = losses["virtballoon_migratepage"]
    assert 0 < calls["summed"] < calls["returns"]
    assert calls["returns"] == outside["virtballoon_migratepage (page compaction)"]["calls"]
    sends = sum(operation["sends"] for operation in found["operations"])
    assert losses["tell_host"]["returns"] == outside["send of virtballoon_migratepage"]["calls"] + sends
    assert losses["tell_host"]["summed"] > 0


def traces(guest: lab.Guest) -> str:
    """What of a recorder is still there; empty when nothing is."""
    return guest.run(shell(_TRACES), check=True).stdout


def assert_no_trace(guest: lab.Guest, timeout_s: float = 60) -> None:
    """No process, probe or program of ours; the kernel frees them a little after the process ended."""
    left = ["unknown"]

    def is_clean() -> bool:
        left[0] = traces(guest)
        return not left[0]

    try:
        guest.wait_until(is_clean, timeout_s, what="a guest without traces of a recorder", every_s=0.2)
    except lab.LabTimeout:
        end_recorders(guest)
        raise AssertionError(f"left in the guest:\n{left[0]}") from None


def end_recorders(guest: lab.Guest) -> None:
    """Kills what is left, so that one failing test does not fail those that follow."""
    guest.run(shell("for pid in $(pgrep -f '[b]alloontrace'); do kill -KILL $pid; done"))


def bind_driver(guest: lab.Guest) -> None:
    """Loads the driver and binds it, whatever is missing of that."""
    guest.run(shell(_BIND), check=True)


def put_back(guest: lab.Guest, full_mib: int = FULL_MIB) -> None:
    """The driver bound and the balloon empty."""
    if guest.run(shell(_IS_BOUND)).status != 0:
        bind_driver(guest)
    if guest.balloon_actual_bytes() != full_mib << 20:
        move(guest, full_mib)
