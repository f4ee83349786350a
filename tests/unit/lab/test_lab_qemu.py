# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's command line, and the choice between KVM and emulation."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab import accel
from lab.cli import cli
from lab.errors import LabError
from lab.image import Image
from lab.qemu import (
    HOST_TCG,
    ICOUNT,
    KVM,
    TCG,
    Accelerator,
    Hosting,
    Plumbing,
    QemuProgram,
    VmConfig,
    needs_new_qemu,
    qemu_command,
)
from lab.topology_solo import solo
from lab.vhost import BackendOptions, ExtraTime

IMAGE = Image(Path("/cache/image,1"))
PLUMBING = Plumbing(7, (8, 9, 10, 11), Path("/run/vm/console.log"), Path("/src/repo"), Path("/run/vm/io"))


def command(config: VmConfig | None = None, accelerator: Accelerator = TCG) -> list[str]:
    return qemu_command(config or VmConfig(), IMAGE, accelerator, PLUMBING)


def values(words: list[str], option: str) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == option]


def test_disk_is_never_written() -> None:
    (drive,) = values(command(), "-drive")
    assert "snapshot=on" in drive.split(",")
    assert drive.startswith("file=/cache/image,,1/root.ext4,")


def test_a_panic_ends_qemu() -> None:
    words = command()
    assert "-no-reboot" in words
    (kernel_line,) = values(words, "-append")
    assert {"panic=-1", "oops=panic", "init_on_alloc=0"} <= set(kernel_line.split())


def test_kernel_line_takes_what_is_asked_for() -> None:
    (kernel_line,) = values(command(VmConfig(init_on_alloc=True, kernel_args=("nokaslr", "x=y"))), "-append")
    assert "init_on_alloc=1" in kernel_line.split()
    assert kernel_line.endswith("nokaslr x=y")


def test_repository_is_shared_read_only_and_io_is_not() -> None:
    repo, io = values(command(), "-fsdev")
    assert "path=/src/repo" in repo
    assert repo.endswith("readonly=on")
    assert "path=/run/vm/io" in io
    assert "readonly" not in io


def test_agent_has_a_named_port_per_socket() -> None:
    words = command()
    ports = [device for device in values(words, "-device") if device.startswith("virtserialport")]
    assert ports == [f"virtserialport,chardev=agent{n},name=lab.{n}" for n in range(4)]
    assert "socket,id=agent3,fd=11,server=on,wait=off" in values(words, "-chardev")


@pytest.mark.parametrize(
    ("balloons", "devices"),
    [
        ((), []),
        (({},), ["virtio-balloon-pci,id=balloon0"]),
        (({"deflate-on-oom": "on"},), ["virtio-balloon-pci,id=balloon0,deflate-on-oom=on"]),
    ],
)
def test_balloons(balloons: tuple[dict[str, str], ...], devices: list[str]) -> None:
    found = [d for d in values(command(VmConfig(balloons=balloons)), "-device") if "balloon" in d]
    assert found == devices


def test_the_labs_own_balloon_shares_the_memory_of_the_guest() -> None:
    config = VmConfig(memory_mib=512, balloons=(), backend=BackendOptions(page_bitmap=True))
    words = qemu_command(config, IMAGE, TCG, replace(PLUMBING, backend_fd=12))
    assert values(words, "-object") == ["memory-backend-memfd,id=memory,size=512M,share=on"]
    assert values(words, "-machine") == ["pc", "memory-backend=memory"]
    assert "socket,id=backend,fd=12" in values(words, "-chardev")
    (device,) = [d for d in values(words, "-device") if "vhost" in d or "balloon" in d]
    assert device.startswith("vhost-user-test-device-pci,")
    assert {"virtio-id=5", "num_vqs=2", "config_size=16", "chardev=backend"} <= set(device.split(","))


def test_free_page_hints_have_a_third_queue() -> None:
    config = VmConfig(backend=BackendOptions(arguments=("--free-page-hint",)))
    words = qemu_command(config, IMAGE, TCG, replace(PLUMBING, backend_fd=12))
    assert any("num_vqs=3" in device for device in values(words, "-device"))


def test_a_kernel_without_9p_has_its_folders_over_virtiofs() -> None:
    config = VmConfig(memory_mib=512)
    words = qemu_command(config, IMAGE, TCG, replace(PLUMBING, virtiofs_fds={"repo": 12, "io": 13}))
    assert values(words, "-object") == ["memory-backend-memfd,id=memory,size=512M,share=on"]
    assert values(words, "-fsdev") == []
    assert "vhost-user-fs-pci,chardev=io,tag=io" in values(words, "-device")
    assert "socket,id=io,fd=13" in values(words, "-chardev")


def test_a_microvm_has_no_pci() -> None:
    devices = values(command(VmConfig(machine="microvm")), "-device")
    assert "virtio-balloon-device,id=balloon0" in devices
    assert not any("-pci" in device for device in devices)
    with pytest.raises(LabError, match="microvm"):
        VmConfig(machine="microvm", backend=BackendOptions()).check()


