# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes, processes distinguished, and the folders by which VMs are found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.folders import (
    VmState,
    connect,
    create_folder,
    listen,
    read_state,
    remove_stale,
    vm_folders,
    write_state,
)
from lab.guest import describe_progress, parse_vmstat
from lab.identity import ProcessIdentity, own_identity, read_identity
from lab.sizes import format_size, parse_size_bytes, parse_size_mib
from lab.vm import attach_vm

DEAD = ProcessIdentity(own_identity().pid, own_identity().start_ticks - 1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("deep" * 40)))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8G", 8 << 30),
        ("512m", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("997 MiB", 997 << 20),
        ("4096", 4096),
        ("4kb", 4096),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "-1G", "8X", "0", "1.3", "eight", "8G8"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(LabError, match="is not a size"):
        parse_size_bytes(text)


def test_sizes_in_mib_are_whole() -> None:
    assert parse_size_mib("1G") == 1024
    with pytest.raises(LabError, match="whole number of MiB"):
        parse_size_mib("1025K")


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(8 << 30, "8G"), (997 << 20, "997M"), (12288, "12K"), (12289, "12289"), (0, "0")]
)
def test_sizes_as_text(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


def test_process_is_told_from_a_later_one_with_its_id(tmp_path: Path) -> None:
    me = own_identity()
    assert me.is_alive()
    assert not DEAD.is_alive()
    with me.opened() as mine, DEAD.opened() as dead:
        assert mine is not None
        assert dead is None
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "7" / "stat").write_text(f"7 (a) S (b)) R {fields}\n")
    assert read_identity(7, tmp_path) == ProcessIdentity(7, 22)
    assert read_identity(8, tmp_path) is None


def test_ended_child_not_yet_waited_for_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    identity = read_identity(child.pid)
    while identity is not None and identity.is_alive():
        pass
    assert read_identity(child.pid) is None
    child.wait()


def test_state_comes_back_as_written() -> None:
    folder = create_folder("one", owned=False)
    state = VmState(own_identity(), None, memory_mib=512, cpus=2, accelerator="tcg")
    write_state(folder, state)
    assert read_state(folder) == state
    assert attach_vm("one").identity == own_identity()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"owner": null, "qemu": {"pid": 1}, "extra": 1}'])
def test_damaged_state_is_no_vm(content: str) -> None:
    folder = create_folder("one", owned=False)
    (folder / "vm.json").write_text(content)
    assert read_state(folder) is None
    with pytest.raises(LabError, match="There is no VM one"):
        attach_vm("one")


def test_names() -> None:
    create_folder("one", owned=False)
    with pytest.raises(LabError, match="There is a VM one already"):
        create_folder("one", owned=False)
    for name in ("", "../up", "a/b", ".hidden", "x" * 65):
        with pytest.raises(LabError):
            create_folder(name, owned=False)
    assert [folder.name for folder in vm_folders()] == ["one"]


def test_only_what_nobody_owns_any_more_is_stale() -> None:
    states = {
        "running": VmState(own_identity(), DEAD),
        "watched": VmState(DEAD, own_identity()),
        "kept-for-its-console": VmState(DEAD, None),
        "stale": VmState(DEAD, DEAD),
    }
    for name, state in states.items():
        write_state(create_folder(name, owned=True), state)
    remove_stale()
    assert {folder.name for folder in vm_folders()} == set(states) - {"stale"}


def test_sockets_work_in_folders_with_long_names() -> None:
    folder = create_folder("one", owned=False)
    assert len(str(folder)) > 108
    with listen(folder, "qmp") as listener, connect(folder, "qmp") as client:
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"


def test_vmstat_and_progress_in_words() -> None:
    assert parse_vmstat("nr_free_pages 12\nballoon_inflate 3\n") == {
        "nr_free_pages": 12,
        "balloon_inflate": 3,
    }
    assert describe_progress(3 << 30, 12.1) == "stuck at 3G (3221225472 bytes) for 12.1 s"
    assert describe_progress(3 << 30, 0.1) == "at 3G (3221225472 bytes) and still moving"
