# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: a real guest, a real inflate, and where its time went."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.guest import Guest
from lab.solo import solo

GUEST_MIB = 8192
LEFT_MIB = 1024
_START_S = 180
_BALLOON_S = 300


def main() -> int:
    """Run the demo; 0 when the report was shown."""
    started_s = time.monotonic()
    try:
        _say("booting a guest of 8 GiB: Debian's own kernel, stock virtio_balloon driver, QEMU's balloon")
        with solo(memory_mib=GUEST_MIB) as guest:
            _say("in the guest: balloontrace doctor")
            print(guest.run(["balloontrace", "doctor"], timeout_s=_START_S, check=True).stdout)
            status = _report(record_round_trip(guest, ["record", "-o", "/io/demo.bt", "--operations", "2"]))
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    _say(f"done in {time.monotonic() - started_s:.0f} s; nothing is left running")
    return status


def record_round_trip(guest: Guest, arguments: Sequence[str]) -> Path:
    """Record 7 of 8 GiB taken from an idle guest and given back; returns the recording, on this machine.

    `arguments` are balloontrace's; they record two operations into a file below /io.
    """
    _say(f"in the guest: balloontrace {' '.join(arguments)}")
    recorder = guest.start(["balloontrace", *arguments])
    recorder.wait_for(b"probes attached", timeout_s=_START_S)
    for target_mib in (LEFT_MIB, GUEST_MIB):
        _say(f"outside: the balloon shall leave {target_mib} MiB to the guest")
        guest.set_balloon(target_mib=target_mib)
        guest.wait_balloon(timeout_s=_BALLOON_S)
    _say(recorder.wait(_START_S, check=True).stderr.strip().splitlines()[-1])
    return guest.io / Path(arguments[arguments.index("-o") + 1]).name


def _report(recording: Path) -> int:
    _say("outside: balloontrace report demo.bt")
    return subprocess.run([sys.executable, "-m", "balloontrace", "report", str(recording)]).returncode


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
