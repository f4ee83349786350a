# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources and objects of `bpf/`: in an installed package, in a bundle, or beside it in the source tree."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zipimport import zipimporter

_PACKAGE = "balloontrace"
_INSIDE = f"{_PACKAGE}/bpf/"
OBJECTS = "objects"


def bpf_folder() -> Path:
    """Where the files are, of any package but a bundle."""
    inside = Path(__file__).parents[2] / "bpf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "bpf"


def read_object(machine: str, name: str) -> bytes | None:
    """A compiled object, from a bundle too; None when this package has none of that name."""
    for folder in ("bpf", "../bpf"):
        with suppress(OSError):
            return pkgutil.get_data(_PACKAGE, f"{folder}/{OBJECTS}/{machine}/{name}.bpf.o")
    return None


def read_all() -> dict[str, bytes]:
    """Every source and object by its name in `bpf/`; not from a bundle."""
    folder = bpf_folder()
    paths = (*folder.glob("*.[ch]"), *folder.glob(f"{OBJECTS}/*/*.bpf.o"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def is_bundle() -> bool:
    """Whether this package is one file, made by `bundle`."""
    return isinstance(__spec__.loader, zipimporter)


@contextmanager
def source_folder() -> Iterator[Path]:
    """The folder with the sources; those of a bundle are unpacked as long as they are needed."""
    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        yield bpf_folder()
        return
    from tempfile import TemporaryDirectory
    from zipfile import ZipFile

    with TemporaryDirectory(prefix="balloontrace-") as folder, ZipFile(loader.archive) as bundle:
        names = bundle.namelist()
        bundle.extractall(
            folder, [each for each in names if each.startswith(_INSIDE) and each[-2:] in (".c", ".h")]
        )
        yield Path(folder) / _INSIDE
