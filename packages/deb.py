# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian package of what is in the wheel: the same files on every architecture, the same bytes each time.

A tree is laid out and packed by dpkg-deb; debhelper would do no more for a package of Python alone.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory

from click.shell_completion import get_completion_class

import balloontrace
from balloontrace.cli import cli

ROOT = Path(__file__).parents[1]
NAME = "balloontrace"
REVISION = "0local1"  # not of Debian's own archive
_MAINTAINER = "balloontrace contributors <maintainers@balloontrace.invalid>"
_PYTHON = "usr/lib/python3/dist-packages"
_DOCUMENTS = f"usr/share/doc/{NAME}"
_COMPLETIONS = {
    "bash": f"usr/share/bash-completion/completions/{NAME}",
    "zsh": f"usr/share/zsh/vendor-completions/_{NAME}",
    "fish": f"usr/share/fish/vendor_completions.d/{NAME}.fish",
}
_LIBRARIES = ("jinja2", "numpy", "pandas", "rich", "scipy", "tabulate")  # of reports; held by a test
_CONTROL = f"""\
Package: {NAME}
Version: @VERSION@
Architecture: all
Maintainer: {_MAINTAINER}
Installed-Size: @KIB@
Depends: python3 (>= 3.11), python3-click, libbpf1
Recommends: {", ".join(f"python3-{library}" for library in _LIBRARIES)}
Suggests: python3-bpfcc, python3-prometheus-client
Section: utils
Priority: optional
Description: show where the time of a live virtio memory balloon goes
 balloontrace attaches BPF programs to the virtio-balloon driver of a guest, or
 to the process that serves a balloon on its host, and records inflates and
 deflates. Its reports divide their time into stages: allocating pages, sending
 them, translating them in the VMM, and giving the memory back to the kernel.
 .
 Recording needs libbpf alone; reports use the recommended libraries.
"""
_POSTINST = f"""\
#!/bin/sh
set -e
if command -v py3compile >/dev/null 2>&1; then
	py3compile -p {NAME}
fi
"""
_PRERM = f"""\
#!/bin/sh
set -e
if command -v py3clean >/dev/null 2>&1; then
	py3clean -p {NAME}
fi
"""
_SCRIPT = f"""\
#!/usr/bin/python3
from {NAME}.__main__ import main

main()
"""
_COPYRIGHT = f"""\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: {NAME}

Files: *
Copyright: 2026 the contributors of {NAME}
License: GPL-2.0-or-later
 This program is free software; you can redistribute it and/or modify it under
 the terms of the GNU General Public License as published by the Free Software
 Foundation; either version 2 of the License, or (at your option) any later
 version.
 .
 On Debian systems the full text of the GNU General Public License version 2
 is in /usr/share/common-licenses/GPL-2.
"""
_OVERRIDES = f"""\
# Code for the BPF machine inside the kernel, which no processor runs: the same on every architecture.
{NAME}: arch-independent-package-contains-binary-or-object [{_PYTHON}/{NAME}/bpf/objects/*.bpf.o]
"""


def make_deb(wheel: Path, out: Path) -> Path:
    """Pack what a wheel has; returns the package in `out`. Raises CalledProcessError."""
    version, dated_s = f"{balloontrace.__version__}-{REVISION}", _source_date_s()
    deb = out / f"{NAME}_{version}_all.deb"
    with TemporaryDirectory() as folder:
        tree = Path(folder) / NAME
        files = {**dict(_of_wheel(wheel)), **_of_system(version, dated_s)}
        for name, content in files.items():
            _write(tree / name, content, 0o755 if name.startswith("usr/bin/") else 0o644)
        size_kib = sum(-(-len(content) // 1024) for content in files.values())
        control = _CONTROL.replace("@VERSION@", version).replace("@KIB@", str(size_kib))
        sums = "".join(
            f"{hashlib.md5(files[name], usedforsecurity=False).hexdigest()}  {name}\n"
            for name in sorted(files)
        )
        for name, text, mode in (
            ("control", control, 0o644),
            ("md5sums", sums, 0o644),
            ("postinst", _POSTINST, 0o755),
            ("prerm", _PRERM, 0o755),
        ):
            _write(tree / "DEBIAN" / name, text.encode(), mode)
        for path in (tree, *tree.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (dated_s, dated_s))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, deb],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(dated_s)}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return deb


def _of_wheel(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Package and metadata by their places; what pip alone needs is left out."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(f"{NAME}/") or name.endswith((".dist-info/METADATA", "/entry_points.txt")):
                yield f"{_PYTHON}/{name}", archive.read(name)


def _of_system(version: str, dated_s: int) -> dict[str, bytes]:
    """Command, man page, completion and documents."""
    changelog = (
        f"{NAME} ({version}) unstable; urgency=medium\n\n  * What is new is in changelog.gz.\n\n"
        f" -- {_MAINTAINER}  {formatdate(dated_s)}\n"
    )
    return {
        f"usr/bin/{NAME}": _SCRIPT.encode(),
        f"usr/share/man/man1/{NAME}.1.gz": _packed((ROOT / f"docs/{NAME}.1").read_bytes()),
        # Started by whoever wants it: a package that traces does not begin by itself.
        f"usr/lib/systemd/system/{NAME}.service": (ROOT / f"packages/{NAME}.service").read_bytes(),
        f"usr/share/lintian/overrides/{NAME}": _OVERRIDES.encode(),
        f"{_DOCUMENTS}/copyright": _COPYRIGHT.encode(),
        f"{_DOCUMENTS}/changelog.gz": _packed((ROOT / "CHANGELOG.md").read_bytes()),
        **{
            f"{_DOCUMENTS}/examples/{path.name}": path.read_bytes()
            for path in sorted((ROOT / "examples" / "prometheus").iterdir())
        },
        f"{_DOCUMENTS}/changelog.Debian.gz": _packed(changelog.encode()),
        **{place: _completion(shell).encode() for shell, place in _COMPLETIONS.items()},
    }


def _completion(shell: str) -> str:
    found = get_completion_class(shell)
    assert found is not None
    # Not `source`: that of bash asks which bash is installed here.
    completion = found(cli, {}, NAME, f"_{NAME.upper()}_COMPLETE")
    return completion.source_template % completion.source_vars()


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def _source_date_s() -> int:
    """When the sources were last changed: of the last commit, or SOURCE_DATE_EPOCH."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told:
        return int(told)
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout) if done.stdout.strip() else int((ROOT / "CHANGELOG.md").stat().st_mtime)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
