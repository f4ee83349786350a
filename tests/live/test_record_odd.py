# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace record` where the system shows less than usual, or the user asks for something unusual."""

from __future__ import annotations

from pathlib import Path

from tracing import (
    ATTACH_S,
    ATTACHED,
    FULL_MIB,
    MIB_PAGES,
    assert_sums,
    assert_whole,
    balloontrace,
    move,
    outcomes,
    pull,
    report,
    shell,
    stage,
)

import lab

PRIME_MIB = 59
HIDE_BTF = "mkdir -p /run/empty && mount --bind /run/empty /sys/kernel/btf && exec balloontrace"
HIDE_ADDRESSES = "echo 2 > /proc/sys/kernel/kptr_restrict && exec balloontrace"


def test_without_type_information_pages_come_from_the_size_of_the_balloon(
    guest: lab.Guest, tmp_path: Path
) -> None:
    """No BTF: no fentry, no queue, no page count of a send; kprobes and `actual` have to do."""
    script = f"{HIDE_BTF} record -o /run/nobtf.bt --operations 2"
    recorder = guest.start(["unshare", "--mount", *shell(script)])
    recorder.wait_for(ATTACHED, ATTACH_S)
    move(guest, FULL_MIB - PRIME_MIB)
    move(guest, FULL_MIB)
    done = recorder.wait(60, check=True)
    assert "no type information" in done.stderr
    found = report(pull(guest, "/run/nobtf.bt", tmp_path))
    # What the first work item began from was read of the device when the recording began.
    assert outcomes(found) == [(kind, "reached", PRIME_MIB * MIB_PAGES) for kind in ("inflate", "deflate")]
    assert any("how far the balloon's size moved" in sentence for sentence in found["not_measured"])
    assert_sums(found)
    assert found["events_lost"] == 0
    assert all(check["agrees"] is not False for check in found["checks"])
    assert all(stage(each, "b+c+d")["count"] == PRIME_MIB for each in found["operations"])


def test_hidden_addresses_and_a_command_whose_output_is_not_the_recording(
    guest: lab.Guest, tmp_path: Path
) -> None:
    """kptr_restrict=2 hides addresses from root too: probes go by name.

    The target is still seen, unless type information leaves out vp_get: kprobes want a name to be unique.
    """
    command = "sh -c 'echo from the command; until [ -e /run/moved ]; do sleep 0.1; done'"
    try:
        recorder = guest.start(shell(f"{HIDE_ADDRESSES} record -o - -- {command} > /run/hidden.bt"))
        recorder.wait_for(b"from the command", ATTACH_S)
        move(guest, FULL_MIB - PRIME_MIB)
        guest.run(["touch", "/run/moved"])
        recorder.wait(60, check=True)
    finally:
        guest.run(shell("rm -f /run/moved; echo 1 > /proc/sys/kernel/kptr_restrict"))
    found = report(pull(guest, "/run/hidden.bt", tmp_path))
    assert_whole(found)
    (config_get,) = [each for each in found["header"]["probes"] if each["function"] == "config_get"]
    outcome = "reached" if config_get["status"] == "attached" else None
    assert outcomes(found) == [("inflate", outcome, PRIME_MIB * MIB_PAGES)]
    assert outcome is not None or "config_get" in " ".join(found["not_measured"])


def test_a_target_that_is_met_already_completes_no_operation(guest: lab.Guest, tmp_path: Path) -> None:
    move(guest, FULL_MIB - PRIME_MIB)
    recorder = guest.start(["balloontrace", "record", "-o", "/run/met.bt", "--operations", "1"])
    recorder.wait_for(ATTACHED, ATTACH_S)
    # The interrupt of a target that is met already must not end the recording.
    guest.set_balloon(target_mib=FULL_MIB - PRIME_MIB)
    guest.run(["sleep", "1"])
    assert recorder.poll() is None
    move(guest, FULL_MIB)
    recorder.wait(60, check=True)
    found = report(pull(guest, "/run/met.bt", tmp_path))
    assert outcomes(found) == [("deflate", "reached", PRIME_MIB * MIB_PAGES)]
    assert balloontrace("export", tmp_path / "met.bt").returncode == 0
