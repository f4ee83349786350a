# SPDX-License-Identifier: GPL-2.0-or-later
"""What `record --side host --all` and `serve` cost on a host with many VMs, and what they lose or keep.

100 processes serve as VMMs do, 10 others do not. The guest's clock counts instructions, a nanosecond each.
So times of a processor are instructions, the same on every machine. A real one makes several in a nanosecond.
`ONLY=soak` has both run for 15 minutes of that clock while 1 000 VMs a minute come and go. What they hold
then is counted, in Python's blocks and bytes of the C library's heap: RSS has room in it, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import lab
from balloontrace.analysis.processes import split_processes
from balloontrace.format.host_counters import parse_host_counters
from balloontrace.format.recording import read_recording
from bench.counted import Held, parse_held
from bench.figures import Benchmark, Figure, say
from lab.metrics_client import ENVIRONMENT, install_client

GUEST_MIB = 4096
START_S, ORDER_S = 300, 1800
VMS, OTHERS, ROUNDS = 100, 10, 8
CALLS = VMS * ROUNDS * 256
IDLE_S = 60
FIRST, COMING, LIVES_MS = 2000, 1000, 1500  # with the first ones heaps take their size
WARM_UP_MINUTES, MINUTES = 3, 15  # of the soak
SCRAPE_S, SOAK_SCRAPE_S = 15, 5
SCRAPES = 10
MOST_M_INSTRUCTIONS = 40  # for a scrape
MOST_IDLE_PERCENT, MOST_MB = 0.5, 60
MOST_GROWTH_MB = 0.5  # two steps of the C library's heap; 100 bytes left of each VM would be 1.2 MB
MOST_BYTES_A_VM = 5  # texts are as long as the numbers in them
_DIGITS = 2  # of blocks for each VM: a few come and go by chance
_TICKS_PER_S = 100
_CALLS, _LOST = "balloontrace_host_calls_total", "balloontrace_host_events_lost_total"
# As Prometheus asks.
_SCRAPE = """
import gzip, urllib.request as u
headers = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
request = u.Request("http://127.0.0.1:9435/metrics", headers=headers)
text = gzip.decompress(u.urlopen(request).read()).decode()
"""
_SOURCE = Path(__file__).with_name("host_vms.c")
_OF_SOAK = ("growth", "memory", "blocks_left", "bytes_left", "descriptors_left")
_COUNTED = "/repo/bench/counted.py"
_RECORDING = "/run/all.bt"


def measure_host_vms() -> Iterator[Figure]:
    """Idle, busy, and with VMs that come and go."""
    with lab.solo(memory_mib=GUEST_MIB, icount=True, balloons=0) as guest:
        host = _Host(guest)
        host.order(f"start {VMS} {OTHERS}")
        host.order(f"serve {ROUNDS}")  # memory is touched, code is there
        untraced_ns = host.serve_ns()
        recorder = _start_recorder(guest, _RECORDING)
        own = _Process(guest, recorder.pid)
        guest.run(["sleep", "5"], check=True)
        idle = own.busy_s(IDLE_S) / IDLE_S * 100
        say(f"idle: {idle:.3f} % of a processor, {own.memory_mb():.1f} MB")
        traced_ns = host.serve_ns()
        yield Figure("host_vms_idle", idle, "%", at_most=MOST_IDLE_PERCENT)
        yield Figure("host_vms_calls", 1e6 / traced_ns, "/ms")
        yield Figure("host_vms_call_added", traced_ns - untraced_ns, "ins")
        host.order(f"churn {FIRST} {LIVES_MS}")
        guest.run(["sleep", "3"], check=True)
        before = own.memory_mb(), own.descriptors()
        host.order(f"churn {COMING} {LIVES_MS}")
        guest.run(["sleep", "3"], check=True)
        yield Figure("host_vms_memory", own.memory_mb(), "MB", at_most=MOST_MB)
        yield Figure("host_vms_growth", own.memory_mb() - before[0], "MB", at_most=MOST_GROWTH_MB)
        yield Figure("host_vms_descriptors_left", own.descriptors() - before[1], "", at_most=0)
        recorder.signal(2)
        assert recorder.wait(ORDER_S).status == 0
        host.order("end")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "all.bt"
            path.write_bytes(guest.pull(_RECORDING))
            parts = split_processes(read_recording(path))
    counters = [parse_host_counters(part.counters) for part in parts if part.counters]
    seen = sum(each.all_calls for each in counters[:VMS])
    yield Figure("host_vms_calls_missing", CALLS - seen, "", at_most=0)
    yield Figure("host_vms_lost", sum(each.lost + each.no_state for each in counters), "", at_most=0)
    yield Figure("host_vms_found", len(parts), f"of {VMS + FIRST + COMING}")


def measure_serving() -> Iterator[Figure]:
    """The same of `serve`: idle, busy, and whether its sums are all calls."""
    with lab.solo(memory_mib=GUEST_MIB, icount=True, balloons=0) as guest:
        host, own = _Host(guest), _start_serving(guest)
        host.order(f"start {VMS} {OTHERS}")
        host.order(f"serve {ROUNDS}")
        for _ in range(IDLE_S):  # all were found long before that
            if _scraped(guest, "balloontrace_vms ") < VMS:
                guest.run(["sleep", "1"], check=True)
        before = _scraped(guest, _CALLS)
        guest.run(["sleep", str(IDLE_S)], check=True)  # new processes are looked into often
        yield Figure("serve_idle", own.busy_s(IDLE_S) / IDLE_S * 100, "%", at_most=MOST_IDLE_PERCENT)
        with _scraping(guest, SCRAPE_S):
            busy = own.busy_s(IDLE_S) / IDLE_S * 100
            yield Figure("serve_scraped", busy, "%", at_most=MOST_IDLE_PERCENT)
            yield Figure("serve_calls", 1e6 / host.serve_ns(), "/ms")
        yield Figure("serve_scrape", _scrape_ns(guest, own) / 1e6, "Mins", at_most=MOST_M_INSTRUCTIONS)
        yield Figure("serve_memory", own.memory_mb(), "MB", at_most=MOST_MB)
        yield Figure("serve_calls_missing", CALLS - (_scraped(guest, _CALLS) - before), "", at_most=0)
        yield Figure("serve_lost", _scraped(guest, _LOST), "", at_most=0)
        host.order("end")


def measure_soak() -> Iterator[Figure]:
    """Both for hours in short: what they hold after each thousand of VMs."""
    with lab.solo(memory_mib=GUEST_MIB, icount=True, balloons=0) as guest:
        host = _Host(guest)
        host.order(f"start {VMS} {OTHERS}")
        recorder = _start_recorder(guest, "/dev/null", f"python3 -P {_COUNTED} /run/record")
        serving = _start_serving(guest, [_COUNTED, "/run/serve"])
        own = {"record": _Process(guest, recorder.pid), "serve": serving}
        sizes: dict[str, list[float]] = {name: [] for name in own}
        held: dict[str, list[Held]] = {name: [] for name in own}
        for minute in range(MINUTES):
            with _scraping(guest, SOAK_SCRAPE_S):
                host.order(f"churn {COMING} {LIVES_MS}")
            # At rest: a scrape under way holds its text twice, some 0.5 MB; after one, nothing of what ended.
            guest.run(["sleep", "3"], check=True)
            _scraped(guest, _LOST)
            for name, process in own.items():
                sizes[name].append(process.memory_mb())
                held[name].append(_count_held(guest, f"/run/{name}"))
                say(f"{(minute + 1) * COMING} VMs: {name} {sizes[name][-1]:.3f} MB, {held[name][-1]}")
            if minute == WARM_UP_MINUTES - 1:
                descriptors = {name: process.descriptors() for name, process in own.items()}
        for name, process in own.items():
            growth = sizes[name][-1] - sizes[name][WARM_UP_MINUTES - 1]
            yield Figure(f"soak_{name}_growth", growth, "MB", at_most=MOST_GROWTH_MB)
            yield Figure(f"soak_{name}_memory", sizes[name][-1], "MB", at_most=MOST_MB)
            vms = (MINUTES - WARM_UP_MINUTES) * COMING
            before, after = held[name][WARM_UP_MINUTES - 1], held[name][-1]
            blocks = round((after.blocks - before.blocks) / vms, _DIGITS)
            yield Figure(f"soak_{name}_blocks_left", blocks, "/VM", at_most=0)
            size = (after.heap_bytes - before.heap_bytes) / vms
            yield Figure(f"soak_{name}_bytes_left", size, "B/VM", at_most=MOST_BYTES_A_VM)
            left = process.descriptors() - descriptors[name]
            yield Figure(f"soak_{name}_descriptors_left", left, "", at_most=0)
        yield Figure("soak_lost", _scraped(guest, _LOST), "", at_most=0)
        recorder.signal(2)
        assert recorder.wait(ORDER_S).status == 0
        host.order("end")


def _start_recorder(guest: lab.Guest, path: str, program: str = "balloontrace") -> lab.GuestProcess:
    command = f"exec {program} record --side host --all -o - > {path}"  # which may be no file
    recorder = guest.start(["sh", "-c", command], env={"PYTHONPATH": "/repo"})
    recorder.wait_for(b"probes attached", START_S)
    return recorder


def _count_held(guest: lab.Guest, file: str) -> Held:
    """What a process says that it holds when it looks for VMs the next time."""
    before = guest.pull(file)
    guest.run(["touch", f"{file}.ask"], check=True)
    guest.wait_until(lambda: guest.pull(file) != before, ORDER_S, what="a count")
    guest.run(["rm", f"{file}.ask"], check=True)
    return parse_held(guest.pull(file).decode())


def _start_serving(guest: lab.Guest, program: Sequence[str] = ("-m", "balloontrace")) -> _Process:
    install_client(guest)
    words = ["python3", "-P", *program, "serve", "--side", "host"]
    serving = guest.start(words, env=ENVIRONMENT)
    serving.wait_for(b"/metrics", START_S)
    return _Process(guest, serving.pid)


def _scraped(guest: lab.Guest, name: str) -> float:
    """The sum of all samples whose lines begin so."""
    words = ["python3", "-c", f"{_SCRAPE}\nprint(text)"]
    lines = guest.run(words, check=True, timeout_s=ORDER_S).stdout.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def _scrape_ns(guest: lab.Guest, own: _Process) -> float:
    """What one takes, of those that come one after the other."""
    used = f"sum(map(int, open('/proc/{own.pid}/stat').read().split()[13:15]))"
    # All in the guest: its clock runs on while it waits for this machine.
    script = f"before = {used}\nfor _ in range({SCRAPES}): exec({_SCRAPE!r})\nprint({used} - before)"
    ticks = guest.run(["python3", "-c", script], check=True, timeout_s=ORDER_S).stdout
    return int(ticks) / _TICKS_PER_S / SCRAPES * 1e9


@contextmanager
def _scraping(guest: lab.Guest, every_s: int) -> Iterator[None]:
    """Something comes for all metrics again and again, as Prometheus does."""
    script = f'while sleep {every_s}; do python3 -c "$0"; done'
    scraper = guest.start(["sh", "-c", script, _SCRAPE])
    yield
    scraper.signal(15)
    scraper.wait(ORDER_S)


class _Host:
    """The processes, obeying orders."""

    def __init__(self, guest: lab.Guest) -> None:
        source = guest.push(_SOURCE)
        guest.run(["gcc", "-O2", "-o", "/run/vms", source], timeout_s=START_S, check=True)
        guest.run(["sh", "-c", ": > /dev/kvm; mkfifo /run/orders"], check=True)
        self._guest = guest
        self._process = guest.start(["sh", "-c", "exec /run/vms <> /run/orders"])
        self._read_bytes = 0

    def order(self, line: str) -> str:
        """Have it done; what was said of it."""
        self._guest.run(["sh", "-c", f"echo {line} > /run/orders"], check=True)
        start = self._read_bytes
        self._read_bytes = self._process.wait_for(b"\n", ORDER_S, stream="stdout", after=start)
        said = self._process.read("stdout", start).decode().strip()
        say(f"{line}: {said}")
        return said

    def serve_ns(self) -> float:
        """How long a call takes, with its part of what is done for its buffer."""
        calls, took_ns = map(int, self.order(f"serve {ROUNDS}").split()[1:])
        return took_ns / calls


class _Process:
    """A process of balloontrace's own."""

    def __init__(self, guest: lab.Guest, pid: int) -> None:
        self._guest, self.pid = guest, pid

    def busy_s(self, seconds: int) -> float:
        """Processor time in the next `seconds`."""
        script = f"s() {{ cut -d' ' -f14,15 /proc/{self.pid}/stat; }}; s; sleep {seconds}; s"
        ticks = [int(word) for word in self._run(script, ORDER_S).split()]
        return (ticks[2] + ticks[3] - ticks[0] - ticks[1]) / _TICKS_PER_S

    def memory_mb(self) -> float:
        """What it holds, the maps that it shares with the programs included."""
        return int(self._run(f"grep VmRSS /proc/{self.pid}/status").split()[1]) * 1024 / 1e6

    def descriptors(self) -> int:
        """How many it has open."""
        return int(self._run(f"ls /proc/{self.pid}/fd | wc -l"))

    def _run(self, script: str, timeout_s: float = 60) -> str:
        return self._guest.run(["sh", "-c", script], check=True, timeout_s=timeout_s).stdout


BENCHMARKS = (
    Benchmark(
        (
            *("host_vms_idle", "host_vms_calls", "host_vms_call_added", "host_vms_memory", "host_vms_growth"),
            *("host_vms_descriptors_left", "host_vms_calls_missing", "host_vms_lost", "host_vms_found"),
        ),
        measure_host_vms,
        group="host_vms",
    ),
    Benchmark(
        (
            *("serve_idle", "serve_scraped", "serve_calls", "serve_scrape", "serve_memory"),
            *("serve_calls_missing", "serve_lost"),
        ),
        measure_serving,
        group="serve",
    ),
    Benchmark(
        (
            *(f"soak_{name}_{what}" for name in ("record", "serve") for what in _OF_SOAK),
            "soak_lost",
        ),
        measure_soak,
        group="soak",
        long=True,
    ),
)
