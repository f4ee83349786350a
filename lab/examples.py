# SPDX-License-Identifier: GPL-2.0-or-later
"""`make examples`: record the examples anew, and the reports beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from lab.aging import fragmented
from lab.driver import load_patched
from lab.errors import LabError
from lab.guest import Guest
from lab.scenario import record_moves
from lab.solo import solo

EXAMPLES = Path(__file__).parent.parent / "examples"
GUEST_MIB = 8192
LEFT_MIB = 1024
FRAGMENTED_MIB = 6144
FRAGMENTED_LEFT_MIB = 4096

CAPTURE = ("--capture", "payload")


def main() -> int:
    """Record inflates and deflates of 7 GiB in a guest of 8, and one of 4 GiB in an aged one."""
    try:
        with solo(memory_mib=GUEST_MIB) as guest:
            _record(guest, "stock-inflate", LEFT_MIB)
            _record(guest, "stock-deflate", GUEST_MIB)
        with solo(memory_mib=GUEST_MIB, device="backend", page_bitmap=True) as guest:
            load_patched(guest)
            _record(guest, "bitmap-inflate", LEFT_MIB, *CAPTURE)
            _record(guest, "bitmap-deflate", GUEST_MIB, *CAPTURE)
            with fragmented(guest, mib=FRAGMENTED_MIB, keep_percent=10):
                _record(guest, "bitmap-fragmented", FRAGMENTED_LEFT_MIB, *CAPTURE)
    except LabError as error:
        print(f"examples: {error}", file=sys.stderr)
        return 1
    return 0


def _record(guest: Guest, name: str, target_mib: int, *options: str) -> None:
    recording = record_moves(guest, f"{name}.bt", (target_mib,), options=options, say=_say)
    shutil.copyfile(recording, EXAMPLES / recording.name)
    write_report(EXAMPLES / recording.name)


def write_report(recording: Path) -> None:
    """Put the report of a recording beside it, as `balloontrace report` in that folder gives it."""
    done = subprocess.run(
        [sys.executable, "-m", "balloontrace", "report", recording.name],
        cwd=recording.parent,
        stdout=subprocess.PIPE,
        check=True,
    )
    recording.with_suffix(".txt").write_bytes(done.stdout)


def _say(text: str) -> None:
    print(f"examples: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
