# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of many VMs: each has what is its own, and a guest finds its host among them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from c_layout import C_DEFINITIONS, assert_is_c
from click.testing import CliRunner
from fleets import table_of
from synthetic import recording_bytes
from synthetic_both import flow_of, guest_recording, other_flow
from synthetic_host import slot
from synthetic_vms import Vm, recording_of, stream_of

from balloontrace.analysis.columns import decode_batches
from balloontrace.analysis.make_report import analyse
from balloontrace.analysis.processes import choose_parts, split_processes, vm_name
from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
from balloontrace.cli import cli
from balloontrace.errors import RecordingError, UsageError
from balloontrace.format import process_layout
from balloontrace.format.host_counters import parse_host_counters
from balloontrace.format.host_layout import THREAD, parse_batch_layout
from balloontrace.format.process_layout import NO_COUNTERS, added, counting_slots
from balloontrace.trace.host.all_side import AllSide
from balloontrace.trace.options import TraceOptions

FLOW, OTHER = flow_of(), other_flow()
VMS = (Vm("web1", OTHER, 11), Vm("web2", FLOW, 12), Vm(None, None, 13), Vm("db", None, 14, has_ended=False))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_layout_is_what_a_c_compiler_makes_of_the_header(tmp_path: Path) -> None:
    process = process_layout.PROCESS
    numbers = {
        "sizeof(struct bt_process)": process.size_bytes,
        **{f"offsetof(struct bt_process, {name})": at for name, at in process.offsets.items()},
        "sizeof(struct bt_process_batch)": process_layout.PROCESS_BATCH.size_bytes,
        "BT_PROCESS_SLOTS": process_layout.PROCESS_SLOTS,
        "BT_EVENTFDS": process_layout.PROCESS_EVENTFDS,
        "BT_TRACED": process_layout.TRACED,
        "BT_TRACED_WAYS": process_layout.TRACED_WAYS,
        "sizeof(struct bt_traced_processes)": process_layout.TRACED_BYTES,
    }
    tables = {
        "bt_process": process.fields,
        "bt_process_batch": process_layout.PROCESS_BATCH.fields,
        "bt_traced_process": process_layout.TRACED_PROCESS.fields,
    }
    header = tmp_path / "of_all.h"
    source = Path(__file__).parents[2] / "bpf" / "balloon_batches.h"
    header.write_text(f'#define ALL_PROCESSES\n#include "{source}"\n')
    assert_is_c(tmp_path, str(header), tables, numbers)


def test_each_has_what_is_its_own() -> None:
    recording = recording_of(*VMS)
    assert recording.complete
    parts = split_processes(recording)
    assert [vm_name(part) for part in parts] == ["web1", "web2", "qemu-13", "db"]
    assert len({part.metadata["recording_id"] for part in parts}) == len(parts)
    for part, vm in zip(parts, VMS, strict=True):
        batches = decode_batches(part.batches, parse_batch_layout(part.metadata["batch_layout"]))
        assert batches.int64("done_ns").tolist() == [each.done_ns for each in vm.batches]
        calls = parse_host_counters(part.counters).all_calls if part.counters else 0
        assert calls == sum(each.pages for each in vm.batches)
        assert (part.end is None) == (not vm.has_ended)
        host = analyse(part).host
        assert host is not None
        assert host.batches == len(vm.batches)
        assert host.ended == ("process exited" if vm.has_ended else None)
        assert any("record one VM with --vm or -p" in each for each in analyse(part).not_measured)


def test_a_recording_of_one_is_itself() -> None:
    recording = guest_recording(FLOW)
    assert split_processes(recording) == (recording,)


def test_a_guest_finds_its_host_among_them() -> None:
    for flow, name, pid in ((FLOW, "web2", 12), (OTHER, "web1", 11)):
        found = analyse(guest_recording(flow), recording_of(*VMS))
        assert found.host is not None
        assert found.host.process == f"{pid} (qemu, VM {name})"
        assert found.operations[0].served
        assert analyse(recording_of(*VMS), guest_recording(flow)) == found


