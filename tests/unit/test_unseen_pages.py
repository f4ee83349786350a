# SPDX-License-Identifier: GPL-2.0-or-later
"""A report never says that the balloon did not move when it did, and pages that no probe saw come first."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import synthetic
from click.testing import CliRunner
from flows import Flow, typical_flow
from people import render_markdown, render_table

from balloontrace.analysis.make_pictures import depict
from balloontrace.analysis.make_report import analyse, examine
from balloontrace.commands.record import _tell
from balloontrace.commands.report import report
from balloontrace.errors import BalloontraceError, DataLostError
from balloontrace.format.moved_pages import Moved, Unseen, describe_unseen
from balloontrace.format.recording import read_recording
from balloontrace.render.report.html import render_html
from balloontrace.results.report import Report
from balloontrace.trace.session import Ending, SessionResult

FTRACE_OFF = Path(__file__).parents[1] / "data" / "cases" / "g1-ftrace-off.bt"
UNSEEN = (
    "165 888 of 165 888 pages that moved by /proc/vmstat (82 944 inflated, 82 944 deflated) are not in this "
    "recording: no probe fired (balloontrace doctor says why)"
)


def moving(change: dict[str, int], **end: object) -> Report:
    """The typical flow, with more moved by /proc/vmstat than its spans have."""
    flow = typical_flow()
    for name, pages in change.items():
        flow.vmstat[name] += pages
    return analyse(read_recording(io.BytesIO(synthetic.recording_bytes(flow, end=end))))


def test_probes_that_never_fired_are_told_first() -> None:
    """tests/data/cases/g1-ftrace-off.bt: kernel.ftrace_enabled=0, 324 MiB in and out."""
    recording = read_recording(FTRACE_OFF)
    found = analyse(recording)
    assert (found.pages_moved, found.pages_unseen) == (165_888, 165_888)
    assert found.warnings[0] == UNSEEN
    text = " ".join(render_table(found).split())
    assert text.index(UNSEEN) < text.index("No operation: pages moved")
    pages = render_html(found, depict(examine(recording)))
    for rendered in (text, render_markdown(found), pages):
        assert "did not move" not in rendered
        assert "pages moved, and none of their operations is in this recording" in rendered


@pytest.mark.parametrize("allowed", ["0", "100", "99%"])
def test_pages_that_no_probe_saw_are_lost(allowed: str) -> None:
    done = CliRunner().invoke(report, [str(FTRACE_OFF), "--max-lost", allowed])
    assert isinstance(done.exception, DataLostError)
    assert "165888 pages moved that the recording does not have" in str(done.exception)
    assert CliRunner().invoke(report, [str(FTRACE_OFF), "--max-lost", "100%"]).exit_code == 0
    assert CliRunner().invoke(report, [str(FTRACE_OFF), "--max-lost", "648"]).exit_code == 0
    assert CliRunner().invoke(report, [str(FTRACE_OFF)]).exit_code == 0


def test_a_part_that_no_probe_saw_is_told_by_number() -> None:
    found = moving({"balloon_inflate": 1000, "balloon_deflate": 24})
    assert found.pages_unseen == 1024
    assert found.warnings[0].startswith("1 024 of ")
    assert "(balloontrace doctor says what disarms probes)" in found.warnings[0]


def test_pages_of_lost_events_are_told_by_number() -> None:
    flow = typical_flow()
    flow.vmstat["balloon_inflate"] += 512
    data = synthetic.recording_bytes(flow, lost=2)
    found = analyse(read_recording(io.BytesIO(data)))
    assert found.pages_unseen == 512


@pytest.mark.parametrize(
    ("end", "unseen"),
    [
        ({"under_way_pages": 256}, 744),
        ({"under_way_pages": 1000}, 0),
        ({"under_way_pages": None}, None),
        ({"under_way_pages": 0}, 1000),
    ],
)
def test_pages_under_way_at_the_end_are_no_alarm(end: dict[str, int | None], unseen: int | None) -> None:
    flow = typical_flow()
    traced = {name: 1000 + pages for name, pages in flow.vmstat.items()}
    traced["balloon_inflate"] += 1000
    found = moving({"balloon_inflate": 40_000}, vmstat_traced=traced, **end)
    assert found.pages_unseen == unseen
    if unseen and end["under_way_pages"]:
        assert found.warnings[0].startswith("at least 744 of ")
    elif not unseen:
        assert not any("vmstat" in warning for warning in found.warnings)


def test_without_an_end_nobody_knows_whether_it_moved() -> None:
    data = synthetic.recording_bytes(Flow(), ended=False)
    found = analyse(read_recording(io.BytesIO(data)))
    assert (found.pages_moved, found.pages_unseen) == (None, None)
    assert "whether the balloon moved is not known" in " ".join(render_table(found).split())


def test_a_balloon_that_rested_did_not_move() -> None:
    found = analyse(synthetic.recording(Flow()))
    assert (found.pages_moved, found.pages_unseen) == (0, 0)
    assert "the balloon did not move while this was recorded" in render_table(found)
    assert json.loads(CliRunner().invoke(report, [str(FTRACE_OFF), "--format", "json"]).stdout)["pages_moved"]


def test_record_says_it_first_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    result = SessionResult(Ending.INTERRUPTED, unseen=Unseen(Moved(500, 12, 0), 512, 0))
    with pytest.raises(BalloontraceError, match="pages moved that no probe saw"):
        _tell(result, "balloon.bt")
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "balloontrace: 512 of 512 pages that moved by /proc/vmstat (500 inflated, 12 deflated) are not in "
        "this recording: no probe fired; balloontrace doctor says why"
    )
    assert second.startswith("balloontrace: interrupted: 0 spans")


@pytest.mark.parametrize("pages", [0, None])
def test_record_is_content_with_what_it_saw_or_cannot_tell(pages: int | None) -> None:
    _tell(SessionResult(Ending.INTERRUPTED, unseen=Unseen(Moved(500, 12, 0), pages, 256)), "balloon.bt")


def test_one_page_is_called_one() -> None:
    said = describe_unseen(Unseen(Moved(inflated=1, deflated=0, migrated=0), 1, 0), "reason")
    assert said == (
        "1 of 1 page that moved by /proc/vmstat (1 inflated, 0 deflated) is not in this recording: reason"
    )
