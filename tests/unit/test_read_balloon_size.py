# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fake_system import FakeSystem

from balloontrace.format.balloon_size import CONFIGURATION_SPACE, BalloonSize, count_balloon_pages
from balloontrace.system.read_balloon_size import (
    Capabilities,
    Region,
    fill_in_size,
    parse_capabilities,
    read_balloon_sizes,
)

UNKNOWN = BalloonSize("virtio4", present=True)
STATUS = 0x0F
WINDOW_AT = 0x84


def configuration(device_id: int, *, msix: bool = False) -> bytearray:
    """The first 256 bytes of a virtio balloon's PCI configuration, as QEMU lays it out."""
    config = bytearray(256)
    struct.pack_into("<HH", config, 0, 0x1AF4, device_id)
    config[0x34] = 0x98
    struct.pack_into("<BBH", config, 0x98, 0x11, WINDOW_AT, 0x8001 if msix else 1)
    for at, following, kind, bar, offset in (
        (WINDOW_AT, 0x60, 5, 0, 0),
        (0x60, 0x40, 4, 4, 0x2000),
        (0x40, 0, 1, 4, 0),
    ):
        struct.pack_into("<BBBBB3xII", config, at, 9, following, 20, kind, bar, offset, 0x1000)
    return config


def lay_out(root: Path, config: bytes | bytearray) -> Path:
    """A balloon virtio4 on PCI; returns the folder of its PCI device."""
    system = FakeSystem(root)
    folder = system.folder("sys/devices/pci0000:00/0000:00:06.0")
    (folder / "config").write_bytes(config)
    (folder / "virtio4").mkdir()
    (folder / "virtio4/status").write_text(f"0x{STATUS:08x}\n")
    (system.folder("sys/bus/virtio/devices") / "virtio4").symlink_to(folder / "virtio4")
    return folder


def ports(*, status: int, target: int, size: int, msix: bool) -> bytes:
    """I/O ports of a transitional device."""
    header = bytearray(24 if msix else 20)
    header[18] = status
    return bytes(header) + struct.pack("<II", target, size)


@pytest.mark.parametrize("msix", [True, False])
def test_a_transitional_device_is_read_through_its_ports(tmp_path: Path, *, msix: bool) -> None:
    folder = lay_out(tmp_path, configuration(0x1002, msix=msix))
    (folder / "resource0").write_bytes(ports(status=STATUS, target=185_344, size=107_776, msix=msix))
    assert read_balloon_sizes(["virtio4"], tmp_path) == (
        BalloonSize("virtio4", True, 107_776, 185_344, CONFIGURATION_SPACE),
    )


def test_a_modern_device_is_read_through_its_window_which_is_closed_again(tmp_path: Path) -> None:
    config = configuration(0x1045)
    # A file cannot answer: whatever is asked for, this is what the window shows.
    struct.pack_into("<I", config, WINDOW_AT + 16, STATUS)
    folder = lay_out(tmp_path, config)
    (found,) = read_balloon_sizes(["virtio4"], tmp_path)
    assert (found.size_pages, found.target_pages) == (STATUS, STATUS)
    left = (folder / "config").read_bytes()
    assert left[WINDOW_AT + 4] == 4
    assert struct.unpack_from("<II", left, WINDOW_AT + 8) == (0x2004, 0)  # actual, looked at last; closed
    changed = [at for at in range(256) if left[at] != config[at]]
    assert all(WINDOW_AT + 4 <= at < WINDOW_AT + 16 for at in changed)


def test_who_does_not_answer_with_the_device_s_status_is_not_believed(tmp_path: Path) -> None:
    """A window that is not implemented shows zeros: no size of 0."""
    folder = lay_out(tmp_path, configuration(0x1002))
    (folder / "resource0").write_bytes(ports(status=0, target=0, size=0, msix=False))
    assert read_balloon_sizes(["virtio4"], tmp_path) == (UNKNOWN,)


@pytest.mark.parametrize("length", [0, 64, 0x9A])
def test_of_a_configuration_that_is_cut_off_nothing_is_known(tmp_path: Path, length: int) -> None:
    """64 bytes are what sysfs shows to those who are not root."""
    lay_out(tmp_path, bytes(configuration(0x1045)[:length]))
    assert read_balloon_sizes(["virtio4"], tmp_path) == (UNKNOWN,)


def test_a_device_that_is_not_on_pci_is_there_and_unknown(tmp_path: Path) -> None:
    FakeSystem(tmp_path)
    assert read_balloon_sizes(["virtio3"], tmp_path) == (BalloonSize("virtio3", present=True),)


def test_a_device_that_was_unplugged_is_not_there(tmp_path: Path) -> None:
    FakeSystem(tmp_path)
    assert read_balloon_sizes(["virtio9"], tmp_path) == (BalloonSize("virtio9", present=False),)


def test_the_capabilities_of_a_device() -> None:
    regions = {4: Region(4, 0x2000), 1: Region(4, 0)}
    assert parse_capabilities(configuration(0x1002, msix=True)) == Capabilities(
        regions, WINDOW_AT, msix_enabled=True, has_ports=True
    )


def test_capabilities_in_a_circle_end() -> None:
    config = configuration(0x1045)
    config[0x41] = 0x98
    assert parse_capabilities(config).window_at == WINDOW_AT


def test_other_makers_devices_are_left_alone() -> None:
    config = configuration(0x1045)
    config[0] = 0x86
    assert parse_capabilities(config).window_at is None


def test_the_kernel_s_count_is_the_size_of_the_only_balloon_whose_device_is_silent() -> None:
    vmstat = {"balloon_inflate": 7, "balloon_deflate": 2}
    gone, told = BalloonSize("virtio1", present=False), BalloonSize("virtio5", True, 1, 2, "device")
    filled = BalloonSize("virtio4", True, 5, None, "/proc/vmstat")
    assert fill_in_size([gone, UNKNOWN], vmstat, 4096) == (gone, filled)
    assert fill_in_size([UNKNOWN, told], vmstat, 4096) == (UNKNOWN, told)
    assert fill_in_size([told], vmstat, 4096) == (told,)
    assert fill_in_size([UNKNOWN], {}, 4096) == (UNKNOWN,)


@pytest.mark.parametrize(
    ("vmstat", "page_bytes", "pages"),
    [
        ({"balloon_inflate": 700, "balloon_deflate": 100}, 4096, 600),
        ({"balloon_inflate": 7, "balloon_deflate": 2}, 65536, 80),
        ({"balloon_inflate": 0, "balloon_deflate": 0}, 4096, 0),
        ({"balloon_inflate": 1, "balloon_deflate": 2}, 4096, None),
        ({"balloon_inflate": 7, "balloon_deflate": 2}, None, None),
        ({"balloon_inflate": 700}, 4096, None),
        ({}, 4096, None),
    ],
)
def test_the_size_by_vmstat(vmstat: dict[str, int], page_bytes: int | None, pages: int | None) -> None:
    assert count_balloon_pages(vmstat, page_bytes) == pages
