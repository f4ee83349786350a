# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder each VM has while it runs, and the state in it by which another program finds the VM."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.cache import run_folder
from lab.errors import LabError
from lab.identity import ProcessIdentity, own_identity

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class VmState:
    """What `vm.json` says. Until QEMU runs, `qemu` is the process starting it; a VM ends with its owner."""

    qemu: ProcessIdentity
    owner: ProcessIdentity | None = None
    memory_mib: int = 0
    cpus: int = 0
    accelerator: str = ""
    host: str = ""  # the VM it runs in, if not on this machine


def read_state(folder: Path) -> VmState | None:
    """The state of the VM in this folder, None when there is none."""
    try:
        raw = json.loads((folder / "vm.json").read_text())
        owner = raw.pop("owner")
        return VmState(
            ProcessIdentity(**raw.pop("qemu")), owner=ProcessIdentity(**owner) if owner else None, **raw
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_state(folder: Path, state: VmState) -> None:
    """Replaces the state; a reader sees the old or the new one."""
    partial = folder / "vm.json.new"
    partial.write_text(json.dumps(asdict(state)))
    partial.rename(folder / "vm.json")


def create_folder(name: str | None, *, owned: bool) -> Path:
    """A new folder, with its state in it from the start. Raises LabError when the name is taken."""
    if name is not None and not is_name(name):
        raise LabError(f"{name!r} cannot be the name of a VM; use letters, digits, dots and dashes.")
    me = own_identity()
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=run_folder()))
    (folder / "io").mkdir()
    write_state(folder, VmState(me, owner=me if owned else None))
    try:
        return folder.rename(run_folder() / (name or f"api-{me.pid}-{folder.name.removeprefix('.new-')}"))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise LabError(f"There is a VM {name} already; `python -m lab down --name {name}` ends it.") from None


def is_name(name: str) -> bool:
    """Whether a VM can be called so."""
    return _NAME.fullmatch(name) is not None


def vm_folders() -> list[Path]:
    """The folders of all VMs, running or not, by name."""
    return [folder for folder in sorted(run_folder().iterdir()) if read_state(folder)]


def remove_stale() -> None:
    """Removes the folders of VMs whose QEMU and owner are both gone.

    A VM without an owner keeps its folder until `down`, because its console tells why it ended.
    """
    for folder in vm_folders():
        state = read_state(folder)
        if state and state.owner and not state.owner.is_alive() and not state.qemu.is_alive():
            shutil.rmtree(folder, ignore_errors=True)


def listen(folder: Path, name: str) -> socket.socket:
    """A socket that listens in the folder."""
    listener = socket.socket(socket.AF_UNIX)
    with _short_path(folder, name) as path:
        listener.bind(path)
    listener.listen(8)
    return listener


def connect(folder: Path, name: str) -> socket.socket:
    """A connection to a socket in the folder. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _short_path(folder, name) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def _short_path(folder: Path, name: str) -> Iterator[str]:
    """A way to a socket that fits into the 108 bytes the kernel has for it, however deep the cache is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
