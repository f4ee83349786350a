# SPDX-License-Identifier: GPL-2.0-or-later
"""A send that was lost is told, and all others are matched; where too many are, nothing else is blamed."""

from __future__ import annotations

import io

import pytest
from command_process import ROOT
from mutations import join, split
from record_changes import Fields, change_records

from balloontrace.analysis.make_report import analyse
from balloontrace.errors import RecordingError
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Function

BEFORE = ROOT / "examples" / "before"
GUEST, HOST = ((BEFORE / f"before-002-{side}.bt").read_bytes() for side in ("guest", "host"))


def recording(data: bytes) -> Recording:
    return read_recording(io.BytesIO(data))


def without_sends(numbers: set[int]) -> Recording:
    def left(spans: list[Fields]) -> list[Fields]:
        sends = [place for place, span in enumerate(spans) if span["function"] == Function.TELL_HOST]
        gone = {sends[number] for number in numbers}
        return [span for place, span in enumerate(spans) if place not in gone]

    return recording(change_records(GUEST, left))


def repeated() -> Recording:
    """The host's with each piece of batches twice, under a number of its own."""
    pieces = split(HOST)
    again = [(kind, 1000 + number, data) for number, (kind, _, data) in enumerate(pieces) if kind == b"BTCH"]
    return recording(join([*pieces, *again], (1, 5)))


@pytest.mark.parametrize("numbers", [{100}, {100, 300}])
def test_a_lost_send_is_told_and_all_others_are_matched(numbers: set[int]) -> None:
    report = analyse(without_sends(numbers), recording(HOST))
    assert report.host
    assert report.host.pairing
    assert report.host.pairing.pairs == 512 - len(numbers)
    assert report.host.pairing.batches_alone == len(numbers)
    assert report.spans_missing == len(numbers)
    (check,) = [each for each in report.checks if each.name == "sends"]
    assert check.note == f"{512 - len(numbers)} of them are the same; some were lost"


def test_lost_sends_are_why_nothing_is_matched() -> None:
    with pytest.raises(RecordingError) as refused:
        analyse(without_sends(set(range(5, 507))), recording(HOST))
    assert str(refused.value) == (
        "the recordings cannot be matched: 502 sends of the guest are missing from the file"
    )


def test_a_buffer_that_is_there_twice_is_one() -> None:
    twice = analyse(recording(GUEST), repeated())
    once = analyse(recording(GUEST), recording(HOST))
    assert twice.operations == once.operations
    assert twice.host is not None
    assert once.host is not None
    assert twice.host.batches == once.host.batches == 512
    assert any("left out 512 batches" in warning for warning in twice.warnings)


def test_batches_that_are_not_in_the_file_are_told() -> None:
    pieces = split(HOST)
    (*_, last) = [place for place, (kind, _, _) in enumerate(pieces) if kind == b"BTCH"]
    fewer = [piece for place, piece in enumerate(pieces) if place != last]
    report = analyse(recording(join(fewer, (1, 5))))
    assert report.spans_missing
    (told,) = [warning for warning in report.warnings if "not in the file" in warning]
    assert told.startswith(f"host: {report.spans_missing} recorded batch")
    assert not [each for each in analyse(recording(HOST)).warnings if "not in the file" in each]
