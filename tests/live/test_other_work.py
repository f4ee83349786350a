# SPDX-License-Identifier: GPL-2.0-or-later
"""What the driver does besides work items, recorded in one guest, against QEMU's own log."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sleeping import sleep_and_wake
from statistics_queue import ask_for_statistics
from tracing import (
    ATTACH_S,
    ATTACHED,
    MIB_PAGES,
    Json,
    assert_no_trace,
    assert_sums,
    assert_whole,
    change,
    migrate_pages,
    move,
    pull,
    report,
    shell,
)

import lab
from balloontrace.analysis.columns import Spans
from balloontrace.analysis.make_report import examine
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function, SpanFlag

GUEST_MIB, LEFT_MIB, USED_MIB, POLLS = 640, 320, 210, 3
FULL_PAGES = (GUEST_MIB - LEFT_MIB) * MIB_PAGES
# What a storm of compaction and an unbound driver make a report warn of.
TOLD_OF = ("are known as sums alone", "lost its driver and was bound again")
# virtio_balloon_set_config in QEMU's trace-events: what the driver writes, and what it was
_ACTUAL = re.compile(r"virtio_balloon_set_config actual: (\d+) oldactual: (\d+)")
# All at once: page by page, with less and less memory, would take minutes under emulation.
_USE = """
import mmap, signal, sys
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
memory = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=flags)
print("used", flush=True)
signal.pause()
"""
_UNBIND = (
    "cd /sys/bus/virtio/drivers/virtio_balloon; for d in virtio*; do echo $d > unbind; echo $d > bind; done"
)


class Actuals:
    """Sizes in pages that the driver told QEMU, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[int]:
        text = self.path.read_text() if self.path.exists() else ""
        return [int(match[1]) for match in _ACTUAL.finditer(text)]


@dataclass
class Story:
    """What happened while it was recorded: sizes told in each part of it, and the recordings."""

    told: dict[str, list[int]] = field(default_factory=dict)
    before: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    polls: int = 0
    report: Json = field(default_factory=dict)
    spans: Spans | None = None

    def ask_for_statistics(self, guest: lab.Guest) -> None:
        self.polls = ask_for_statistics(guest, POLLS)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    actuals = Actuals(folder / "trace.log")
    extra = (
        *("-trace", "virtio_balloon_set_config", "-D", str(actuals.path), "-m", "maxmem=1024M"),
        *("-object", "memory-backend-ram,id=plug,size=256M", "-device", "virtio-mem-pci,memdev=plug"),
    )
    with lab.solo(
        memory_mib=GUEST_MIB, cpus=1, balloons=[{"deflate-on-oom": "on"}], extra_args=extra
    ) as guest:
        yield _live(guest, actuals, folder)


def _live(guest: lab.Guest, actuals: Actuals, folder: Path) -> Story:
    # With its output in /root: /io is away while the guest sleeps.
    recorder = guest.start(shell("exec balloontrace record -o /root/story.bt >/root/told 2>&1"))
    guest.wait_until(lambda: ATTACHED in guest.pull("/root/told"), ATTACH_S, what="probes", every_s=0.5)
    story = Story(before=guest.vmstat())
    move(guest, LEFT_MIB)
    acts: dict[str, Callable[[], object]] = {
        "statistics": lambda: story.ask_for_statistics(guest),
        "out of memory": lambda: run_out_of_memory(guest),
        "compaction": lambda: migrate_pages(guest),
        "removal": lambda: guest.run(shell(_UNBIND), check=True),
        "filled": guest.wait_balloon,
        "sleep": lambda: sleep_and_wake(guest),
        "filled again": guest.wait_balloon,
    }
    for name, act in acts.items():
        past = len(actuals.read())
        act()
        story.told[name] = actuals.read()[past:]
    story.after = guest.vmstat()
    recorder.signal(signal.SIGINT)
    assert recorder.wait(60).status == 0, guest.pull("/root/told")
    path = pull(guest, "/root/story.bt", folder)
    story.report, story.spans = report(path), spans_of(path)
    assert_no_trace(guest)
    return story


