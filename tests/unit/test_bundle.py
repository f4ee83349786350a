# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundle: one file, the same each time, with all that tracing needs and nothing that it does not."""

from __future__ import annotations

import ast
import io
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import command_tree
import pytest

from balloontrace import make_bundle
from balloontrace.trace.engines import shipped

ROOT = Path(__file__).parents[2]
MOST_BYTES = 1_500_000
HEAVY = {"numpy", "pandas", "scipy", "jinja2"}  # without tabulate and rich there is top --plain
MACHINES = ("x86_64", "aarch64")

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "balloontrace.pyz"
    path.write_bytes(make_bundle.make_bundle(shipped.read_all()))
    return path


def run(bundle: Path, *words: str, name: str | Path = "") -> subprocess.CompletedProcess[str]:
    """As where nothing is installed: -S leaves out all but the standard library."""
    return subprocess.run(
        [sys.executable, "-I", "-S", name or bundle, *words],
        cwd=bundle.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_it_is_one_small_file_that_can_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bundle: Path
) -> None:
    path = tmp_path / "made.pyz"
    done = command_tree.run(capsys, "bundle", "-o", path)
    assert (done.status, done.stdout) == (0, "")
    assert f"{path}: " in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert path.read_bytes() == bundle.read_bytes()
    assert path.stat().st_size < MOST_BYTES
    done = command_tree.run(capsys, "bundle", "-o", path)
    assert (done.status, "exists already" in done.stderr) == (2, True)
    assert command_tree.run(capsys, "bundle", "-f", "-o", path).status == 0


def test_it_is_the_same_whenever_and_wherever_it_is_made(bundle: Path, tmp_path: Path) -> None:
    script = "import os; os.umask(0o77); from balloontrace.cli import main; main(['bundle', '-o', '-'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout == bundle.read_bytes()


def test_it_has_the_programs_of_both_machines_and_their_sources(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        found = {name.removeprefix("balloontrace/bpf/") for name in archive.namelist() if "/bpf/" in name}
    assert found == shipped.read_all().keys()
    assert {f"objects/{machine}/guest.bpf.o" for machine in MACHINES} <= found
    assert {"guest.bpf.c", "balloon_events.h"} <= found


def test_nothing_in_it_needs_a_library(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        nodes = [node for name in names for node in ast.walk(ast.parse(archive.read(name)))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in imported} & HEAVY
    assert not [name for name in names if "/analysis/" in name or "/compare/" in name]


def test_it_is_found_by_any_name(bundle: Path) -> None:
    for name in (bundle, bundle.name, f"./{bundle.name}", f"../{bundle.parent.name}/./{bundle.name}"):
        assert "BPF programs compiled for" in run(bundle, "doctor", "--engine", "prebuilt", name=name).stdout


@pytest.mark.parametrize("verb", make_bundle.VERBS)
def test_its_verbs_have_all_they_import(bundle: Path, verb: str) -> None:
    done = run(bundle, verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"balloontrace {verb}" in done.stdout


@pytest.mark.parametrize("verb", ["report", "bundle", "nonsense"])
def test_of_another_verb_it_says_where_to_run_it(bundle: Path, verb: str) -> None:
    done = run(bundle, verb, "x.bt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"balloontrace: a bundle has only doctor, record, top: run {verb} where balloontrace is installed\n"
    )


def test_completion_is_quiet(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", bundle], capture_output=True, text=True, timeout=60,
        env={"_BALLOONTRACE_COMPLETE": "bash_complete", "COMP_WORDS": "x rep x", "COMP_CWORD": "2"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_sources_are_unpacked_for_bcc_and_gone_again(bundle: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(bundle)!r})
from balloontrace.trace.engines import shipped
with shipped.source_folder() as folder:
    print(*sorted(path.name for path in folder.iterdir()))
print(folder.exists())
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    sources = sorted(path.name for path in (ROOT / "bpf").glob("*.[ch]"))
    assert done.stdout.split() == [*sources, "False"]


def test_without_compiled_programs_there_is_no_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(shipped, "read_all", lambda: {"guest.bpf.c": b""})
    done = command_tree.run(capsys, "bundle", "-o", tmp_path / "no.pyz")
    assert done.status == 1
    (line,) = done.stderr.splitlines()
    assert "no compiled BPF programs" in line
    assert not (tmp_path / "no.pyz").exists()


def test_modules_are_followed_by_any_kind_of_import(tmp_path: Path) -> None:
    files = {
        "p/__init__.py": "",
        "p/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import never\n"
        "def f():\n    from .inner import deep\n",
        "p/inner/__init__.py": "from . import beside",
        "p/inner/deep.py": "import p.late",
        "p/inner/beside.py": "",
        "p/late.py": "",
        "p/never.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = make_bundle.find_modules(tmp_path / "p", ("a",))
    assert found.keys() == files.keys() - {"p/never.py"}


def test_a_bundle_is_an_archive_for_others_too(bundle: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.read_bytes())) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {"balloontrace/LICENSE", "click/core.py"} <= set(archive.namelist())


def test_it_does_not_archive(bundle: Path) -> None:
    done = run(bundle, "record", "--side", "host", "--all", "--archive-every", "1h", "--to", "data")
    assert (done.returncode, done.stderr) == (
        2,
        "balloontrace: a bundle does not archive: record into a file, and archive that elsewhere\n",
    )
