# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images, with kernels and initramfs: built once from Debian packages, then kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lab.build import build_tree
from lab.cache import check_space, images_folder, locked, try_lock
from lab.errors import LabError
from lab.kernels import NATIVE, ImageSpec
from lab.packages import TO_BUILD, TO_BUILD_WITHOUT_ROOT, enable_emulation, ensure_packages
from lab.progress import Progress

# Part of the key: raise it when build.py makes something else of the same inputs.
BUILDER_VERSION = 2
SOURCES = Path(__file__).parent / "image"
NEEDED_BYTES = 4 << 30
KEPT_S = 24 * 3600  # images that were used since are not removed when another one is built
_PARTIAL = ".partial"


def image_key(spec: ImageSpec, sources: Path = SOURCES) -> str:
    """Hex name of an image: the same exactly when everything that shapes it is the same."""
    shape = asdict(replace(spec, booted=""))
    architecture = shape.pop("architecture")
    inputs = [sorted(v) if isinstance(v, tuple) else v for v in shape.values()]
    digest = hashlib.sha256(
        json.dumps([BUILDER_VERSION, inputs, *(() if architecture == NATIVE else (architecture,))]).encode()
    )
    for path in sorted(sources.iterdir()):
        digest.update(f"\0{path.name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Image:
    """An image and one of its kernels; the folder appears under its name when all in it is complete."""

    folder: Path
    kernel_name: str = ImageSpec().kernel
    architecture: str = NATIVE
    disk: Path | None = None  # where the root file system is, if not there too

    @property
    def root(self) -> Path:
        """The ext4 root file system; never written to."""
        return self.disk or self.folder / "root.ext4"

    @property
    def kernel(self) -> Path:
        """The guest kernel as Debian ships it."""
        return self.kernel_folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initramfs with boot.c and the modules it loads."""
        return self.kernel_folder / "initrd"

    @property
    def kernel_folder(self) -> Path:
        """What belongs to this kernel: see lab/image/build."""
        return self.folder / "kernels" / self.kernel_name

    def release(self) -> str:
        """What `uname -r` will say."""
        return (self.kernel_folder / "release").read_text().strip()

    def has_9p(self) -> bool:
        """Whether this kernel can be given folders over 9p; one that cannot has virtiofs."""
        return (self.kernel_folder / "shares").read_text().strip() == "9p"


@contextmanager
def using_image(
    spec: ImageSpec | None = None, progress: Progress | None = None
) -> Iterator[tuple[Image, int]]:
    """Builds the image if need be; yields it and a descriptor: while that is open, it is not removed.

    Raises LabError when it cannot be built.
    """
    spec = spec or ImageSpec()
    image = Image(images_folder() / image_key(spec), spec.kernel, spec.architecture)
    with locked(use_lock(image.folder), shared=True) as descriptor:
        os.utime(descriptor)
        if not image.folder.exists():
            build_image(spec, image, progress or Progress())
        yield image, descriptor


def ensure_image(spec: ImageSpec | None = None, progress: Progress | None = None) -> Image:
    """The image, built if need be. Raises LabError."""
    with using_image(spec, progress) as (image, _):
        return image


def use_lock(image_folder: Path) -> Path:
    """The file on which users of an image hold a shared lock."""
    return image_folder.with_name(image_folder.name + ".lock")


def build_image(spec: ImageSpec, image: Image, progress: Progress) -> None:
    """Builds `image`; of several processes that want it, one builds and the others wait. Raises LabError."""
    with locked(images_folder() / "build.lock"):
        if image.folder.exists():
            return
        ensure_packages(TO_BUILD if os.geteuid() == 0 else TO_BUILD_WITHOUT_ROOT, progress)
        if spec.architecture != NATIVE:
            enable_emulation(progress)
        remove_leftovers()
        check_space(images_folder(), NEEDED_BYTES, "Building the image")
        partial = Path(tempfile.mkdtemp(prefix="new-", suffix=_PARTIAL, dir=images_folder()))
        try:
            build_tree(spec, SOURCES, partial, progress)
            partial.chmod(0o755)
            partial.rename(image.folder)
        except BaseException:
            remove_tree(partial)
            raise
        remove_unused(unused_s=KEPT_S)
        progress.stage(f"image ready: {image.folder}")


def remove_leftovers() -> None:
    """Removes what an interrupted build left; call with the build lock held, so that nobody is building."""
    for path in images_folder().glob("*" + _PARTIAL):
        remove_tree(path)


def remove_tree(folder: Path) -> None:
    """Removes a folder that packages were unpacked in, never what is mounted in it. Raises LabError."""
    if mounts := parse_mounts_below(Path("/proc/self/mountinfo").read_text(), folder):
        raise LabError(f"{folder} was to be removed, but something is mounted in it: {', '.join(mounts)}.")
    shutil.rmtree(folder, ignore_errors=True)


def parse_mounts_below(mountinfo: str, folder: Path) -> list[str]:
    """Mount points at or below `folder`, from /proc/self/mountinfo, with its octal escapes as they are."""
    points = [line.split()[4] for line in mountinfo.splitlines()]
    escaped = str(folder.resolve()).replace("\\", "\\134").replace(" ", "\\040")
    return [point for point in points if point == escaped or point.startswith(escaped + "/")]


def remove_unused(unused_s: float = 0) -> list[Path]:
    """Removes images that no VM uses, nor has used for so long; returns those that a VM uses."""
    in_use = []
    for folder in images_folder().iterdir():
        if not folder.is_dir():
            continue
        lock = try_lock(use_lock(folder))
        if lock is None:
            in_use.append(folder)
            continue
        if time.time() - os.fstat(lock).st_mtime >= unused_s:
            remove_tree(folder)
        os.close(lock)
    return in_use


def image_size_bytes(image: Image) -> int:
    """Bytes the image really takes on disk (the root file system is sparse)."""
    return sum(path.stat().st_blocks * 512 for path in image.folder.rglob("*"))
