# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fake_system import lay_out_foreign_bcc

ROOT = Path(__file__).parents[2]
MAIN = "from balloontrace.__main__ import main; main()"
EXAMPLE = str(ROOT / "examples" / "stock-inflate.bt")


def untraceable(folder: Path) -> dict[str, str]:
    """An environment in which no machine can be traced, whatever it is: its bcc is another package."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(lay_out_foreign_bcc(folder / "python"))])}


def balloontrace_command(
    *words: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr, after the program's name."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("balloontrace: ")
    return line.removeprefix("balloontrace: ")
