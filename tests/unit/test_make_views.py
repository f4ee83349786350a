# SPDX-License-Identifier: GPL-2.0-or-later
"""What `top` makes of looks at the sums, and how it shows that at any size."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.guest_counters import Counters, DeviceState, FunctionCounts
from balloontrace.format.guest_layout import BUCKETS, DEVICES, LIVE
from balloontrace.format.host_counters import CallSums, HostCounters
from balloontrace.format.host_layout import LIVE_SLOTS_BYTES
from balloontrace.format.live_counters import (
    LiveBatches,
    LiveDevice,
    LiveSums,
    parse_live,
    parse_live_batches,
)
from balloontrace.format.vocabulary import Call, Function
from balloontrace.live.make_views import (
    RATE_INTERVALS,
    GuestLook,
    GuestViews,
    HostLook,
    HostViews,
    time_left_ns,
)
from balloontrace.live.read_sums import estimate_run_time_ns
from balloontrace.render.live.lines import guest_header, guest_line, host_header, host_line
from balloontrace.render.live.screen import bar, guest_screen, host_screen
from balloontrace.results.live_view import GuestView, HostView

S_NS = 1_000_000_000
MIB_PAGES = 256
NOWHERE = DeviceState(0, 0, 0, 0, False)
NOTHING = FunctionCounts(0, 0, 0, 0, 0, 0, 0, 0)
EMPTY = parse_live(bytes(LIVE.size_bytes))
NO_CALL = CallSums(0, 0, 0, 0, 0, 0, (0,) * BUCKETS)
TITLE = "balloontrace top: guest"


def guest_look(
    time_s: float, mib: int | None, live: LiveSums = EMPTY, lost: int = 0, **more: int
) -> GuestLook:
    """The balloon at `mib` MiB, `live` summed up by then."""
    functions = dict.fromkeys(Function, NOTHING)
    functions[Function.TELL_HOST] = replace(NOTHING, entries=live.sends + lost, no_state=lost)
    states = [NOWHERE] * DEVICES
    if live.items:
        states[4] = DeviceState(live.devices[4].target_pages, 0, 0, int(time_s * S_NS), True)
    pages = None if mib is None else mib * MIB_PAGES
    return GuestLook(int(time_s * S_NS), Counters(functions, tuple(states)), live, pages, more.get("bpf_ns"))


def moved(mib: int, target_mib: int, **more: int) -> LiveSums:
    """The sums after `mib` MiB were inflated in as many work items of 1 ms: 600 us a, 300 us b+c+d."""
    devices = list(EMPTY.devices)
    devices[4] = LiveDevice(more.pop("entered_ns", 0), 0, target_mib * MIB_PAGES)
    buckets = dict(EMPTY.buckets)
    buckets[Function.TELL_HOST] = tuple(mib if bucket == 18 else 0 for bucket in range(BUCKETS))
    summed = {
        "items": mib,
        "item_ns": mib * 1_000_000,
        "allocate_ns": mib * 600_000,
        "send_ns": mib * 300_000,
        "requeue_ns": mib * 10_000,
        "sends": mib,
        "inflated_pages": mib * MIB_PAGES,
        **more,
    }
    return replace(EMPTY, devices=tuple(devices), buckets=buckets, **summed)


# ---- looks ----


def test_bytes_of_the_maps() -> None:
    raw = bytearray(LIVE.size_bytes)
    struct.pack_into("=11Q", raw, 0, *range(1, 12))
    struct.pack_into("=QQI", raw, 96 + 4 * 24, 70, 80, 90)
    struct.pack_into("=Q", raw, 96 + 8 * 24 + (Function.TELL_HOST * BUCKETS + 17) * 8, 5)
    live = parse_live(bytes(raw))
    assert (live.items, live.item_ns, live.failed_allocations) == (1, 2, 11)
    assert live.devices[4] == LiveDevice(70, 80, 90)
    assert live.buckets[Function.TELL_HOST][17] == 5
    assert sum(map(sum, live.buckets.values())) == 5


def test_slots_of_the_host_add_up() -> None:
    raw = bytearray(LIVE_SLOTS_BYTES)
    struct.pack_into("=4Q", raw, 32 * 7, 2, 100, 60, 70)
    struct.pack_into("=4Q", raw, 32 * 9, 3, 50, 20, 40)
    assert parse_live_batches(bytes(raw)) == LiveBatches(5, 150, 80, 70)
    assert parse_live_batches(b"") == LiveBatches(0, 0, 0, 0)


def at_rest(*sizes: tuple[int | None, int | None], pages: int | None = None) -> GuestView:
    """A view of balloons that have not moved since the start: their sizes and targets, and vmstat's."""
    read = {
        index: BalloonSize(f"virtio{index}", True, size, target) for index, (size, target) in enumerate(sizes)
    }
    look = replace(guest_look(1, None), sizes=read, balloon_pages=pages)
    return GuestViews(look, balloons=len(sizes)).view(replace(look, time_ns=2 * S_NS))


