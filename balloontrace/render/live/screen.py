# SPDX-License-Identifier: GPL-2.0-or-later
"""A live view as the lines of a screen of any size: what matters most is at the top and is cut last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from balloontrace.render.blocks_text import clip
from balloontrace.results.live_view import GuestView, HostView, Spread
from balloontrace.units import (
    format_count,
    format_duration_ns,
    format_pages_as_bytes,
    format_rate,
    format_share,
    format_things,
)

_FULL = "#"
_EMPTY = "."
_NAME_COLUMNS = 13
_LABELLED_COLUMNS = 23
_NARROW_COLUMNS = 18
_WIDE_COLUMNS = 60  # from here on there is room for labels and for both the interval and the whole
_BAR_COLUMNS = 76  # and from here on for bars beside them
_STAGE_BAR_COLUMNS = 16


def guest_screen(view: GuestView, title: str, columns: int, rows: int) -> list[str]:
    """At most `rows` lines of at most `columns` characters."""
    sections = [
        [title],
        _balloon(view, columns),
        _flow(
            [f"rate {_speed(view)}", f"left {format_duration_ns(view.left_ns)}", _under_way(view)], columns
        ),
        _flow(
            [
                f"failed allocations {_both(view.all_failed_allocations, view.failed_allocations)}",
                f"waited for a processor {_shares(view.all_run_delay_share, view.run_delay_share)}",
            ],
            columns,
        ),
        _flow([f"sends {_both(view.all_sends, view.sends)}", *_moved(view)], columns),
        _reports(view, columns),
        _hints(view),
        _flow([f"{each.what} {_both(each.all_calls, each.calls)}" for each in view.others], columns),
        [""],
        _stages(view, columns),
        [""],
        _cost(view.lost, view.calls, view.bpf_share, "the driver's time", columns),
        [""],
    ]
    lines = [line for section in sections for line in section]
    lines += _spread(f"time of a {view.send_times.what}", view.send_times, columns, rows - len(lines))
    return [clip(line, columns) for line in islice(lines, max(rows, 0))]


def host_screen(view: HostView, title: str, columns: int, rows: int) -> list[str]:
    """At most `rows` lines of at most `columns` characters."""
    sections = [
        [title],
        _flow(
            [
                f"buffers {_both(view.all_batches, view.batches)}",
                f"discards {format_rate(view.bytes_per_s)}",
            ],
            columns,
        ),
        _flow(
            [
                f"calls {_both(view.all_calls, view.calls)}",
                f"failed {_both(view.all_errors, view.errors)}",
                f"huge pages split {_both(view.all_thp_splits, view.thp_splits)}",
            ],
            columns,
        ),
        [""],
        _stages(view, columns),
        [""],
        _kinds(view, columns),
        [""],
        _cost(view.lost, view.all_calls, view.bpf_share, "the time in calls", columns),
        [""],
    ]
    lines = [line for section in sections for line in section]
    lines += _spread("time of a call", view.call_times, columns, rows - len(lines))
    return [clip(line, columns) for line in islice(lines, max(rows, 0))]


def bar(share: float | None, columns: int) -> str:
    """A bar of `columns` characters, `share` of them full; no bar of what is not known."""
    if share is None or columns <= 0:
        return " " * max(columns, 0)
    full = round(min(max(share, 0.0), 1.0) * columns)
    return _FULL * full + _EMPTY * (columns - full)


def _balloon(view: GuestView, columns: int) -> list[str]:
    text = f"balloon {format_pages_as_bytes(view.size_pages)} of {format_pages_as_bytes(view.target_pages)}"
    if view.size_pages is None or not view.target_pages or view.size_pages > view.target_pages:
        return [text]
    room = columns - len(text) - 3
    return [text if room < 10 else f"{text} [{bar(view.size_pages / view.target_pages, room)}]"]


def _speed(view: GuestView) -> str:
    rate = view.rate_bytes_per_s
    sign = "-" if rate is not None and rate < 0 else ""
    return f"{sign}{format_rate(None if rate is None else abs(rate))}"


def _under_way(view: GuestView) -> str:
    if view.under_way_ns is None:
        return "no work item under way"
    return f"work item under way for {format_duration_ns(view.under_way_ns)}"


def _both(since_start: int, interval: int) -> str:
    return f"{format_count(since_start)} (+{format_count(interval)})"


def _shares(since_start: float | None, interval: float | None) -> str:
    return f"{format_share(since_start)} (last {format_share(interval)})"


def _flow(parts: Sequence[str], columns: int) -> list[str]:
    """The parts one after the other, a new line where one does not fit any more."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= columns:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def _moved(view: GuestView) -> tuple[str, str]:
    taken = format_pages_as_bytes(view.all_inflated_pages)
    given = format_pages_as_bytes(view.all_deflated_pages)
    return f"taken {taken}", f"given back {given}"


