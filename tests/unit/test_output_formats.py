# SPDX-License-Identifier: GPL-2.0-or-later
"""A format is one file: a verb offers it, makes it and writes it, text or binary."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from balloontrace.commands import compare, export, formats, report

EXAMPLE = Path(__file__).parents[2] / "examples" / "stock-inflate.bt"
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
def octets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One file more in the folder of formats, and the verbs as a new process would have them."""
    (tmp_path / "octets.py").write_text(NEW)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    _start_over()
    yield
    monkeypatch.undo()
    sys.modules.pop(f"{formats.__name__}.octets")
    _start_over()


def _start_over() -> None:
    formats.formats.cache_clear()
    for verb in (report, compare, export):
        importlib.reload(verb)


@pytest.mark.usefixtures("octets")
def test_a_new_format_is_one_file_and_may_be_binary(tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    done = CliRunner().invoke(report.report, [str(EXAMPLE), "--format", "octets", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == b"\x00\xffinflate"
    shown = CliRunner().invoke(report.report, [str(EXAMPLE), "--format", "octets"])
    assert shown.stdout_bytes == b"\x00\xffinflate"
    assert "octets" in CliRunner().invoke(report.report, ["--help"]).output
    for verb in (compare.compare, export.export):
        assert "octets" not in CliRunner().invoke(verb, ["--help"]).output
