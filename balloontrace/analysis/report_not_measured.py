# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report cannot show, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.balloon_sizes import SENDS, pages_of_sends_known
from balloontrace.analysis.both_sides import BothSides
from balloontrace.analysis.columns import Payloads
from balloontrace.analysis.guest_side import GuestEvents, GuestRecording, captures
from balloontrace.analysis.host_side import HostRecording
from balloontrace.analysis.metadata import mapping, text, texts
from balloontrace.analysis.operations import NO_OPERATION, Operations
from balloontrace.analysis.payload_statistics import State
from balloontrace.analysis.reported_again import NamedReports
from balloontrace.analysis.send_series import NOT_SERVED
from balloontrace.format.vocabulary import DriverKind, Function, Kind, Status, untraced_features
from balloontrace.results.recording_header import Probe
from balloontrace.units import format_duration_ns, format_things

_LISTED = 8

# For each function that sends: which one tells something of it, by which members of struct virtio_balloon.
_TELL_PAGES = {
    Function.TELL_HOST: (Function.TELL_HOST, ("num_pfns",)),
    Function.SEND_RESP_DATA: (Function.SET_PAGE_BITMAP, ("num_pfns",)),
}
_TELL_PAYLOAD = {
    Function.TELL_HOST: (Function.TELL_HOST, ("num_pfns", "pfns")),
    Function.SEND_RESP_DATA: (Function.SEND_RESP_DATA, ("resp_data", "resp_pos")),
}
_TELL_BLOCKS = ("scatterlist.page_link", "scatterlist.length", "scatterlist.end", "page.end")


def find_not_measured(
    guest: GuestRecording, events: GuestEvents, host: HostRecording | None, both: BothSides | None
) -> tuple[str, ...]:
    """What the report cannot show, and why."""
    return (
        *_of_guest(guest, events, both),
        *_untraced(guest, with_host=host is not None),
        *(host.not_measured if host else ()),
        *_payloads_not_measured(guest, events.payloads, events.operations),
        *_reports_not_measured(guest, events.reports),
    )


def _of_guest(guest: GuestRecording, events: GuestEvents, both: BothSides | None) -> Iterator[str]:
    spans, operations = events.spans, events.operations
    if both is None:
        yield "b, c and d apart: that takes a recording of the host too"
    else:
        yield from _unsplit(operations, both)
    if not SENDS & guest.traced:
        yield "sends, and b+c+d: tell_host was not traced"
    elif not pages_of_sends_known(spans, operations.nesting):
        yield (
            f"pages of a send: {_why_untold(guest, operations, _TELL_PAGES)}; pages of operations are how "
            "far the balloon's size moved"
            + (", empty where it is not known from which size" if operations.items.untold.any() else "")
        )
    if not operations.items.config_measured.any() and len(operations.items):
        yield "reading the target: its probe was not attached"
    if guest.allocation.measured and not operations.items.config_measured.any() and len(operations.items):
        yield "what allocating consists of: it begins with reading the target, which was not seen"
    yield from _releases(guest, operations)
    if not operations.items.measured.any() and len(operations.items):
        yield "targets and outcomes: the target was not seen being read"
    missing = [
        probe for probe in guest.header.probes if probe.status not in (Status.ATTACHED, Status.NOT_NEEDED)
    ]
    stand_ins = _stand_ins(guest.header.probes)
    yield from (_missing_probe(probe, stand_ins.get(probe.function)) for probe in missing)
    if guest.end is None or guest.end.own_cost is None:
        yield "the tool's own cost: it is written at the end of a recording"


def _releases(guest: GuestRecording, operations: Operations) -> Iterator[str]:
    """Why stage a of deflates is whole where that of inflates is in parts."""
    deflates = any(found.kind is Kind.DEFLATE for found in operations.found)
    if guest.allocation.measured and deflates and Kind.DEFLATE not in guest.allocation.kinds:
        why = "leak_balloon was not traced"
        if Function.LEAK_BALLOON in guest.traced:
            why = "this recorder told its parts until the send, and a deflate releases its pages afterwards"
        yield f"what releasing consists of: {why}"


def _untraced(guest: GuestRecording, *, with_host: bool) -> Iterator[str]:
    """Pages that went to the host in ways that no probe shows."""
    if virtio_mem := texts(guest.recording.metadata.get("virtio_mem"))[:_LISTED]:
        listed = " and ".join(virtio_mem)
        yield f"memory plugged and unplugged: {listed} (virtio-mem) can do so, and it is not traced"
    patched = guest.header.driver_kind == DriverKind.PATCHED
    names: dict[tuple[str, str], list[str]] = {}
    for device in guest.header.devices:
        for found in untraced_features(device.feature_bits, guest.traced, patched=patched):
            names.setdefault(found, []).append(device.name)
    for (word, feature), devices in names.items():
        listed = " and ".join(devices[:_LISTED])
        yield f"{word}: {listed} offers it ({feature}), and it is not traced"
        if with_host and word.endswith("reporting"):
            yield (
                f"reports of free pages on the host: {listed} makes them, so some of its buffers and calls "
                "may be reports and belong to no operation"
            )


