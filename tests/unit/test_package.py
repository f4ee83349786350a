# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel: the BPF sources are in it, and found from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from balloontrace.format.vocabulary import Side

ROOT = Path(__file__).parents[2]
BPF_SOURCES = sorted(path.name for path in (ROOT / "bpf").iterdir() if path.suffix in (".c", ".h"))
WHERE = "from balloontrace.trace.engines.shipped import bpf_folder; print(bpf_folder())"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline from a copy, with what was compiled, so that building leaves nothing in the tree."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy2(ROOT / name, tree / name)
    for name in ("balloontrace", "bpf", "build", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "prometheus"))
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out],
        capture_output=True, text=True, timeout=120, cwd=tree,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("balloontrace-*.whl")
    return built


def where(cwd: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", WHERE], cwd=cwd, capture_output=True, text=True, timeout=60, check=True,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return Path(done.stdout.strip())


def test_there_are_sources_to_ship() -> None:
    assert {"guest.bpf.c", "balloon_events.h", "balloon_compat.h"} <= set(BPF_SOURCES)


def test_the_sources_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {f"balloontrace/bpf/{name}" for name in BPF_SOURCES} <= names
        for name in BPF_SOURCES:
            assert archive.read(f"balloontrace/bpf/{name}") == (ROOT / "bpf" / name).read_bytes()
        (page,) = (name for name in names if name.endswith(".data/data/share/man/man1/balloontrace.1"))
        assert archive.read(page) == (ROOT / "docs/balloontrace.1").read_bytes()
        templates = (ROOT / "balloontrace/render/templates").iterdir()
        assert {f"balloontrace/render/templates/{path.name}" for path in templates} <= names
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "balloontrace = balloontrace.__main__:main" in archive.read(entry_points).decode()
        assert not {name.split("/")[0] for name in names} & {"tests", "lab", "bpf", "docs"}


def test_the_compiled_programs_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if name.endswith(".bpf.o")}
    kinds = [f"{live}{typed}" for live in ("", "-live") for typed in ("", "-typed")]
    objects = [f"{side}{kind}" for side in (*Side, f"{Side.HOST}-all") for kind in kinds]
    objects += [f"{Side.HOST}-sampled{typed}" for typed in ("", "-typed")]
    assert found == {
        f"balloontrace/bpf/objects/{machine}/{name}.bpf.o"
        for machine in ("x86_64", "aarch64")
        for name in objects
    }


def test_an_installed_wheel_finds_its_sources(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    folder = where(tmp_path)
    assert folder == tmp_path / "balloontrace/bpf"
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".c", ".h")) == BPF_SOURCES


def test_the_tree_finds_its_sources() -> None:
    assert where(ROOT) == ROOT / "bpf"