def _reports(view: GuestView, columns: int) -> list[str]:
    """Nothing where no free page was ever reported."""
    if not view.all_reports:
        return []
    reported = format_pages_as_bytes(view.all_reported_pages)
    return _flow([f"page reports {_both(view.all_reports, view.reports)}", f"reported {reported}"], columns)


def _hints(view: GuestView) -> list[str]:
    """Nothing where no free page was ever hinted."""
    if not view.all_hinted_pages:
        return []
    hinted, all_hinted = map(format_pages_as_bytes, (view.hinted_pages, view.all_hinted_pages))
    return [f"page hints {all_hinted} (+{hinted})"]


def _cost(lost: int, calls: int, bpf_share: float | None, whole: str, columns: int) -> list[str]:
    seen = f"lost {format_count(lost)} of {format_things(calls, 'call')}"
    return _flow([seen, f"tracing {format_share(bpf_share)} of {whole}"], columns)


def _stages(view: GuestView | HostView, columns: int) -> list[str]:
    """Under the lengths of the last interval and of the whole."""
    wide = columns >= _WIDE_COLUMNS
    name_columns = _LABELLED_COLUMNS if wide else _NAME_COLUMNS
    interval = f"last {format_duration_ns(view.interval_ns)}"
    since_start = f"all {format_duration_ns(view.running_ns)}"
    lines = [f"{'stage'.ljust(name_columns)}{interval:>16}" + (f"{since_start:>18}" if wide else "")]
    for share in view.stages:
        label = f"{share.stage} {share.label}" if wide and share.stage != share.label else share.stage
        line = clip(label, name_columns).ljust(name_columns)
        line += _time(share.interval_ns, share.interval_share).rjust(16)
        if wide:
            line += _time(share.total_ns, share.total_share).rjust(18)
        if columns >= _BAR_COLUMNS:
            line += f"  {bar(share.interval_share, _STAGE_BAR_COLUMNS)}"
        lines.append(line.rstrip())
    return lines


def _time(time_ns: int | None, share: float | None) -> str:
    return f"{format_duration_ns(time_ns)} {format_share(share):>7}"


def _kinds(view: HostView, columns: int) -> list[str]:
    """One line a kind of call that was ever made."""
    wide = columns >= _WIDE_COLUMNS
    name_columns = _LABELLED_COLUMNS if wide else _NARROW_COLUMNS
    lines = [f"{'call'.ljust(name_columns)}{'calls':>10}{'mean':>9}" + (f"{'rate':>14}" if wide else "")]
    for each in view.kinds:
        line = clip(each.call, name_columns - 1).ljust(name_columns)
        line += f"{format_count(each.calls):>10}{format_duration_ns(each.mean_ns):>9}"
        lines.append(line + (f"{format_rate(each.rate_bytes_per_s):>14}" if wide else ""))
    return lines


def _spread(name: str, spread: Spread, columns: int, rows: int) -> list[str]:
    """How many took how long, of as many buckets as there is room for: those with the most in all."""
    used = [bucket for bucket, count in enumerate(spread.total) if count]
    if not used or rows < 2:
        return []
    first, last = used[0], used[-1]
    while last - first + 1 > rows - 1:  # the emptier end goes first
        if spread.total[first] < spread.total[last]:
            first += 1
        else:
            last -= 1
    most = max(spread.total[first : last + 1])
    wide = columns >= _WIDE_COLUMNS
    name_columns = 20 if wide else _NARROW_COLUMNS
    lines = [f"{clip(name, name_columns).ljust(name_columns)}{'interval':>10}{'since start':>12}"]
    for bucket in range(first, last + 1):
        line = f"{format_duration_ns(1 << bucket)} and up".ljust(name_columns)
        line += f"{format_count(spread.interval[bucket]):>10}"
        line += f"{format_count(spread.total[bucket]):>12}"
        lines.append(
            line + (f"  {_FULL * _length(spread.total[bucket], most, columns - 46)}" if wide else "")
        )
    return lines


def _length(count: int, most: int, columns: int) -> int:
    """Of a bar; whatever is not nothing is seen."""
    return max(round(count / most * columns), 1) if count else 0
