# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles `bpf/` for the engine `prebuilt`: when a wheel or an editable install is made, and as a command.

An object is compiled anew when a source, this file or the compiler has changed. Without clang nothing is
compiled, and the package has the engine `bcc` alone. Without `llvm-strip` objects work, but are larger.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Name of an object, its source, and what makes it that one. The sizes given are replaced when it is loaded.
_RINGS = {"guest": "-DSPAN_RING_PAGES=1", "host": "-DBATCH_RING_PAGES=1"}
_OBJECTS = tuple(
    (f"{kind}{live}{typed}", f"{side}.bpf.c", (*definitions, *ring, *more))
    for kind, side, *definitions in (
        ("guest", "guest"),
        ("host", "host"),
        ("host-all", "host", "-DALL_PROCESSES"),
        ("host-sampled", "host", "-DSAMPLED=1"),
    )
    for live, ring in (("", (_RINGS[side],)), ("-live", ()))
    for typed, more in (("", ()), ("-typed", ("-DTYPED_READS",)))
    if not (kind == "host-sampled" and live)
)
_MACHINES: dict[str, tuple[str, ...]] = {"x86_64": (), "aarch64": ("-D__aarch64__",)}
# v3: Linux 5.1 and newer. bpfel: both machines have their bytes in that order.
_WARNINGS = ("-Wall", "-Werror", "-Wno-unused-variable")
_FLAGS = ("-target", "bpfel", "-mcpu=v3", "-g", "-O2", *_WARNINGS, "-DPREBUILT")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles what is packed with the rest of `bpf/`; an editable install finds it in the tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Called before anything is packed."""
        if not compile_all(Path(self.root)):
            self.app.display_warning("no clang here: the engine prebuilt is not part of this package")


def compile_all(root: Path) -> bool:
    """Compile what has changed; whether there is a compiler."""
    clang = find_clang()
    if clang is None:
        return False
    folder, stamp = root / "bpf", root / "build" / "bpf.stamp"
    words, strip = _words(root), find_strip(clang)
    inputs = _digest(folder, clang, [*words, f"{strip is not None}"])
    if stamp.exists() and stamp.read_text() == inputs:
        return True
    for machine, flags in _MACHINES.items():
        (folder / "objects" / machine).mkdir(parents=True, exist_ok=True)
        for name, source, definitions in _OBJECTS:
            # From inside the folder: the names of files in an object are the same wherever it is made.
            command = [clang, *_FLAGS, *flags, *words, *definitions, "-c", source]
            made = f"objects/{machine}/{name}.bpf.o"
            subprocess.run([*command, "-o", made], cwd=folder, check=True)
            if strip:  # of what debuggers read; the types (BTF) stay
                subprocess.run([strip, "--strip-debug", made], cwd=folder, check=True)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(inputs)
    return True


def find_clang() -> str | None:
    """The compiler: `clang`, or the newest with its version in its name."""
    return next(filter(None, map(shutil.which, ("clang", *(f"clang-{n}" for n in range(29, 13, -1))))), None)


def find_strip(clang: str) -> str | None:
    """`llvm-strip` of the compiler's own LLVM, or any."""
    return shutil.which("llvm-strip", path=Path(clang).resolve().parent) or shutil.which("llvm-strip")


def _words(root: Path) -> list[str]:
    """What the package defines for the sources."""
    modules = ("format/vocabulary.py", "trace/engines/constants.py")
    found = [run_path(str(root / "balloontrace" / path))["c_definitions"]() for path in modules]
    return [f"-D{name}={value}" for definitions in found for name, value in definitions.items()]


def _digest(folder: Path, clang: str, words: list[str]) -> str:
    version = subprocess.run([clang, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + " ".join(words).encode())
    for path in (Path(__file__), *sorted(folder.glob("*.[ch]"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(not compile_all(Path(__file__).parent))
