# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest as a domain of a libvirtd of our own, which this machine's libvirt does not know of, nor it of it.

The daemon has mounts of its own: what it keeps in /run, /var and /etc nobody else sees, and it goes with it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import folders
from lab.errors import LabError
from lab.folders import VmState
from lab.guest import Guest
from lab.identity import own_identity, read_identity
from lab.image import Image, using_image
from lab.kernels import ImageSpec
from lab.libvirt_domain import QEMU_CONF, URI, DomainPlaces, describe_domain
from lab.packages import TO_RUN, Requirement, ensure_packages
from lab.qemu import TCG, VmConfig
from lab.vm import Vm
from lab.vm_processes import DIES_WITH_US

_MODULES = "/usr/lib/python3/dist-packages"
_NEEDED = (
    *TO_RUN,
    Requirement("libvirt-daemon", "libvirtd"),
    Requirement(
        "libvirt-daemon-driver-qemu",
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
    ),
    Requirement("libvirt-clients", "virsh"),
    Requirement("python3-libvirt", f"{_MODULES}/libvirt.py"),
    Requirement("python3-click", f"{_MODULES}/click/__init__.py"),
)
SYSTEM_PYTHON = "/usr/bin/python3"  # for which distributions have libvirt's module
# The driver looks for a user who is there where libvirt-daemon-system was installed.
_PREPARE = """
set -e
for folder in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
    mkdir -p $folder
    mount -t tmpfs none $folder
done
printf %s "$2" > /etc/libvirt/qemu.conf
cd "$1"
for file in passwd group; do
    cp /etc/$file $file
    mount --bind $file /etc/$file
done
grep -q ^kvm: group || echo kvm:x:60994: >> group
grep -q ^libvirt-qemu: group || echo libvirt-qemu:x:60995: >> group
grep -q ^libvirt-qemu: passwd || echo libvirt-qemu:x:60995:60995::/var/lib/libvirt:/usr/sbin/nologin >> passwd
exec sleep infinity
"""
_STARTS_S = 60
_BOOTS_S = 180


class Libvirt:
    """The daemon, in its mounts; `run` runs other programs in them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with (folder / "libvirtd.log").open("ab") as log:
            self._mounts = subprocess.Popen(
                [*DIES_WITH_US, "unshare", "--mount", "sh", "-c", _PREPARE, "sh", str(folder), QEMU_CONF],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._daemon: subprocess.Popen[bytes] | None = None

    def words(self, argv: Sequence[str]) -> list[str]:
        """A command that is run where the daemon is."""
        return ["nsenter", f"--mount=/proc/{self._mounts.pid}/ns/mnt", "--", *argv]

    def virsh(self, *argv: str) -> str:
        """What a command of virsh's prints. Raises LabError."""
        done = subprocess.run(
            self.words(["virsh", "-q", "-c", URI, *argv]), capture_output=True, text=True, timeout=_BOOTS_S
        )
        if done.returncode:
            raise LabError(f"virsh {' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def start(self) -> None:
        """Start the daemon, and wait until it answers. Raises LabError."""
        deadline_s = time.monotonic() + _STARTS_S
        while "sleep" not in Path(f"/proc/{self._mounts.pid}/comm").read_text():
            self._pause(deadline_s)
        with (self._folder / "libvirtd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.words([*DIES_WITH_US, "libvirtd"]), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while True:
            try:
                self.virsh("list")
                return
            except LabError:
                self._pause(deadline_s)

    def stop(self) -> None:
        """End the daemon; its domains go on."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The daemon takes connections, and answers nothing meanwhile."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the daemon and its mounts."""
        self.stop()
        self._mounts.kill()
        self._mounts.wait()

    def _pause(self, deadline_s: float) -> None:
        if self._mounts.poll() is not None or time.monotonic() > deadline_s:
            log = (self._folder / "libvirtd.log").read_text(errors="replace")
            raise LabError(f"libvirtd does not answer:\n{log[-2000:]}")
        time.sleep(0.1)


@contextmanager
def domain(
    name: str, memory_mib: int, spec: ImageSpec, *, arguments: Sequence[str] = ()
) -> Iterator[tuple[Libvirt, Guest]]:
    """A libvirtd with a running domain, `arguments` being more of QEMU's; both end in any case. Root only."""
    ensure_packages(_NEEDED)
    with using_image(spec) as (image, _):
        folder = folders.create_folder(None, owned=True)
        libvirt = Libvirt(folder)
        try:
            libvirt.start()
            config = VmConfig(memory_mib, cpus=1, domain=name, extra_args=tuple(arguments))
            guest = _boot(libvirt, config, image, DomainPlaces(folder, folder, image.root))
            try:
                yield libvirt, guest
            finally:
                guest.detach()
        finally:
            for command in ("destroy", "undefine"):
                subprocess.run(libvirt.words(["virsh", "-q", "-c", URI, command, name]), capture_output=True)
            libvirt.close()
            shutil.rmtree(folder, ignore_errors=True)


def _boot(libvirt: Libvirt, config: VmConfig, image: Image, places: DomainPlaces) -> Guest:
    folder = places.folder
    xml = folder / "domain.xml"
    xml.write_text(describe_domain(config, image, places, accelerator=TCG))
    libvirt.virsh("define", str(xml))
    libvirt.virsh("start", config.domain)
    pid = int(subprocess.check_output(libvirt.words(["cat", f"/run/libvirt/qemu/{config.domain}.pid"])))
    identity = read_identity(pid)
    if identity is None:
        raise LabError(f"The domain {config.domain} has ended.")
    folders.write_state(
        folder, VmState(identity, own_identity(), config.memory_mib, config.cpus, accelerator="tcg")
    )
    return Guest(Vm(folder, identity), boot_timeout_s=_BOOTS_S)