def test_a_balloon_at_rest_has_its_size_and_target_too() -> None:
    view = at_rest((100, 300), pages=101)
    assert (view.size_pages, view.target_pages) == (101, 300)  # of one, the kernel's count is the newer
    both = at_rest((100, 300), (50, 40), pages=150)
    assert (both.size_pages, both.target_pages) == (150, 340)
    unknown = at_rest((100, 300), (None, None), pages=150)
    assert (unknown.size_pages, unknown.target_pages) == (None, None)


def test_of_several_balloons_the_one_that_moves_is_shown() -> None:
    live = moved(10, 100)
    read = {4: BalloonSize("virtio4", True, 2560, 25_600), 5: BalloonSize("virtio5", True, 1, 2)}
    look = replace(guest_look(1, None, live), sizes=read)
    view = GuestViews(look, balloons=2).view(replace(look, time_ns=2 * S_NS))
    assert (view.size_pages, view.target_pages) == (2560, 25_600)


def test_what_runs_took_by_those_that_were_timed() -> None:
    timed = {"runs": 1000, "timed_runs": 100, "run_time_ns": 5000}
    assert estimate_run_time_ns([timed, {"runs": None, "timed_runs": 3, "run_time_ns": 9}]) == 50_000
    assert estimate_run_time_ns([{"runs": 7, "timed_runs": None, "run_time_ns": None}]) is None
    assert estimate_run_time_ns([{"runs": 7, "timed_runs": 0, "run_time_ns": 0}]) is None
    assert estimate_run_time_ns([]) is None


# ---- the guest ----


def test_before_anything_moved_only_the_size_is_known() -> None:
    views = GuestViews(guest_look(0, 512), balloons=1)
    view = views.view(guest_look(1, 512))
    assert (view.size_pages, view.target_pages, view.left_ns, view.device) == (
        512 * MIB_PAGES,
        None,
        None,
        None,
    )
    assert view.rate_bytes_per_s == 0
    assert (view.inflated_pages, view.sends, view.failed_allocations) == (0, 0, 0)
    assert all(share.interval_ns is None and share.total_share is None for share in view.stages)
    assert (view.bpf_share, view.under_way_ns) == (None, None)


def test_rates_and_shares_of_the_interval_and_of_the_whole() -> None:
    views = GuestViews(guest_look(0, 0), balloons=1)
    views.view(guest_look(1, 100, moved(100, 1000)))
    view = views.view(guest_look(3, 700, moved(700, 1000, failed_allocations=3), bpf_ns=7_000_000))
    assert (view.interval_ns, view.running_ns) == (2 * S_NS, 3 * S_NS)
    assert (view.inflated_pages, view.all_inflated_pages) == (600 * MIB_PAGES, 700 * MIB_PAGES)
    assert (view.sends, view.all_sends) == (600, 700)
    assert (view.failed_allocations, view.all_failed_allocations) == (3, 3)
    assert view.rate_bytes_per_s == 300 << 20
    # By the whole move: 700 MiB in 3 s, 300 MiB to go.
    assert view.left_ns == pytest.approx(300 / (700 / 3) * S_NS, rel=1e-9)
    stages = {share.stage: share for share in view.stages}
    assert list(stages) == ["a", "b+c+d", "other"]
    assert stages["a"].interval_ns == 600 * 600_000
    assert stages["a"].interval_share == pytest.approx(600 / 1010)
    assert stages["other"].total_ns == 700 * 110_000
    assert sum(share.interval_ns or 0 for share in view.stages) == 600 * 1_010_000
    assert sum(share.total_share or 0 for share in view.stages) == pytest.approx(1)
    assert view.send_times.interval[18] == 600
    assert view.send_times.total[18] == 700
    assert view.bpf_share == pytest.approx(7 / 700)


def test_the_time_left_goes_by_this_move_alone() -> None:
    views = GuestViews(guest_look(0, 1000), balloons=1)
    views.view(guest_look(1, 900, moved(1, 2000)))
    views.view(guest_look(2, 900, moved(1, 2000)))
    still = views.view(guest_look(3, 900, moved(1, 2000)))
    assert (still.rate_bytes_per_s, still.left_ns) == (0, None)
    view = views.view(guest_look(4, 1000, moved(2, 2000)))
    assert view.left_ns == 10 * S_NS
    for second in range(5, 5 + RATE_INTERVALS):
        view = views.view(guest_look(second, 1000 + (second - 4) * 50, moved(second, 2000)))
    assert view.left_ns == pytest.approx((2000 - 1250) / 50 * S_NS)


@pytest.mark.parametrize(
    ("size", "target", "rate"),
    [(None, 5, 1.0), (5, None, 1.0), (5, 6, None), (5, 6, 0.0), (5, 6, -1.0), (6, 5, 1.0), (5, 5, 1.0)],
)
def test_no_time_is_left_that_nobody_knows(size: int | None, target: int | None, rate: float | None) -> None:
    assert time_left_ns(size, target, rate) is None


def test_a_deflate_has_time_left_too() -> None:
    assert time_left_ns(10 * MIB_PAGES, 0, -5.0 * (1 << 20)) == 2 * S_NS


