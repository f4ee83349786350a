# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: one inflate with the stock driver and with the page-bitmap driver, and where its time went."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from lab.errors import LabError
from lab.patched_driver import load_patched
from lab.scenario import START_S, record_moves
from lab.script import run
from lab.topology_solo import solo

GUEST_MIB = 8192
LEFT_MIB = 1024

Json = dict[str, Any]


def main() -> int:
    """Run the demo; 0 when the reports were shown."""
    started_s = time.monotonic()
    try:
        before = _show("before", patched=False)
        after = _show("after", patched=True)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    _say("before and after, side by side")
    print(side_by_side(before, after))
    _say(f"done in {time.monotonic() - started_s:.0f} s; nothing is left running")
    return 0


def _show(name: str, *, patched: bool) -> Json:
    """Boot a guest, record 7 of its 8 GiB being taken, show the report; returns its one operation."""
    driver = "page-bitmap driver" if patched else "Debian's own driver"
    _say(f"{name}: booting a guest of 8 GiB with {driver}, on the lab's balloon device")
    with solo(memory_mib=GUEST_MIB, device="backend", page_bitmap=patched) as guest:
        if patched:
            load_patched(guest)
        _say("in the guest: balloontrace doctor")
        print(guest.run(["balloontrace", "doctor"], timeout_s=START_S, check=True).stdout, flush=True)
        recording = record_moves(guest, f"{name}.bt", (LEFT_MIB,), options=("--capture", "payload"), say=_say)
        _say(f"outside: balloontrace report {name}.bt")
        print(_report(recording), flush=True)
        operation: Json = json.loads(_report(recording, "--format", "json"))["operations"][0]
        return operation


def _report(recording: Path, *options: str) -> str:
    words = [sys.executable, "-m", "balloontrace", "report", str(recording), *options]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise LabError(f"balloontrace report ended with status {done.returncode}")
    return done.stdout


def side_by_side(before: Json, after: Json) -> str:
    """Two operations of a report's JSON, one row for each thing they have in common."""
    rows = [("wall, ms", *(_ms(each["wall_ns"]) for each in (before, after)))]
    for stage in after["stages"]:
        if stage["part_of"] is None:
            name = f"{stage['stage']} {stage['name']}, ms"
            rows.append((name, *(_ms(_stage_ns(each, stage["stage"])) for each in (before, after))))
    rows.append(("sends", *(str(each["sends"]) for each in (before, after))))
    for name in ("bytes_sent", "runs_named", "pages_named"):
        rows.append((name, *(str(each["payload"][name]) for each in (before, after))))
    headers = ("7 of 8 GiB", "before", "after")
    return tabulate(rows, headers=headers, colalign=("left", "right", "right"), disable_numparse=True)


def _stage_ns(operation: Json, name: str) -> int | None:
    found = (row["total_ns"] for row in operation["stages"] if row["stage"] == name)
    return next(found, None)


def _ms(duration_ns: int | None) -> str:
    return "-" if duration_ns is None else f"{duration_ns / 1e6:.1f}"


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main, __doc__)
