# SPDX-License-Identifier: GPL-2.0-or-later
"""`make results`: records both sides of a balloon on a clock of instructions; the tables of docs/results.md.

Each scenario has a host VM and a guest of its own. There the balloon takes memory that was never used, gives
it back, takes memory that was, and gives that back. ONLY=name takes some scenarios; the recordings of all
stay in build/results, and the tables of what is there are made anew. SIZE says how much the balloon takes.
ONLY=reporting is the sweep of page reporting's settings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lab import reporting_sweep
from lab.accel import read_qemu_version
from lab.aging import fragmented
from lab.boot_retries import retry_lost
from lab.compare_drivers import BESIDES_MIB, DRIVERS
from lab.errors import LabError
from lab.reporting_tables import Swept, draw_sweep, render_sweep
from lab.results_tables import (
    Run,
    capitalised,
    read_report,
    read_run,
    render_tables,
    replace_between,
    replace_tables,
)
from lab.scenario import BALLOON_S, record_both, touch_memory
from lab.script import run
from lab.sizes import parse_size_mib
from lab.steady import make_steady
from lab.topology_nested import Nested, nested
from lab.topology_solo import Device

REPO = Path(__file__).parent.parent
FOLDER = REPO / "build/results"
PAGE = REPO / "docs/results.md"
PICTURE = REPO / "docs/pictures/page-reporting.png"
SIZE = "1G"
# A tenth of so much stays when a guest is fragmented; the balloon then takes so much of the rest.
FILLED, TAKEN = 6 / 7, 4 / 7
MOVE_S = 20 * BALLOON_S
LOOK_EVERY_S = 2.0
# The first look comes when the balloon has moved by so much: most moves are done by then.
SLOWEST_MIB_PER_S = 256
BUSY_PER_CPU = 2


@dataclass(frozen=True)
class Scenario:
    """What differs: the device, the driver, guest and host; how often, and beside what, it is done."""

    name: str
    title: str
    device: Device = "backend"
    driver: str = "stock"
    init_on_alloc: bool = False
    host_huge_pages: bool = True
    is_fragmented: bool = False
    beside_load: bool = False
    repeats: str = ""  # the scenario of which this is another run

    @property
    def moves(self) -> tuple[str, ...]:
        """What the balloon takes, and gives back, in turn."""
        return ("in pieces",) if self.is_fragmented else ("untouched", "touched")


SCENARIOS = (
    Scenario("qemu", "QEMU's balloon, stock driver", device="qemu"),
    Scenario("stock", "the lab's device, stock driver"),
    Scenario("bitmap", "the lab's device, page-bitmap driver", driver="bitmap"),
    Scenario("qemu-cleared", "QEMU's balloon, stock driver, `init_on_alloc=1`", "qemu", init_on_alloc=True),
    Scenario("qemu-small", "QEMU's balloon, stock driver, host without THP", "qemu", host_huge_pages=False),
    Scenario("stock-pieces", "the lab's device, stock driver, fragmented guest", is_fragmented=True),
    Scenario(
        "bitmap-pieces", "the lab's device, page-bitmap driver, fragmented guest", driver="bitmap",
        is_fragmented=True,
    ),
    Scenario("qemu-again", "QEMU's balloon, stock driver, again", "qemu", repeats="qemu"),
    Scenario(
        "qemu-beside", f"the same beside {BUSY_PER_CPU} busy processes per core", "qemu", repeats="qemu",
        beside_load=True,
    ),
)  # fmt: skip


def main() -> int:
    """Record what ONLY asks for, and write the tables; 1 when the lab failed."""
    only = os.environ.get("ONLY", "").split(",")
    started_s = time.monotonic()
    try:
        size_mib = parse_size_mib(os.environ.get("SIZE") or SIZE)
        FOLDER.mkdir(parents=True, exist_ok=True)
        for scenario in SCENARIOS:
            if scenario.name in only or only == [""]:
                record(scenario, size_mib)
        if reporting_sweep.NAME in only or only == [""]:
            reporting_sweep.record_sweep(FOLDER, _say)
        write_tables()
        write_sweep()
    except LabError as error:
        print(f"results: {error}", file=sys.stderr)
        return 1
    _say(f"done in {time.monotonic() - started_s:.0f} s; recordings in {FOLDER}, tables in {PAGE}")
    return 0


def record(scenario: Scenario, size_mib: int) -> None:
    """Records a scenario, again when the emulated processor stood still. Raises LabError."""
    _say(f"{scenario.name}: {scenario.title}")
    with busy_processes(BUSY_PER_CPU * (os.cpu_count() or 1)) if scenario.beside_load else nullcontext():
        retry_lost(lambda: record_once(scenario, size_mib))


def record_once(scenario: Scenario, size_mib: int) -> None:
    """Both recordings of a scenario, into the folder. Raises LabError."""
    memory_mib = size_mib + BESIDES_MIB
    bitmap = scenario.driver == "bitmap"
    with ExitStack() as stack:
        pair = stack.enter_context(
            nested(
                icount=True, memory_mib=memory_mib, device=scenario.device, page_bitmap=bitmap,
                init_on_alloc=scenario.init_on_alloc, host_huge_pages=scenario.host_huge_pages,
            )
        )  # fmt: skip
        make_steady(pair)
        if bitmap:
            DRIVERS[scenario.driver](pair.guest)
        taken_mib = size_mib
        if scenario.is_fragmented:
            taken_mib = int(size_mib * TAKEN)
            stack.enter_context(fragmented(pair.guest, mib=int(size_mib * FILLED)))
        for recording in record_moves_of(pair, scenario, memory_mib, taken_mib):
            shutil.copyfile(recording, FOLDER / recording.name)


def record_moves_of(pair: Nested, scenario: Scenario, memory_mib: int, taken_mib: int) -> Sequence[Path]:
    """Takes and gives back as often as the scenario says. Raises LabError."""
    targets_mib = (memory_mib - taken_mib, memory_mib) * len(scenario.moves)

    def before_move(number: int) -> None:
        if scenario.moves[number // 2] == "touched" and number % 2 == 0:
            touch_memory(pair.guest, taken_mib)

    return record_both(
        pair, scenario.name, targets_mib, timeout_s=MOVE_S, look_every_s=LOOK_EVERY_S,
        unwatched_s=taken_mib / SLOWEST_MIB_PER_S, before_move=before_move, say=_say,
    )  # fmt: skip


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that never wait."""
    command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", "while :; do :; done"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def write_tables() -> None:
    """The tables of all recordings there are, into docs/results.md. Raises LabError."""
    runs = {scenario.name: _read(scenario) for scenario in SCENARIOS}
    if not any(runs.values()):
        return
    rows = [(scenario.title, scenario.moves, runs[scenario.name]) for scenario in SCENARIOS]
    again = [
        [runs[each.name] for each in SCENARIOS if each.name == first.name or each.repeats == first.name]
        for first in SCENARIOS
    ]
    qemu = read_qemu_version()
    titles = [capitalised(scenario.title) for scenario in SCENARIOS]
    PAGE.write_text(replace_tables(PAGE.read_text(), render_tables(rows, again, qemu), titles))


