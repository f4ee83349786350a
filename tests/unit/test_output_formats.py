# SPDX-License-Identifier: GPL-2.0-or-later
"""A format is one file: a verb offers it, makes it and writes it, text or binary."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from balloontrace import commands
from balloontrace.commands import formats

EXAMPLE = Path(__file__).parents[2] / "examples" / "stock-inflate.bt"
VERBS = ("report", "compare", "export")
NEW = """
from balloontrace.commands.formats import Format

def _report(examined):
    yield bytes([0, 255])
    yield examined.report.operations[0].kind.encode()

FORMAT = Format("octets", ".bin", report=_report)
"""


def test_what_each_verb_offers() -> None:
    assert set(formats.offered("report")) == {"table", "csv", "json", "markdown", "html"}
    assert set(formats.offered("compare")) == {"table", "csv", "json", "markdown", "html"}
    assert set(formats.offered("export")) == {"csv", "ndjson", "perfetto", "markdown"}
    for each in formats.formats():
        assert each.extension.startswith(".")
    assert all(each.export_help for each in formats.offered("export").values())


@pytest.fixture
def verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], click.Command]]:
    """One file more in the folder of formats, and the verbs as a new process would have them.

    Other tests hold the classes of the modules that stood; so those are put back, not loaded again.
    """
    (tmp_path / "octets.py").write_text(NEW)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    for verb in VERBS:
        importlib.import_module(f"{commands.__name__}.{verb}")
        monkeypatch.delitem(sys.modules, f"{commands.__name__}.{verb}")
        monkeypatch.delattr(commands, verb)
    formats.formats.cache_clear()
    yield lambda verb: getattr(importlib.import_module(f"{commands.__name__}.{verb}"), verb)
    monkeypatch.undo()
    sys.modules.pop(f"{formats.__name__}.octets")
    formats.formats.cache_clear()


def test_a_new_format_is_one_file_and_may_be_binary(
    tmp_path: Path, verbs: Callable[[str], click.Command]
) -> None:
    out = tmp_path / "out.bin"
    report = verbs("report")
    done = CliRunner().invoke(report, [str(EXAMPLE), "--format", "octets", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == b"\x00\xffinflate"
    shown = CliRunner().invoke(report, [str(EXAMPLE), "--format", "octets"])
    assert shown.stdout_bytes == b"\x00\xffinflate"
    assert "octets" in CliRunner().invoke(report, ["--help"]).output
    for verb in ("compare", "export"):
        assert "octets" not in CliRunner().invoke(verbs(verb), ["--help"]).output
