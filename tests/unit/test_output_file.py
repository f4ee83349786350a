# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from balloontrace.console.output_file import open_output
from balloontrace.errors import UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_published_with_mode_600(tmp_path: Path) -> None:
    path = tmp_path / "new.bt"
    with open_output(path, force=False) as output:
        os.write(output.fd, b"one")
        assert not path.exists()
        output.publish()
        os.write(output.fd, b"two")
    assert path.read_bytes() == b"onetwo"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["new.bt"]


@pytest.mark.parametrize("published", [False, True])
def test_what_is_discarded_leaves_nothing(tmp_path: Path, published: bool) -> None:
    with open_output(tmp_path / "new.bt", force=False) as output:
        if published:
            output.publish()
        output.discard()
    assert names(tmp_path) == []


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "old.bt"
    path.write_bytes(b"old")
    return path


def test_a_failed_start_keeps_the_old_file(old: Path) -> None:
    with open_output(old, force=True) as output:
        os.write(output.fd, b"new")
    assert old.read_bytes() == b"old"
    assert names(old.parent) == ["old.bt"]


def test_what_is_discarded_after_all_gives_the_old_file_back(old: Path) -> None:
    with open_output(old, force=True) as output:
        os.write(output.fd, b"new")
        output.publish()
        assert old.read_bytes() == b"new"
        output.discard()
    assert old.read_bytes() == b"old"
    assert names(old.parent) == ["old.bt"]


def test_what_was_replaced_is_gone_in_the_end(old: Path) -> None:
    with open_output(old, force=True) as output:
        output.publish()
    assert old.read_bytes() == b""
    assert names(old.parent) == ["old.bt"]


def test_a_taken_name_is_refused_early_and_late(tmp_path: Path) -> None:
    path = tmp_path / "taken.bt"
    with open_output(path, force=False) as output:
        path.write_bytes(b"other")
        with pytest.raises(UsageError, match="exists already"):
            output.publish()
    with pytest.raises(UsageError, match="-f to replace"):
        open_output(path, force=False)
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == ["taken.bt"]


def test_force_replaces_a_regular_file_only(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link.bt"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    with pytest.raises(UsageError, match="not a regular file"):
        open_output(link, force=True)
    with open_output(target, force=True) as output:
        output.publish()
        target_is_new = target.read_bytes() == b""
    assert target_is_new


def test_discarding_spares_a_file_that_took_the_name(tmp_path: Path) -> None:
    path = tmp_path / "new.bt"
    with open_output(path, force=False) as output:
        output.publish()
        path.unlink()
        path.write_bytes(b"somebody else's")
        output.discard()
    assert path.read_bytes() == b"somebody else's"


def test_folders_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        open_output(tmp_path / "nowhere" / "a.bt", force=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_the_user_behind_sudo_owns_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "2345")
    with open_output(tmp_path / "new.bt", force=False) as output:
        output.publish()
    found = (tmp_path / "new.bt").stat()
    assert (found.st_uid, found.st_gid) == (1234, 2345)
