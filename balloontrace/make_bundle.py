# SPDX-License-Identifier: GPL-2.0-or-later
"""One file that Python runs: the modules that tracing needs, click, and the files of `bpf/`.

The same files make the same bytes, wherever and whenever.
"""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from importlib.util import resolve_name
from pathlib import Path

import click

import balloontrace
from balloontrace.errors import BalloontraceError

VERBS = ("doctor", "record", "top")
_ROOTS = ("__main__", *(f"commands.{verb}" for verb in VERBS), "trace.engines.bcc_child")
_INTERPRETER = b"#!/usr/bin/env python3\n"
_MAIN = b"""\
import sys
if sys.version_info < (3, 11):
    sys.exit("balloontrace: this needs Python 3.11 or newer")
from balloontrace.__main__ import main
main()
"""
_MODE = 0o100644 << 16  # where ZIP keeps what Unix has of a file
_UNIX = 3
# Where a statement has others in it: imports are statements, and most of a tree are expressions.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def make_bundle(bpf_files: Mapping[str, bytes]) -> bytes:
    """An executable archive with these files of `bpf/`, by their names there.

    Raises BalloontraceError when no compiled program is among them.
    """
    if not any(name.endswith(".bpf.o") for name in bpf_files):
        raise BalloontraceError(
            "this package has no compiled BPF programs, which a bundle needs: build it where clang is"
        )
    own, library = Path(balloontrace.__file__).parent, Path(click.__file__).parent
    files = {
        "__main__.py": _MAIN,
        **find_modules(own, _ROOTS),
        **find_modules(library, ("",)),
        **{f"{own.name}/bpf/{name}": content for name, content in bpf_files.items()},
        **{f"{name}/LICENSE": text for name in (own.name, library.name) for text in _licence(name)},
    }
    packed = io.BytesIO(_INTERPRETER)
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # its date is 1980-01-01 unless told
            entry.create_system, entry.external_attr = _UNIX, _MODE
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED, compresslevel=6)
    return packed.getvalue()


def find_modules(package: Path, roots: Iterable[str]) -> dict[str, bytes]:
    """Modules of a package and all they import of it, however late, by their names in an archive."""
    found: dict[str, bytes] = {}
    pending = [f"{package.name}.{root}".rstrip(".") for root in roots]
    while pending:
        name = pending.pop()
        path = _find_source(package.parent, name)
        key = str(path.relative_to(package.parent)) if path else ""
        if path is None or key in found:
            continue
        found[key] = path.read_bytes()
        home = name if path.name == "__init__.py" else name.rpartition(".")[0]
        imported = (home, name.rpartition(".")[0], *_find_imports(found[key], home))
        pending.extend(each for each in imported if each.partition(".")[0] == package.name)
    return found


def _find_source(folder: Path, name: str) -> Path | None:
    path = folder.joinpath(*name.split("."))
    return next((each for each in (path / "__init__.py", path.with_suffix(".py")) if each.exists()), None)


def _find_imports(source: bytes, home: str) -> Iterator[str]:
    """Dotted names that a module in the package `home` imports, but those for types alone."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), home)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending.extend(node.orelse)
        else:
            pending.extend(child for name in _BLOCKS for child in getattr(node, name, ()))


def _licence(name: str) -> Iterator[bytes]:
    """The licence that an installed package came with, if it came with one."""
    try:
        files = metadata.files(name) or ()
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if path.stem.upper() in ("LICENSE", "LICENCE") and path.is_file():
            yield path.read_bytes()
            return
