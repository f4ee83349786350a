# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the process that serves a balloon, on a /proc built below a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_proc import STAT, FakeProc

from balloontrace.errors import BalloontraceError, CannotTraceError, UsageError
from balloontrace.system.process_memory import has_hugetlb_pages, read_children, read_memory
from balloontrace.system.vmm import choose_process, find_vmms, read_open_files


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def refusal(proc: FakeProc, pid: int | None) -> BalloontraceError:
    with pytest.raises(BalloontraceError) as caught:
        choose_process(pid, find_vmms(proc.root), proc.root)
    return caught.value


def test_a_vmm_is_whoever_has_kvm_open(proc: FakeProc) -> None:
    proc.add(12, "qemu-system-x86", opened=("/dev/null",))
    proc.add(34, "anything", opened=("/dev/null", "/dev/kvm"), cmdline="q -device virtio-balloon-pci,id=b")
    (found,) = find_vmms(proc.root)
    assert (found.pid, found.comm, found.executable, found.threads) == (34, "anything", "anything", 3)
    assert found.start_ticks == 22
    assert found.balloons == ("virtio-balloon-pci,id=b",)
    assert found.description == "34 (anything): virtio-balloon-pci,id=b"
    assert choose_process(None, [found], proc.root) == found


def test_threads_tell_of_a_balloon_too(proc: FakeProc) -> None:
    folder = proc.add(5, opened=("/dev/kvm",))
    (folder / "task/6").mkdir()
    (folder / "task/6/comm").write_text("__balloon\n")
    assert find_vmms(proc.root)[0].balloons == ("__balloon",)


def test_one_that_ends_while_it_is_looked_into(proc: FakeProc) -> None:
    """Its folders go one after the other: what is gone tells nothing, and is no error."""
    folder = proc.add(5, opened=("/dev/kvm",))
    shutil.rmtree(folder / "task")
    assert [each.balloons for each in find_vmms(proc.root)] == [()]
    assert read_children(5, proc.root) == {}


def test_names_cut_inside_a_character(proc: FakeProc) -> None:
    folder = proc.add(5, opened=("/dev/kvm",))
    cut = "гость-балл".encode()[:15]  # comm has room for 15 bytes
    (folder / "status").write_bytes(b"Name:\t" + cut + b"\nTgid:\t5\nVmSize:\t 9 kB\nThreads:\t1\n")
    (folder / "stat").write_bytes(STAT.format(pid=5).encode().replace(b"strange", cut))
    (folder / "task/5/comm").write_bytes(cut + b"\n")
    (folder / "maps").write_bytes(b"7f0000000000-7f0000001000 rw-s 00000000 00:01 7 /dev/shm/\xff\n")
    (found,) = find_vmms(proc.root)
    assert found.comm.startswith("гость-")
    assert read_memory(5, proc.root) is not None


def test_memory_of_hugetlbfs(proc: FakeProc) -> None:
    proc.add(5, status="HugetlbPages:\t    2048 kB\n")
    proc.add(6, status="HugetlbPages:\t       0 kB\n")
    proc.add(7)
    (proc.add(9) / "smaps").write_text("VmFlags: rd wr mr\nKernelPageSize: 2048 kB\nVmFlags: rd wr de ht\n")
    (proc.add(10) / "smaps").write_text("7f00-7f01 rw-p 0 00:00 0 ht\nVmFlags: rd wr mr hg\n")
    found = [has_hugetlb_pages(pid, proc.root) for pid in (5, 6, 7, 8, 9, 10)]
    assert found == [True, False, False, False, True, False]


def test_none_and_several(proc: FakeProc) -> None:
    nothing = refusal(proc, None)
    assert isinstance(nothing, CannotTraceError)
    assert "no process here has /dev/kvm open" in str(nothing)
    proc.add(20, opened=("/dev/kvm",))
    proc.add(3, "other", opened=("/dev/kvm",))
    several = refusal(proc, None)
    assert isinstance(several, UsageError)
    assert str(several).endswith("there are 2 VMMs here, choose one with -p PID: 3 (other); 20 (vmm)")


def test_a_process_told_by_number_needs_no_kvm(proc: FakeProc) -> None:
    proc.add(7, "backend")
    assert choose_process(7, (), proc.root).comm == "backend"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("Tgid:\t7", "Tgid:\t5"), "-p 7: that is a thread of process 5, give -p that number"),
        (("S (sleeping)", "Z (zombie)"), "-p 7: that process has ended"),
        (("VmSize:\t 9 kB\n", ""), "-p 7: that is a thread of the kernel, which serves no balloon"),
    ],
)
def test_what_cannot_be_traced(proc: FakeProc, change: tuple[str, str], said: str) -> None:
    status = proc.add(7) / "status"
    status.write_text(status.read_text().replace(*change))
    refused = refusal(proc, 7)
    assert isinstance(refused, UsageError)
    assert str(refused) == said


def test_no_such_process(proc: FakeProc) -> None:
    assert str(refusal(proc, 99)) == "-p 99: there is no such process"


def test_a_container_with_numbers_of_its_own(proc: FakeProc) -> None:
    proc.add(7)
    (proc.root / "proc/self/ns").mkdir(parents=True)
    (proc.root / "proc/self/ns/pid").symlink_to("pid:[4026532222]")
    assert "container" in str(refusal(proc, 7))


def test_memory_of_a_process(proc: FakeProc) -> None:
    folder = proc.add(
        7, status="RssAnon:\t 100 kB\nRssFile:\t 4 kB\nRssShmem:\t 0 kB\nHugetlbPages:\t 4096 kB\n"
    )
    (folder / "maps").write_text(
        "00400000-00402000 r-xp 00000000 00:1b 11 /usr/bin/vmm\n"
        "7f0000000000-7f0000100000 rw-s 00000000 00:01 33 /memfd:guest memory (deleted)\n"
        "7f0000200000-7f0000300000 rw-s 00100000 00:01 33 /memfd:guest memory (deleted)\n"
        "7f0000400000-7f0000401000 rw-s 00000000 00:0e 9 anon_inode:kvm-vcpu:0\n"
        "7f0000500000-7f0000501000 rw-p 00000000 00:00 0 \n"
    )
    (folder / "map_files").mkdir()
    file = folder / "map_files/7f0000200000-7f0000300000"
    file.write_bytes(b"x" * 5000)
    memory = read_memory(7, proc.root)
    assert memory is not None
    assert (memory.rss_anon_bytes, memory.rss_file_bytes, memory.rss_shmem_bytes) == (102400, 4096, 0)
    assert memory.hugetlb_bytes == 4 << 20
    (shared,) = memory.shared_files
    assert (shared.name, shared.mapped_bytes) == ("/memfd:guest memory (deleted)", 2 << 20)
    assert shared.allocated_bytes == file.stat().st_blocks * 512
    assert read_memory(8, proc.root) is None


def test_open_files_are_those_that_have_a_name(proc: FakeProc) -> None:
    strange = b"/srv/\xff.img".decode(errors="surrogateescape")
    opened = ("/srv/disk.img", "socket:[1]", "/dev/kvm", "/tmp/vl.1 (deleted)", strange)
    proc.add(7, opened=opened)
    assert read_open_files(7, proc.root) == {
        "0": "/srv/disk.img",
        "3": "/tmp/vl.1 (deleted)",
        "4": "/srv/\ufffd.img",
    }
    assert read_open_files(8, proc.root) == {}
