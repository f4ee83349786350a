# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: a real guest, a real inflate, and where its time went."""

from __future__ import annotations

import subprocess
import sys
import time

from lab.errors import LabError
from lab.scenario import START_S, record_moves
from lab.solo import solo

GUEST_MIB = 8192
LEFT_MIB = 1024


def main() -> int:
    """Run the demo; 0 when the report was shown."""
    started_s = time.monotonic()
    try:
        _say("booting a guest of 8 GiB: Debian's own kernel, stock virtio_balloon driver, QEMU's balloon")
        with solo(memory_mib=GUEST_MIB) as guest:
            _say("in the guest: balloontrace doctor")
            print(guest.run(["balloontrace", "doctor"], timeout_s=START_S, check=True).stdout, flush=True)
            recording = record_moves(guest, "demo.bt", (LEFT_MIB, GUEST_MIB), say=_say)
            _say("outside: balloontrace report demo.bt")
            status = subprocess.run(
                [sys.executable, "-m", "balloontrace", "report", str(recording)]
            ).returncode
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    _say(f"done in {time.monotonic() - started_s:.0f} s; nothing is left running")
    return status


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
