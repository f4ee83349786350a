# SPDX-License-Identifier: GPL-2.0-or-later
"""A way into a guest by ssh: a network between the guest and the machine that runs its QEMU, sshd, a key."""

from __future__ import annotations

import secrets
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.guest import Guest
from lab.packages import Requirement, ensure_packages
from lab.process import GuestProcess

_CLIENT = (Requirement("openssh-client", "ssh"),)
_STARTS_S = 120
_PORTS = range(20_000, 30_000)  # ip_local_port_range begins at 32 768
# QEMU's own network gives this address to a guest, and forwards the port (-netdev user).
_START = """
set -e
modprobe virtio_net
for link in /sys/class/net/*; do link=${link##*/}; [ "$link" = lo ] || break; done
ip link set lo up
ip address add 10.0.2.15/24 dev "$link"
ip link set "$link" up
mkdir -p /root/.ssh /run/sshd
chmod 700 /root /root/.ssh
cat > /root/.ssh/authorized_keys
exec /usr/sbin/sshd -D -e -o UseDNS=no -o PermitRootLogin=prohibit-password
"""


@dataclass(frozen=True)
class Way:
    """How to reach a guest from where its QEMU runs."""

    key: Path
    port: int

    @property
    def command(self) -> str:
        """What to call in place of `ssh`; the destination is root@127.0.0.1."""
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        return f"ssh -F none -i {self.key} -p {self.port} {options}"


DESTINATION = "root@127.0.0.1"


def network_arguments(port: int) -> tuple[str, ...]:
    """QEMU's options for a guest whose sshd is reached at this port of the machine that QEMU runs on."""
    forward = f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"
    return ("-netdev", forward, "-device", "virtio-net-pci,netdev=net0,romfile=")


def free_port() -> int:
    """A port that nobody listens on, none of those the kernel gives away: until QEMU has it, time passes."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def make_key(folder: Path) -> Path:
    """A new key in a folder, its public part beside it. Raises LabError without ssh."""
    ensure_packages(_CLIENT)
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


def start_sshd(guest: Guest, public_key: bytes) -> GuestProcess:
    """Have a guest that was booted with `network_arguments` let this key in as root. Raises LabError.

    What the daemon writes to its standard error is its log.
    """
    daemon = guest.start(["sh", "-c", _START], stdin=public_key)
    daemon.wait_for(b"Server listening", _STARTS_S)
    return daemon
