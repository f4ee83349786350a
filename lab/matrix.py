# SPDX-License-Identifier: GPL-2.0-or-later
"""`make matrix`: an inflate and a deflate recorded on every kernel the lab knows; writes docs/matrix.md."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from lab.errors import CommandFailed, LabError
from lab.guest import Guest
from lab.kernels import IMAGES
from lab.patched_driver import load_patched
from lab.process import GuestProcess
from lab.progress import Progress
from lab.scenario import BALLOON_S, END_S, START_S
from lab.script import run
from lab.sizes import PAGE_BYTES
from lab.topology_nested import nested
from lab.topology_solo import solo

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "matrix.md"
GUEST_MIB, MOVED_MIB = 2048, 512
MOVED_PAGES = MOVED_MIB * 256
_RECORDING = "matrix.bt"
_OWN_CALLS = 8
_OUTCOMES = ("reached", None)  # None: the target was not seen; the device has told it was reached
_LOCKED = (
    ("trixie-6.12", "integrity"),
    ("trixie-6.12", "confidentiality"),
    ("trixie-7.3", "confidentiality"),
)
_HIDE_BTF = "mount -t tmpfs none /sys/kernel/btf"
_LAYOUT = ("--layout", "virtio_balloon.num_pfns=312,virtio_balloon.pfns=316")  # docs/overhead.md has others
_SHOW_LOCKDOWN = "mount -t securityfs securityfs /sys/kernel/security"  # as an init system would

Json = dict[str, Any]
Engine = Literal["prebuilt", "bcc"]
ENGINES: tuple[Engine, ...] = ("prebuilt", "bcc")


@dataclass(frozen=True)
class Cell:
    """One guest, or one host, and one way to record."""

    image: str
    engine: Engine
    what: str = ""  # in what it differs from the plain guest of this image
    kernel_args: tuple[str, ...] = ()
    machine: Literal["pc", "microvm"] = "pc"
    prepare: str = ""  # a shell's words, run before recording
    options: tuple[str, ...] = ()  # of `record`
    patched: bool = False  # the page-bitmap driver, on the lab's own device
    on_host: bool = False

    @property
    def shows_target(self) -> bool:
        """Whether the recorder can see the balloon's target, and so the end of an operation."""
        return "lockdown=confidentiality" not in self.kernel_args

    @property
    def name(self) -> str:
        """`trixie-7.3 prebuilt`, and what is special."""
        return " ".join(filter(None, (self.image, self.engine, self.what)))


def all_cells() -> list[Cell]:
    """Every image with every engine that can be there, then what is special."""
    plain = [
        Cell(image, engine)
        for image, spec in IMAGES.items()
        for engine in ENGINES
        if engine == "prebuilt" or spec.headers
    ]
    return [*plain, *_special()]


def _special() -> Iterable[Cell]:
    for image, mode in _LOCKED:
        for engine in ENGINES:
            words = (f"lockdown={mode}",)
            yield Cell(image, engine, words[0], kernel_args=words, prepare=_SHOW_LOCKDOWN)
    for engine in ENGINES:
        yield Cell("trixie-6.12", engine, "virtio-mmio", machine="microvm")
        yield Cell("trixie-6.12", engine, "no BTF --layout", prepare=_HIDE_BTF, options=_LAYOUT)
    yield Cell("trixie-6.12", "prebuilt", "no BTF", prepare=_HIDE_BTF)
    # Compilers of sid (gcc 16) clone functions that others leave whole.
    for image in ("bookworm-6.1", "trixie-6.12", "trixie-7.3", "sid-7.2"):
        for engine in ENGINES:
            yield Cell(image, engine, "page-bitmap driver", patched=True)
    for image in ("bookworm-6.1", "trixie-6.12", "trixie-7.3"):
        for engine in ENGINES:
            yield Cell(image, engine, "host", on_host=True)


@dataclass(frozen=True)
class Seen:
    """What came of a cell; `faults` is empty where all was as it must be."""

    faults: tuple[str, ...]
    kernel: str = ""
    engine_version: str = ""
    attached: str = ""
    pages: str = ""
    attach_s: float | None = None
    setup_bytes: int | None = None
    held_bytes: int | None = None


# ---- one cell ----


