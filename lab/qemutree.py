# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU of 10.2 or later: this machine's own, or a newer one of Debian's from the cache.

The newer one is not installed. Program and libraries are in a folder and are started by the dynamic loader
that is there too: nothing is mounted, no root is needed, and this machine's own QEMU is not changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.build import add_suite, guard, run_mmdebstrap
from lab.cache import cache_folder, check_space, locked, try_lock
from lab.errors import LabError
from lab.image import use_lock
from lab.packages import (
    TO_BUILD,
    TO_BUILD_WITHOUT_ROOT,
    ensure_packages,
    read_apt_proxies,
    read_debian_mirrors,
    tail_lines,
)
from lab.progress import Progress
from lab.qemu import SYSTEM_QEMU, VHOST_DEVICE, QemuProgram

SUITE = "trixie"
BACKPORTS = "trixie-backports"
PACKAGES = ("qemu-system-x86", "seabios")
# Part of the key: raise it when this file makes something else of the same inputs.
TREE_VERSION = 1
NEEDED_BYTES = 1 << 30
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_KEPT = ("usr/bin/qemu-system-x86_64", _LIBRARIES, "usr/share/qemu", "usr/share/seabios")
_PARTIAL = ".partial"


@contextmanager
def using_new_qemu(progress: Progress | None = None) -> Iterator[tuple[QemuProgram, tuple[int, ...]]]:
    """Yields the program, made if need be, and descriptors: while they are open, it is not removed.

    Raises LabError when there is none.
    """
    if has_vhost_device(SYSTEM_QEMU):
        yield SYSTEM_QEMU, ()
        return
    with using_qemu_tree(progress, why="this machine's QEMU is older than 10.2") as (folder, descriptor):
        yield tree_program(folder), (descriptor,)


@contextmanager
def using_qemu_tree(
    progress: Progress | None = None, *, why: str = "a host VM needs a QEMU in it"
) -> Iterator[tuple[Path, int]]:
    """Yields the folder of the newer QEMU, made if need be, and a descriptor that keeps it from removal.

    Raises LabError when there is none.
    """
    folder = trees_folder() / tree_key()
    with locked(use_lock(folder), shared=True) as descriptor:
        if not folder.exists():
            build_qemu_tree(folder, progress or Progress(), why=why)
        yield folder, descriptor


def has_vhost_device(program: QemuProgram) -> bool:
    """Whether this QEMU knows the device; False too when it does not run."""
    command = [*program.argv, "-machine", "none", "-device", f"{VHOST_DEVICE},help"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, **program.environment},
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0 and VHOST_DEVICE in done.stdout


def tree_program(folder: Path) -> QemuProgram:
    """How to run the QEMU in a tree."""
    libraries = folder / _LIBRARIES
    return QemuProgram(
        argv=(
            str(libraries / "ld-linux-x86-64.so.2"), "--inhibit-cache",
            "--library-path", f"{libraries}:{libraries / 'pulseaudio'}",
            str(folder / "usr/bin/qemu-system-x86_64"),
            "-L", str(folder / "usr/share/qemu"), "-L", str(folder / "usr/share/seabios"),
        ),
        environment={"QEMU_MODULE_DIR": str(libraries / "qemu")},
    )  # fmt: skip


def trees_folder() -> Path:
    """Where the trees are."""
    folder = cache_folder() / "qemu"
    folder.mkdir(exist_ok=True)
    return folder


def tree_key() -> str:
    """Hex name of the tree: the same exactly when everything that shapes it is the same."""
    return hashlib.sha256(json.dumps([TREE_VERSION, SUITE, PACKAGES, _KEPT]).encode()).hexdigest()[:32]


def build_qemu_tree(folder: Path, progress: Progress, *, why: str = "") -> None:
    """Builds the tree; of several processes that want it, one builds and the others wait. Raises LabError."""
    with locked(trees_folder() / "build.lock"):
        if folder.exists():
            return
        check_space(trees_folder(), NEEDED_BYTES, "A newer QEMU")
        progress.stage(f"{why}; getting one from Debian")
        ensure_packages(TO_BUILD if os.geteuid() == 0 else TO_BUILD_WITHOUT_ROOT, progress)
        for leftover in trees_folder().glob("*" + _PARTIAL):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix="new-", suffix=_PARTIAL, dir=trees_folder()))
        try:
            _unpack_packages(partial, progress)
            partial.chmod(0o755)
            _check_program(partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        remove_unused_trees(keep=folder)
        progress.stage(f"QEMU ready: {folder}")


def remove_unused_trees(keep: Path | None = None) -> None:
    """Removes the trees that no VM uses, except `keep`."""
    for folder in trees_folder().iterdir():
        if folder.is_dir() and folder != keep and (lock := try_lock(use_lock(folder))) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def mmdebstrap_command(tar: Path, mirrors: Sequence[str], apt_options: Sequence[str]) -> list[str]:
    """The recipe: packages unpacked but not set up. Backports come from where the release comes from."""
    return [
        "mmdebstrap", "--verbose", "--variant=extract", "--format=tar",
        "--include=" + ",".join(PACKAGES),
        '--aptopt=APT::Install-Recommends "false"',
        f'--aptopt=APT::Default-Release "{BACKPORTS}"',
        *(f"--aptopt={option}" for option in apt_options),
        f"--setup-hook={add_suite(SUITE, BACKPORTS)}",
        SUITE, str(tar), *mirrors,
    ]  # fmt: skip


def _unpack_packages(result: Path, progress: Progress) -> None:
    is_root = os.geteuid() == 0
    # A plain user's mmdebstrap works under other user ids: they must be able to reach and write its folder.
    base = result if is_root else Path("/var/tmp")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="balloontrace-lab-", dir=base) as name:
        work = Path(name)
        work.chmod(0o755 if is_root else 0o777)
        tar = work / "tree.tar"
        command = mmdebstrap_command(tar, read_debian_mirrors(), read_apt_proxies())
        run_mmdebstrap([*guard(), *command], work, result / "build.log", progress)
        _extract(tar, result)


def _extract(tar: Path, result: Path) -> None:
    command = [
        "tar", "--extract", "--no-same-owner", "--file", str(tar), "--directory", str(result),
        *(f"./{path}" for path in _KEPT),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"`{shlex.join(command)}` failed:\n{tail_lines(done.stderr, 8)}")


def _check_program(folder: Path) -> None:
    if not has_vhost_device(tree_program(folder)):
        raise LabError(f"The QEMU unpacked in {folder} does not run here, or has no {VHOST_DEVICE}.")
