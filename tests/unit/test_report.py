# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import synthetic
import synthetic_host
from click.testing import CliRunner
from flows import Flow, typical_flow
from goldens import assert_golden, shortened_json
from people import render_table
from runs import HOST_TIMES, Setup, make_run

from balloontrace.analysis.make_report import analyse
from balloontrace.commands.export import export
from balloontrace.commands.report import MaxLost, parse_max_lost, report
from balloontrace.errors import DataLostError, RecordingError, UsageError
from balloontrace.format.recording import read_recording
from balloontrace.render.blocks_text import WIDTH_COLUMNS
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv
from balloontrace.results.report import Report

ROOT = Path(__file__).parents[2]
RENDERERS = {"txt": render_table, "csv": render_csv, "json": render_json}


def damaged_report() -> Report:
    """Everything that can be wrong at once."""
    flow = typical_flow()
    flow.vmstat["balloon_inflate"] += 3
    data = synthetic.recording_bytes(flow, lost=5, changes={"label": "\x1b[31m" + "x" * 300})
    at = data.index(b"SPAN") + 400
    return analyse(read_recording(io.BytesIO(data[:at] + b"!" + data[at + 1 : -30])))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "a.bt"
    path.write_bytes(synthetic.recording_bytes(typical_flow()))
    return path


@pytest.mark.parametrize("kind", RENDERERS)
def test_golden(kind: str) -> None:
    text = RENDERERS[kind](analyse(synthetic.recording(typical_flow())))
    assert_golden(f"report.{kind}", shortened_json(text) if kind == "json" else text)


@pytest.mark.parametrize(
    "make", [damaged_report, lambda: analyse(synthetic.recording(typical_flow())), lambda: many()]
)
def test_tables_fit_the_terminal(make: Callable[[], Report]) -> None:
    text = render_table(make())
    assert max(map(len, text.splitlines())) <= WIDTH_COLUMNS
    assert text.isprintable() or all(char.isprintable() or char == "\n" for char in text)


def many() -> Report:
    flow = Flow(device=12345)
    for _ in range(50):
        flow.resize(1 << 20, max_items=1)
        flow.resize(0)
    return analyse(synthetic.recording(flow))


def test_many_operations_are_summed_up_not_listed() -> None:
    text = render_table(many())
    assert "40 longest, 60 shorter: --format csv has them all" in text
    assert "All 50 inflate operations" in text
    assert "Operation 1:" not in text


def test_of_many_operations_the_longest_are_listed_in_their_order() -> None:
    flow = Flow()
    for _ in range(30):
        flow.resize(256)
        flow.resize(0)
    flow.resize(8 * 256)
    rows = render_table(analyse(synthetic.recording(flow))).split("outcome\n")[1].splitlines()[1:41]
    numbers = [int(row.split()[0]) for row in rows]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 61


def test_one_of_a_thing_has_the_name_of_one() -> None:
    flow = Flow()
    flow.resize(256)
    text = " ".join(render_table(analyse(synthetic.recording(flow))).split())
    assert "(target 1.00 MiB), 1 send" in text
    for many in (r"1 sends", r"1 spans", r"1 events", r"1 calls"):
        assert not re.search(rf"\b(?<![\d ] ){many}\b", text), many


@pytest.mark.parametrize("kind", RENDERERS)
def test_what_is_wrong_is_in_every_format(kind: str) -> None:
    text = " ".join(RENDERERS[kind](damaged_report()).split())
    for words in ("SPAN piece 1 is damaged", "no end record", "5 events were lost"):
        assert words in text


def test_csv_loads_without_options_and_agrees_with_json() -> None:
    result = analyse(synthetic.recording(typical_flow()))
    table = pd.read_csv(io.StringIO(render_csv(result)))
    described = json.loads(render_json(result))
    operations = table[table.level == "operation"]
    assert operations.wall_ns.tolist() == [each["wall_ns"] for each in described["operations"]]
    assert operations.pages.tolist() == [each["pages"] for each in described["operations"]]
    stages = table[table.level == "stage"]
    flat = [row for each in described["operations"] for row in each["stages"]]
    assert stages.stage.tolist() == [row["stage"] for row in flat]
    for csv_name, json_name in (("total_ns", "total_ns"), ("p99_ns", "p99_ns"), ("count", "count")):
        got = [None if pd.isna(value) else int(value) for value in stages[csv_name]]
        assert got == [row[json_name] for row in flat]
    assert stages.share_ratio.dropna().tolist() == pytest.approx(
        [row["share"] for row in flat if row["share"] is not None], abs=1e-8
    )


def test_not_measured_is_empty_and_never_zero() -> None:
    result = analyse(synthetic.recording(typical_flow(config_traced=False)))
    table = pd.read_csv(io.StringIO(render_csv(result)))
    config = table[table.stage == "other.config"]
    assert config.total_ns.isna().all()
    described = json.loads(render_json(result))
    assert described["operations"][0]["target_pages"] is None
    assert described["operations"][0]["outcome"] is None


