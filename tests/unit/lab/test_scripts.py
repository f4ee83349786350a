# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that work for minutes or hours begin only when they are asked to."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAIN = '__name__ == "__main__"'
# They take arguments, which are looked at before anything begins.
WITH_ARGUMENTS = {
    *("lab.__main__", "lab.compare_same_driver"),
    *("bench.both_sides_cost", "bench.counted", "bench.decode_payloads", "bench.strangers"),
}
MODULES = sorted(
    f"{path.parent.name}.{path.stem}"
    for folder in ("lab", "bench")
    for path in (ROOT / folder).glob("*.py")
    if MAIN in path.read_text()
)


@pytest.mark.parametrize("module", [name for name in MODULES if name not in WITH_ARGUMENTS])
def test_a_program_without_arguments_refuses_one(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python -m` runs it, in this process: most of what they import is there already."""
    name = module.removesuffix(".__main__")
    monkeypatch.delitem(sys.modules, module, raising=False)
    for word, status in (("--help", 0), ("word", 2)):
        monkeypatch.setattr(sys, "argv", [name, word])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        assert ended.value.code == status
        out, err = capsys.readouterr()
        if status:
            assert (out, "unexpected extra argument (word)" in err) == ("", True), err
        else:
            assert err == ""
            assert out.startswith(f"Usage: python -m {name} ")