def test_nothing_is_shared_with_qemus_own_balloon() -> None:
    assert values(command(), "-object") == []


def test_another_qemu_starts_with_its_own_words() -> None:
    program = QemuProgram(("/tree/ld.so", "/tree/qemu"))
    words = qemu_command(VmConfig(), IMAGE, TCG, PLUMBING, program)
    assert words[:3] == ["/tree/ld.so", "/tree/qemu", "-machine"]
    assert command()[0] == "qemu-system-x86_64"


@pytest.mark.parametrize(
    "options",
    [
        *({"page_bitmap": True}, {"dump": True}, {"backend_args": ["--no-discard"]}),
        {"extra": ExtraTime(per_discard_ns=1)},
    ],
)
def test_options_of_the_labs_own_balloon_are_not_qemus(options: dict[str, Any]) -> None:
    with pytest.raises(LabError, match="backend"), solo(**options):
        pass


def test_options_of_the_device_are_words(tmp_path: Path) -> None:
    extra = ExtraTime(per_buffer_ns=5, in_discard_ns=7)
    options = BackendOptions(page_bitmap=True, dump=True, arguments=("--deflate-on-oom",), extra=extra)
    assert options.words(tmp_path) == [
        "--log", f"{tmp_path}/backend.log", "--dump", f"{tmp_path}/payloads.bin",
        "--page-bitmap", "--extra-ns-per-buffer", "5", "--extra-ns-in-discard", "7", "--deflate-on-oom",
    ]  # fmt: skip


def test_qemus_own_balloon_cannot_be_slowed() -> None:
    done = CliRunner().invoke(cli, ["up", "--extra-ns-in-discard", "7"])
    assert done.exit_code == 2
    assert "add --backend" in done.output


def test_only_qemus_own_balloon_reports_free_pages() -> None:
    done = CliRunner().invoke(cli, ["up", "--reporting", "--backend"])
    assert done.exit_code == 2
    assert "add --balloons 1" in done.output


def test_further_arguments_come_last() -> None:
    assert command(VmConfig(extra_args=("-device", "edu")))[-2:] == ["-device", "edu"]


@pytest.mark.parametrize(
    "config", [VmConfig(memory_mib=64), VmConfig(icount=True, cpus=2), VmConfig(balloons=({}, {}))]
)
def test_what_cannot_work_is_refused(config: VmConfig) -> None:
    with pytest.raises(LabError):
        config.check()


def test_accelerators() -> None:
    assert values(command(accelerator=KVM), "-cpu") == ["host"]
    assert values(command(accelerator=TCG), "-accel") == ["tcg,thread=single"]
    assert values(command(accelerator=HOST_TCG), "-accel") == ["tcg,thread=multi"]
    assert values(command(accelerator=ICOUNT), "-icount") == ["shift=0,sleep=off"]


def test_kvm_is_not_chosen_without_its_node(tmp_path: Path) -> None:
    assert accel.choose_accelerator(VmConfig(), IMAGE, tmp_path / "none") == TCG


def test_counting_instructions_never_asks_for_kvm(tmp_path: Path) -> None:
    assert accel.choose_accelerator(VmConfig(icount=True, cpus=1), IMAGE, tmp_path / "none") == ICOUNT


def test_emulation_of_code_that_is_patched_while_it_runs_takes_a_newer_qemu() -> None:
    nested = VmConfig(cpus=1, hosting=Hosting(Path("/vm")))
    assert needs_new_qemu(VmConfig(cpus=2), TCG)
    assert needs_new_qemu(nested, HOST_TCG)
    assert needs_new_qemu(VmConfig(cpus=1, backend=BackendOptions()), KVM)
    assert not needs_new_qemu(VmConfig(cpus=1), TCG)
    assert not needs_new_qemu(VmConfig(cpus=1, icount=True), ICOUNT)
    assert not needs_new_qemu(VmConfig(cpus=2), KVM)
    assert not needs_new_qemu(nested, KVM)


@pytest.mark.parametrize(("works", "expected"), [(True, KVM), (False, TCG)])
def test_kvm_is_tried_once_per_boot_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool, expected: Accelerator
) -> None:
    tries: list[Path] = []

    def tried(kernel: Path, _program: object) -> bool:
        tries.append(kernel)
        return works

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(accel, "try_kvm", tried)
    monkeypatch.setattr(accel, "read_qemu_version", lambda _program: "QEMU emulator version 0")
    (tmp_path / "kvm").touch()
    assert accel.choose_accelerator(VmConfig(), IMAGE, tmp_path / "kvm") == expected
    assert accel.choose_accelerator(VmConfig(), IMAGE, tmp_path / "kvm") == expected
    assert len(tries) == 1
