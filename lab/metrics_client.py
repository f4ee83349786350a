# SPDX-License-Identifier: GPL-2.0-or-later
"""What `balloontrace serve` needs in a guest whose image lacks it: a library, and a loopback that is up."""

from __future__ import annotations

import io
import tarfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from lab.guest import Guest

FOLDER = "/tmp/libraries"  # noqa: S108  (in the guest)
ENVIRONMENT = {"PYTHONPATH": f"/repo:{FOLDER}"}
"""For commands in the guest: this project and the library."""

_LIBRARY = "prometheus_client"
# SIOCSIFFLAGS with IFF_UP: not every image has a program that does it.
_LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))
"""


def install_client(guest: Guest) -> None:
    """Copy the library from here into the guest: it is Python alone. Raises LabError."""
    found = find_spec(_LIBRARY)
    assert found is not None
    assert found.origin is not None
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(Path(found.origin).parent, _LIBRARY)
    with TemporaryDirectory() as folder:
        packed = Path(folder) / "library.tar.gz"
        packed.write_bytes(content.getvalue())
        guest.run(["mkdir", "-p", FOLDER], check=True)
        guest.run(["tar", "-xzf", guest.push(packed), "-C", FOLDER], check=True)
    raise_loopback(guest)


def raise_loopback(guest: Guest) -> None:
    """Have the guest reach itself. Raises LabError."""
    guest.run(["python3", "-c", _LOOPBACK_UP], check=True)


def remove_client(guest: Guest) -> None:
    """Leave nothing of it. Raises LabError."""
    guest.run(["rm", "-r", FOLDER], check=True)
