# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that work for minutes or hours begin only when they are asked to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAIN = '__name__ == "__main__"'
# They take arguments, which are looked at before anything begins.
WITH_ARGUMENTS = {
    *("lab.__main__", "lab.compare_same_driver"),
    *("bench.counted", "bench.decode_payloads", "bench.strangers"),
}
MODULES = sorted(
    f"{path.parent.name}.{path.stem}"
    for folder in ("lab", "bench")
    for path in (ROOT / folder).glob("*.py")
    if MAIN in path.read_text()
)


@pytest.mark.parametrize("module", [name for name in MODULES if name not in WITH_ARGUMENTS])
def test_a_program_without_arguments_refuses_one(module: str) -> None:
    shown = run(module, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"Usage: python -m {module.removesuffix('.__main__')} ")
    refused = run(module, "word")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "unexpected extra argument (word)" in refused.stderr


def run(module: str, word: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", module.removesuffix(".__main__"), word]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
