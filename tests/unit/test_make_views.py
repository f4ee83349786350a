# SPDX-License-Identifier: GPL-2.0-or-later
"""What `top` makes of looks at the sums, and how it shows that at any size."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import partial

import pytest
from live_looks import EMPTY, MIB_PAGES, NOTHING, S_NS, guest_look, host_look, moved

from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.guest_layout import BUCKETS, LIVE
from balloontrace.format.host_layout import LIVE_SLOTS_BYTES
from balloontrace.format.live_counters import (
    LiveBatches,
    LiveDevice,
    parse_live,
    parse_live_batches,
)
from balloontrace.format.vocabulary import Function
from balloontrace.live.make_views import (
    RATE_INTERVALS,
    GuestLook,
    GuestViews,
    HostViews,
    time_left_ns,
)
from balloontrace.live.read_sums import estimate_run_time_ns
from balloontrace.results.live_view import GuestView, OtherCalls

# ---- looks ----


def test_waiting_for_a_processor_is_a_share_of_the_work_items() -> None:
    views = GuestViews(guest_look(0, 0), balloons=1)
    views.view(guest_look(1, 100, moved(100, 1000, run_delay_ns=50_000_000, run_delay_items=100)))
    view = views.view(guest_look(2, 300, moved(300, 1000, run_delay_ns=60_000_000, run_delay_items=300)))
    assert view.run_delay_share == pytest.approx(0.05)
    assert view.all_run_delay_share == pytest.approx(0.2)
    unknown = views.view(guest_look(3, 400, moved(400, 1000, run_delay_ns=60_000_000, run_delay_items=399)))
    assert unknown.run_delay_share is unknown.all_run_delay_share is None


def test_bytes_of_the_maps() -> None:
    raw = bytearray(LIVE.size_bytes)
    struct.pack_into("=17Q", raw, 0, *range(1, 18))
    struct.pack_into("=QQIHH", raw, 136 + 4 * 24, 70, 80, 90, 1, 0)
    struct.pack_into("=Q", raw, 136 + 8 * 24 + (Function.TELL_HOST * BUCKETS + 17) * 8, 5)
    live = parse_live(bytes(raw))
    assert (live.items, live.item_ns, live.failed_allocations) == (1, 2, 11)
    assert (live.run_delay_ns, live.run_delay_items) == (12, 13)
    assert (live.woken_ns, live.woken_sends, live.oom_pages, live.superseded) == (14, 15, 16, 17)
    assert live.devices[4] == LiveDevice(70, 80, 90, inflates=1)
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


def look_with(function: Function, time_s: float, calls: int, pages: int) -> GuestLook:
    found = guest_look(time_s, 0)
    counts = replace(NOTHING, entries=calls + 1, returns=calls, pages=pages)
    functions = {**found.counters.functions, function: counts}
    return replace(found, counters=replace(found.counters, functions=functions))


def test_hints_since_the_last_look_and_in_all() -> None:
    look = partial(look_with, Function.REPORT_FREE_PAGE_FUNC)
    views = GuestViews(look(0, 3, 3000), balloons=1)
    views.view(look(1, 5, 5000))
    view = views.view(look(2, 6, 6000))
    assert (view.hinted_pages, view.all_hinted_pages) == (1000, 3000)


def test_other_calls_since_the_last_look_and_in_all_where_there_were_any() -> None:
    look = partial(look_with, Function.VIRTIO_BALLOON_OOM_NOTIFY)
    views = GuestViews(look(0, 3, 0), balloons=1)
    assert views.view(look(1, 3, 0)).others == ()
    views.view(look(2, 5, 0))
    assert views.view(look(3, 6, 0)).others == (OtherCalls("out of memory", 1, 3),)


def test_reports_of_free_pages_since_the_last_look_and_in_all() -> None:
    look = partial(look_with, Function.VIRTBALLOON_FREE_PAGE_REPORT)
    views = GuestViews(look(0, 3, 3000), balloons=1)
    views.view(look(1, 5, 5000))
    view = views.view(look(2, 6, 6000))
    assert (view.reports, view.all_reports, view.all_reported_pages) == (1, 3, 3000)
    unread = GuestViews(look(0, 0, 0), balloons=1).view(look(1, 2, 0))
    assert (unread.all_reports, unread.all_reported_pages) == (2, None)