def run_out_of_memory(guest: lab.Guest) -> None:
    user = guest.start(["python3", "-c", _USE, str(USED_MIB)])
    user.wait_for(b"used", 120, stream="stdout")
    user.kill()
    user.wait(60)


def others(found: Json, what: str) -> list[Json]:
    return [each for each in found["other_operations"] if each["what"] == what]


def spans_of(path: Path) -> Spans:
    guest = examine(read_recording(path)).guest
    assert guest is not None
    return guest.spans


def test_out_of_memory_leaves_the_size_that_qemu_knows_at_every_step(story: Story) -> None:
    told = story.told["out of memory"]
    assert told, "the guest did not run out of memory"
    spans = story.spans
    assert spans is not None
    rows = np.flatnonzero(spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY) & spans.has(SpanFlag.ACTUAL))
    assert spans.int64("actual_pages")[rows].tolist() == told
    found = others(story.report, "out of memory")
    assert sum(each["calls"] for each in found) == len(told)
    assert sum(each["pages"] for each in found) == FULL_PAGES - told[-1]
    steps = [FULL_PAGES, *told]
    for each in found:
        assert each["size_before_pages"] - each["size_after_pages"] == each["pages"]
        assert {each["size_before_pages"], each["size_after_pages"]} <= set(steps)
        assert each["target_before_pages"] == each["target_after_pages"] == FULL_PAGES
        assert 0 < each["calls_ns"] <= each["wall_ns"]
    assert (found[0]["size_before_pages"], found[-1]["size_after_pages"]) == (steps[0], steps[-1])


def test_compaction_moves_what_the_kernel_counts_and_no_size(story: Story) -> None:
    recorded = story.report
    found = others(recorded, "compaction")
    (migrated,) = change(story.before, story.after, ["balloon_migrate"])
    (loss,) = [each for each in recorded["losses"] if each["function"] == "virtballoon_migratepage"]
    assert found
    assert sum(each["pages"] for each in found) + loss["summed_pages"] == migrated
    assert sum(each["calls"] for each in found) + loss["summed"] == loss["returns"]
    sizes = {each[f"size_{when}_pages"] for each in found for when in ("before", "after")}
    assert sizes <= {FULL_PAGES, *story.told["out of memory"]}


def test_removal_and_sleep_empty_the_balloon(story: Story) -> None:
    """Each is followed by an inflate to the target that still stands."""
    found = story.report
    left_pages = story.told["out of memory"][-1]
    (removal,), (freeze,), (restore,) = (others(found, what) for what in ("removal", "freeze", "restore"))
    for each, pages in ((removal, left_pages), (freeze, FULL_PAGES)):
        assert (each["calls"], each["pages"]) == (1, pages)
        assert (each["size_before_pages"], each["size_after_pages"]) == (pages, 0)
        assert each["target_before_pages"] == FULL_PAGES
    assert (restore["pages"], restore["size_after_pages"]) == (0, 0)
    assert freeze["started_ns"] + freeze["wall_ns"] <= restore["started_ns"]
    assert 0 in story.told["removal"]
    assert 0 in story.told["sleep"]
    assert [each["pages"] for each in found["operations"]] == [FULL_PAGES] * 3


def test_statistics_are_asked_for_and_answered(story: Story) -> None:
    (found,) = story.report["statistics"]
    # The first answer is the buffer that the driver gave when it came: nobody asked for it.
    assert story.polls - 1 <= found["polls"] <= found["answers"]
    assert 0 < found["answer_p50_ns"] <= found["answer_max_ns"]
    assert found["collecting_ns"] > 0
    assert found["last_asked_ns"] > 0


def test_all_of_it_is_whole_and_virtio_mem_is_named(story: Story) -> None:
    found = story.report
    unsaid = [each for each in found["warnings"] if not any(words in each for words in TOLD_OF)]
    assert_whole({**found, "warnings": unsaid})
    assert_sums(found)
    assert any("(virtio-mem) can do so, and it is not traced" in each for each in found["not_measured"])
