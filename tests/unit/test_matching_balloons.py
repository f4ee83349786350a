# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with several balloons, whose host's process serves one of them."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from balloontrace.analysis.make_report import analyse
from balloontrace.analysis.matching import TooManyWaysError
from balloontrace.analysis.matching_balloons import find_sends
from balloontrace.analysis.matching_calls import Calls, Window
from balloontrace.analysis.matching_candidates import Partners
from balloontrace.analysis.nesting import UNKNOWN_DEVICE
from balloontrace.errors import RecordingError
from balloontrace.format.recording import read_recording

DATA = Path(__file__).parent.parent / "data"
SENDS = np.arange(6)
DEVICES = np.array([4, 5, 4, 5, 4, 4])


def test_one_of_two_that_moved_at_once_while_pages_were_reported() -> None:
    """Recorded in the lab: QEMU serves virtio4, another process virtio5."""
    guest, host = (read_recording(DATA / f"two-balloons-{side}-1.5.bt") for side in ("guest", "host"))
    report = analyse(guest, host)
    for operation in report.operations:
        stages = {row.stage for row in operation.stages if row.part_of is None}
        is_served = operation.device == "virtio4"
        assert (operation.served is not None) is is_served
        assert stages == ({"a", "b", "c", "d", "other"} if is_served else {"a", "b+c+d", "other"})
        assert sum(row.total_ns or 0 for row in operation.stages if row.part_of is None) == operation.wall_ns
    assert report.host is not None
    pairing = report.host.pairing
    assert pairing is not None
    assert (pairing.pairs, pairing.sends) == (74, 74)
    assert "106 sends are of other balloons, which this process did not serve" in pairing.notes
    assert sum(each.calls or 0 for each in report.host.others if each.what == "page report") == 110


def as_calls(sends: NDArray[np.intp]) -> Calls:
    column = sends.astype(np.int64)
    return Calls(column, column, column, column, Window(0, 1, 0, None))


def find(devices: NDArray[np.int64], *served: int, error: type[RecordingError] = RecordingError) -> list[int]:
    """The sends that were found, where a match of these devices' sends would be proved."""

    def match(guest: Calls) -> Partners:
        numbers = set(devices[guest.start_ns].tolist())
        if len(numbers) == 1 and numbers <= set(served):
            return Partners(np.arange(1), Mock())
        raise error(f"no way for {sorted(numbers)}")

    sends, guest, partners = find_sends(SENDS, devices, as_calls, match)
    assert sends.tolist() == guest.start_ns.tolist()
    assert partners.notes == ("2 sends are of other balloons, which this process did not serve",)
    return list(sends.tolist())


def test_the_one_that_agrees_is_taken() -> None:
    assert find(DEVICES, 4) == [0, 2, 4, 5]


def test_none_and_several_are_refused() -> None:
    with pytest.raises(RecordingError, match=r"no way for \[4, 5\]"):
        find(DEVICES)
    with pytest.raises(TooManyWaysError, match="of 2 balloons"):
        find(DEVICES, 4, 5)
    with pytest.raises(TooManyWaysError, match=r"no way for \[5\]"):  # it may be this one's, too
        find(DEVICES, 4, error=TooManyWaysError)


def test_sends_of_an_unknown_balloon_are_of_no_other() -> None:
    with pytest.raises(RecordingError, match="no way"):
        find(np.where(DEVICES == 5, UNKNOWN_DEVICE, DEVICES), 4)