def test_an_empty_recording_is_reported() -> None:
    text = render_table(analyse(synthetic.recording(Flow())))
    assert "No operation" in text


def test_report_reads_stdin_and_writes_stdout(recording: Path) -> None:
    result = CliRunner().invoke(report, ["-", "--format", "json"], input=recording.read_bytes())
    assert result.exit_code == 0
    described = json.loads(result.stdout)
    assert described["schema_version"] == 1
    assert described["header"]["recording"] == "standard input"


def test_report_writes_a_file_once(recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.csv"
    arguments = [str(recording), "--format", "csv", "-o", str(target)]
    assert CliRunner().invoke(report, arguments).exit_code == 0
    assert len(pd.read_csv(target)) > 20
    assert isinstance(CliRunner().invoke(report, arguments).exception, UsageError)
    assert CliRunner().invoke(report, [*arguments, "-f"]).exit_code == 0


def test_warnings_go_to_stderr_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.bt"
    path.write_bytes(synthetic.recording_bytes(typical_flow(), ended=False))
    report.main([str(path)], standalone_mode=False)
    assert "balloontrace: warning: the recording has no end record" in capsys.readouterr().err


def losses(**entries: dict[str, int]) -> dict[str, object]:
    return {"losses": entries}


@pytest.mark.parametrize(
    ("allowed", "fails"), [("4", True), ("5", False), ("1%", True), ("20%", False), (None, False)]
)
def test_max_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], allowed: str | None, fails: bool
) -> None:
    path = tmp_path / "lossy.bt"
    end = losses(tell_host={"entries": 39, "lost": 5})
    path.write_bytes(synthetic.recording_bytes(typical_flow(), end=end))
    arguments = [str(path)] if allowed is None else [str(path), "--max-lost", allowed]
    with pytest.raises(DataLostError) if fails else nullcontext():
        report.main(arguments, standalone_mode=False)
    said = capsys.readouterr()
    assert "5 events were lost" in said.err
    assert "Operation 1" in said.out


def test_a_recording_that_was_cut_off_does_not_know_what_it_lost(tmp_path: Path) -> None:
    path = tmp_path / "cut.bt"
    path.write_bytes(synthetic.recording_bytes(typical_flow(), ended=False))
    with pytest.raises(DataLostError, match="the recording does not say how much was lost"):
        report.main([str(path), "--max-lost", "100%"], standalone_mode=False)


def write_pair(folder: Path, *, host_losses: object = None, damaged: bool = False) -> list[str]:
    """A guest's recording that lost nothing, and its host's."""
    run = make_run(Setup(mib=80, host_times=HOST_TIMES))
    found = synthetic_host.batches(run.flow, HOST_TIMES)
    changes = {} if host_losses is None else {"losses": {"batches": host_losses}}
    raw = bytearray(synthetic_host.host_stream(found, end=changes).read())
    if damaged:
        at = -1
        while (at := raw.find(b"BTCH", at + 1)) >= 0:
            raw[at + 40] ^= 1
    (folder / "guest.bt").write_bytes(run.guest)
    (folder / "host.bt").write_bytes(raw)
    return [str(folder / "guest.bt"), str(folder / "host.bt")]


@pytest.mark.parametrize(
    ("host_losses", "allowed", "said"),
    [
        ({"entries": 80, "lost": 0}, "0", None),
        ({"entries": 87, "lost": 7}, "7", None),
        ({"entries": 87, "lost": 7}, "6", "7 events were lost while recording, more than"),
        ({"entries": 87, "lost": 7}, "1%", None),
        ({"entries": 90, "lost": 7}, "9", "7 events were lost while recording and 3 are missing"),
    ],
)
def test_max_lost_holds_for_the_host_too(
    host_losses: object, allowed: str, said: str | None, tmp_path: Path
) -> None:
    files = write_pair(tmp_path, host_losses=host_losses)
    with pytest.raises(DataLostError, match=said) if said else nullcontext():
        report.main([*files, "--max-lost", allowed], standalone_mode=False)


def test_max_lost_takes_a_host_that_was_cut_off_for_unknown(tmp_path: Path) -> None:
    guest, host = write_pair(tmp_path)
    raw = Path(host).read_bytes()
    Path(host).write_bytes(raw[: raw.rindex(b"END")])
    for files in ([guest, host], [host]):
        with pytest.raises(DataLostError, match="not say how much was lost"):
            report.main([*files, "--max-lost", "100%"], standalone_mode=False)


def test_damage_is_said_before_what_follows_from_it(tmp_path: Path) -> None:
    guest, host = write_pair(tmp_path, damaged=True)
    with pytest.raises(RecordingError, match=rf"^{host} is damaged \(.+ is damaged\): the recordings "):
        report.main([guest, host], standalone_mode=False)


