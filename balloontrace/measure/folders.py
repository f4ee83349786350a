# SPDX-License-Identifier: GPL-2.0-or-later
"""The folders of a measurement: made before anything is done, and removed where nothing came into them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from balloontrace.console.output_file import give_to_sudo_user
from balloontrace.errors import UsageError
from balloontrace.format.provenance import NAME
from balloontrace.measure.plan import INCOMPLETE, Plan, turns

_TRIED_BYTES = 64 << 10


@contextmanager
def made_folders(plan: Plan) -> Iterator[None]:
    """All that the plan needs. UsageError where they cannot be made or written to, or are not empty."""
    made: list[Path] = []
    try:
        try:
            _make(plan, made)
        except OSError as error:
            raise UsageError(f"cannot write into {plan.out}: {error.strerror}") from error
        try:
            yield
        finally:
            _remove_provenance_of_nothing(plan)
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def _make(plan: Plan, made: list[Path]) -> None:
    if plan.out.exists() and (not plan.out.is_dir() or any(plan.out.iterdir())):
        raise UsageError(f"{plan.out} is not an empty folder: name another with -o, or remove it")
    for folder in (*plan.folders, *(turn.folder for turn in turns(plan)), plan.out / INCOMPLETE):
        for each in reversed((folder, *folder.parents)):
            if not each.exists():
                each.mkdir()
                made.append(each)
                give_path_to_sudo_user(each)
    try_writing(plan.out)


def _remove_provenance_of_nothing(plan: Plan) -> None:
    """Where there is no recording, not even a part of one, the same command can be given again."""
    with suppress(OSError):
        if not any(plan.out.rglob("*.bt")):
            for folder in plan.folders:
                (folder / NAME).unlink(missing_ok=True)


def try_writing(folder: Path) -> None:
    """Write a small file and remove it. OSError where the file system refuses: it is full, say."""
    path = folder / ".balloontrace-try"
    try:
        with path.open("wb") as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def give_path_to_sudo_user(path: Path) -> None:
    """As recordings that `record` makes belong to who called sudo."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_to_sudo_user(fd)
    finally:
        os.close(fd)
