# SPDX-License-Identifier: GPL-2.0-or-later
"""Uses KVM only where it really works: a guest kernel has been seen to boot and end under it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from lab.cache import cache_folder
from lab.errors import LabError
from lab.image import Image
from lab.qemu import (
    HOST_ICOUNT,
    HOST_TCG,
    ICOUNT,
    KVM,
    SYSTEM_QEMU,
    TCG,
    Accelerator,
    QemuProgram,
    VmConfig,
    option_value,
)

_TRIAL_TIMEOUT_S = 20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def choose_accelerator(
    config: VmConfig,
    image: Image,
    kvm_node: Path = Path("/dev/kvm"),
    program: QemuProgram = SYSTEM_QEMU,
) -> Accelerator:
    """KVM when it works, else emulation; instruction counting is always emulation."""
    if config.icount:
        return ICOUNT if config.hosting is None else HOST_ICOUNT
    if config.hosting is not None and not kvm_can_nest():
        return HOST_TCG
    return KVM if kvm_works(image, program, kvm_node) else TCG


def kvm_can_nest(modules: Path = Path("/sys/module")) -> bool:
    """Whether this machine's KVM gives its guests a KVM of their own."""
    switches = [modules / name / "parameters/nested" for name in ("kvm_amd", "kvm_intel")]
    return any(switch.exists() and switch.read_text().strip() in ("1", "Y") for switch in switches)


def kvm_works(image: Image, program: QemuProgram, kvm_node: Path) -> bool:
    """Whether the image's kernel boots under KVM here; tried once per QEMU and boot of this machine.

    The node alone says little: inside some clouds it exists, can be opened, and guests die or hang under it.
    """
    if not os.access(kvm_node, os.R_OK | os.W_OK):
        return False
    inputs = [read_qemu_version(program), _BOOT_ID.read_text()]
    kind = "kvm-" if program == SYSTEM_QEMU else "newkvm-"
    verdict = cache_folder() / f"{kind}{hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]}"
    if not verdict.exists():
        for old in cache_folder().glob(f"{kind}*"):
            old.unlink(missing_ok=True)
        verdict.write_text("yes" if try_kvm(image.kernel, program) else "no")
    return verdict.read_text() == "yes"


def read_qemu_version(program: QemuProgram = SYSTEM_QEMU) -> str:
    """First line of `qemu-system-x86_64 --version`. Raises LabError when it cannot be run."""
    try:
        return subprocess.run(
            [*program.argv, "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"{program.argv[0]} does not run: {error}") from None


def try_kvm(kernel: Path, program: QemuProgram = SYSTEM_QEMU) -> bool:
    """Boots the kernel without a root file system: it must panic over that and QEMU end by itself."""
    with tempfile.NamedTemporaryFile() as console:
        command = [
            "setpriv", "--pdeathsig", "KILL",
            *program.argv, *KVM.arguments, "-cpu", KVM.cpu, "-m", "256M", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot",
            "-kernel", str(kernel), "-append", "console=ttyS0 quiet panic=-1",
            "-chardev", f"file,id=console,path={option_value(Path(console.name))}",
            "-serial", "chardev:console",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_TRIAL_TIMEOUT_S,
                env={**os.environ, **program.environment},
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0 and b"Kernel panic" in Path(console.name).read_bytes()
