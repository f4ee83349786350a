# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs several `balloontrace top` in a guest, each on a terminal of its own, and says how each left it.

Arguments: a file that appears when the balloon has moved; a pattern of what each must have drawn before it is
ended, each in its own way.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress

ENDS = {"q": b"q", "ctrl-c": b"\x03", "sigterm": None}


class Top:
    """One of them, and all it wrote."""

    def __init__(self) -> None:
        self.leader, self.follower = pty.openpty()
        self.resize(90, 30)
        self.before = termios.tcgetattr(self.follower)
        self.output = b""
        self.process = subprocess.Popen(
            ["balloontrace", "top", "-i", "300ms"],
            stdin=self.follower,
            stdout=self.follower,
            stderr=self.follower,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm"},
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> None:
        with suppress(OSError):  # nobody has the other end open any more
            while True:
                self.output += os.read(self.leader, 65536)

    def wait_for(self, pattern: bytes, since: int = 0, timeout_s: float = 300) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not re.search(pattern, self.output[since:]):
            if time.monotonic() > deadline_s or self.process.poll() is not None:
                sys.exit(f"waited for {pattern!r} in {self.output[-3000:]!r}")
            time.sleep(0.05)

    def end(self, keys: bytes | None) -> dict[str, object]:
        seen = len(self.output)
        self.resize(50, 12)
        self.wait_for(rb"balloontrace top", since=seen)
        if keys is None:
            self.process.send_signal(signal.SIGTERM)
        else:
            os.write(self.leader, keys)
        status = self.process.wait(60)
        after = termios.tcgetattr(self.follower)
        os.close(self.follower)
        self.reader.join()
        return {
            "status": status,
            "same_terminal": after == self.before,
            "output": self.output.decode(errors="replace"),
        }


def main() -> None:
    tops = {name: Top() for name in ENDS}
    for top in tops.values():
        top.wait_for(rb"balloontrace top: guest")
    print("drawn", flush=True)
    while not os.path.exists(sys.argv[1]):  # noqa: PTH110
        time.sleep(0.05)
    for top in tops.values():
        top.wait_for(sys.argv[2].encode())
    print(json.dumps({name: top.end(ENDS[name]) for name, top in tops.items()}))


main()