def test_a_guest_of_another_host() -> None:
    with pytest.raises(RecordingError, match=r"no VM of .* served the balloon of .*: qemu-13, web1"):
        analyse(guest_recording(FLOW), recording_of(Vm("web1", OTHER), VMS[2]))


def test_two_of_the_same_are_told_apart_by_name_alone() -> None:
    twins = recording_of(Vm("one", FLOW, 1), Vm("two", FLOW, 2))
    with pytest.raises(RecordingError, match=r"agrees with several VMs of .*: choose by --vm: one, two"):
        analyse(guest_recording(FLOW), twins)


def test_commands_choose_by_name(tmp_path: Path) -> None:
    path, table = tmp_path / "all.bt", tmp_path / "batches.csv"
    path.write_bytes(stream_of(*VMS).getvalue())
    runner = CliRunner()
    done = runner.invoke(cli, ["export", str(path), "--vm", "web2", "-o", str(table)])
    assert done.exit_code == 0, done.output
    assert len(table.read_text().splitlines()) == len(VMS[1].batches) + 1
    shown = runner.invoke(cli, ["report", str(path)]).output
    assert [shown.count(f"VM web{number})") > 0 for number in (1, 2)] == [True, True]
    assert "qemu-13" not in runner.invoke(cli, ["report", str(path), "--vm", "web*"]).output


def test_archive_takes_each_vm_by_itself(tmp_path: Path) -> None:
    """And the guest's recording goes with that of its VM alone."""
    (tmp_path / "all.bt").write_bytes(stream_of(*VMS).getvalue())
    guest = tmp_path / "web2.bt"
    guest.write_bytes(recording_bytes(FLOW))
    data = open_storage(str(tmp_path / "data"))
    assert archive([tmp_path / "all.bt"], data).written == len(VMS)
    found = archive([tmp_path / "all.bt", guest], data)
    assert (found.written, found.known, found.matched, found.refused) == (1, len(VMS), 1, [])
    assert set(found.taken) == {tmp_path / "all.bt", guest}
    machines, operations = (table_of(tmp_path / "data", table) for table in ("machines", "operations"))
    assert sorted(machines["vm"].fillna("")) == ["", "db", "web1", "web2", "web2"]
    assert set(operations["vm"]) == {"web2"}  # as the host calls it
    of_host = machines[machines["side"] == "host"]
    assert of_host["cpu_ns"].notna().sum() == 1  # one recorder was all that ran
    (tmp_path / "none.bt").write_bytes(stream_of().getvalue())
    found = archive([tmp_path / "none.bt"], data)
    assert (found.written, found.refused, found.taken) == (0, [], [tmp_path / "none.bt"])
    (tmp_path / "none.bt").unlink()
    twins = open_storage(str(tmp_path / "twins"))
    (tmp_path / "all.bt").write_bytes(stream_of(Vm("one", FLOW, 1), Vm("two", FLOW, 2)).getvalue())
    found = archive([tmp_path], twins)
    assert (found.written, found.matched) == (3, 0)


def test_commands_that_take_one_vm_say_so(tmp_path: Path) -> None:
    path = tmp_path / "all.bt"
    path.write_bytes(stream_of(*VMS).getvalue())
    for words, said in (
        (["export", str(path)], "is of 4 VMs: report and export take --vm for one of db, qemu-13, web1"),
        (["report", str(path), "--format", "json"], "is of 4 VMs: report and export take --vm"),
        (["compare", str(path), str(path)], "the operations are in the guest's; give both as GUEST,HOST"),
    ):
        done = CliRunner().invoke(cli, words)
        assert isinstance(done.exception, RecordingError), words
        assert said in str(done.exception)


