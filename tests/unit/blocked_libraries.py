# SPDX-License-Identifier: GPL-2.0-or-later
"""Libraries that are there, made to look as if they were not."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType


class Blocker(MetaPathFinder):
    """Says of some libraries that they are not there."""

    def __init__(self, libraries: Collection[str]) -> None:
        self.libraries = libraries

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in self.libraries:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def unloaded(*libraries: str) -> Iterator[None]:
    """This process as it is before these libraries and the package are loaded, and put back afterwards."""
    blocker = Blocker(libraries)
    kept = _unload({*libraries, "balloontrace"})
    sys.meta_path.insert(0, blocker)
    try:
        yield
    finally:
        sys.meta_path.remove(blocker)
        _unload({"balloontrace"})
        sys.modules.update(kept)


def _unload(packages: Collection[str]) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}
