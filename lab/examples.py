# SPDX-License-Identifier: GPL-2.0-or-later
"""`make examples`: record the examples anew, and the reports beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from lab.errors import LabError
from lab.scenario import record_moves
from lab.solo import solo

EXAMPLES = Path(__file__).parent.parent / "examples"
GUEST_MIB = 8192
LEFT_MIB = 1024


def main() -> int:
    """Record an inflate and a deflate of 7 GiB in a guest of 8."""
    try:
        with solo(memory_mib=GUEST_MIB) as guest:
            for name, target_mib in (("stock-inflate", LEFT_MIB), ("stock-deflate", GUEST_MIB)):
                recording = record_moves(guest, f"{name}.bt", (target_mib,), say=_say)
                shutil.copyfile(recording, EXAMPLES / recording.name)
                write_report(EXAMPLES / recording.name)
    except LabError as error:
        print(f"examples: {error}", file=sys.stderr)
        return 1
    return 0


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
