# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM is called, by command lines and control groups as their makers write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_proc import FakeProc

from balloontrace.errors import UsageError
from balloontrace.system.vm_names import VmName, name_by_cgroup, read_vm_name
from balloontrace.system.vmm import choose_process, find_vmms
from balloontrace.trace.attach import side_of

UUID = "6f1d2c3b-0a4e-4b5c-8d7e-112233445566"
POD = "0e2a7b1c-9d8e-4f00-a1b2-c3d4e5f60718"


def lay_out(tmp_path: Path, *words: str, cgroup: str = "0::/user.slice\n") -> VmName:
    (tmp_path / "cmdline").write_bytes("".join(f"{word}\0" for word in ("vmm", *words)).encode())
    (tmp_path / "cgroup").write_text(cgroup)
    return read_vm_name(tmp_path)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("-name", "web1", "-m", "1G"), "web1"),
        (("-name", "guest=web1,debug-threads=on"), "web1"),
        (("-name", "web1,process=qemu-web1"), "web1"),
        (("-name", "debug-threads=on,guest=web,,1"), "web,1"),
        (("-name", "guest=default_testvm,debug-threads=on"), "default_testvm"),
        (("-name", "sandbox-0123456789abcdef,debug-threads=on"), "sandbox-0123456789abcdef"),
        (("--id", "fc-7", "--start-time-us", "5"), "fc-7"),
        (("--id=fc-7",), "fc-7"),
        (("--api-socket", "/run/ch/web1.sock", "--cpus", "boot=1"), "web1"),
        (("--api-socket", "path=/run/vc/vm/0123abcd/clh-api.sock"), "0123abcd"),
        (("-name", "debug-threads=on"), None),
        (("-name",), None),
        (("-m", "1G"), None),
        (("-name", "guest=a\nb\x1b[2J"), "a?b?[2J"),
        (("-name", "x" * 500), "x" * 128),
    ],
)
def test_names_on_command_lines(tmp_path: Path, words: tuple[str, ...], name: str | None) -> None:
    assert lay_out(tmp_path, *words) == VmName(name)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (r"/machine.slice/machine-qemu\x2d12\x2dweb\x2d1.scope/libvirt/emulator", "web-1"),
        (r"/machine.slice/machine-fedora.scope", "fedora"),
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + POD.replace("-", "_") +
         ".slice/cri-containerd-0123.scope", f"pod {POD}"),
        (f"/kubepods/besteffort/pod{POD}/0123456789ab", f"pod {POD}"),
        ("/kata_overhead/kata_0123456789abcdef", "0123456789abcdef"),
        ("/system.slice/libvirtd.service", None),
        ("/", None),
    ],
)  # fmt: skip
def test_names_of_control_groups(path: str, name: str | None) -> None:
    assert name_by_cgroup(f"12:cpu,cpuacct:/\n0::{path}\n") == name
    assert name_by_cgroup(f"4:memory:{path}\n1:name=systemd:/\n") == name


def test_a_uuid_stands_in_for_a_name(tmp_path: Path) -> None:
    assert lay_out(tmp_path, "-uuid", UUID.upper()) == VmName(UUID, UUID)
    assert lay_out(tmp_path, "--platform", f"num_pci_segments=2,uuid={UUID}") == VmName(UUID, UUID)
    assert lay_out(tmp_path, "-uuid", "none") == VmName()
    assert lay_out(tmp_path, "-name", "a", "-uuid", UUID) == VmName("a", UUID)


def test_nothing_to_read(tmp_path: Path) -> None:
    assert read_vm_name(tmp_path) == VmName()
    (tmp_path / "cmdline").write_bytes(b"vmm\0-name\0\xff\xfe\0")
    (tmp_path / "cgroup").write_bytes(b"0::/\xff\n")
    assert read_vm_name(tmp_path).name is not None


def test_a_vm_is_chosen_by_its_name(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    for pid, options in ((3, f"q -name guest=web1 -uuid {UUID}"), (4, "q -name guest=web2"), (5, "q -m 1G")):
        proc.add(pid, "qemu", opened=("/dev/kvm",), cmdline=options)
    vmms = find_vmms(tmp_path)
    assert [vmm.name for vmm in vmms] == ["web1", "web2", "qemu-5"]
    assert vmms[0].description == "3 (qemu, VM web1)"
    for pattern, pid in (("web1", 3), ("*2", 4), (UUID, 3)):
        assert choose_process(None, vmms, tmp_path, vm=pattern).pid == pid
    with pytest.raises(
        UsageError, match="2 VMMs of such a name here, choose one with -p PID or --vm NAME: 3 "
    ):
        choose_process(None, vmms, tmp_path, vm="web*")
    with pytest.raises(UsageError, match=r"--vm db\*: no VM here is called so: 3 \(qemu, VM web1\); 4"):
        choose_process(None, vmms, tmp_path, vm="db*")


def test_a_name_means_the_host(tmp_path: Path) -> None:
    del tmp_path
    assert side_of("auto", None, "web1") == "host"
    with pytest.raises(UsageError, match="--vm names a process of the host"):
        side_of("guest", None, "web1")
    with pytest.raises(UsageError, match="leave one of them out"):
        side_of("auto", 3, "web1")
