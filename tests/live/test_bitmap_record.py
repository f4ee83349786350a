# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of what sends carry: recorder, kernel and the lab's device agree on each byte and page."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from told import CAPTURE, Told, assert_device_agrees, captured_in, check, named, tell
from tracing import (
    GONE,
    MIB_PAGES,
    PAGE_BYTES,
    Json,
    assert_no_trace,
    assert_sums,
    assert_whole,
    migrate_pages,
    move,
    outcomes,
    report,
    start_recording,
    traces,
)
from witness import QUEUES, Witness, difference

import lab
from balloontrace.format.recording import read_recording
from lab.aging import fragmented
from lab.patched_driver import load_patched, unload

SMALL_MIB = 2048
# Prime, so that counts that come out right are not right by accident.
FIRST_MIB, SECOND_MIB, MIGRATED_MIB = 509, 1123, 11


# ---- the patched driver: in steps, in a fragmented guest, during compaction, killed ----


@dataclass(frozen=True)
class Story:
    """One series of operations; `steps` is what the device counted in each, by queue."""

    told: Told
    steps: list[Json]
    migrated: int
    killed: Path


@pytest.fixture(scope="module")
def small() -> Iterator[lab.Guest]:
    with lab.solo(memory_mib=SMALL_MIB, device="backend", page_bitmap=True, dump=True) as guest:
        yield guest


