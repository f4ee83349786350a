# SPDX-License-Identifier: GPL-2.0-or-later
"""The warnings of a guest's report: damage, losses, what is missing, and when the driver was away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from balloontrace.analysis.columns import Payloads, Spans
from balloontrace.analysis.guest_side import MOST_BALLOONS, GuestEvents, GuestRecording, Sizes
from balloontrace.analysis.metadata import End
from balloontrace.analysis.operations import MOST_OPERATIONS
from balloontrace.analysis.report_losses import events_lost, events_seen, of_calls
from balloontrace.format.moved_pages import Unseen, describe_unseen
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import Function
from balloontrace.results.recorder import Loss
from balloontrace.results.recording_header import DriverGap, Header
from balloontrace.units import format_count, format_duration_ns, format_things


def warn_of_guest(
    guest: GuestRecording, events: GuestEvents, sizes: Sizes, of_host: Sequence[str]
) -> tuple[str, ...]:
    """What a reader has to know before all else; `of_host` is the same of the host's side."""
    lost = events_lost(guest.losses)
    return (
        # The damage before what it cost; else nothing is to be read before what is not there.
        *guest.recording.damage,
        *_unseen_warnings(sizes.unseen, events_seen(guest.losses), lost, guest.missing, guest.gaps),
        *_warnings(guest.recording, guest.end, events.spans),
        *(_describe_gap(gap, guest.header) for gap in guest.gaps),
        *_balloon_warnings(sizes.left_out),
        *_payload_warnings(events.payloads, guest.losses, events.carried.left_out),
        *of_host,
        *_missing_warnings(sum(guest.missing.values())),
        *_loss_warnings(guest.losses, lost),
        *guest.summed.warnings(),
    )


def _unseen_warnings(
    unseen: Unseen | None,
    seen: int | None,
    lost: int | None,
    missing: Mapping[Function, int],
    gaps: Sequence[DriverGap],
) -> list[str]:
    """How many pages moved that the recording does not have, and why."""
    if unseen is None or not unseen.pages:
        return []
    if any(missing.values()):
        reason = "their spans are missing from the file"
    elif lost:
        reason = f"{format_things(lost, 'event was', 'events were')} lost"
    elif not seen:
        reason = "no probe fired (balloontrace doctor says why)"
    elif any(gap.reattached for gap in gaps):
        reason = "they moved before probes were attached again to the driver"
    else:
        reason = "the probes did not see them (balloontrace doctor says what disarms probes)"
    return [describe_unseen(unseen, reason)]


def _warnings(recording: Recording, end: End | None, spans: Spans) -> list[str]:
    """What keeps the recording from being whole, beside damage."""
    sentences = [*recording.notes]
    if spans.damaged:
        damaged = format_things(spans.damaged, "record that", "records that")
        sentences.append(f"left out {damaged} could not be decoded, or with impossible values")
    if spans.contradictory:
        contradictory = format_things(
            spans.contradictory, "record that contradicts", "records that contradict"
        )
        sentences.append(
            f"left out {contradictory} others: calls that overlap, or parts that are longer than the whole"
        )
    if spans.beyond:
        sentences.append(
            f"more than {format_count(MOST_OPERATIONS)} operations: "
            f"the {format_things(spans.beyond, 'record')} from the next one on were left out"
        )
    if spans.unknown:
        unknown = format_things(spans.unknown, "record is", "records are")
        sentences.append(f"{unknown} of functions this version does not know")
    if end is None:
        sentences.append("the recording has no end record: it was cut off, and what came after is unknown")
    elif end.clean is False:
        sentences.append(f"the recording did not end normally: {end.reason or 'no reason is given'}")
    return sentences


def _describe_gap(gap: DriverGap, header: Header) -> str:
    """When the driver was away, counted from the start of the recording, and what that means."""

    def when(time_ns: int) -> str:
        return format_duration_ns(max(0, time_ns - (header.started_monotonic_ns or 0)))

    devices = ", ".join(gap.devices) or "the balloon"
    gone_ns = gap.gone_ns if gap.gone_ns is not None else gap.last_seen_ns
    since = f"from {when(gone_ns)} after the start" if gone_ns is not None else "at some time"
    if gap.back_ns is None:
        return f"{devices} had no driver {since} on: it did not come back"
    back = when(gap.back_ns)
    traced = (
        "probes were attached again then, and what moved before was not seen"
        if gap.reattached
        else "probes stayed attached"
    )
    if gap.gone_ns is None:
        return f"{devices} lost its driver and was bound again before {back} after the start; {traced}"
    return f"{devices} had no driver {since} to {back}; {traced}"


def _balloon_warnings(left_out: int) -> list[str]:
    if not left_out:
        return []
    return [
        f"the sizes of {format_things(left_out, 'balloon')} behind the first {MOST_BALLOONS} were left out"
    ]


def _payload_warnings(payloads: Payloads, losses: Sequence[Loss], left_out: int) -> list[str]:
    """What of the captured payloads is not there. The counts are of pieces of 1 KiB."""
    sentences = []
    lost = sum(loss.lost or 0 for loss in losses if loss.function == Function.PAYLOAD.symbol)
    if lost:
        pieces = format_things(lost, "piece of payloads was", "pieces of payloads were")
        sentences.append(f"{pieces} lost: what they named is not known")
    if left_out:
        sentences.append(
            f"the payloads of {format_things(left_out, 'send')} were left out: they name more runs of pages, "
            "or belong to more operations, than are examined"
        )
    if payloads.damaged:
        sentences.append(f"{format_things(payloads.damaged, 'piece')} of payloads could not be decoded")
    return sentences


def _missing_warnings(missing: int) -> list[str]:
    if not missing:
        return []
    gone = format_things(missing, "recorded span is", "recorded spans are")
    return [f"{gone} not in the file, so times and counts are too low"]


def _loss_warnings(losses: Sequence[Loss], lost: int | None) -> list[str]:
    if not lost:
        return []
    places = [
        f"{loss.function} {format_count(loss.events_lost)}" for loss in of_calls(losses) if loss.events_lost
    ]
    gone = format_things(lost, "event was", "events were")
    return [f"{gone} lost, so times and counts are too low: {', '.join(places)}"]
