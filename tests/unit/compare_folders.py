# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders of made-up runs, and `balloontrace compare` on them."""

from __future__ import annotations

from pathlib import Path

import command_tree
import pytest
from command_tree import Done
from runs import Setup, make_runs, scatter


def write_folder(folder: Path, setup: Setup, count: int = 5, shift: int = 0) -> Path:
    folder.mkdir()
    for number, run in enumerate(make_runs(setup, scatter(count, shift=shift))):
        run.write(folder, f"run-{number}")
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Done:
    """Exit code, stdout and stderr of a comparison."""
    return command_tree.run(capsys, "compare", *words)