@pytest.fixture(scope="module")
def story(small: lab.Guest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Seven operations, compaction between two of them; a second recorder is killed after the first two."""
    folder = tmp_path_factory.mktemp("story")
    load_patched(small)
    whole = start_recording(small, "/root/whole.bt", *CAPTURE)
    killed = start_recording(small, "/root/killed.bt", *CAPTURE)
    for recorder in (whole, killed):
        recorder.wait_attached()
    witness, steps = Witness(small), []

    def step(mib: int) -> None:
        before = witness.totals()
        move(small, SMALL_MIB - mib)
        after = witness.totals()
        steps.append({queue: difference(before[queue], after[queue]) for queue in QUEUES})

    step(FIRST_MIB)
    step(SECOND_MIB)
    # The end of an operation comes after its last payload, and is written with it or once more later.
    small.wait_until(
        lambda: (
            len(captured_in(killed.pull(folder))) == len(witness.buffers())
            and [each[1] for each in outcomes(report(folder / "killed.bt"))] == ["reached"] * 2
        ),
        60,
        what="two inflates in the recording that is to be killed",
        every_s=0.5,
    )
    killed.process.signal(signal.SIGKILL)
    assert killed.wait().status == -signal.SIGKILL
    step(0)
    with fragmented(small, mib=1500):
        step(FIRST_MIB)
    # So few that the ring has room for the payloads of them all, were it never drained.
    step(MIGRATED_MIB)
    migrate_pages(small)
    step(SECOND_MIB)
    step(0)
    migrated = witness.migrated()
    whole.end()
    assert_no_trace(small)
    return Story(tell(whole.pull(folder), witness), steps, migrated, killed.pull(folder))


TARGETS_MIB = (FIRST_MIB, SECOND_MIB, 0, FIRST_MIB, MIGRATED_MIB, SECOND_MIB, 0)


def test_every_send_is_a_buffer_and_every_byte_the_same(story: Story) -> None:
    assert_whole(story.told.found)
    assert_sums(story.told.found)
    assert_device_agrees(story.told)
    before = (0, *TARGETS_MIB[:-1])
    steps = [after - earlier for earlier, after in zip(before, TARGETS_MIB, strict=True)]
    assert outcomes(story.told.found) == [
        ("inflate" if mib > 0 else "deflate", "reached", abs(mib) * MIB_PAGES) for mib in steps
    ]
    inflated = sum(mib for mib in steps if mib > 0) * MIB_PAGES
    deflated = -sum(mib for mib in steps if mib < 0) * MIB_PAGES
    assert story.told.vmstat == [inflated, deflated]
    assert [each["spans"] for each in named(story.told.found)] == story.told.vmstat


def test_what_is_sent_twice_is_what_the_device_had(story: Story) -> None:
    repeated = []
    for operation, step in zip(story.told.found["operations"], story.steps, strict=True):
        payload = operation["payload"]
        device = step[operation["kind"]]
        again = payload["pages_named"] - operation["pages"]
        assert payload["pages_named"] == device["pages"]
        if operation["kind"] == "inflate":
            assert payload["pages_in_balloon_before"] + payload["pages_repeated"] == again
            assert device["already"] == again
            assert device["discarded_bytes"] == payload["pages_named"] * PAGE_BYTES
            repeated.append(again)
        else:
            # What is given back is all the host had, each page once.
            assert (again, payload["pages_repeated"], device["already"]) == (0, 0, 0)
            assert payload["pages_in_balloon_before"] == payload["pages_named"]
    # The first into an empty balloon, the second on top of it; then the same after compaction.
    assert repeated[0] == repeated[2] == 0
    # Pages below the lowest new one are not named again, so of one alone there may be none.
    assert repeated[1] + repeated[3] > 0


def test_a_fragmented_guest_needs_sends_in_mid_window(story: Story) -> None:
    operation = story.told.found["operations"][3]
    bitmap = operation["bitmap"]
    assert (bitmap["windows"], bitmap["bitmaps"]) == (1, 2)
    assert bitmap["mid_window_sends"] == operation["sends"] - 1 > 0
    said = f"{bitmap['mid_window_sends']} sends in the middle of a window: the patch as posted in 2016 frees"
    assert any(sentence.startswith(said) for sentence in operation["verdict"])
    assert operation["payload"]["of_records"]["bits_set_share"] < 1
    fresh = story.told.found["operations"][0]
    assert (fresh["sends"], fresh["bitmap"]["mid_window_sends"]) == (1, 0)


def test_compaction_is_two_sends_of_one_page_and_the_contents_are_followed(story: Story) -> None:
    found = story.told.found
    assert story.migrated > 0
    outside = {each["what"]: each["calls"] for each in found["outside"]}
    assert outside["send of virtballoon_migratepage"] == 2 * story.migrated
    assert outside["virtballoon_migratepage (page compaction)"] >= story.migrated
    assert check(found, "balloon_migrate")["spans"] == story.migrated
    of_operations = sum(operation["sends"] for operation in found["operations"])
    assert len(story.told.buffers) - of_operations == 2 * story.migrated


def test_a_killed_recorder_leaves_what_it_had(story: Story) -> None:
    found = report(story.killed)
    assert found["complete"] is False
    assert any("no end record" in warning for warning in found["warnings"])
    whole = story.told.found["operations"][:2]
    assert [each["payload"] for each in found["operations"]] == [each["payload"] for each in whole]
    assert outcomes(found) == outcomes({"operations": whole})
    # Without an end there is nothing to compare the counts with.
    assert [each["agrees"] for each in named(found)] == [None, None]


# ---- the patched driver without type information ----


@dataclass(frozen=True)
class Untyped:
    """Two inflates and an unload by a recorder that was told the driver's layout, and by one that was not."""

    told: Told
    blind: Json
    stderr: dict[str, str]
    refused: dict[str, lab.Completed]


WRONG_LAYOUTS = {
    "virtio_balloon.rsp_data=8": "virtio_balloon.rsp_data is none of the members needed: ",
    "virtio_balloon.pfns=many": "virtio_balloon.pfns takes a number of bytes, such as 316 or 0x13c, not ",
    "virtio_balloon.pfns=-4": "no structure has a member at byte -4 (virtio_balloon.pfns)",
}


@pytest.fixture(scope="module")
def untyped(small: lab.Guest, story: Story, tmp_path_factory: pytest.TempPathFactory) -> Untyped:
    folder = tmp_path_factory.mktemp("untyped")
    load_patched(small, btf=False)
    # The compiler's output is the same with type information and without.
    known = read_recording(story.told.path).metadata["layout"]
    assert isinstance(known, dict)
    offsets = {name: at for name, at in known["offsets_bytes"].items() if name.startswith("virtio_balloon.")}
    layout = ",".join(f"{name}={at}" for name, at in offsets.items())
    recorders = {
        "blind": start_recording(small, "/root/blind.bt", *CAPTURE),
        "told": start_recording(small, "/root/told.bt", *CAPTURE, "--layout", layout),
    }
    refused = {
        wrong: small.run(["balloontrace", "record", "-o", "/root/never.bt", "--layout", wrong], timeout_s=120)
        for wrong in WRONG_LAYOUTS
    }
    for recorder in recorders.values():
        recorder.wait_attached()
    witness = Witness(small)
    for mib in (FIRST_MIB, SECOND_MIB):
        move(small, SMALL_MIB - mib)
    unload(small)
    for recorder in recorders.values():
        recorder.process.wait_for(GONE, 60)  # it would wait for the driver to come back
        recorder.process.signal(signal.SIGINT)
    stderr = {name: recorder.wait().stderr for name, recorder in recorders.items()}
    paths = {name: recorder.pull(folder) for name, recorder in recorders.items()}
    assert_no_trace(small)
    return Untyped(tell(paths["told"], witness), report(paths["blind"]), stderr, refused)


def assert_unloaded(found: Json) -> None:
    """Two inflates, then the end of the driver: no operation, and not an orderly end of a recording."""
    assert (found["complete"], found["ended"]) == (False, "driver unloaded or unbound")
    assert_sums(found)
    assert found["events_lost"] == 0
    reached = [(each["kind"], each["outcome"], each["actual_after_pages"]) for each in found["operations"]]
    assert reached == [("inflate", "reached", mib * MIB_PAGES) for mib in (FIRST_MIB, SECOND_MIB)]
    assert [each["sends"] for each in found["operations"]] == [1, 1]
    # It empties the balloon with one call, after sysfs has forgotten it: the recorder waits for that.
    outside = {each["what"]: each["calls"] for each in found["outside"]}
    assert outside["leak_balloon of a driver being removed or frozen"] == 1
    assert all(row["returns"] in (None, row["entries"]) for row in found["losses"])


def test_without_type_information_the_report_says_what_is_missing(untyped: Untyped) -> None:
    found = untyped.blind
    assert_unloaded(found)
    assert [each["payload"] for each in found["operations"]] == [None] * 2
    assert any(sentence.startswith("pages of a send: ") for sentence in found["not_measured"])
    (said,) = [each for each in found["not_measured"] if each.startswith("what sends named: where ")]
    assert "no type information for virtio_balloon" in said
    assert {each["name"]: each["agrees"] for each in found["checks"]} == {
        "balloon_inflate": None, "balloon_deflate": None, "balloon_migrate": True,
        "size of virtio4": None,
    }  # fmt: skip
    unknown = ", ".join(f"virtio_balloon.{name}" for name in ("num_pfns", "pfns", "resp_data", "resp_pos"))
    warning = f"payloads are not captured without the offsets of {unknown}: --layout"
    assert warning in untyped.stderr["blind"]
    # The layout was given, so nothing is reported as missing.
    assert "payloads are not captured" not in untyped.stderr["told"]
    assert "not measured" not in untyped.stderr["told"]


def test_offsets_from_the_command_line_do_as_well(untyped: Untyped) -> None:
    """Also for what a driver sends that is unloaded: it gives everything back."""
    told, pages = untyped.told, SECOND_MIB * MIB_PAGES
    assert_unloaded(told.found)
    assert_device_agrees(told)
    steps = (FIRST_MIB * MIB_PAGES, (SECOND_MIB - FIRST_MIB) * MIB_PAGES)
    assert outcomes(told.found) == [("inflate", "reached", step) for step in steps]
    again = [each["payload"]["pages_named"] - each["pages"] for each in told.found["operations"]]
    assert again == [0, told.totals["inflate"]["already"]]
    assert told.vmstat == [pages, pages]
    assert told.totals["deflate"]["pages"] == pages
    assert [(each["spans"], each["independent"]) for each in named(told.found)] == [(pages, pages)] * 2
    assert [each for each in told.found["checks"] if each["agrees"] is not True] == []


@pytest.mark.parametrize("wrong", WRONG_LAYOUTS)
def test_offsets_that_make_no_sense(untyped: Untyped, wrong: str) -> None:
    done = untyped.refused[wrong]
    assert done.status == 2, done.describe()
    (line,) = done.stderr.splitlines()
    assert WRONG_LAYOUTS[wrong] in line


def test_nothing_is_left_behind(untyped: Untyped, small: lab.Guest) -> None:
    assert traces(small) == "", untyped
    assert small.run(["ls", "/root/never.bt"]).status != 0
    status = small.backend.status()
    assert (status["actual_pages"], status["ballooned_pages"]) == (0, 0)
    assert [status[queue][count] for queue in QUEUES for count in ("refused", "errors")] == [0] * 4
