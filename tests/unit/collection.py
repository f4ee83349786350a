# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings to test every format with: all that were made in the lab, and made-up ones."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import synthetic
from allocation import hold_up
from flows import Flow, typical_flow
from patched_flows import PatchedFlow
from synthetic_both import sides

from balloontrace.analysis.make_report import Examined, examine
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Part

ROOT = Path(__file__).parents[2]
Sources = tuple[Recording, ...]


def real() -> dict[str, tuple[Path, ...]]:
    """The files of examples and kept recordings; a guest's and its host's together, and each alone."""
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted([*(ROOT / "examples").glob("*.bt"), *(ROOT / "tests" / "data").glob("*.bt")]):
        found[path.stem] = (path,)
        if path.stem.endswith("-guest"):
            host = path.with_name(path.name.replace("-guest", "-host"))
            found[path.stem.removesuffix("-guest")] = (path, host)
    return found


def read_real(name: str) -> Sources:
    return tuple(read_recording(path) for path in real()[name])


def _eventful() -> Flow:
    """Everything that can happen to a balloon but its driver's removal in mid-operation."""
    flow = Flow()
    flow.resize(3000, max_items=4)
    flow.oom()
    flow.migrate()
    flow.resize(7919)
    flow.idle_item()
    flow.oom(tid=0)
    flow.resize(101, moves={3: 57})
    flow.interrupt(4099)
    flow.now += 5
    flow.remove_driver()
    return flow


def _windows() -> Flow:
    flow = PatchedFlow(sends_of_windows=(2, 1, 3))
    flow.resize(1 << 16)
    flow.migrate()
    flow.resize(4096)
    return flow


def _damaged() -> Recording:
    data = synthetic.recording_bytes(typical_flow(), lost=5)
    at = data.index(b"SPAN") + 400
    return read_recording(io.BytesIO(data[:at] + b"!" + data[at + 1 : -30]))


def _two_devices() -> Recording:
    one, other = Flow(), Flow(device=7, tid=101, clock_ns=1_000_500_000)
    for flow in (one, other):
        flow.resize(2048)
        flow.resize(0)
    return synthetic.recording(one, other)


def _split() -> Flow:
    """Every part of allocating there is, and one of releasing."""
    flow = Flow()
    flow.resize(5 * 256)
    for item, part in enumerate(Part):
        hold_up(flow, part, 300 + item, 1 + item, item)
    flow.resize(0)
    hold_up(flow, Part.OFF_CPU, 77, 2)
    return flow


def _many() -> Recording:
    flow = Flow(device=12345)
    for _ in range(50):
        flow.resize(1 << 20, max_items=1)
        flow.resize(0)
    return synthetic.recording(flow)


MADE_UP: Mapping[str, Callable[[], Sources]] = {
    "typical": lambda: (synthetic.recording(typical_flow()),),
    "fill is a symbol": lambda: (synthetic.recording(typical_flow(fill_is_symbol=True)),),
    "targets unknown": lambda: (synthetic.recording(typical_flow(config_traced=False)),),
    "eventful": lambda: (synthetic.recording(_eventful()),),
    "windows": lambda: (synthetic.recording(_windows()),),
    "two devices": lambda: (_two_devices(),),
    "allocating in parts": lambda: (synthetic.recording(_split()),),
    "releasing in parts": lambda: (
        synthetic.recording(_split(), changes={"parts_of_a": ["inflate", "deflate"]}),
    ),
    "many operations": lambda: (_many(),),
    "nothing": lambda: (synthetic.recording(Flow()),),
    "cut off": lambda: (synthetic.recording(typical_flow(), ended=False, lost=7),),
    "damaged": lambda: (_damaged(),),
    "both sides": sides,
    "host alone": lambda: sides()[1:],
}

NAMES = [*real(), *MADE_UP]


def sources(name: str) -> Sources:
    """One recording, or a guest's and its host's."""
    return MADE_UP[name]() if name in MADE_UP else read_real(name)


@functools.cache
def examined(name: str) -> Examined:
    """Those, analysed: nothing in it can be changed, so that all tests may have the same."""
    return examine(*sources(name))
