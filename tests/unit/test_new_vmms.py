# SPDX-License-Identifier: GPL-2.0-or-later
"""VMMs are found as they come, each once, and others are looked into ever more rarely."""

from __future__ import annotations

import shutil
from pathlib import Path

from fake_proc import FakeProc

from balloontrace.system.new_vmms import NewVmms


def test_each_is_found_once(tmp_path: Path) -> None:
    proc, new = FakeProc(tmp_path), NewVmms(tmp_path)
    proc.add(3, opened=("/dev/kvm",))
    proc.add(4)
    assert [vmm.pid for vmm in new.find(0.0)] == [3]
    proc.add(5, opened=("/dev/kvm",))
    assert [vmm.pid for vmm in new.find(0.1)] == [5]
    assert not list(new.find(99.0))
    shutil.rmtree(tmp_path / "proc/3")
    assert not list(new.find(100.0))
    proc.add(3, opened=("/dev/kvm",))  # another one by the same number
    assert [vmm.pid for vmm in new.find(101.0)] == [3]


def test_kvm_opened_later(tmp_path: Path) -> None:
    proc, new = FakeProc(tmp_path), NewVmms(tmp_path)
    folder = proc.add(4)
    now_s = 0.0
    assert not list(new.find(0.0))
    # Looked into at half a second, then after pauses that double up to a minute.
    for pause_s in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
        now_s += pause_s
        (folder / "fd/7").symlink_to("/dev/kvm")
        assert not list(new.find(now_s - 0.01)), now_s
        (folder / "fd/7").unlink()
        assert not list(new.find(now_s))
    (folder / "fd/7").symlink_to("/dev/kvm")
    assert [vmm.pid for vmm in new.find(now_s + 60)] == [4]


def maps(*files: str) -> str:
    return "".join(
        f"7f0000000000-7f0010000000 rw-s 00000000 {file} /memfd:memory (deleted)\n" for file in files
    )


def test_backends_have_the_memory_of_their_vm_mapped(tmp_path: Path) -> None:
    proc, new = FakeProc(tmp_path), NewVmms(tmp_path)
    (proc.add(2, "virtiofsd") / "maps").write_text(maps("00:01 77"))
    (proc.add(3, opened=("/dev/kvm",), cmdline="vmm -name web1") / "maps").write_text(maps("00:01 77"))
    other = proc.add(4, opened=("/dev/kvm",))  # which has no memory yet
    (proc.add(5, "database") / "maps").write_text(maps("00:01 88"))
    assert [each.name for each in new.find(0.0)] == ["web1", "vmm-4"]
    (backend,) = new.find(1.0)
    assert (backend.pid, backend.name, backend.backend_of) == (2, "web1/virtiofsd", 3)
    assert backend.description == "2 (virtiofsd, backend of VM web1)"
    (other / "maps").write_text(maps("00:01 99"))
    (proc.add(6, "device") / "maps").write_text(maps("00:01 99"))
    assert [each.name for each in new.find(3.0)] == ["device-6"]
    assert not list(new.find(99.0))
    for pid in (2, 3):
        shutil.rmtree(tmp_path / f"proc/{pid}")
    (proc.add(7, "late") / "maps").write_text(maps("00:01 77"))
    assert not list(new.find(200.0))


def test_a_vmm_that_shares_no_memory_is_not_looked_into_for_ever(tmp_path: Path) -> None:
    proc, new = FakeProc(tmp_path), NewVmms(tmp_path)
    folder = proc.add(3, opened=("/dev/kvm",))
    now_s = 0.0
    assert [each.pid for each in new.find(now_s)] == [3]
    for pause_s in (0.5, 1, 2, 4, 8):
        now_s += pause_s
        assert not list(new.find(now_s))
    (folder / "maps").write_text(maps("00:01 77"))
    (proc.add(4, "device") / "maps").write_text(maps("00:01 77"))
    assert not [each for second in range(200) for each in new.find(now_s + second)]
