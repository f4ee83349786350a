# SPDX-License-Identifier: GPL-2.0-or-later
"""A live view of many VMs: a line for each, as plain lines or as the lines of a screen."""

from __future__ import annotations

from collections.abc import Sequence

from balloontrace.render.blocks_text import clip
from balloontrace.render.live.lines import host_words, join_words, word
from balloontrace.results.live_view import HOST_STAGES, VmView
from balloontrace.units import format_duration_ns, format_things

_COLUMNS = (
    *(("elapsed", 8), ("vm", 20), ("pid", 8), ("buffers", 8), ("calls", 9), ("rate", 11), ("mean", 7)),
    *((stage.code, 6) for stage in HOST_STAGES),
    *(("failed", 6), ("splits", 6), ("lost", 4)),
)
_SCREEN = _COLUMNS[1:]


def all_header() -> str:
    """Names of the columns of `all_lines`."""
    return join_words([name for name, _ in _COLUMNS], _COLUMNS)


def all_lines(views: Sequence[VmView]) -> list[str]:
    """The last interval of each VM, in the order in which they came."""
    return [join_words(_words(each), _COLUMNS) for each in views]


def all_screen(views: Sequence[VmView], title: str, columns: int, rows: int) -> list[str]:
    """At most `rows` lines of at most `columns` characters: the busiest first, then who did most so far."""
    busiest = sorted(views, key=lambda each: (-each.view.calls, -each.view.all_calls, each.name, each.pid))
    lines = [title, format_things(len(views), "VM"), ""]
    lines.append(join_words([name for name, _ in _SCREEN], _SCREEN))
    room = max(rows - len(lines), 0)
    shown = busiest[:room] if len(busiest) <= room else busiest[: max(room - 1, 0)]
    lines += [join_words(_words(each)[1:], _SCREEN) for each in shown]
    if len(shown) < len(busiest):
        lines.append(f"and {format_things(len(busiest) - len(shown), 'VM')} more")
    return [clip(line, columns) for line in lines[: max(rows, 0)]]


def _words(each: VmView) -> list[str]:
    elapsed = word(format_duration_ns(each.view.running_ns))
    return [elapsed, each.name.replace(" ", "_"), str(each.pid), *host_words(each.view)]
