# SPDX-License-Identifier: GPL-2.0-or-later
"""What `archive` needs in a guest whose image lacks it: pyarrow and fsspec, for the guest's Python.

pip unpacks them here, in a folder of this checkout, which the guest sees: they take 170 MB.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.guest import Guest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "archive-libraries"
_LIBRARIES = ("pyarrow", "fsspec")
_MANYLINUX = ("manylinux_2_28", "manylinux2014")
_ASK = "import platform, sys; print(*sys.version_info[:2], platform.machine())"


def unpack_archive_libraries(guest: Guest) -> str:
    """The folder in the guest, for its PYTHONPATH. Raises LabError, and CalledProcessError of pip."""
    major, minor, machine = guest.run(["python3", "-c", _ASK], check=True).stdout.split()
    version = f"{major}.{minor}"
    folder = FOLDER / f"{version}-{machine}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.part")
        platforms = [word for each in _MANYLINUX for word in ("--platform", f"{each}_{machine}")]
        how = ["--no-deps", "--no-compile", "--only-binary", ":all:", "--python-version", version, *platforms]
        quiet = ["--quiet", "--disable-pip-version-check", "--upgrade", "--target", str(partial)]
        subprocess.run([sys.executable, "-m", "pip", "install", *quiet, *how, *_LIBRARIES], check=True)
        partial.rename(folder)
    return f"/repo/{folder.relative_to(ROOT)}"
