# SPDX-License-Identifier: GPL-2.0-or-later
"""The live view of `top` as people see it: lines, and screens of any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_looks import TITLE, guest_look, host_look, moved

from balloontrace.format.guest_layout import BUCKETS
from balloontrace.live.make_views import (
    GuestViews,
    HostViews,
)
from balloontrace.render.live.lines import guest_header, guest_line, host_header, host_line
from balloontrace.render.live.screen import bar, guest_screen, host_screen
from balloontrace.results.live_view import GuestView, HostView, OtherCalls


def busy() -> GuestView:
    views = GuestViews(guest_look(0, 0), balloons=1)
    views.view(guest_look(1, 100, moved(100, 1000)))
    return views.view(guest_look(2, 700, moved(700, 1000), lost=1, bpf_ns=7_000_000))


def idle() -> GuestView:
    return GuestViews(guest_look(0, None), balloons=1).view(guest_look(1, None))


def serving() -> HostView:
    views = HostViews(host_look(0, 0))
    views.view(host_look(1, 2560))
    return views.view(host_look(2, 7680))


def test_a_line_has_a_word_for_each_name() -> None:
    names = guest_header().split()
    row = dict(zip(names, guest_line(busy()).split(), strict=True))
    assert row == {
        "elapsed": "2.00s",
        "balloon": "700MiB",
        "target": "1000MiB",
        "rate": "600MiB/s",
        "left": "857ms",
        "in_pages": "153600",
        "out_pages": "0",
        "sends": "600",
        "a": "59.4%",
        "b.build": "-",
        "b+c+d": "29.7%",
        "other": "10.9%",
        "failed": "0",
        "lost": "1",
    }
    nothing = dict(zip(names, guest_line(idle()).split(), strict=True))
    assert [name for name, word in nothing.items() if word == "-"] == [
        *("balloon", "target", "rate", "left", "a", "b.build", "b+c+d", "other")
    ]


def test_a_line_of_the_host() -> None:
    row = dict(zip(host_header().split(), host_line(serving()).split(), strict=True))
    assert row["buffers"] == "20"
    assert row["calls"] == "5120"
    assert row["rate"] == "20.0MiB/s"
    assert row["mean"] == "2.00us"
    assert (row["c"], row["d"]) == ("48.8%", "51.2%")


def test_lines_keep_their_columns() -> None:
    assert len(guest_header()) == len(guest_line(busy())) == len(guest_line(idle()))
    assert len(host_header()) == len(host_line(serving()))


def test_a_usual_screen_has_all_there_is() -> None:
    lines = guest_screen(busy(), TITLE, 80, 24)
    assert lines[0] == TITLE
    assert lines[1].startswith("balloon 700 MiB of 1000 MiB [####")
    assert lines[2] == "rate 600 MiB/s, left 857 ms, no work item under way"
    assert lines[3] == "failed allocations 0 (+0), waited for a processor - (last -)"
    assert lines[4] == "sends 700 (+600), taken 700 MiB, given back 0 B"
    assert any(line.split() == ["stage", "last", "1.00", "s", "all", "2.00", "s"] for line in lines)
    assert any(line.startswith("a allocate or release ") and "59.4 %" in line for line in lines)
    assert "lost 1 of 701 calls, tracing 1.0 % of the driver's time" in lines
    assert any(line.startswith("262 us and up") and line.endswith("#") for line in lines)


def test_a_screen_of_the_host() -> None:
    lines = host_screen(serving(), TITLE, 80, 24)
    assert "buffers 30 (+20), discards 20.0 MiB/s" in lines
    assert any(line.split()[0] == "madvise_dontneed" for line in lines if line)
    assert any(line.startswith("1.02 us and up") for line in lines)


def test_what_is_unknown_is_no_number() -> None:
    lines = guest_screen(idle(), TITLE, 80, 24)
    assert lines[1] == "balloon - of -"
    assert lines[2].startswith("rate -, left -, ")
    assert not any("and up" in line for line in lines)


@given(st.integers(1, 300), st.integers(0, 100), st.sampled_from(["busy", "idle", "serving"]))
def test_any_size_of_screen(columns: int, rows: int, which: str) -> None:
    lines = (
        host_screen(serving(), TITLE, columns, rows)
        if which == "serving"
        else guest_screen({"busy": busy, "idle": idle}[which](), TITLE, columns, rows)
    )
    assert len(lines) <= rows
    assert all(len(line) <= columns for line in lines)
    if rows and columns >= len(TITLE):
        assert lines[0] == TITLE


def test_a_narrow_screen_keeps_the_interval() -> None:
    lines = guest_screen(busy(), TITLE, 40, 24)
    (row,) = [line for line in lines if line.startswith("a ")]
    assert row.split() == ["a", "360", "ms", "59.4", "%"]
    # Nothing is cut but the title.
    for which in (lines, host_screen(serving(), TITLE, 40, 40)):
        assert not any(line.endswith("~") for line in which)
    assert "no work item under way" in lines


def test_a_low_screen_shows_the_size_first() -> None:
    assert guest_screen(busy(), TITLE, 80, 2)[1].startswith("balloon 700 MiB of 1000 MiB")


def test_too_many_buckets_lose_their_emptier_end() -> None:
    counts = tuple(1 + 100 * (10 <= bucket < 20) for bucket in range(BUCKETS))
    view = replace(busy(), send_times=replace(busy().send_times, interval=counts, total=counts))
    shown = [line for line in guest_screen(view, TITLE, 80, 26) if "and up" in line]
    room = 26 - guest_screen(view, TITLE, 80, 99).index(next(
        line for line in guest_screen(view, TITLE, 80, 99) if line.startswith("time of a")
    )) - 1  # fmt: skip
    assert len(shown) == room
    assert sum(line.split()[4] == "101" for line in shown) == min(room, 10)


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "...."), (0.5, "##.."), (1.0, "####"), (7.0, "####"), (None, "    ")]
)
def test_bars(share: float | None, shown: str) -> None:
    assert bar(share, 4) == shown


def test_reports_of_free_pages_have_a_line_where_there_are_any() -> None:
    assert not any("report" in line for line in guest_screen(busy(), TITLE, 80, 40))
    view = replace(busy(), reports=2, all_reports=7, all_reported_pages=225 * 1024)
    assert "page reports 7 (+2), reported 900 MiB" in guest_screen(view, TITLE, 80, 40)


def test_other_calls_have_a_line_where_there_are_any() -> None:
    assert not any("out of memory" in line for line in guest_screen(busy(), TITLE, 80, 40))
    view = replace(busy(), others=(OtherCalls("out of memory", 2, 7), OtherCalls("statistics", 0, 1)))
    assert "out of memory 7 (+2), statistics 1 (+0)" in guest_screen(view, TITLE, 80, 40)


def test_hints_have_a_line_where_there_are_any() -> None:
    assert not any("hints" in line for line in guest_screen(busy(), TITLE, 80, 40))
    view = replace(busy(), hinted_pages=3 * 1024, all_hinted_pages=213 * 1024)
    assert "page hints 852 MiB (+12.0 MiB)" in guest_screen(view, TITLE, 80, 40)
