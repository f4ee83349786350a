# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders for guests whose kernel has no 9p: one virtiofsd each, which ends with the QEMU that uses it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from lab import folders
from lab.errors import LabError
from lab.packages import Requirement, ensure_packages
from lab.progress import Progress

# Debian 12 has it beside QEMU, later ones in a package of its own; both are told the same.
_PROGRAMS = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"))


def ensure_virtiofsd(progress: Progress | None = None) -> None:
    """Installs it if it is missing. Raises LabError."""
    if not any(program.exists() for program in _PROGRAMS):
        ensure_packages([Requirement("virtiofsd", str(_PROGRAMS[0]))], progress)
    if os.geteuid() != 0:
        raise LabError("This kernel has no 9p, and only root can share a folder over virtiofs.")


def share_folders(
    shares: Mapping[str, Path], folder: Path, stack: ExitStack, guard: Sequence[str]
) -> tuple[dict[str, int], list[subprocess.Popen[bytes]]]:
    """Starts them; returns what QEMU is to be connected to, by tag, open as long as `stack`; and them."""
    program = next(program for program in _PROGRAMS if program.exists())
    ends, processes = {}, []
    for tag, shared in shares.items():
        name = f"{tag}.virtiofs"
        with closing(folders.listen(folder, name)) as listener, (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *guard, str(program), f"--fd={listener.fileno()}",
                    "-o", f"source={shared}", "-o", "cache=auto" if tag == "repo" else "cache=none",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(listener.fileno(),), start_new_session=True,
            )  # fmt: skip
            processes.append(process)
            ends[tag] = stack.enter_context(closing(folders.connect(folder, name))).fileno()
    return ends, processes
