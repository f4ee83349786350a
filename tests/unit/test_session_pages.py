# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that no probe saw, counted while a recording is made."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from fake_system import limited_to
from flows import Span
from scripted_session import (
    COUNTERS_BYTES,
    ScriptedCollector,
    end_of,
    run_session,
    spans_in,
    vmstat_of,
)
from synthetic import pack_spans

from balloontrace.format.guest_layout import (
    FUNCTION_COUNTERS,
)
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.trace.guest.collector import GuestCollector
from balloontrace.trace.guest.diagnosis import GuestDiagnosis
from balloontrace.trace.guest.session import GuestSession
from balloontrace.trace.guest.unseen_pages import UNIT_PAGES
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.session import Ending, SessionResult

pytestmark = pytest.mark.usefixtures("signals_as_before")


class CountingCollector(ScriptedCollector):
    """Its programs have counted sends of so many pages, and work items that returned or did not."""

    def __init__(
        self, diagnosis: GuestDiagnosis, sent_pages: int, *, entries: int = 9, returns: int = 9
    ) -> None:
        super().__init__(diagnosis)
        self.raw = bytearray(COUNTERS_BYTES)
        for function, pages in ((Function.UPDATE_BALLOON_SIZE_FUNC, 0), (Function.TELL_HOST, sent_pages)):
            row = (entries, returns, 0, 0, 0, 0, 0, pages)
            struct.pack_into("8Q", self.raw, function * FUNCTION_COUNTERS.size_bytes, *row)

    def read_missed(self) -> dict[Function, int | None]:
        return {Function.TELL_HOST: 0}

    def read_counters(self) -> bytes:
        return bytes(self.raw)


def record_moving(
    tmp_path: Path,
    diagnosis: GuestDiagnosis,
    monkeypatch: pytest.MonkeyPatch,
    collector: ScriptedCollector,
    vmstats: Sequence[tuple[int, int, int]],
) -> tuple[SessionResult, Recording]:
    """A session that finds `vmstats` (in, out, migrated) at its start, before and after detaching."""
    names = ("balloon_inflate", "balloon_deflate", "balloon_migrate")
    looks = [dict(zip(names, each, strict=True)) for each in vmstats]
    monkeypatch.setattr("balloontrace.system.kernel.read_vmstat", lambda: looks.pop(0))
    with (tmp_path / "out.bt").open("wb") as file:
        result = run_session(collector, diagnosis, file.fileno(), TraceOptions(duration_s=0.01))
    return result, read_recording(tmp_path / "out.bt")


def test_pages_that_no_probe_saw_are_counted(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kernel.ftrace_enabled=0, for one: everything is attached, and nothing ever runs."""
    looks = [(7, 3, 0), (1007, 903, 0), (1007, 903, 0)]
    result, recording = record_moving(tmp_path, diagnosis, monkeypatch, ScriptedCollector(diagnosis), looks)
    assert result.unseen is not None
    assert (result.unseen.pages, result.unseen.moved.pages) == (1900 * UNIT_PAGES, 1900 * UNIT_PAGES)
    assert end_of(recording)["vmstat_traced"] == {
        "balloon_inflate": 1007, "balloon_deflate": 903, "balloon_migrate": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sent_pages", "calls", "after", "unseen_pages"),
    [
        pytest.param(1000, (9, 9), (1000, 0, 0), 0, id="all seen"),
        pytest.param(300, (9, 9), (1000, 0, 0), 700, id="disarmed in the middle"),
        pytest.param(1400, (9, 9), (1000, 0, 0), 0, id="sent first, moved before the first look"),
        pytest.param(800, (9, 8), (1000, 0, 0), 0, id="a call was under way"),
        pytest.param(300, (9, 8), (1000, 0, 0), 444, id="a call was under way, and more is missing"),
        pytest.param(1006, (9, 9), (1000, 0, 3), 0, id="migrations are sent both ways"),
    ],
)
def test_pages_under_way_are_no_false_alarm(
    tmp_path: Path,
    diagnosis: GuestDiagnosis,
    monkeypatch: pytest.MonkeyPatch,
    sent_pages: int,
    calls: tuple[int, int],
    after: tuple[int, int, int],
    unseen_pages: int,
) -> None:
    monkeypatch.setattr("balloontrace.trace.guest.unseen_pages.UNIT_PAGES", 1)
    monkeypatch.setattr("balloontrace.trace.guest.session.UNIT_PAGES", 1)
    layout = replace(diagnosis.layout, offsets={"virtio_balloon.num_pfns": 312})
    collector = CountingCollector(diagnosis, sent_pages, entries=calls[0], returns=calls[1])
    looks = [(0, 0, 0), after, after]
    known = replace(diagnosis, layout=layout)
    result, recording = record_moving(tmp_path, known, monkeypatch, collector, looks)
    assert result.unseen is not None
    assert result.unseen.pages == unseen_pages
    assert end_of(recording)["under_way_pages"] == (0 if calls[0] == calls[1] else 256)


def test_calls_that_were_lost_are_told_as_such(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A return is dropped when another's fexit leaves the function: those pages are no unseen ones."""
    monkeypatch.setattr("balloontrace.trace.guest.session.UNIT_PAGES", 1)
    known = replace(diagnosis, layout=replace(diagnosis.layout, offsets={"virtio_balloon.num_pfns": 312}))
    collector = CountingCollector(known, 1000 - 256)
    struct.pack_into(
        "Q", collector.raw, Function.TELL_HOST * FUNCTION_COUNTERS.size_bytes + 8 * 5, 1
    )  # overwritten
    looks = [(0, 0, 0), (1000, 0, 0), (1000, 0, 0)]
    result, _ = record_moving(tmp_path, known, monkeypatch, collector, looks)
    assert result.unseen is not None
    assert result.unseen.pages == 0


def test_without_the_layout_nobody_knows_what_was_seen(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = replace(diagnosis, layout=replace(diagnosis.layout, offsets={}))
    collector = CountingCollector(unknown, 0)
    result, _ = record_moving(tmp_path, unknown, monkeypatch, collector, [(0, 0, 0), (9, 0, 0), (9, 0, 0)])
    assert result.unseen is not None
    assert result.unseen.pages is None


def test_a_full_disk_says_how_many_pages_it_cost(
    diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balloontrace.system.kernel.read_vmstat", vmstat_of([0, 100 * 256, 100 * 256]))
    layout = replace(diagnosis.layout, offsets={"virtio_balloon.num_pfns": 312})
    collector = CountingCollector(diagnosis, 100 * 256)
    span = pack_spans([Span(function=Function.TELL_HOST, flags=SpanFlag.PAGES, pages=256)])

    def drain(take: Callable[[memoryview], object]) -> int:
        take(memoryview(span * 100))  # what is refused stays in the ring
        return 100

    monkeypatch.setattr(collector, "drain", drain)
    monkeypatch.setattr(ScriptedCollector, "waiting", 100)
    fd = os.memfd_create("small")
    session = GuestSession(
        cast(GuestCollector, collector), replace(diagnosis, layout=layout), fd, TraceOptions(),
        say=print,
    )  # fmt: skip
    session.write_start()
    room = os.fstat(fd).st_size + 4 * 1024
    with limited_to(room):
        result = session.run()
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb") as file:
        kept = spans_in(read_recording(file))
    assert 100 > kept > 0
    assert result.ending is Ending.OUTPUT_FAILED
    assert result.unseen is not None
    assert result.unseen.pages == (100 - kept) * 256