def try_cell(cell: Cell, progress: Progress) -> Seen:
    """Boots what the cell says, records, and compares; what goes wrong is in the answer."""
    try:
        return _try_host(cell, progress) if cell.on_host else _try_guest(cell, progress)
    except CommandFailed as failed:
        lines = [line for line in failed.completed.stderr.splitlines() if line.strip()]
        return Seen((lines[-1] if lines else str(failed).splitlines()[0],))
    except LabError as error:
        first, *_, last = [*str(error).splitlines(), ""]
        return Seen((f"{first} {last}".strip(),))


def _try_guest(cell: Cell, progress: Progress) -> Seen:
    device: Literal["backend", "qemu"] = "backend" if cell.patched else "qemu"
    spec = IMAGES[cell.image]
    with solo(
        spec=spec, progress=progress, memory_mib=GUEST_MIB, cpus=1, machine=cell.machine,
        kernel_args=cell.kernel_args, device=device, page_bitmap=cell.patched,
    ) as guest:  # fmt: skip
        if cell.patched:
            load_patched(guest, spec=spec)
        if cell.prepare:
            guest.run(["sh", "-c", cell.prepare], check=True)
        before = guest.vmstat()
        options = (*cell.options, *(("--operations", "2") if cell.shows_target else ()))
        recorder = start_recording(guest, "--engine", cell.engine, *options)
        move_balloon(guest)
        if not cell.shows_target:
            recorder.signal(signal.SIGINT)
        recorder.wait(END_S, check=True)
        moved = {name: guest.vmstat()[name] - before[name] for name in ("balloon_inflate", "balloon_deflate")}
        return judge_guest(read_report(guest), moved)


def start_recording(guest: Guest, *options: str) -> GuestProcess:
    """Starts this checkout's recorder, which a bare guest lacks one library for, and waits for its probes."""
    library = guest.push(Path(click.__file__).parent)
    environment = {"PYTHONPATH": f"/repo:{Path(library).parent}"}
    argv = ["python3", "-P", "-m", "balloontrace", "record", "-o", f"/io/{_RECORDING}", *options]
    recorder = guest.start(argv, env=environment)
    recorder.wait_for(b"probes attached", timeout_s=START_S)
    return recorder


def move_balloon(guest: Guest) -> None:
    """Takes memory from the guest and gives it back."""
    for target_mib in (GUEST_MIB - MOVED_MIB, GUEST_MIB):
        guest.set_balloon(target_mib=target_mib)
        guest.wait_balloon(timeout_s=BALLOON_S)


def read_report(guest: Guest) -> Json:
    """The report of what was recorded in a guest."""
    recording = str(guest.io / _RECORDING)
    words = [sys.executable, "-m", "balloontrace", "report", recording, "--format", "json"]
    report: Json = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return report


def judge_guest(report: Json, moved: Mapping[str, int]) -> Seen:
    """Compares what was recorded with what the kernel and the device counted."""
    operations = [(each["kind"], each["outcome"], each["pages"]) for each in report["operations"]]
    unit_pages = report["header"]["machine"]["page_size_bytes"] // PAGE_BYTES  # vmstat counts in the guest's
    reached = [[(kind, outcome, MOVED_PAGES) for kind in ("inflate", "deflate")] for outcome in _OUTCOMES]
    faults = [
        *([f"operations {operations}"] if operations not in reached else ()),
        *(f"{name} {pages}" for name, pages in moved.items() if pages * unit_pages != MOVED_PAGES),
        *(f"{name} {report[name]}" for name in ("events_lost", "spans_missing") if report[name] != 0),
        # Without the kernel's types the recorder does not know; vmstat was compared above.
        *([f"pages_unseen {report['pages_unseen']}"] if report["pages_unseen"] else ()),
        *(report["warnings"]),
    ]
    return describe(report, faults, f"{MOVED_PAGES} in, {MOVED_PAGES} out")


def judge_host(report: Json) -> Seen:
    """The same of a host: one call for every page that comes, one for every page that goes, none lost.

    QEMU's memory allocator discards a few pieces of its own with the call that the balloon uses too.
    """
    calls = {row["call"]: row["calls"] - row["errors"] for row in report["host"]["calls"]}
    own = calls.get("madvise_dontneed", 0) - MOVED_PAGES
    is_complete = 0 <= own <= _OWN_CALLS and calls.get("madvise_willneed") == MOVED_PAGES
    faults = [
        *([] if is_complete else [f"calls {calls}"]),
        *([f"events_lost {report['events_lost']}"] if report["events_lost"] != 0 else ()),
        *(report["warnings"]),
    ]
    pages = f"{MOVED_PAGES} calls in, {MOVED_PAGES} out" + (f", {own} of QEMU's own" if own else "")
    return describe(report, faults, pages)


