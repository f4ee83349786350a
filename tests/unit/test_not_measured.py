# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report says of sends that tell nothing: the cause there was, and no other."""

from __future__ import annotations

import io

import pytest
import synthetic
from flows import Flow
from patched_flows import PatchedFlow
from report_checks import report_of

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function, SpanFlag

PATCHED_MEMBERS = ("num_pfns", "pfns", "resp_data", "resp_pos")
LAYOUT = {"source": "btf", "offsets_bytes": {f"virtio_balloon.{name}": 8 for name in PATCHED_MEMBERS}}
NO_LAYOUT = {"source": "none", "offsets_bytes": {}, "problem": "no type information for virtio_balloon"}


def said_of_payloads(function: Function, layout: object = LAYOUT, **probe: object) -> str:
    """What a report says of `function`'s payloads, none of which were captured."""
    flow = PatchedFlow() if function is Function.SEND_RESP_DATA else Flow()
    flow.resize(64)
    probes = synthetic.metadata([flow])["probes"]
    assert isinstance(probes, list)
    changed = [{**each, **probe} if each["function"] == function.symbol else each for each in probes]
    report = report_of(flow, capture="payload", layout=layout, probes=changed)
    return next(each for each in report.not_measured if each.startswith("what sends named: "))


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"status": "failed", "note": "it was refused"}, "send_resp_data: failed (it was refused)"),
        (
            {"symbol": "send_resp_data.constprop.0"},
            "send_resp_data.constprop.0 is a compiler's variant, whose arguments are not known",
        ),
        ({}, "send_resp_data had none to tell"),
    ],
    ids=["refused", "variant", "nothing"],
)
def test_payloads_with_type_information(probe: dict[str, object], said: str) -> None:
    assert said_of_payloads(Function.SEND_RESP_DATA, **probe) == f"what sends named: {said}"


def test_payloads_without_type_information() -> None:
    members = "where virtio_balloon.num_pfns and virtio_balloon.pfns lie is not known"
    tells = "record --layout tells"
    known = f"what sends named: {members} (no type information for virtio_balloon); {tells}"
    assert said_of_payloads(Function.TELL_HOST, NO_LAYOUT) == known
    # Recordings made before say nothing of the cause.
    assert said_of_payloads(Function.TELL_HOST, {}) == f"what sends named: {members}; {tells}"


def test_payloads_that_were_lost_had_no_room() -> None:
    flow = Flow()
    flow.resize(64)
    losses = {Function.PAYLOAD.symbol: {"entries": 3, "lost": 3}}
    raw = synthetic.recording_bytes(flow, changes={"capture": "payload"}, end={"losses": losses})
    report = analyse(read_recording(io.BytesIO(raw)))
    said = "what sends named: the ring of payloads was full, and no piece of them was kept"
    assert said in report.not_measured


@pytest.mark.parametrize("patched", [False, True])
def test_pages_of_a_compilers_variant(*, patched: bool) -> None:
    flow = PatchedFlow() if patched else Flow()
    teller = Function.SET_PAGE_BITMAP if patched else Function.TELL_HOST
    flow.resize(64)
    flow.silence(SpanFlag.PAGES, teller)
    probes = synthetic.metadata([flow])["probes"]
    assert isinstance(probes, list)
    symbol = f"{teller.symbol}.isra.0"
    changed = [{**each, "symbol": symbol} if each["function"] == teller.symbol else each for each in probes]
    report = report_of(flow, layout=LAYOUT, probes=changed)
    (said,) = [each for each in report.not_measured if each.startswith("pages of a send: ")]
    assert said.startswith(
        f"pages of a send: {symbol} is a compiler's variant, whose arguments are not known;"
    )
    assert "type information" not in said


def test_virtio_mem_is_said_to_be_untraced() -> None:
    said = "memory plugged and unplugged: virtio6 (virtio-mem) can do so, and it is not traced"
    for devices, expected in (({"virtio_mem": ["virtio6"]}, True), ({"virtio_mem": []}, False), ({}, False)):
        assert (said in report_of(Flow(), **devices).not_measured) is expected
