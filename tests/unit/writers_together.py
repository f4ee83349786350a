# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that archive at once: each has read the dataset before any of them writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fleets import ROOT

_SCRIPT = """
import sys
from balloontrace.archive import archive_recordings
from balloontrace.cli import main
found = archive_recordings.read_dataset
def meet(storage):
    dataset = found(storage)
    print("read", flush=True)
    sys.stdin.readline()
    return dataset
archive_recordings.read_dataset = meet
main(sys.argv[1:])
"""


def start_writers(each_words: Sequence[Sequence[str | Path]]) -> list[subprocess.Popen[str]]:
    """One `balloontrace archive` for each; all have read, and each goes on with a line of its input."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, "archive", *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for words in each_words
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "read\n"
    return writers
