# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace record` where all goes well: exactly what happened, however attached, written and ended."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tracing import (
    ATTACH_S,
    ATTACHED,
    FULL_MIB,
    MIB_PAGES,
    PAGE_BYTES,
    Json,
    PieceRecorder,
    assert_sums,
    assert_whole,
    balloontrace,
    change,
    loss,
    migrate_pages,
    move,
    outcomes,
    pull,
    record,
    report,
    run_in_turn,
    shell,
    stage,
    start_recording,
    wait_below,
)

import lab

WHOLE_MIB = 7168
WHOLE_PAGES = 1_835_008
WHOLE_SENDS = 7168
MEMORY_BYTES = 140_000_000
OTHER_SHARE = 0.05

# Prime numbers, so that counts that come out right are not right by accident.
PRIME_OPERATIONS = 5
PRIME_MIB = 53
COUNTERS = ("balloon_inflate", "balloon_deflate")
CAPTURE = ("--capture", "payload")


# ---- 7 of 8 GiB ----


@pytest.fixture(scope="module")
def whole(guest: lab.Guest, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The report of an inflate and a deflate of 7 GiB; under `elsewhere` what others say of them."""
    recorder = record(
        guest, "/root/whole.bt", "--label", "whole", env={"SUDO_UID": "1234", "SUDO_GID": "2345"}
    )
    score = guest.pull(f"/proc/{recorder.process.pid}/oom_score_adj").decode().strip()
    before, full_bytes = guest.vmstat(), guest.balloon_actual_bytes()
    move(guest, FULL_MIB - WHOLE_MIB)
    squeezed_bytes = guest.balloon_actual_bytes()
    move(guest, FULL_MIB)
    after = guest.vmstat()
    done = recorder.end(signal.SIGTERM)
    listed = guest.run(["stat", "-c", "%a %u %g", recorder.path], check=True).stdout.strip()
    path = recorder.pull(tmp_path_factory.mktemp("whole"))
    found = report(path)
    found["elsewhere"] = {
        "path": path,
        "vmstat": change(before, after, COUNTERS),
        "device_pages": (full_bytes - squeezed_bytes) // PAGE_BYTES,
        "stderr": done.stderr,
        "oom_score_adj": score,
        "mode_and_owner": listed,
    }
    return found


def test_every_page_is_counted_three_times_over(whole: Json) -> None:
    assert_whole(whole)
    assert outcomes(whole) == [("inflate", "reached", WHOLE_PAGES), ("deflate", "reached", WHOLE_PAGES)]
    assert whole["elsewhere"]["vmstat"] == [WHOLE_PAGES, WHOLE_PAGES]
    assert whole["elsewhere"]["device_pages"] == WHOLE_PAGES
    inflate, deflate = whole["operations"]
    assert (inflate["sends"], deflate["sends"]) == (WHOLE_SENDS, WHOLE_SENDS)
    assert (inflate["actual_before_pages"], inflate["actual_after_pages"]) == (0, WHOLE_PAGES)
    assert (deflate["actual_before_pages"], deflate["actual_after_pages"]) == (WHOLE_PAGES, 0)
    assert (inflate["target_pages"], deflate["target_pages"]) == (WHOLE_PAGES, 0)


def test_time_adds_up(whole: Json) -> None:
    assert_sums(whole)
    for operation in whole["operations"]:
        other = stage(operation, "other")["share"]
        named = any("outside the stages" in sentence for sentence in operation["verdict"])
        assert other < OTHER_SHARE or named
        assert stage(operation, "b+c+d")["count"] == WHOLE_SENDS
        assert operation["starts_at"] == "interrupt"


def test_nothing_is_lost_and_every_call_returns(whole: Json) -> None:
    send = loss(whole, "tell_host")
    assert (send["entries"], send["returns"]) == (2 * WHOLE_SENDS, 2 * WHOLE_SENDS)
    for row in whole["losses"]:
        assert not any(row[count] for count in ("unmatched_returns", "lost", "no_state", "overwritten"))
        assert row["returns"] in (None, row["entries"])


def test_the_own_cost_is_told(whole: Json) -> None:
    cost = whole["own_cost"]
    runs = {program["program"].split("_", 1)[1]: program["runs"] for program in cost["bpf"]}
    assert runs["tell_host"] == 2 * WHOLE_SENDS
    assert all(cost[name] > 0 for name in ("cpu_ns", "setup_cpu_ns", "wakeups", "attach_s"))
    assert 0 < cost["peak_memory_bytes"] < MEMORY_BYTES
    assert 0 < cost["setup_peak_memory_bytes"] < MEMORY_BYTES


def test_the_recorder_protects_itself_and_its_file(whole: Json) -> None:
    assert whole["elsewhere"]["oom_score_adj"] == "-1000"
    assert whole["elsewhere"]["mode_and_owner"] == "600 1234 2345"


def test_what_it_says_and_what_it_writes(whole: Json) -> None:
    first, last = whole["elsewhere"]["stderr"].splitlines()
    assert first.startswith("balloontrace: probes attached (")
    assert "without fill_balloon" in first
    assert last.startswith(f"balloontrace: terminated: {whole['spans']} spans, ")
    assert last.endswith(" to /root/whole.bt, 0 lost")
    header = whole["header"]
    assert (header["label"], header["side"], header["driver_kind"]) == ("whole", "guest", "stock")
    assert "STATS_VQ" in header["devices"][0]["features"]
    assert whole["ended"] == "terminated"


def test_the_other_formats_of_the_same_report(whole: Json) -> None:
    path = whole["elsewhere"]["path"]
    held = balloontrace("report", "--max-lost", "0", path)
    assert (held.returncode, held.stderr) == (0, "")
    assert "1 835 008" in held.stdout
    rows = balloontrace("export", path, "-o", "-").stdout.splitlines()
    assert len(rows) == whole["spans"] + 1
    assert sum(",tell_host," in row for row in rows) == 2 * WHOLE_SENDS


# ---- several recorders at once: they must agree ----


def assert_named(found: Json, moved: list[int]) -> None:
    """What the captured arrays of page numbers name is what the kernel moved, each page once."""
    assert [named_pages(found, counter) for counter in COUNTERS] == moved
    for operation in found["operations"]:
        payload = operation["payload"]
        assert (payload["encoding"], payload["payloads_whole"]) == ("PFN array", PRIME_MIB)
        assert payload["pages_named"] == payload["distinct"]["pages"] == PRIME_MIB * MIB_PAGES
        assert payload["bytes_sent"] == 4 * PRIME_MIB * MIB_PAGES


def named_pages(found: Json, counter: str) -> int:
    (check,) = [check for check in found["checks"] if check["name"] == f"{counter}, as payloads name"]
    return int(check["spans"])


def test_operations_by_fentry_by_kprobe_and_through_a_pipe(guest: lab.Guest, tmp_path: Path) -> None:
    count = str(PRIME_OPERATIONS)
    guest.run(shell("echo precious > /root/kprobe.bt"), check=True)
    recorders = [
        start_recording(guest, "/root/fentry.bt", "--operations", count, *CAPTURE),
        start_recording(
            guest, "/root/kprobe.bt", "-f", "--operations", count, "--attach", "kprobe", *CAPTURE
        ),
    ]
    piped = guest.start(shell(f"balloontrace record -o - --operations {count} | cat > /root/piped.bt"))
    for recorder in recorders:
        recorder.wait_attached()
    piped.wait_for(ATTACHED, ATTACH_S)
    before = guest.vmstat()
    for number in range(PRIME_OPERATIONS):
        # In, out, in, out, in.
        move(guest, FULL_MIB - PRIME_MIB * ((number + 1) % 2))
    for process in (*(recorder.process for recorder in recorders), piped):
        done = process.wait(30, check=True)
        assert "balloontrace: operations completed: " in done.stderr
    moved = change(before, guest.vmstat(), COUNTERS)
    found = [report(pull(guest, f"/root/{name}.bt", tmp_path)) for name in ("fentry", "kprobe", "piped")]
    kinds = ("inflate", "deflate", "inflate", "deflate", "inflate")
    for each in found:
        assert_whole(each)
        assert_sums(each)
        assert outcomes(each) == [(kind, "reached", PRIME_MIB * MIB_PAGES) for kind in kinds]
        assert [operation["sends"] for operation in each["operations"]] == [PRIME_MIB] * PRIME_OPERATIONS
        assert each["spans"] == found[0]["spans"]
        assert each["ended"] == "operations completed"
    assert moved == [3 * PRIME_MIB * MIB_PAGES, 2 * PRIME_MIB * MIB_PAGES]
    for each in found[:2]:
        assert_named(each, moved)
    assert [operation["payload"] for operation in found[2]["operations"]] == [None] * PRIME_OPERATIONS
    mechanisms = [
        {probe["mechanism"] for probe in each["header"]["probes"] if probe["status"] == "attached"}
        for each in found
    ]
    assert "fentry+fexit" in mechanisms[0]
    assert mechanisms[1] == {"kprobe+kretprobe", "kprobe"}
    assert mechanisms[2] == mechanisms[0]


def test_duration_command_and_two_interrupts(guest: lab.Guest, tmp_path: Path) -> None:
    timed = start_recording(guest, "/root/timed.bt", "-d", "1.3")
    around = start_recording(guest, "/root/around.bt", "--", "sh", "-c", "echo from the command; exit 7")
    dropped = start_recording(guest, "/root/dropped.bt")
    done = timed.wait(ATTACH_S)
    assert done.status == 0, done.describe()
    assert "balloontrace: duration reached: " in done.stderr
    command = around.wait(ATTACH_S)
    assert (command.status, command.stdout) == (1, "from the command\n"), command.describe()
    assert "the command ended with status 7; the recording is complete" in command.stderr
    dropped.wait_attached()
    pid = dropped.process.pid
    # A second signal is none while the first is pending: bit 1 of the last digit.
    taken = f"while grep -q 'ShdPnd:.*[2367abef]$' /proc/{pid}/status; do :; done; sleep 0.01"
    guest.run(shell(f"kill -INT {pid}; {taken}; kill -INT {pid}"), check=True)
    interrupted = dropped.wait()
    assert interrupted.status == 130, interrupted.describe()
    assert "Traceback" not in interrupted.stderr
    assert guest.run(["ls", "-A", "/root"]).stdout.count("dropped") == 0
    assert ".part" not in guest.run(["ls", "-A", "/root"]).stdout
    for recorder, ended in ((timed, "duration reached"), (around, "command ended")):
        found = report(recorder.pull(tmp_path))
        assert_whole(found)
        assert (found["ended"], found["operations"]) == (ended, [])


def test_what_is_there_is_not_replaced_by_accident(guest: lab.Guest) -> None:
    guest.run(shell("echo precious > /root/kept; ln -sf kept /root/link"), check=True)
    wanted = (
        (["/root/kept"], "exists already"),
        (["/root/link"], "exists already"),
        (["/root/link", "-f"], "not a regular file"),
    )
    refused = run_in_turn(guest, *(["record", "-o", *words] for words, _ in wanted))
    for done, (_, said) in zip(refused, wanted, strict=True):
        assert done.status == 2, done.describe()
        assert said in done.stderr
    assert guest.pull("/root/kept") == b"precious\n"
    assert guest.run(["readlink", "/root/link"], check=True).stdout == "kept\n"


# ---- pieces ----


def test_pieces_follow_each_other_without_a_gap(guest: lab.Guest, tmp_path: Path) -> None:
    recorder = PieceRecorder(guest, "/root/pieces")
    recorder.wait_attached()
    before = guest.vmstat()
    for number in range(PRIME_OPERATIONS):
        move(guest, FULL_MIB - PRIME_MIB * ((number + 1) % 2))
        recorder.wait_for_next()
    move(guest, FULL_MIB)
    moved = change(before, guest.vmstat(), COUNTERS)
    found = [report(path) for path in recorder.pull_all(tmp_path)]
    assert len(found) > PRIME_OPERATIONS
    for each in found:
        assert_whole(each)
        assert not any(row["lost"] or row["no_state"] for row in each["losses"])
    operations = [outcome for each in found for outcome in outcomes(each)]
    kinds = ("inflate", "deflate") * ((PRIME_OPERATIONS + 1) // 2)
    assert operations == [(kind, "reached", PRIME_MIB * MIB_PAGES) for kind in kinds]
    assert moved == [len(operations) // 2 * PRIME_MIB * MIB_PAGES] * 2


# ---- targets that move ----


def test_targets_changed_and_reversed_on_the_way(guest: lab.Guest, tmp_path: Path) -> None:
    recorder = record(guest, "/root/moving.bt")
    guest.set_balloon(target_mib=1024)
    wait_below(guest, 7000)
    move(guest, 4096)  # less far than it was to go
    guest.set_balloon(target_mib=1024)
    wait_below(guest, 3500)
    move(guest, FULL_MIB)
    recorder.end()
    found = report(recorder.pull(tmp_path))
    assert_whole(found)
    assert_sums(found)
    first, second, third = found["operations"]
    assert [(each["kind"], each["outcome"]) for each in (first, second, third)] == [
        ("inflate", "reached"),
        ("inflate", "superseded"),
        ("deflate", "reached"),
    ]
    targets = [(FULL_MIB - mib) * MIB_PAGES for mib in (1024, 4096)]
    assert first["targets_pages"] == targets
    assert any("its target moved" in sentence for sentence in first["verdict"])
    assert first["actual_after_pages"] == second["actual_before_pages"] == targets[1]
    assert second["target_pages"] == targets[0]
    assert any("given up for the opposite direction" in sentence for sentence in second["verdict"])
    assert targets[1] < second["actual_after_pages"] < targets[0]
    assert third["pages"] == first["pages"] + second["pages"] == second["actual_after_pages"]


# ---- compaction ----

# Takes memory page by page and gives every second page back: what is free then is in single pages, which is
# what the balloon takes first. When the program ends, the balloon's pages stand alone in free memory.
FRAGMENT = """
import mmap, sys
memory = mmap.mmap(-1, 512 << 20)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory.madvise(23)  # MADV_POPULATE_WRITE
for page in range(0, len(memory), 8192):
    memory.madvise(mmap.MADV_DONTNEED, page, 4096)
print("fragmented", flush=True)
sys.stdin.read()
"""


def test_compaction_moves_pages_of_the_balloon(guest: lab.Guest, tmp_path: Path) -> None:
    # With room for an event of each: else many are summed up, which test_driver sees.
    recorder = start_recording(guest, "/root/compaction.bt", "--buffer", "32M")
    guest.run(["mkfifo", "/tmp/held"], check=True)
    holder = guest.start([*shell('exec python3 -c "$0" < /tmp/held'), FRAGMENT])
    release = guest.start(shell("exec sleep 1000 > /tmp/held"))
    recorder.wait_attached()
    holder.wait_for(b"fragmented", 60, stream="stdout")
    before = guest.vmstat()
    move(guest, FULL_MIB - 256)
    release.kill()
    holder.wait(30, check=True)
    migrate_pages(guest)
    (moved,) = change(before, guest.vmstat(), ["balloon_migrate"])
    recorder.end()
    found = report(recorder.pull(tmp_path))
    assert_whole(found)
    assert moved > 0
    (check,) = [check for check in found["checks"] if check["name"] == "balloon_migrate"]
    assert (check["spans"], check["independent"]) == (moved, moved)
    (migrated,) = [each for each in found["outside"] if each["what"].startswith("virtballoon_migratepage")]
    assert migrated["calls"] >= moved
