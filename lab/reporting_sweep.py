# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep of `make results`: what free page reporting costs and gives back, by order of blocks and delay.

A guest uses memory and frees it, several times, in the same host and guest for each setting. Some settings
are tried with most of its free memory in small pieces, too. Both clocks count instructions. Linux 7 lets
order and delay be changed while it runs; with a delay of an hour nothing is reported. Both sides are
recorded the whole time, so that settings differ in nothing else. The balloon moves a little before: reports
are found on the host by the clocks that its sends prove.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.aging import fragmented, read_free_blocks, share_in_small_blocks
from lab.boot_retries import retry_lost
from lab.errors import LabError
from lab.guest import Guest
from lab.kernels import IMAGES
from lab.process import GuestProcess
from lab.scenario import BALLOON_S, recorded_both
from lab.topology_nested import Nested, nested

NAME = "reporting"
IMAGE = "trixie-7.3"
GUEST_MIB, USED_MIB, MOVED_MIB = 640, 192, 32
# What is filled and given back page by page, a tenth of them kept; and blocks that are small then.
FILLED_MIB, SMALL_BELOW_ORDER, SMALL_AT_LEAST = 400, 9, 0.5
ROUNDS = 4
# A round has time for a report after the longer delay, and for the worker to be done with it.
REST_S = 4
NEVER_MS = 3_600_000
ORDERS, DELAYS_MS = (9, 4, 0), (2000, 100)
SAMPLE_EVERY_S, LOOK_EVERY_S = 0.25, 1
WORK_S = 20 * BALLOON_S
PARAMETERS = "/sys/module/page_reporting/parameters/page_reporting"

# Rounds of using and freeing memory; prints the seconds that using took, each time.
_WORK = """
import json, mmap, sys, time
mib, rounds, rest_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
used_s = []
for _ in range(rounds):
    memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    started_s = time.monotonic()
    for page in range(0, len(memory), 4096):
        memory[page] = 1
    used_s.append(time.monotonic() - started_s)
    memory.close()
    time.sleep(rest_s)
print(json.dumps(used_s))
"""
# Seconds since the host was started, and what it has of the guest in KiB.
_SAMPLE = """
while read -r up _ < /proc/uptime && rss=$(grep VmRSS /proc/$1/status); do
    echo "$up $rss"; sleep $2
done
"""


@dataclass(frozen=True)
class Setting:
    """The smallest blocks that are reported, 2^`order` pages, so long after one has become free."""

    order: int
    delay_ms: int
    is_fragmented: bool = False  # the guest's free memory, before anything is recorded

    @property
    def is_off(self) -> bool:
        """Whether nothing is reported while the sweep lasts."""
        return self.delay_ms == NEVER_MS

    @property
    def name(self) -> str:
        """As files are called."""
        memory = "-pieces" if self.is_fragmented else ""
        return f"{NAME}{memory}-off" if self.is_off else f"{NAME}{memory}-{self.order}-{self.delay_ms}"


# Nothing but that comes after the delay of an hour: its cycle would have to be over before there is another.
SETTINGS = (
    *(Setting(order, delay) for order in ORDERS for delay in DELAYS_MS),
    *(Setting(order, DELAYS_MS[0], is_fragmented=True) for order in ORDERS),
    Setting(9, NEVER_MS),
    Setting(9, NEVER_MS, is_fragmented=True),
)


@dataclass(frozen=True)
class Sample:
    """What the host had of the guest, so long after its first round began."""

    at_s: float
    rss_bytes: int


@dataclass(frozen=True)
class Seen:
    """What the guest's program took for each round, and the host's memory meanwhile.

    `small_ratio` is how much of the guest's free memory was in small blocks before the first round.
    """

    used_s: tuple[float, ...]
    samples: tuple[Sample, ...]
    small_ratio: float


def record_sweep(folder: Path, say: Callable[[str], None]) -> None:
    """Both recordings and a JSON of `Seen` for each setting, into the folder. Raises LabError."""
    left = list(SETTINGS)
    retry_lost(lambda: _record_left(folder, left, say))


def read_seen(folder: Path, setting: Setting) -> Seen | None:
    """What was seen with a setting, None where it was not recorded."""
    path = folder / f"{setting.name}.json"
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    return Seen(
        tuple(stored["used_s"]), tuple(Sample(**each) for each in stored["samples"]), stored["small_ratio"]
    )


