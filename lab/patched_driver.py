# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched driver in lab/driver/: built for the guest's kernel, kept beside the image, loaded."""

from __future__ import annotations

import hashlib
import lzma
import os
import shlex
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.build import guard
from lab.cache import check_space, locked
from lab.errors import LabError
from lab.guest import Guest
from lab.image import Image, remove_tree, using_image
from lab.kernels import ImageSpec
from lab.packages import Requirement, ensure_packages, find_tool, tail_lines
from lab.progress import Progress

# Part of the key: raise it when this file builds something else from the same sources.
BUILDER_VERSION = 2
SOURCES = Path(__file__).parent / "driver"
MODULE = "virtio_balloon"
NEEDED_BYTES = 2 << 30

TO_BUILD = (Requirement("e2fsprogs", "debugfs"), Requirement("util-linux", "unshare"))
# What a compiler and the kernel's headers need of the guest's file system.
_PARTS = (
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/src",
    "/etc/alternatives",
)
_LINKS = ("bin", "lib", "lib64")
_PAYLOAD_FIELDS, _SETUP_SECTS_FIELD, _SECTOR_BYTES = 0x248, 0x1F1, 512
_TAIL_LINES = 15
_LOAD_S = 60


@dataclass(frozen=True)
class DriverFiles:
    """Everything built from lab/driver/ for one kernel; `folder` appears when all of it is there."""

    folder: Path

    def module(self, *, btf: bool = True) -> Path:
        """The kernel module, with its own type information or without."""
        return self.folder / ("btf" if btf else "no-btf") / f"{MODULE}.ko"

    @property
    def fragment(self) -> Path:
        """The program that fragments a guest's memory."""
        return self.folder / "fragment"


def driver_key(sources: Path = SOURCES) -> str:
    """Hex name of what is built: the same exactly when sources and recipe are; the kernel is the image's."""
    digest = hashlib.sha256(f"{BUILDER_VERSION}".encode())
    for path in sorted(sources.iterdir()):
        if path.is_file() and path.suffix != ".md":
            digest.update(f"\0{path.name}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def ensure_driver(spec: ImageSpec | None = None, progress: Progress | None = None) -> DriverFiles:
    """The driver for the kernel of an image, built if need be; it goes with the image. Raises LabError."""
    progress = progress or Progress()
    with using_image(spec, progress) as (image, _):
        files = DriverFiles(image.kernel_folder / f"driver-{driver_key()}")
        if not files.folder.exists():
            with locked(image.folder / "driver.lock"):
                if not files.folder.exists():
                    ensure_packages(TO_BUILD, progress)
                    progress.stage("building the patched driver for the guest's kernel")
                    build_driver(image, files)
        return files


def load_patched(guest: Guest, *, btf: bool = True, spec: ImageSpec | None = None) -> None:
    """Replaces the balloon driver in a guest by ours, its balloon emptied on the way. Raises LabError.

    `spec` is what the guest was booted from.
    """
    module = ensure_driver(spec).module(btf=btf)
    if not module.exists():
        raise LabError("Types of this kernel were not found, so there is no driver with types of its own.")
    inside = guest.push(module)
    unload(guest)
    guest.run(["insmod", inside], timeout_s=_LOAD_S, check=True)


def load_stock(guest: Guest) -> None:
    """Replaces the balloon driver in a guest by the kernel's own. Raises LabError."""
    unload(guest)
    guest.run(["modprobe", MODULE], timeout_s=_LOAD_S, check=True)


def unload(guest: Guest) -> None:
    """Removes the balloon driver, whichever is loaded; it gives back all pages first. Raises LabError."""
    script = f"! [ -e /sys/module/{MODULE} ] || rmmod {MODULE}"
    guest.run(["sh", "-c", script], timeout_s=_LOAD_S, check=True)


def build_driver(image: Image, files: DriverFiles, sources: Path = SOURCES) -> None:
    """Builds in a copy of the guest's file system; call with a lock held. Raises LabError."""
    check_space(image.folder, NEEDED_BYTES, "Building the driver")
    tree = image.folder / "driver-build"
    remove_tree(tree)  # an interrupted build's
    try:
        copy_out(image.root, tree)
        shutil.copytree(sources, tree / "driver")
        for folder in ("dev", "proc", "tmp"):
            (tree / folder).mkdir()
        (tree / "driver" / "vmlinux").write_bytes(unpack_vmlinuz(image.kernel.read_bytes()))
        _run(build_command(tree, image.release()), "build the patched driver")
        (tree / "driver" / "built").rename(files.folder)
    finally:
        remove_tree(tree)


def copy_out(root: Path, tree: Path, parts: Sequence[str] = _PARTS) -> None:
    """Copies parts of a file system image to a folder, without mounting it. Raises LabError."""
    debugfs = find_tool("debugfs") or "debugfs"
    for part in parts:
        target = tree / part.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Its status says nothing, and to a plain user it complains of every owner it cannot set.
        request = f'rdump "{part}" "{target.parent}"'
        done = subprocess.run([debugfs, "-R", request, str(root)], capture_output=True, text=True)
        if not target.is_dir():
            raise LabError(f"debugfs could not copy {part} out of {root}:\n{tail_lines(done.stderr, 3)}")
    for link in _LINKS:
        (tree / link).symlink_to(f"usr/{link}")


def unpack_vmlinuz(vmlinuz: bytes) -> bytes:
    """The kernel in a bzImage, with its types; empty where it is packed in a way that Python does not know.

    Where to look is in the kernel's Documentation/arch/x86/boot.rst: payload_offset and payload_length.
    """
    offset, length = struct.unpack_from("<II", vmlinuz, _PAYLOAD_FIELDS)
    start = (vmlinuz[_SETUP_SECTS_FIELD] + 1) * _SECTOR_BYTES + offset
    payload = vmlinuz[start : start + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    return b""


def build_command(tree: Path, release: str) -> list[str]:
    """Runs lab/driver/build with `tree` as its root; its mounts are its own, and go with it."""
    script = (
        f"cd {shlex.quote(str(tree))} && mount --rbind /dev dev && mount --rbind /proc proc && "
        f"exec chroot . /usr/bin/env -i PATH=/usr/bin LC_ALL=C.UTF-8 sh /driver/build {shlex.quote(release)}"
    )
    if os.geteuid() == 0:
        return [*guard(), "sh", "-c", script]
    return [*guard(), "unshare", "--map-root-user", "--mount", "sh", "-c", script]


def _run(command: Sequence[str], aim: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise LabError(
            f"The lab could not {aim} (status {done.returncode}):\n{tail_lines(done.stdout, _TAIL_LINES)}"
        )
