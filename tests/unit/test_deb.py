# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian package: it asks for what the project does, and is the same each time."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from packages import deb

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """As small as one can be: how the real one is made, another test says."""
    path = tmp_path / "balloontrace-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("balloontrace/__init__.py", "balloontrace/bpf/objects/x86_64/guest.bpf.o"):
            archive.writestr(name, "")
        archive.writestr("balloontrace-0.dist-info/METADATA", "Name: balloontrace\n")
        archive.writestr("balloontrace-0.dist-info/RECORD", "")
    return path


def field(path: Path, name: str) -> set[str]:
    done = subprocess.run(
        ["dpkg-deb", "--field", path, name], capture_output=True, text=True, check=True, timeout=60
    )
    return {re.sub(r"\W*\(.*", "", word).strip() for word in done.stdout.split(",")}


def test_it_asks_for_what_the_project_does(wheel: Path, tmp_path: Path) -> None:
    path = deb.make_deb(wheel, tmp_path)
    asked = {re.split(r"\W", word)[0] for word in PROJECT["dependencies"]}
    packages = {name.removeprefix("python3-") for name in field(path, "Recommends")}
    assert packages | {"click"} == asked
    assert field(path, "Depends") == {"python3", "python3-click", "libbpf1"}


def test_it_has_a_place_for_everything(wheel: Path, tmp_path: Path) -> None:
    path = deb.make_deb(wheel, tmp_path)
    subprocess.run(["dpkg-deb", "-x", path, tmp_path / "out"], check=True, timeout=60)
    found = {
        str(each.relative_to(tmp_path / "out")) for each in (tmp_path / "out").rglob("*") if each.is_file()
    }
    assert found >= {
        "usr/bin/balloontrace",
        "usr/lib/systemd/system/balloontrace.service",
        "usr/lib/python3/dist-packages/balloontrace/bpf/objects/x86_64/guest.bpf.o",
        "usr/share/man/man1/balloontrace.1.gz",
        "usr/share/bash-completion/completions/balloontrace",
        "usr/share/doc/balloontrace/copyright",
    }
    assert not [name for name in found if name.endswith("RECORD")]
    completion = (tmp_path / "out/usr/share/bash-completion/completions/balloontrace").read_text()
    assert "_BALLOONTRACE_COMPLETE=bash_complete" in completion


def test_it_is_the_same_each_time(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    first = deb.make_deb(wheel, tmp_path).read_bytes()
    assert deb.make_deb(wheel, tmp_path).read_bytes() == first