def test_batches_missing_from_the_file_are_counted(tmp_path: Path) -> None:
    _, host = write_pair(tmp_path, damaged=True)
    found = analyse(read_recording(Path(host)))
    assert found.spans_missing == 80
    with pytest.raises(DataLostError, match="0 events were lost while recording and 80 are missing"):
        report.main([host, "--max-lost", "0"], standalone_mode=False)


def test_spans_missing_from_the_file_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage takes the first piece: what it held is missing, and does not mean that recording began later."""
    raw = bytearray(synthetic.recording_bytes(typical_flow()))
    raw[raw.index(b"SPAN") + 40] ^= 1
    path = tmp_path / "damaged.bt"
    path.write_bytes(raw)
    found = analyse(read_recording(path))
    assert found.spans_missing == sum(loss.entries or 0 for loss in found.losses) - found.spans > 0
    assert found.events_lost == 0
    assert found.operations[0].started_before_recording is None
    assert not any("when the recording started" in (check.note or "") for check in found.checks)
    with pytest.raises(DataLostError, match=f"and {found.spans_missing} are missing from the file"):
        report.main([str(path), "--max-lost", "0"], standalone_mode=False)
    said = capsys.readouterr()
    assert f"{found.spans_missing} recorded spans are not in the file" in said.err


def test_max_lost_is_a_number_or_a_percentage() -> None:
    assert parse_max_lost("17") == MaxLost(events=17)
    assert parse_max_lost("0.5%") == MaxLost(share=0.005)
    for text in ("", "%", "-1", "x", "nan%", "101%"):
        with pytest.raises(UsageError):
            parse_max_lost(text)


def test_export_writes_every_span(recording: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert CliRunner().invoke(export, [str(recording), "-o", str(folder)]).exit_code == 0
    flow = typical_flow()
    spans = pd.read_csv(folder / "spans.csv")
    assert len(spans) == len(flow.spans)
    sends = spans[spans.function == "tell_host"]
    assert sends.duration_ns.sum() == sum(span.duration_ns for span in flow.spans if span.function == 4)
    assert set(sends.queue) == {"inflate", "deflate"}
    assert sends.target_pages.isna().all()
    counters = pd.read_csv(folder / "counters.csv").set_index("function")
    assert counters.entries["tell_host"] == len(sends)
    described = json.loads((folder / "metadata.json").read_text())
    assert described["metadata"]["label"] == "guest"
    assert isinstance(CliRunner().invoke(export, [str(recording), "-o", str(folder)]).exception, UsageError)
    on_stdout = CliRunner().invoke(export, [str(recording)]).stdout
    assert on_stdout == (folder / "spans.csv").read_text()
    single = tmp_path / "single.csv"
    assert CliRunner().invoke(export, [str(recording), "-o", str(single)]).exit_code == 0
    assert single.read_text() == on_stdout


def run_python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", ["report", "export", "compare"])
def test_help_imports_nothing_heavy_and_shows_an_example(command: str) -> None:
    code = (
        f"import sys; from balloontrace.commands.{command} import {command} as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'pandas', 'tabulate', 'bcc'} & {name.split('.')[0] for name in sys.modules}))"
    )
    said = run_python(code)
    assert f"balloontrace {command} examples/" in said
    assert said.endswith("[]\n")


def test_report_works_without_bcc_and_without_root(recording: Path) -> None:
    code = (
        "import os, sys; sys.modules['bcc'] = None\n"
        "os.dup2(os.open(sys.argv[1], os.O_RDONLY), 0)\n"
        "from balloontrace.commands.report import report\n"
        # The interpreter may be where nobody else may read, so its modules are loaded before.
        "import balloontrace.analysis.make_report, balloontrace.render.report.sections\n"
        "import balloontrace.render.blocks_text, balloontrace.console.output_file\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "report.main(['-'], standalone_mode=False)"
    )
    assert "Operation 1: inflate of virtio0" in run_python(code, str(recording))


def test_ways_of_giving_pages_that_are_not_traced_are_told() -> None:
    def said(bits: Sequence[int], kind: str) -> list[str]:
        devices = [{"name": "virtio4", "index": 0, "features": [], "feature_bits": list(bits)}]
        changes = {"devices": devices, "driver": {"kind": kind, "module_srcversion": None}}
        report = analyse(synthetic.recording(typical_flow(), changes=changes))
        return [each for each in report.not_measured if each.startswith("free page")]

    reporting = "free page reporting: virtio4 offers it (REPORTING), and it is not traced"
    hinting = "free page hinting: virtio4 offers it (FREE_PAGE_HINT), and it is not traced"
    assert said((1, 32), "stock") == []
    assert said((1, 5), "stock") == said((3, 5), "patched") == [reporting]
    assert said((3, 5), "stock") == [reporting, hinting]
