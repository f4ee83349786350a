# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace top` on a live balloon: its sums are the kernel's, and the terminal is left as it was."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from hostserve import Server
from tracing import (
    ATTACH_S,
    ATTACHED,
    FULL_MIB,
    MIB_PAGES,
    assert_no_trace,
    balloontrace,
    bind_driver,
    change,
    loss,
    move,
    pull,
    record,
    report,
    start_recording,
)

import lab
from balloontrace.format.vocabulary import Function
from lab.patched_driver import load_patched

# Prime, so that counts that come out right are not right by accident.
FIRST_MIB, SECOND_MIB = 1009, 211
COUNTERS = ("balloon_inflate", "balloon_deflate")
PTYTOP = Path(__file__).with_name("ptytop.py")
SHARES = ("a", "b.build", "b+c+d", "other")


class Top:
    """`balloontrace top` writing lines in a guest."""

    def __init__(self, guest: lab.Guest, *options: str) -> None:
        self.process = guest.start(["balloontrace", "top", "--plain", *options])

    def wait_attached(self) -> Top:
        self.process.wait_for(ATTACHED, ATTACH_S)
        return self

    def end(self, number: int = signal.SIGINT) -> tuple[list[dict[str, str]], str]:
        """Its lines by the names of the columns, and its last words."""
        self.process.signal(number)
        return self.result()

    def result(self) -> tuple[list[dict[str, str]], str]:
        done = self.process.wait(60)
        assert done.status == 0, done.describe()
        return rows(done.stdout), done.stderr.splitlines()[-1]


def rows(text: str) -> list[dict[str, str]]:
    header, *lines = text.splitlines()
    return [dict(zip(header.split(), line.split(), strict=True)) for line in lines]


def total(found: list[dict[str, str]], name: str) -> int:
    return sum(int(row[name]) for row in found)


def wait_lines(guest: lab.Guest, top: Top, count: int) -> None:
    """Waits for so many further lines."""
    wanted = top.process.read("stdout").count(b"\n") + count
    guest.wait_until(
        lambda: top.process.read("stdout").count(b"\n") >= wanted, 60, what=f"{count} lines", every_s=0.1
    )


@pytest.mark.parametrize("options", [[], ["--attach", "kprobe"]], ids=["fentry", "kprobe"])
def test_lines_add_up_to_what_the_kernel_counts(guest: lab.Guest, options: list[str]) -> None:
    """Twice, so that what the first one may have left shows in the second."""
    for number in (signal.SIGINT, signal.SIGTERM):
        top = Top(guest, "-i", "300ms", *options).wait_attached()
        before = guest.vmstat()
        move(guest, FULL_MIB - FIRST_MIB)
        move(guest, FULL_MIB - SECOND_MIB)
        wait_lines(guest, top, 3)
        held = top.process.read("stdout").decode().splitlines()[-1].split()[1:3]
        move(guest, FULL_MIB)
        wait_lines(guest, top, 2)
        moved = change(before, guest.vmstat(), COUNTERS)
        found, said = top.end(number)
        assert held == [f"{SECOND_MIB}MiB"] * 2
        assert [total(found, name) for name in ("in_pages", "out_pages")] == moved
        assert moved == [FIRST_MIB * MIB_PAGES] * 2
        assert total(found, "sends") == 2 * FIRST_MIB
        assert (total(found, "failed"), total(found, "lost")) == (0, 0)
        assert (found[-1]["balloon"], found[-1]["target"], found[-1]["left"]) == ("0B", "0B", "-")
        shares = [[float(row[name].rstrip("%")) for name in SHARES if row[name] != "-"] for row in found]
        # A look may come between a send and the end of its work item: a line need not have both.
        assert any(shares)
        # Each is rounded to a tenth of a percent.
        assert all(abs(sum(each) - 100) < 0.2 for each in shares if each)
        ending = "interrupted" if number == signal.SIGINT else "terminated"
        assert re.fullmatch(rf"balloontrace: {ending}: {len(found)} looks?, 0 lost", said)
        assert_no_trace(guest)


def test_stages_are_those_of_a_report(guest: lab.Guest, tmp_path: Path) -> None:
    """Both looked at the same move. Each looks at the clock for itself, with a wait between at times."""
    recorder = start_recording(guest, "/root/beside-top.bt", "--operations", "1")
    top = Top(guest, "-i", "1h").wait_attached()
    recorder.wait_attached()
    move(guest, FULL_MIB - FIRST_MIB)
    recorder.wait()
    (row,), said = top.end()
    assert said == "balloontrace: interrupted: 1 look, 0 lost"
    (operation,) = report(pull(guest, "/root/beside-top.bt", tmp_path))["operations"]
    assert (int(row["sends"]), int(row["in_pages"])) == (operation["sends"], operation["pages"])
    shares = {each["stage"]: 100 * each["share"] for each in operation["stages"] if each["share"] is not None}
    print(row, shares)
    for stage in ("a", "b+c+d", "other"):
        assert float(row[stage].rstrip("%")) == pytest.approx(shares[stage], abs=5)


def test_a_count_or_a_duration_ends_it(guest: lab.Guest) -> None:
    counted = Top(guest, "-n", "3", "-i", "200ms")
    timed = Top(guest, "-d", "500ms", "-i", "200ms")
    found, said = counted.wait_attached().result()
    assert len(found) == 3
    assert said == "balloontrace: count reached: 3 looks, 0 lost"
    found, said = timed.wait_attached().result()
    assert 1 <= len(found) <= 3
    assert re.fullmatch(rf"balloontrace: duration reached: {len(found)} looks?, 0 lost", said)


