# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's folder in the user's cache, and locks on files in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/balloontrace-lab` (default `~/.cache/...`), made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "balloontrace-lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def images_folder() -> Path:
    """Where built images are."""
    folder = cache_folder() / "images"
    folder.mkdir(exist_ok=True)
    return folder


def run_folder() -> Path:
    """Where each VM that runs has its folder."""
    folder = cache_folder() / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises LabError where there is less."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise LabError(
            f"{what} needs {needed_bytes >> 20} MiB in {folder}, and {free_bytes >> 20} MiB are free; "
            "set XDG_CACHE_HOME to a place with more."
        )


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Waits for the lock on `path`; a process that inherits the descriptor yielded holds it too."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock on `path` until it is closed; None while anybody else holds it."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
