# SPDX-License-Identifier: GPL-2.0-or-later
"""Size and target of each balloon, as reports, `doctor` and `top` have them, against what QEMU says."""

from __future__ import annotations

import json
from pathlib import Path

from tracing import ATTACH_S, MIB_PAGES, assert_no_trace, assert_whole, record, report

import lab

GUEST_MIB = 640
HELD_MIB, LEFT_MIB = 59, 31
SQUEEZED_MIB = 400
# More than the balloon leaves: the guest must take some of it back.
HUNGRY = f"x = b'1' * ({SQUEEZED_MIB - 100} << 20); print('ready', flush=True); input()"
SOURCE = "configuration space"


def held_pages(guest: lab.Guest) -> int:
    """What QEMU knows of its own balloon."""
    return (GUEST_MIB * MIB_PAGES) - int(guest.qmp("query-balloon")["actual"]) // 4096


def hold(guest: lab.Guest, mib: int) -> None:
    """Has QEMU's own balloon hold so much."""
    guest.qmp("balloon", value=(GUEST_MIB - mib) << 20)
    guest.wait_until(lambda: held_pages(guest) == mib * MIB_PAGES, 120, what=f"a balloon of {mib} MiB")


def test_sizes_are_those_of_the_devices(tmp_path: Path) -> None:
    """Two balloons: QEMU's own has ports to be read by, the lab's own a window only."""
    with lab.solo(memory_mib=GUEST_MIB, device="backend", balloons=[{"deflate-on-oom": "on"}]) as guest:
        hold(guest, HELD_MIB)
        told = json.loads(guest.run(["balloontrace", "doctor", "--format", "json"], check=True).stdout)
        assert [(each["size_pages"], each["target_pages"], each["source"]) for each in told["balloons"]] == [
            (HELD_MIB * MIB_PAGES, HELD_MIB * MIB_PAGES, SOURCE),
            (0, 0, SOURCE),
        ]
        began_inflated(guest, tmp_path)
        out_of_memory(guest, tmp_path)
        unplugged(guest, tmp_path)
        assert_no_trace(guest)


def began_inflated(guest: lab.Guest, folder: Path) -> None:
    recorder = record(guest, "/root/inflated.bt")
    hold(guest, LEFT_MIB)
    guest.set_balloon(target_mib=GUEST_MIB - 7)
    guest.wait_balloon()
    recorder.end()
    found = report(recorder.pull(folder))
    assert_whole(found)
    own, labs = found["balloons"]
    assert [own[end]["size_pages"] for end in ("at_start", "at_end")] == [
        HELD_MIB * MIB_PAGES,
        held_pages(guest),
    ]
    assert [labs[end]["size_pages"] for end in ("at_start", "at_end")] == [0, 7 * MIB_PAGES]
    assert labs["at_end"]["target_pages"] == 7 * MIB_PAGES
    assert {each[end]["size_source"] for each in (own, labs) for end in ("at_start", "at_end")} == {SOURCE}
    assert {each["below_target_pages"] for each in (own, labs)} == {0}
    sizes = {each["name"]: each["spans"] for each in found["checks"] if each["name"].startswith("size")}
    assert sizes["size of all balloons"] == (LEFT_MIB + 7) * MIB_PAGES


def out_of_memory(guest: lab.Guest, folder: Path) -> None:
    recorder = record(guest, "/root/squeezed.bt")
    hold(guest, SQUEEZED_MIB)
    hungry = guest.start(["python3", "-c", HUNGRY])
    hungry.wait_for(b"ready", ATTACH_S, stream="stdout")
    most = held_pages(guest)
    # While it lives the balloon may shrink at any moment, between two looks at the end of a recording too.
    hungry.kill()
    hungry.wait(60)
    done = recorder.end()
    least = held_pages(guest)
    found = report(recorder.pull(folder))
    assert_whole(found)
    own = found["balloons"][0]
    assert least <= own["at_end"]["size_pages"] <= most < SQUEEZED_MIB * MIB_PAGES
    below_pages = SQUEEZED_MIB * MIB_PAGES - own["at_end"]["size_pages"]
    assert (own["at_end"]["target_pages"], own["below_target_pages"]) == (
        SQUEEZED_MIB * MIB_PAGES,
        below_pages,
    )
    (given,) = own["given_back"]
    assert (given["how"], given["below_target_pages"]) == ("out of memory", below_pages)
    assert "below it" in done.stderr


def unplugged(guest: lab.Guest, folder: Path) -> None:
    device = found_name(guest)
    recorder = record(guest, "/root/unplugged.bt")
    guest.qmp("device_del", id="balloon0")
    # The kernel forgets its name before the driver is done with it; QEMU hears of it when that is over.
    guest.wait_until(lambda: is_deleted(guest), 120, what="a balloon that is gone")
    if recorder.process.poll() is None:
        recorder.process.signal(2)
    recorder.wait(60)
    found = report(recorder.pull(folder))
    own = next(each for each in found["balloons"] if each["device"] == device)
    assert own["at_start"]["size_pages"] > 0
    assert own["at_end"] == {
        "present": False, "size_pages": None, "size_source": None, "target_pages": None,
        "target_source": None,
    }  # fmt: skip
    assert [each["how"] for each in own["given_back"]] == ["driver removed or frozen"]
    assert all(check["agrees"] for check in found["checks"])


def is_deleted(guest: lab.Guest) -> bool:
    guest.qmp("query-status")  # events are heard with an answer
    return any(event["event"] == "DEVICE_DELETED" for event in guest.qmp_events())


def found_name(guest: lab.Guest) -> str:
    """What the kernel calls QEMU's own balloon: the only one that offers DEFLATE_ON_OOM."""
    told = json.loads(guest.run(["balloontrace", "doctor", "--format", "json"], check=True).stdout)
    return next(str(each["name"]) for each in told["devices"] if "DEFLATE_ON_OOM" in each["features"])
