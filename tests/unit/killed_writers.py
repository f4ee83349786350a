# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills who writes or removes a dataset's files, at any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from balloontrace.archive.storage import Storage


class Killed(BaseException):
    """What nobody catches, as nobody survives a kill."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The block ends before file number `step`, from 1, is written or removed, if it ever is.

    Yields how many are left until then.
    """
    left = [step]

    def counted(act: Callable[..., None]) -> Callable[..., None]:
        def counting(*words: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            act(*words)

        return counting

    with monkeypatch.context() as patched:
        for name in ("put", "remove"):
            patched.setattr(Storage, name, counted(getattr(Storage, name)))
        with suppress(Killed):
            yield left