def test_a_driver_that_goes_ends_it(guest: lab.Guest) -> None:
    top = Top(guest, "-i", "200ms", "--attach", "kprobe").wait_attached()
    guest.run(["modprobe", "-r", "virtio_balloon"], timeout_s=60, check=True)
    done = top.process.wait(30)
    bind_driver(guest)
    assert done.status == 1, done.describe()
    assert done.stderr.splitlines()[-1] == "balloontrace: the view ended: driver unloaded or unbound"


def test_the_terminal_is_left_as_it_was(guest: lab.Guest) -> None:
    guest.run(["rm", "-f", "/tmp/moved"], check=True)
    sends = f"sends {FIRST_MIB // 1000} 009 (+0)"
    process = guest.start(["python3", guest.push(PTYTOP), "/tmp/moved", re.escape(sends)])
    process.wait_for(b"drawn", ATTACH_S, stream="stdout")
    move(guest, FULL_MIB - FIRST_MIB)
    guest.run(["touch", "/tmp/moved"], check=True)
    done = process.wait(120, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    endings = {"q": "quit", "ctrl-c": "interrupted", "sigterm": "terminated"}
    assert set(found) == set(endings)
    for name, each in found.items():
        output = each["output"]
        assert (each["status"], each["same_terminal"]) == (0, True), output
        assert f"balloon {FIRST_MIB} MiB of {FIRST_MIB} MiB [####" in output
        assert sends in output
        assert output.count("\x1b[?1049h") == output.count("\x1b[?1049l") == 1
        assert f"balloontrace: {endings[name]}: " in output.rpartition("\x1b[?1049l")[2]
        assert "Traceback" not in output


# ---- the host's side ----


def test_buffers_and_calls_of_a_process(guest: lab.Guest, server: Server) -> None:
    top = Top(guest, "-p", str(server.pid), "-i", "300ms").wait_attached()
    server.serve("none 0", "dontneed 257", "remove 11", "both 7", "fail 3")
    wait_lines(guest, top, 2)
    server.serve("dontneed 2 1024")
    wait_lines(guest, top, 2)
    server.process.signal(signal.SIGKILL)
    found, said = top.result()
    assert total(found, "buffers") == 5
    assert total(found, "calls") == 257 + 11 + 14 + 3 + 2
    assert (total(found, "failed"), total(found, "lost")) == (3, 0)
    for row in found:
        shares = [float(row[name].rstrip("%")) for name in ("c", "d") if row[name] != "-"]
        # A buffer may end between the looks at calls and at buffers: a line need not have both.
        assert not shares or abs(sum(shares) - 100) < 0.2, row
    assert any(row["c"] != "-" for row in found)
    assert re.fullmatch(r"balloontrace: process exited: \d+ looks?, 0 lost", said)


# ---- other guests ----


def test_failed_allocations_are_those_of_a_report(tmp_path: Path) -> None:
    """A target below what the guest needs: the balloon gets no more, over and over."""
    with lab.solo(memory_mib=1024, balloons=[{"deflate-on-oom": "on"}]) as small:
        top = Top(small, "-i", "500ms").wait_attached()
        recorder = record(small, "/root/squeezed.bt")
        small.set_balloon(target_mib=64)
        small.wait_until(
            lambda: any(int(row["failed"]) for row in rows(top.process.read("stdout").decode())),
            60,
            what="an allocation that fails",
            every_s=0.5,
        )
        move(small, 1024)
        wait_lines(small, top, 2)
        recorder.end()
        found, _ = top.end()
        assert_no_trace(small)
        recorded = report(recorder.pull(tmp_path))
        squeezed, _ = recorded["operations"]
    assert squeezed["short_work_items"] > 0
    # Where out of memory moved the balloon meanwhile, a report wants an item's sleep as a proof. A guest that
    # gets no processor has slept less than it asked for.
    moved_meanwhile = loss(recorded, Function.VIRTIO_BALLOON_OOM_NOTIFY.symbol)["entries"]
    assert 0 <= total(found, "failed") - squeezed["short_work_items"] <= moved_meanwhile


def test_page_bitmaps(tmp_path: Path) -> None:
    """All is one work item there; the size is shown while it goes on, and building is a stage."""
    with lab.solo(memory_mib=4096, device="backend", page_bitmap=True) as patched:
        load_patched(patched)
        top = Top(patched, "-i", "200ms").wait_attached()
        recorder = record(patched, "/root/bitmaps.bt", "--operations", "1")
        before = patched.vmstat()
        move(patched, 4096 - 2003)
        recorder.wait()
        wait_lines(patched, top, 2)
        (moved, _) = change(before, patched.vmstat(), COUNTERS)
        found, _ = top.end(signal.SIGTERM)
        move(patched, 4096)
        assert_no_trace(patched)
        (operation,) = report(recorder.pull(tmp_path))["operations"]
    assert total(found, "in_pages") == moved == 2003 * MIB_PAGES == operation["pages"]
    assert total(found, "sends") == operation["sends"]
    (row,) = [row for row in found if row["a"] != "-"]
    build = next(stage for stage in operation["stages"] if stage["stage"] == "b.build")
    print(row, build["share"])
    assert float(row["b.build"].rstrip("%")) == pytest.approx(100 * build["share"], abs=2)
    assert found[-1]["balloon"] == found[-1]["target"]


def test_what_it_says_without_a_balloon_to_show() -> None:
    """Here, on the machine of the tests, where neither a driver nor a process may be traced."""
    done = balloontrace("top", "-p", "1", "--side", "guest")
    assert done.returncode == 2
    assert "-p names a process of the host" in done.stderr
