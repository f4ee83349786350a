# SPDX-License-Identifier: GPL-2.0-or-later
"""A live view as plain lines, one an interval under one header: for pipes, logs and `--plain`.

Every value is one word, so that awk and cut take them; `-` is what was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from balloontrace.format.stages import Stage
from balloontrace.results.live_view import GUEST_STAGES, HOST_STAGES, GuestView, HostView, Share
from balloontrace.units import (
    NOT_MEASURED,
    format_duration_ns,
    format_pages_as_bytes,
    format_rate,
    format_share,
)

_SHARE_COLUMNS = 6

_GUEST = (
    *(("elapsed", 8), ("balloon", 8), ("target", 8), ("rate", 11), ("left", 7), ("in_pages", 9)),
    *(("out_pages", 9), ("sends", 6)),
    *((stage.code, max(len(stage.code), _SHARE_COLUMNS)) for stage in GUEST_STAGES),
    *(("failed", 6), ("lost", 4)),
)
_HOST = (
    *(("elapsed", 8), ("buffers", 8), ("calls", 9), ("rate", 11), ("mean", 7)),
    *((stage.code, max(len(stage.code), _SHARE_COLUMNS)) for stage in HOST_STAGES),
    *(("failed", 6), ("splits", 6), ("lost", 4)),
)


def guest_header() -> str:
    """Names of the columns of `guest_line`."""
    return join_words([name for name, _ in _GUEST], _GUEST)


def host_header() -> str:
    """Names of the columns of `host_line`."""
    return join_words([name for name, _ in _HOST], _HOST)


def guest_line(view: GuestView) -> str:
    """The last interval of the guest's balloon; elapsed is since the start."""
    words = [
        word(format_duration_ns(view.running_ns)),
        word(format_pages_as_bytes(view.size_pages)),
        word(format_pages_as_bytes(view.target_pages)),
        word(format_rate(view.rate_bytes_per_s)),
        word(format_duration_ns(view.left_ns)),
        count_word(view.inflated_pages),
        count_word(view.deflated_pages),
        count_word(view.sends),
        *share_words(view.stages, GUEST_STAGES),
        count_word(view.failed_allocations),
        count_word(view.lost),
    ]
    return join_words(words, _GUEST)


def host_line(view: HostView) -> str:
    """The last interval of the process; elapsed is since the start."""
    return join_words([word(format_duration_ns(view.running_ns)), *host_words(view)], _HOST)


def host_words(view: HostView) -> list[str]:
    """What a process did in the last interval, a word a column."""
    calls_ns = sum((each.mean_ns or 0) * each.calls for each in view.kinds)
    return [
        count_word(view.batches),
        count_word(view.calls),
        word(format_rate(view.bytes_per_s)),
        word(format_duration_ns(calls_ns / view.calls if view.calls else None)),
        *share_words(view.stages, HOST_STAGES),
        count_word(view.errors),
        count_word(view.thp_splits),
        count_word(view.lost),
    ]


def join_words(words: Sequence[str], columns: Sequence[tuple[str, int]]) -> str:
    """Words under the names of their columns, each with its width."""
    return " ".join(word.rjust(width) for word, (_, width) in zip(words, columns, strict=True))


def share_words(stages: Sequence[Share], wanted: Sequence[Stage]) -> list[str]:
    """Each wanted stage's part of the last interval."""
    found = {share.stage: share.interval_share for share in stages}
    return [word(format_share(found.get(stage.code))) for stage in wanted]


def word(text: str) -> str:
    """A value as one word."""
    return text.replace(" ", "")


def count_word(count: int | None) -> str:
    """A count as one word."""
    return NOT_MEASURED if count is None else str(count)