def parse_samples(lines: Sequence[str], since_s: float, until_s: float) -> tuple[Sample, ...]:
    """Samples of a stretch of the host's time, from the lines of its shell."""
    words = [line.split() for line in lines]
    return tuple(
        Sample(float(up) - since_s, int(kib) * 1024)
        for up, _, kib, _ in words
        if since_s <= float(up) <= until_s
    )


def _record_left(folder: Path, left: list[Setting], say: Callable[[str], None]) -> None:
    """Settings that are recorded leave the list: a host that stands still takes none of them with it."""
    # Linux 7.3 panics over what a KVM under emulation says of XSAVE.
    with nested(
        icount=True,
        memory_mib=GUEST_MIB,
        spec=IMAGES[IMAGE],
        kernel_args=["noxsave"],
        balloons=[{"free-page-reporting": "on"}],
    ) as pair:
        while left:
            setting = left[0]
            say(f"{setting.name}: {ROUNDS} rounds of {USED_MIB} MiB")
            set_parameters(pair.guest, setting)
            with in_pieces(pair.guest) if setting.is_fragmented else nullcontext():
                _record_setting(pair, folder, setting, say)
            left.pop(0)


def _record_setting(pair: Nested, folder: Path, setting: Setting, say: Callable[[str], None]) -> None:
    use_memory(pair.guest, 1)
    with sampled_memory(pair) as sampler:
        with recorded_both(pair, setting.name, say=say) as recordings:
            for target_mib in (GUEST_MIB - MOVED_MIB, GUEST_MIB):
                pair.guest.set_balloon(target_mib=target_mib)
                pair.guest.wait_balloon(timeout_s=WORK_S, every_s=LOOK_EVERY_S)
            small_ratio = share_in_small_blocks(read_free_blocks(pair.guest), SMALL_BELOW_ORDER)
            if setting.is_fragmented and small_ratio < SMALL_AT_LEAST:
                raise LabError(
                    f"{setting.name}: only {small_ratio:.0%} of the free memory is in small blocks"
                )
            since_s = uptime_s(pair.host)
            used_s = use_memory(pair.guest, ROUNDS)
            until_s = uptime_s(pair.host)
        lines = sampler.read("stdout").decode().splitlines()[:-1]
    for recording in recordings:
        shutil.copyfile(recording, folder / recording.name)
    seen = Seen(tuple(used_s), parse_samples(lines, since_s, until_s), small_ratio)
    (folder / f"{setting.name}.json").write_text(json.dumps(asdict(seen)))


def in_pieces(guest: Guest) -> AbstractContextManager[str]:
    """Most of the guest's memory is used, and given back but for a page here and there. Raises LabError.

    It stays so: the kernel would put it together again as soon as large blocks run short.
    """
    guest.run(["sysctl", "-w", "vm.compaction_proactiveness=0"], check=True)
    return fragmented(guest, mib=FILLED_MIB, spec=IMAGES[IMAGE])


def set_parameters(guest: Guest, setting: Setting) -> None:
    """Raises LabError where the kernel has no such parameters."""
    script = f"echo {setting.order} > {PARAMETERS}_order && echo {setting.delay_ms} > {PARAMETERS}_delay_ms"
    guest.run(["sh", "-c", script], check=True)


def use_memory(guest: Guest, rounds: int) -> list[float]:
    """The seconds that the guest took to use its memory, in each round. Raises LabError."""
    words = ["python3", "-c", _WORK, str(USED_MIB), str(rounds), str(REST_S)]
    return [float(each) for each in json.loads(guest.run(words, timeout_s=WORK_S, check=True).stdout)]


def uptime_s(host: Guest) -> float:
    """Seconds since the host was started."""
    return float(host.run(["cat", "/proc/uptime"], check=True).stdout.split()[0])


@contextmanager
def sampled_memory(pair: Nested) -> Iterator[GuestProcess]:
    """A shell in the host that prints what it has of the guest, all the time."""
    sampler = pair.host.start(["sh", "-c", _SAMPLE, "sh", str(pair.vmm_pid), str(SAMPLE_EVERY_S)])
    try:
        yield sampler
    finally:
        sampler.kill()