def _unsplit(operations: Operations, both: BothSides) -> list[str]:
    """Which operations the host's side does not split, and why the ways of b are not shown apart."""
    served = both.times.served_ns != NOT_SERVED
    of = operations.send_operation
    alone = np.unique(of[(of != NO_OPERATION) & ~served])
    sentences = []
    served_of = (both.served[index] for index in alone.tolist())
    unsampled = np.array([each is not None and each.samples == 0 for each in served_of], dtype=np.bool_)
    if not unsampled.all():
        whose = _operations(alone[~unsampled])
        sentences.append(f"b, c and d apart of {whose}: not every send was seen being served")
    if unsampled.any():
        whose = _operations(alone[unsampled])
        sentences.append(f"b, c and d apart of {whose}: no sample came while its buffers were served")
    if not both.pairing.clocks_known:
        bound = format_duration_ns(both.pairing.clock_error_ns)
        sentences.append(f"the ways to the host and back: the clocks are known to {bound} only")
    return sentences


def _operations(indices: NDArray[np.int64]) -> str:
    listed = ", ".join(str(index + 1) for index in indices[:_LISTED].tolist())
    more = f" and {len(indices) - _LISTED} more" if len(indices) > _LISTED else ""
    return f"operation{'s' * (len(indices) > 1)} {listed}{more}"


def _stand_ins(probes: Sequence[Probe]) -> Mapping[str, str]:
    """For each function that was not attached itself the first that was attached in its place."""
    found: dict[str, str] = {}
    for probe in probes:
        if probe.status == Status.ATTACHED:
            for name in (probe.stands_in_for or "").split(", "):
                found.setdefault(name, probe.function)
    return found


def _missing_probe(probe: Probe, stand_in: str | None) -> str:
    sentence = f"{probe.function}: {probe.status or 'not attached'}"
    if stand_in is not None:
        return f"{sentence}; {stand_in} stands in for it"
    return f"{sentence} ({probe.note})" if probe.note else sentence


def _payloads_not_measured(guest: GuestRecording, payloads: Payloads, operations: Operations) -> list[str]:
    """Why it is not known what sends named, where it is not."""
    if payloads.found or not operations.nesting.send.any():
        return []
    if not captures(guest):
        return ["what sends named: record --capture payload keeps it"]
    if any(loss.lost for loss in guest.losses if loss.function == Function.PAYLOAD.symbol):
        return ["what sends named: the ring of payloads was full, and no piece of them was kept"]
    return [f"what sends named: {_why_untold(guest, operations, _TELL_PAYLOAD)}"]


def _reports_not_measured(guest: GuestRecording, reports: NamedReports) -> list[str]:
    """Why it is not known which free memory was reported again, where it is not."""
    if reports.are_whole:
        return []
    if not captures(guest):
        return ["which free memory was reported again: record --capture payload tells"]
    unknown = int((reports.state != State.WHOLE).sum())
    told = format_things(unknown, "report was", "reports were")
    if unknown < len(reports.state):
        return [f"which free memory was reported again: {told} not captured whole"]
    why = _why_unread(guest, Function.VIRTBALLOON_FREE_PAGE_REPORT, _TELL_BLOCKS)
    return [f"which free memory was reported again: {why}"]


def _why_untold(
    guest: GuestRecording,
    operations: Operations,
    tell: Mapping[Function, tuple[Function, tuple[str, ...]]],
) -> str:
    """Why sends do not say what `tell` takes from them or from a call around them."""
    spans, sends = operations.spans, operations.nesting.send
    told = [tell[function] for function in tell if (sends & spans.of(function)).any()]
    causes = [_why_unread(guest, function, members) for function, members in told]
    return "; ".join(dict.fromkeys(causes))


def _why_unread(guest: GuestRecording, function: Function, members: Sequence[str]) -> str:
    probe = next((each for each in guest.header.probes if each.function == function.symbol), None)
    if probe is None or probe.status != Status.ATTACHED:
        return _missing_probe(probe or Probe(function.symbol), None)
    if probe.symbol and "." in probe.symbol:
        return f"{probe.symbol} is a compiler's variant, whose arguments are not known"
    layout = mapping(guest.recording.metadata, "layout")
    unknown = [name if "." in name else f"virtio_balloon.{name}" for name in members]
    unknown = [name for name in unknown if name not in mapping(layout, "offsets_bytes")]
    if unknown:
        why = text(layout, "problem")
        because = f" ({why})" if why else ""
        return f"where {' and '.join(unknown)} lie is not known{because}; record --layout tells"
    return f"{function.symbol} had none to tell"
