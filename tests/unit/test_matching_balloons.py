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


@pytest.mark.parametrize(
    ("process", "served", "sends", "others"), [("qemu", 4, 74, 106), ("lab", 5, 106, 74)]
)
def test_either_of_two_that_moved_at_once(process: str, served: int, sends: int, others: int) -> None:
    """Recorded in the lab: QEMU serves virtio4 and page reports, another process virtio5."""
    guest, host = (read_recording(DATA / f"two-balloons-{side}-1.5.bt") for side in ("guest", process))
    report = analyse(guest, host)
    for operation in report.operations:
        top = [row for row in operation.stages if row.part_of is None]
        is_served = operation.device == f"virtio{served}"
        assert (operation.served is not None) is is_served
        assert {row.stage for row in top} == ({*"abcd", "other"} if is_served else {"a", "b+c+d", "other"})
        assert sum(row.total_ns or 0 for row in top) == operation.wall_ns
    assert report.host is not None
    pairing, reporting = report.host.pairing, report.page_reporting
    assert pairing is not None
    assert (pairing.pairs, pairing.sends) == (sends, sends)
    assert f"{others} sends are of other balloons, which this process did not serve" in pairing.notes
    assert all(check.agrees for check in report.checks)
    checked = {check.name: check.spans for check in report.checks}
    found = [each for each in report.host.others if each.what == "page report" and each.told_by == "matching"]
    assert reporting is not None
    if process == "qemu":
        assert checked["reported pages"] == reporting.pages == 41_472
        assert sum(each.bytes or 0 for each in found) == 41_472 * 4096
        assert reporting.host_d_ns
    else:  # reports that another process answered are no difference
        assert "reported pages" not in checked
        assert not found
        assert reporting.host_d_ns is None


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