def describe(report: Json, faults: Iterable[str], pages: str) -> Seen:
    """What the table shows of a report."""
    header, cost = report["header"], report["own_cost"]
    mechanisms = [row["mechanism"] or "" for row in header["probes"] if row["status"] == "attached"]
    hooks = {word for each in mechanisms for word in re.split(r"\W+", each) if word}
    return Seen(
        faults=tuple(faults),
        kernel=header["machine"]["kernel_release"],
        engine_version=header["engine_version"] or "",
        attached=", ".join(sorted(hooks - {"fexit", "kretprobe"})),
        pages=pages,
        attach_s=cost["attach_s"],
        setup_bytes=cost["setup_peak_memory_bytes"],
        held_bytes=cost["peak_memory_bytes"],
    )


def _try_host(cell: Cell, progress: Progress) -> Seen:
    with nested(spec=IMAGES[cell.image], progress=progress, memory_mib=GUEST_MIB) as pair:
        recorder = start_recording(
            pair.host, "--side", "host", "--engine", cell.engine, "-p", str(pair.vmm_pid)
        )
        move_balloon(pair.guest)
        recorder.signal(signal.SIGINT)
        recorder.wait(END_S, check=True)
        return judge_host(read_report(pair.host))


# ---- the table ----

HEAD = """\
# Where it was tried

`make matrix` boots each of these guests in the lab, under emulation, and records 512 MiB that go into the
balloon and come back. Pages in the recording, `/proc/vmstat` and the device's own `actual` must agree to the
page, and nothing may be lost. On a host (nested, under emulated KVM) every page must be one call. Images are
those of `lab/kernels.py`; `bare` ones have no bcc, no compiler and no headers. Times are those of an emulated
machine that does other things too. Memory is the most that setting up and that recording took.

"""
COLUMNS = ("cell", "kernel", "engine", "hooks", "seen", "attached in", "setting up", "held", "date")
GREEN = "exact"


def row(cell: Cell, seen: Seen, day: str) -> tuple[str, ...]:
    """One line of the table; `-` is what was not measured."""
    return (
        cell.name,
        seen.kernel or "-",
        seen.engine_version or "-",
        seen.attached or "-",
        (f"{GREEN}: {seen.pages}" if not seen.faults else "; ".join(seen.faults)).replace("|", "/"),
        "-" if seen.attach_s is None else f"{seen.attach_s:.1f} s",
        "-" if seen.setup_bytes is None else f"{seen.setup_bytes / 1e6:.0f} MB",
        "-" if seen.held_bytes is None else f"{seen.held_bytes / 1e6:.0f} MB",
        day,
    )


def parse_rows(text: str) -> dict[str, tuple[str, ...]]:
    """The rows of a table that was written before, by cell."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    cells = [tuple(word.strip() for word in words) for words in lines[1:]]
    return {words[0]: words for words in cells if len(words) == len(COLUMNS)}


def render(rows: Mapping[str, tuple[str, ...]], cells: Iterable[Cell]) -> str:
    """The whole page: the cells there are, in their order, as far as they have been tried."""
    shown = [rows[cell.name] for cell in cells if cell.name in rows]
    green = sum(words[COLUMNS.index("seen")].startswith(GREEN) for words in shown)
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *shown]
    table = "".join(f"| {' | '.join(words)} |\n" for words in lines)
    return f"{HEAD}{green} of {len(shown)} cells are exact.\n\n{table}"


def chosen(cells: Iterable[Cell], only: str) -> list[Cell]:
    """Those named, and those with one of the other words between commas in their names; without any, all."""
    by_name = {cell.name: cell for cell in cells}
    words = {word.strip() for word in only.split(",") if word.strip()}
    parts = words - by_name.keys()
    return [
        cell
        for name, cell in by_name.items()
        if not words or name in words or any(part in name for part in parts)
    ]


def main() -> int:
    """Tries the cells asked for, writing the table after each; 0 when every cell could be tried."""
    cells = all_cells()
    for cell in chosen(cells, os.environ.get("ONLY", "")):
        started_s = time.monotonic()
        seen = try_cell(cell, Progress())
        rows = parse_rows(RESULTS.read_text()) if RESULTS.exists() else {}
        rows[cell.name] = row(cell, seen, datetime.now(UTC).strftime("%Y-%m-%d"))
        RESULTS.write_text(render(rows, cells))
        print(f"matrix: {' | '.join(rows[cell.name])} ({time.monotonic() - started_s:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    run(main, __doc__)
