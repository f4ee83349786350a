# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU that has the device the lab's own balloon needs: this machine's own where it will do."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lab import qemutree
from lab.cache import locked
from lab.errors import LabError
from lab.image import use_lock
from lab.progress import Progress
from lab.qemu import SYSTEM_QEMU, QemuProgram
from lab.qemutree import (
    has_vhost_device,
    mmdebstrap_command,
    remove_unused_trees,
    tree_key,
    tree_program,
    trees_folder,
    using_new_qemu,
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(qemutree, "NEEDED_BYTES", 0)
    monkeypatch.setattr(qemutree, "ensure_packages", lambda _wanted, _progress: None)


def script(tmp_path: Path, text: str) -> QemuProgram:
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return QemuProgram((str(path),), {"SAID": "vhost-user-test-device-pci options:"})


def test_the_device_is_looked_for_and_not_the_version(tmp_path: Path) -> None:
    assert has_vhost_device(script(tmp_path, 'echo "$SAID"'))
    assert not has_vhost_device(script(tmp_path, 'echo "$SAID"; exit 1'))
    assert not has_vhost_device(script(tmp_path, "echo QEMU 99"))
    assert not has_vhost_device(QemuProgram((str(tmp_path / "none"),)))


def test_this_machines_own_is_taken_when_it_has_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemutree, "has_vhost_device", lambda program: program == SYSTEM_QEMU)
    with using_new_qemu() as (program, locks):
        assert (program, locks) == (SYSTEM_QEMU, ())
    assert not list(trees_folder().iterdir())


def test_a_tree_is_made_once_and_kept_while_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(qemutree, "has_vhost_device", lambda program: program != SYSTEM_QEMU)
    monkeypatch.setattr(qemutree, "_unpack_packages", lambda result, _progress: made.append(result))
    (trees_folder() / "old").mkdir()
    for _ in range(2):
        with using_new_qemu(Progress(io.StringIO())) as (program, locks):
            assert str(trees_folder() / tree_key()) in program.argv[0]
            assert len(locks) == 1
            remove_unused_trees()
            assert (trees_folder() / tree_key()).is_dir()
    assert len(made) == 1
    assert not (trees_folder() / "old").exists()
    with locked(use_lock(trees_folder() / tree_key()), shared=True):
        remove_unused_trees()
        assert (trees_folder() / tree_key()).is_dir()
    remove_unused_trees()
    assert not (trees_folder() / tree_key()).exists()


def test_a_qemu_that_does_not_run_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemutree, "has_vhost_device", lambda _program: False)
    monkeypatch.setattr(qemutree, "_unpack_packages", lambda _result, _progress: None)
    with pytest.raises(LabError, match="does not run here"), using_new_qemu(Progress(io.StringIO())):
        pass
    assert [path for path in trees_folder().iterdir() if path.is_dir()] == []


def test_recipe_derives_backports_from_the_release(tmp_path: Path) -> None:
    command = mmdebstrap_command(tmp_path / "tree.tar", ["mirror://one"], ['A::B "c";'])
    assert command[-3:] == ["trixie", str(tmp_path / "tree.tar"), "mirror://one"]
    assert "--include=qemu-system-x86,seabios" in command
    assert '--aptopt=APT::Default-Release "trixie-backports"' in command
    (hook,) = [word for word in command if word.startswith("--setup-hook=")]
    assert "s/ trixie main/ trixie-backports main/p" in hook


def test_the_tree_has_its_own_loader_and_libraries(tmp_path: Path) -> None:
    program = tree_program(tmp_path)
    assert all(word.startswith((str(tmp_path), "-")) for word in program.argv)
    assert program.argv[1] == "--inhibit-cache"
    assert program.environment["QEMU_MODULE_DIR"].startswith(str(tmp_path))