def write_sweep() -> None:
    """Table and picture of page reporting, where all of its settings were recorded. Raises LabError."""
    swept = [each for each in map(_read_swept, reporting_sweep.SETTINGS) if each is not None]
    if len(swept) < len(reporting_sweep.SETTINGS):
        return
    PAGE.write_text(replace_between(PAGE.read_text(), reporting_sweep.NAME, render_sweep(swept)))
    draw_sweep(swept, PICTURE)


def _read_swept(setting: reporting_sweep.Setting) -> Swept | None:
    """What was seen with a setting, None where it was not recorded. Raises LabError."""
    seen = reporting_sweep.read_seen(FOLDER, setting)
    if seen is None:
        return None
    report = read_report(*(FOLDER / f"{setting.name}-{side}.bt" for side in ("guest", "host")))
    return Swept(setting, report["page_reporting"], seen)


def _read(scenario: Scenario) -> Run | None:
    """A scenario's run, None where it was not recorded or its sides cannot be matched."""
    guest, host = (FOLDER / f"{scenario.name}-{side}.bt" for side in ("guest", "host"))
    if not (guest.exists() and host.exists()):
        return None
    try:
        return read_run(guest, host)
    except LabError as error:
        _say(f"not in the tables: {error}")
        return None


def _say(text: str) -> None:
    print(f"results: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main, __doc__)
