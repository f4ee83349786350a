# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report says of the pairing of a guest's sends with a host's buffers."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.analysis.columns import Batches
from balloontrace.analysis.matching import Matching
from balloontrace.analysis.matching_calls import Calls
from balloontrace.analysis.matching_candidates import Partners
from balloontrace.format.vocabulary import Queue
from balloontrace.results.host_side import Pairing
from balloontrace.units import format_count, format_duration_ns, format_things


def describe_pairing(
    guest: Calls,
    batches: Batches,
    partners: Partners,
    *,
    split: bool,
    found: int,
    unseen: int,
    ended_unseen: int,
    summed_sends: int,
    reports: int | None = None,
) -> Pairing:
    """How many pairs there are, what the clocks are, and notes on what is not paired or not seen.

    `split`: whether the two ways of b are known. `found` buffers had no kick, and `unseen` no completion; of
    these `ended_unseen` have a c all the same. `reports` had a buffer, None where none were traced.
    """
    matching, clock = partners.matching, partners.matching.clock
    silent = [Queue(queue).name.lower() for queue in matching.unseen_queues if queue in list(Queue)]
    notes = [f"the host made no call for what was sent on the {name} queue" for name in silent]
    if summed_sends:
        notes.append(
            f"no buffer was looked for of compaction's sends: {format_count(summed_sends)} are sums alone"
        )
    if found:
        notes.append(
            format_things(
                found,
                "buffer was found without a kick: its c begins with its first call",
                "buffers were found without a kick: their c begins with their first call",
            )
        )
    if ended_unseen:
        notes.append(
            format_things(
                ended_unseen,
                "buffer was completed unseen: its c ends with its last call",
                "buffers were completed unseen: their c ends with their last call",
            )
        )
    if matching.wall_clocks_apart_ns is not None:
        apart = f"the wall clocks of both sides differ by {format_duration_ns(matching.wall_clocks_apart_ns)}"
        notes.append(
            f"{apart}; they were made with the same name of --pair"
            if matching.is_one_pair
            else f"{apart}: see that these recordings are of the same time"
        )
    notes += [*_alone(matching), *partners.notes]
    unseen_parts = len(batches) - len(partners.rows) - len(partners.rest)
    if unseen_parts:
        notes.append(f"{format_things(unseen_parts, 'batch was', 'batches were')} not seen as a whole")
    return Pairing(
        sends=len(guest),
        batches=len(partners.rows),
        pairs=len(matching.sends),
        delimited=len(matching.sends) - unseen,
        clock_offset_ns=round(clock.offset_ns),
        clock_error_ns=round(clock.error_ns),
        clock_drift_ppm=clock.drift * 1e6,
        clocks_known=split,
        notes=tuple(notes),
        reports=reports,
        sends_alone=matching.sends_alone,
        batches_alone=matching.batches_alone,
    )


def _alone(matching: Matching) -> Iterator[str]:
    """What has no partner although both sides were recorded."""
    if matching.sends_alone:
        sends = format_things(matching.sends_alone, "send has", "sends have")
        yield f"{sends} no buffer: not recorded on the host, or not told apart"
    if matching.batches_alone:
        buffers = format_things(matching.batches_alone, "buffer has", "buffers have")
        yield f"{buffers} no send: not recorded in the guest, or not told apart"
