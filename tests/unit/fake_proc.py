# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes as procfs shows them, below a folder."""

from __future__ import annotations

from pathlib import Path

STAT = "{pid} (a (strange) name) S " + " ".join(str(field) for field in range(4, 53))


class FakeProc:
    """Writes processes where procfs shows them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        pid: int,
        name: str = "vmm",
        *,
        status: str = "",
        opened: tuple[str, ...] = (),
        cmdline: str = "",
    ) -> Path:
        folder = self.root / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        (folder / "task" / str(pid)).mkdir(parents=True)
        (folder / "task" / str(pid) / "comm").write_text(f"{name}\n")
        (folder / "status").write_text(
            f"Name:\t{name}\nState:\tS (sleeping)\nTgid:\t{pid}\nVmSize:\t 9 kB\nThreads:\t3\n{status}"
        )
        (folder / "stat").write_text(STAT.format(pid=pid))
        (folder / "cmdline").write_text(cmdline.replace(" ", "\0") + "\0")
        (folder / "exe").symlink_to(f"/usr/bin/{name}")
        for number, target in enumerate(opened):
            (folder / "fd" / str(number)).symlink_to(target)
        return folder
