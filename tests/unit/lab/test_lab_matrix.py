# SPDX-License-Identifier: GPL-2.0-or-later
"""The matrix: which cells there are, what makes one exact, and that trying some keeps the others' rows."""

from __future__ import annotations

from typing import Any

import pytest

from lab.kernels import IMAGES
from lab.matrix import (
    COLUMNS,
    MOVED_PAGES,
    Seen,
    all_cells,
    chosen,
    judge_guest,
    judge_host,
    parse_rows,
    render,
    row,
)

MOVED = {"balloon_inflate": MOVED_PAGES, "balloon_deflate": MOVED_PAGES}
CELLS = all_cells()


def report(**changes: Any) -> dict[str, Any]:
    return {
        "header": {
            "machine": {"kernel_release": "6.18", "page_size_bytes": 4096},
            "engine_version": "libbpf 1.5",
            "probes": [
                {"status": "attached", "mechanism": "fexit, kprobe+kretprobe"},
                {"status": "attached", "mechanism": "fentry+fexit"},
                {"status": "inlined", "mechanism": None},
            ],
        },
        "operations": [
            {"kind": kind, "outcome": "reached", "pages": MOVED_PAGES} for kind in ("inflate", "deflate")
        ],
        "own_cost": {"attach_s": 1.5, "setup_peak_memory_bytes": None, "peak_memory_bytes": 30_400_000},
        "warnings": [],
        "events_lost": 0,
        "spans_missing": 0,
        "pages_unseen": 0,
        **changes,
    }


def test_every_image_is_recorded_with_prebuilt_and_those_with_headers_with_bcc_too() -> None:
    names = [cell.name for cell in CELLS]
    assert len(names) == len(set(names))
    for name, spec in IMAGES.items():
        assert f"{name} prebuilt" in names
        assert (f"{name} bcc" in names) == spec.headers
    assert {cell.image for cell in CELLS} <= IMAGES.keys()


def test_a_cell_where_everything_agrees_is_exact() -> None:
    seen = judge_guest(report(), MOVED)
    assert (seen.faults, seen.attached, seen.setup_bytes) == ((), "fentry, kprobe", None)
    words = row(CELLS[0], seen, "2026-11-29")
    assert len(words) == len(COLUMNS)
    assert words[4:] == ("exact: 131072 in, 131072 out", "1.5 s", "-", "30 MB", "2026-11-29")


def test_vmstat_counts_in_pages_of_the_guest() -> None:
    seen = report()
    seen["header"]["machine"]["page_size_bytes"] = 16384
    assert judge_guest(seen, {name: pages // 4 for name, pages in MOVED.items()}).faults == ()


@pytest.mark.parametrize(
    ("changes", "moved", "fault"),
    [
        ({"operations": []}, MOVED, "operations []"),
        ({"events_lost": 3}, MOVED, "events_lost 3"),
        ({"pages_unseen": 256}, MOVED, "pages_unseen 256"),
        ({"warnings": ["torn"]}, MOVED, "torn"),
        ({}, {**MOVED, "balloon_deflate": 1}, "balloon_deflate 1"),
    ],
)
def test_what_does_not_agree_is_said(changes: dict[str, Any], moved: dict[str, int], fault: str) -> None:
    assert judge_guest(report(**changes), moved).faults == (fault,)


def test_on_a_host_every_page_is_a_call() -> None:
    def seen(dontneed: int, willneed: int = MOVED_PAGES) -> Seen:
        calls = {"madvise_dontneed": dontneed, "madvise_willneed": willneed}
        rows = [{"call": name, "calls": number, "errors": 0} for name, number in calls.items()]
        return judge_host(report(host={"calls": rows}))

    assert seen(MOVED_PAGES).pages == f"{MOVED_PAGES} calls in, {MOVED_PAGES} out"
    assert seen(MOVED_PAGES + 3).pages.endswith(", 3 of QEMU's own")
    for bad in (seen(MOVED_PAGES - 1), seen(MOVED_PAGES + 99), seen(MOVED_PAGES, MOVED_PAGES - 1)):
        assert bad.faults[0].startswith("calls {'madvise_dontneed'")


def test_trying_some_cells_keeps_what_was_seen_of_the_others() -> None:
    first, second, *_ = CELLS
    rows = {second.name: row(second, Seen(("refused | why",)), "2026-01-02")}
    rows = parse_rows(render(rows, CELLS))
    rows[first.name] = row(first, judge_guest(report(), MOVED), "2026-01-03")
    page = render(rows, CELLS)
    assert "1 of 2 cells are exact" in page
    assert page.index(f"| {first.name} |") < page.index(f"| {second.name} | - | - | - | refused / why |")
    assert parse_rows(page) == rows


def test_cells_are_chosen_by_name_or_by_a_part_of_it() -> None:
    assert chosen(CELLS, "") == CELLS
    assert [cell.name for cell in chosen(CELLS, "trixie-6.12 bcc")] == ["trixie-6.12 bcc"]
    assert {cell.on_host for cell in chosen(CELLS, " host,")} == {True}
