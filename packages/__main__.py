# SPDX-License-Identifier: GPL-2.0-or-later
"""`make dist`: everything that is given to others, into dist/, looked over by lintian."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import balloontrace
from lab.errors import LabError
from lab.packages import Requirement, ensure_packages
from packages.deb import make_deb

ROOT = Path(__file__).parents[1]
TOOLS = (Requirement("dpkg", "dpkg-deb"), Requirement("lintian", "lintian"))


def make_all(out: Path) -> tuple[Path, ...]:
    """Wheel, source distribution, bundle and Debian package; raises CalledProcessError or LabError."""
    ensure_packages(TOOLS)
    out.mkdir(exist_ok=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", out)
    stem = f"balloontrace-{balloontrace.__version__}"
    wheel, source, bundle = out / f"{stem}-py3-none-any.whl", out / f"{stem}.tar.gz", out / "balloontrace.pyz"
    _run(sys.executable, "-m", "balloontrace", "bundle", "-f", "-o", bundle)
    deb = make_deb(wheel, out)
    _run("lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", deb)
    return wheel, source, bundle, deb


def _run(*words: str | Path) -> None:
    subprocess.run(words, cwd=ROOT, check=True)


def main() -> int:
    """Make them, and say how large they are."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"
    try:
        made = make_all(out.resolve())
    except (LabError, subprocess.CalledProcessError) as error:
        print(f"make dist: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"{path.stat().st_size:>9} bytes  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