def test_export_has_a_folder_for_each_vm(tmp_path: Path) -> None:
    path, out = tmp_path / "all.bt", tmp_path / "out"
    odd = (Vm("web1", OTHER, 11), Vm("../a b", FLOW, 12), Vm("web1", None, 13), Vm("..", None, 14))
    path.write_bytes(stream_of(*odd).getvalue())
    words = ["export", str(path), "-o", str(out)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert sorted(each.name for each in out.iterdir()) == ["_a_b", "vm", "web1", "web1-2"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["all.bt", "out"]
    for name, vm in (("web1", odd[0]), ("_a_b", odd[1])):
        assert len((out / name / "batches.csv").read_text().splitlines()) == len(vm.batches) + 1
    assert isinstance(CliRunner().invoke(cli, words).exception, UsageError)
    assert CliRunner().invoke(cli, [*words, "-f", "--vm", "web1"]).exit_code == 0


def test_choosing() -> None:
    recording = recording_of(*VMS)
    assert [vm_name(part) for part in choose_parts(recording, "web*")] == ["web1", "web2"]
    with pytest.raises(RecordingError, match="has no VM called x: it has db, qemu-13, web1, web2"):
        choose_parts(recording, "x")
    with pytest.raises(RecordingError, match="is of 4 VMs: report and export take --vm for one of db, "):
        analyse(recording)
    assert analyse(recording_of(VMS[0])).host is not None
    with pytest.raises(RecordingError, match="has no VM: none ran while it was recorded"):
        analyse(recording_of())


def test_what_strangers_write() -> None:
    recording = recording_of(*VMS)
    odd: tuple[dict[str, object], ...] = ({}, {"number": "one"}, {"number": -1}, {"number": 1, "came": 7})
    assert len(split_processes(replace(recording, processes=(*odd, *recording.processes)))) == len(VMS)
    nameless = replace(recording, processes=({"number": 1, "process": []},))
    assert [vm_name(part) for part in split_processes(nameless)] == ["process-?"]
    torn = replace(recording, batches=(recording.batches[0][:-3],))
    assert all(part.damage for part in split_processes(torn))
    without = {**recording.metadata, "batch_layout": {**process_layout.PROCESS_BATCH_LAYOUT, "fields": []}}
    assert not any(part.batches for part in split_processes(replace(recording, metadata=without)))


def test_sums_and_slots() -> None:
    nothing = bytes(THREAD.size_bytes)
    idle, served = slot(3 << 32 | 5, batches=0), slot(3 << 32 | 6, batches=7)
    assert counting_slots(nothing + idle + served) == served
    counters = parse_host_counters(served)
    assert added(NO_COUNTERS, counters) == counters
    assert added(counters, counters).batches == 14


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_programs_keep_processes_apart(tmp_path: Path) -> None:
    """Two are traced, a third is not; the numbers are those of C."""
    here = Path(__file__).parent / "bpf"
    program = tmp_path / "host_processes"
    names = "madvise process_madvise fallocate eventfd_read eventfd_write kvm_vcpu_ioctl kvm_vm_ioctl"
    kinds = [f"-DKIND_{name}=fentry" for name in (*names.split(), "split_huge_pmd")]
    include = [f"-I{here.parents[2] / 'bpf'}", "-include", str(here / "engine.h")]
    flags = ["-O1", "-w", *include, "-DALL_PROCESSES", *kinds]
    subprocess.run(["cc", *flags, *C_DEFINITIONS, "-o", program, here / "host_processes.c"], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout.split()
    # Batches handed over, with the number of the process and the calls of each; then calls by process.
    assert list(map(int, said)) == [2, 7, 3, 9, 5, 3, 5, 1]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"pid": 7}, "-p names one process, and --all means every VM: leave one of them out"),
        (
            {"sample": True},
            "--sample cannot trace all VMs at once: leave it out, or record one VM with --vm or",
        ),
        ({"time_faults": True}, "--time-faults cannot trace all VMs at once: leave it out"),
        ({"count_discards": True}, "--count-discards cannot trace all VMs at once: leave it out"),
        ({"engine": "bcc"}, "--engine bcc cannot trace all VMs at once: leave it out, or record one VM with"),
        ({"operations": 1}, "--operations is for the guest's side"),
    ],
)
def test_what_does_not_go_with_all_says_what_does(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        AllSide(TraceOptions(all_vms=True, **asked)).check_options()
    assert caught.value.exit_code == 2
    AllSide(TraceOptions(all_vms=True, count_freed=True)).check_options()