def test_a_work_item_under_way_tells_its_target() -> None:
    live = moved(0, 1000, entered_ns=2 * S_NS)
    view = GuestViews(guest_look(0, 0), balloons=1).view(guest_look(5, 300, live))
    assert (view.under_way_ns, view.target_pages) == (3 * S_NS, 1000 * MIB_PAGES)
    assert view.rate_bytes_per_s == 60 << 20
    assert view.left_ns == pytest.approx(700 / 60 * S_NS)


def test_of_several_balloons_vmstat_says_nothing() -> None:
    views = GuestViews(guest_look(0, 512), balloons=2)
    assert views.view(guest_look(1, 512)).size_pages is None
    assert views.view(guest_look(2, 700, moved(1, 100))).size_pages == 0  # as its driver says


def test_pages_of_sends_that_do_not_tell_are_unknown() -> None:
    views = GuestViews(guest_look(0, 0), balloons=1)
    view = views.view(guest_look(1, 5, moved(5, 10, unknown_sends=1)))
    assert (view.inflated_pages, view.all_deflated_pages) == (None, None)
    later = views.view(guest_look(2, 6, moved(6, 10, unknown_sends=1)))
    assert (later.inflated_pages, later.all_inflated_pages) == (MIB_PAGES, None)


def test_building_bitmaps_is_a_stage_where_there_is_any() -> None:
    views = GuestViews(guest_look(0, 0), balloons=1)
    view = views.view(guest_look(1, 5, moved(5, 10, build_ns=1_000_000)))
    assert [share.stage for share in view.stages] == ["a", "b.build", "b+c+d", "other"]
    assert sum(share.interval_ns or 0 for share in view.stages) == 5 * 1_010_000


def test_sends_of_bitmaps_have_times_of_their_own() -> None:
    buckets = {**EMPTY.buckets, Function.SEND_RESP_DATA: (0, 7, *(0,) * 30)}
    live = replace(moved(5, 10), buckets=buckets)
    view = GuestViews(guest_look(0, 0), balloons=1).view(guest_look(1, 5, live))
    assert (view.send_times.what, view.send_times.total[1]) == ("send_resp_data", 7)


# ---- the host ----


def host_look(time_s: float, pages: int, *, errors: int = 0, punched: int = 0) -> HostLook:
    """One process after `pages` calls of madvise, 2 us each, in buffers of 256 which took 1 ms each."""
    calls = dict.fromkeys(Call, NO_CALL)
    buckets = tuple(pages if bucket == 10 else 0 for bucket in range(BUCKETS))
    if pages:
        calls[Call.MADVISE_DONTNEED] = CallSums(pages, pages * 4096, pages * 2000, errors, 0, 0, buckets)
    if punched:
        calls[Call.FALLOCATE_PUNCH_HOLE] = CallSums(punched, punched * 4096, punched * 2000, 0, 0, 0, buckets)
    buffers = pages // 256
    counters = HostCounters(buffers, 0, 0, 0, 0, 0, calls)
    batches = LiveBatches(buffers, buffers * 1_000_000, buffers * 512_000, 1_000_000)
    return HostLook(int(time_s * S_NS), counters, batches, pages * 100)


def test_a_process_that_does_nothing() -> None:
    view = HostViews(host_look(0, 0)).view(host_look(1, 0))
    assert (view.calls, view.bytes_per_s, view.kinds, view.bpf_share) == (0, 0, (), None)
    assert all(share.interval_ns is None for share in view.stages)


def test_what_a_process_did() -> None:
    views = HostViews(host_look(0, 0))
    views.view(host_look(1, 2560))
    view = views.view(host_look(3, 7680, errors=2))
    assert (view.batches, view.all_batches) == (20, 30)
    assert (view.calls, view.all_calls, view.errors, view.all_errors) == (5120, 7680, 2, 2)
    assert view.bytes_per_s == 5120 * 4096 / 2
    (kind,) = view.kinds
    assert (kind.call, kind.calls, kind.all_calls, kind.mean_ns) == ("madvise_dontneed", 5120, 7680, 2000)
    translate, madvise = view.stages
    assert (translate.interval_ns, madvise.interval_ns) == (20 * 488_000, 20 * 512_000)
    assert madvise.total_share == pytest.approx(0.512)
    assert view.call_times.interval[10] == 5120
    assert view.bpf_share == pytest.approx(0.05)


def test_memory_that_is_advised_and_punched_counts_once() -> None:
    view = HostViews(host_look(0, 0)).view(host_look(1, 256, punched=256))
    assert view.bytes_per_s == 256 * 4096
    assert view.calls == 512


# ---- lines ----


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


# ---- screens ----


def test_a_usual_screen_has_all_there_is() -> None:
    lines = guest_screen(busy(), TITLE, 80, 24)
    assert lines[0] == TITLE
    assert lines[1].startswith("balloon 700 MiB of 1000 MiB [####")
    assert lines[2] == "rate 600 MiB/s, left 857 ms, no work item under way"
    assert lines[3] == "failed allocations 0 (+0)"
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
