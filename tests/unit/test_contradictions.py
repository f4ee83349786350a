# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's recording says nothing alone that its host's recording shows to be otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contradictions import assert_no_contradiction
from flows import Flow, Times
from synthetic_both import flow_of, guest_recording
from synthetic_host import HostTimes, batches, host_recording

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import Recording, read_recording
from balloontrace.render.json import render_json

ROOT = Path(__file__).parents[2]
PAIRS = sorted(
    guest
    for folder in ("examples", "examples/before", "examples/after")
    for guest in (ROOT / folder).glob("*-guest.bt")
)


def compared(guest: Recording, host: Recording) -> int:
    alone, both = (json.loads(render_json(analyse(*sides))) for sides in ((guest,), (guest, host)))
    return assert_no_contradiction(alone, both)


@pytest.mark.parametrize("guest", PAIRS, ids=lambda path: path.stem)
def test_the_examples(guest: Path) -> None:
    host = guest.with_name(guest.name.replace("-guest", "-host"))
    assert compared(read_recording(guest), read_recording(host)) > 0


TRANSLATING = HostTimes(translate=1_300_000, call=10, spread=13)


# A send takes 1.5 ms: the guest cannot have waited for longer than the host leaves of it.
@pytest.mark.parametrize(
    ("times", "running_ns"),
    [
        *((HostTimes(), running_ns) for running_ns in (None, 2_000, 900_000, 1_200_000)),
        *((HostTimes(spread=0), running_ns) for running_ns in (None, 2_000, 900_000)),
        *((TRANSLATING, running_ns) for running_ns in (None, 2_000, 100_000)),
    ],
)
def test_made_up_ones(times: HostTimes, running_ns: int | None) -> None:
    flow = flow_of(running_ns=running_ns)
    assert compared(guest_recording(flow), host_recording(batches(flow, times))) == 2


def test_it_can_fail() -> None:
    """A guest that says it waited for a processor, and a host that worked all the time."""
    flow = Flow(times=Times(send=1_500_000))
    flow.resize(100 * 256)
    host = host_recording(batches(flow, HostTimes(call=5_200, spread=13)))
    guest = guest_recording(flow)
    alone, both = (json.loads(render_json(analyse(*sides))) for sides in ((guest,), (guest, host)))
    alone["operations"][0]["verdict"] = ["guest slow: 90 % of the time waiting for a processor"]
    with pytest.raises(AssertionError):
        assert_no_contradiction(alone, both)
