# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorder beside the server that archives what it records; it ends with the server, however that ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

_ENDS_S = 120.0  # it archives the last recording then


class RecorderChild:
    """`balloontrace record` with these words, as a context."""

    def __init__(self, words: Sequence[str], say: Callable[[str], None]) -> None:
        """`say` hears of its end, once."""
        self._say = say
        argv = [sys.executable, "-P", "-m", "balloontrace", "record", "--until-eof", *words]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
        self._is_told = False

    def __enter__(self) -> RecorderChild:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()

    def look(self) -> None:
        """Say once that it has ended; metrics go on without it."""
        if self._process.poll() is not None and not self._is_told:
            self._is_told = True
            self._say("balloontrace: warning: the recorder has ended, and nothing is archived any more\n")
