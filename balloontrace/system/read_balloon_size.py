# SPDX-License-Identifier: GPL-2.0-or-later
"""Size and target of each balloon at rest, read from its device and from /proc/vmstat, not from the driver.

A balloon's configuration space holds both: `num_pages` is the target the host sets, `actual` the size that
the driver reported last. Linux shows it to no program, so it is read the way the virtio standard (1.2,
section 4.1) describes for PCI: the I/O ports of a device that also has the old interface, else the window
VIRTIO_PCI_CAP_PCI_CFG. That window is for programs that cannot map the device's memory;
CONFIG_IO_STRICT_DEVMEM refuses to map it, as in Debian. No Linux driver uses the window. It takes root, and
is refused under lockdown; virtio-mmio has nothing like it. What cannot be read is None.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from balloontrace.format.balloon_size import CONFIGURATION_SPACE, VMSTAT, BalloonSize, count_balloon_pages
from balloontrace.system.kernel import ROOT

# include/uapi/linux/pci_regs.h and virtio_pci.h
_FIRST_CAPABILITY_AT = 0x34
_CAPABILITY_OF_VENDOR = 0x09
_CAPABILITY_MSIX = 0x11
_MSIX_ENABLED = 0x8000
_MAX_CAPABILITIES = 48
_VIRTIO_VENDOR = 0x1AF4
_FIRST_MODERN_ID = 0x1040  # transitional devices, which have ports too, have lower ones
_CAP_BAR, _CAP_OFFSET, _CAP_LENGTH, _CAP_DATA = 4, 8, 12, 16  # struct virtio_pci_cap, virtio_pci_cfg_cap
_COMMON, _DEVICE, _WINDOW = 1, 4, 5  # VIRTIO_PCI_CAP_COMMON_CFG, _DEVICE_CFG, _PCI_CFG
_STATUS_AT = 20  # device_status in struct virtio_pci_common_cfg
_PORTS_STATUS_AT = 18  # VIRTIO_PCI_STATUS; the next byte must not be read: that acknowledges interrupts
_PORTS_CONFIG_AT = {False: 20, True: 24}  # VIRTIO_PCI_CONFIG_OFF(msix_enabled)
# Both start a struct virtio_balloon_config, in little endian.
_TARGET_AT, _SIZE_AT = 0, 4


@dataclass(frozen=True)
class Region:
    """Where a part of a virtio device lies in one of its PCI address ranges."""

    bar: int
    offset_bytes: int


@dataclass(frozen=True)
class Capabilities:
    """What a PCI configuration says of a virtio device."""

    regions: Mapping[int, Region]  # by VIRTIO_PCI_CAP_*
    window_at: int | None = None  # of VIRTIO_PCI_CAP_PCI_CFG
    msix_enabled: bool = False
    has_ports: bool = False


def read_balloon_sizes(devices: Iterable[str], root: Path = ROOT) -> tuple[BalloonSize, ...]:
    """Size and target of each of `devices` (virtioN), whatever of it can be read here; never raises."""
    return tuple(_read_size(name, root) for name in devices)


def fill_in_size(
    sizes: Sequence[BalloonSize], vmstat: Mapping[str, int], page_bytes: int | None
) -> tuple[BalloonSize, ...]:
    """The same; where the only balloon's device says nothing, its size is what the kernel has counted."""
    there = [each for each in sizes if each.present]
    pages = count_balloon_pages(vmstat, page_bytes)
    if len(there) != 1 or there[0].size_pages is not None or pages is None:
        return tuple(sizes)
    filled = replace(there[0], size_pages=pages, source=VMSTAT)
    return tuple(filled if each is there[0] else each for each in sizes)


def _read_size(name: str, root: Path) -> BalloonSize:
    device = (root / "sys/bus/virtio/devices" / name).resolve()
    if not device.exists():
        return BalloonSize(name, present=False)
    with suppress(OSError, ValueError):  # no PCI device, or a status that is no number
        status = int((device / "status").read_text(), 16)
        capabilities = parse_capabilities((device.parent / "config").read_bytes())
        for opened in (_open_ports, _open_window):
            found = _read_config(opened(device.parent, capabilities), status)
            if found is not None:
                return BalloonSize(name, True, found[1], found[0], CONFIGURATION_SPACE)
    return BalloonSize(name, present=True)


def parse_capabilities(config: bytes | bytearray) -> Capabilities:
    """What the PCI configuration `config` says; nothing for what is no virtio device, or is cut off."""
    regions: dict[int, Region] = {}
    window_at, msix_enabled = None, False
    for at in _capabilities_at(config):
        if config[at] == _CAPABILITY_MSIX:
            msix_enabled = bool(struct.unpack_from("<H", config, at + 2)[0] & _MSIX_ENABLED)
        elif config[at] == _CAPABILITY_OF_VENDOR:
            kind, bar = config[at + 3], config[at + _CAP_BAR]
            if kind == _WINDOW:
                window_at = window_at or at
            else:
                # Of several of one kind, the standard prefers the first.
                regions.setdefault(kind, Region(bar, struct.unpack_from("<I", config, at + _CAP_OFFSET)[0]))
    has_ports = len(config) >= 4 and struct.unpack_from("<H", config, 2)[0] < _FIRST_MODERN_ID
    return Capabilities(regions, window_at, msix_enabled, has_ports)


def _capabilities_at(config: bytes | bytearray) -> Iterator[int]:
    """Where each capability starts that lies wholly within `config`."""
    if len(config) < 64 or struct.unpack_from("<H", config)[0] != _VIRTIO_VENDOR:
        return
    at = config[_FIRST_CAPABILITY_AT]
    for _ in range(_MAX_CAPABILITIES):
        if not 64 <= at <= len(config) - 20:
            return
        yield at
        at = config[at + 1]


# Reads so many bytes at an offset of a part of the device: _COMMON or _DEVICE.
_Read = Callable[[int, int, int], bytes]


def _read_config(opened: AbstractContextManager[_Read], status: int) -> tuple[int, int] | None:
    """Target and size; None where the device cannot be read this way, or it is not the device that answers.

    Who does not implement a way answers with zeros, or with what was read last. That shows in the status,
    which the kernel has read in a way of its own.
    """
    # KeyError: a part that is nowhere; struct.error: a piece that is shorter than asked for.
    with suppress(OSError, KeyError, struct.error), opened as read:
        if read(_COMMON, _STATUS_AT, 1) == bytes([status]):
            target, size = (struct.unpack("<I", read(_DEVICE, at, 4))[0] for at in (_TARGET_AT, _SIZE_AT))
            return target, size
    return None


@contextmanager
def _open_ports(folder: Path, capabilities: Capabilities) -> Iterator[_Read]:
    """The old interface: a header of its own, then the device's configuration."""
    if not capabilities.has_ports:
        raise FileNotFoundError
    starts = {_COMMON: _PORTS_STATUS_AT - _STATUS_AT, _DEVICE: _PORTS_CONFIG_AT[capabilities.msix_enabled]}
    with (folder / "resource0").open("rb", buffering=0) as ports:
        yield lambda part, at, size: os.pread(ports.fileno(), size, starts[part] + at)


@contextmanager
def _open_window(folder: Path, capabilities: Capabilities) -> Iterator[_Read]:
    """The window: where it looks is written to it. One reader uses it at a time, and closes it."""
    window_at = capabilities.window_at
    if window_at is None:
        raise FileNotFoundError
    with (folder / "config").open("r+b", buffering=0) as config:
        fd = config.fileno()
        fcntl.flock(fd, fcntl.LOCK_EX)

        def read(part: int, at: int, size: int) -> bytes:
            region = capabilities.regions[part]
            os.pwrite(fd, bytes([region.bar]), window_at + _CAP_BAR)
            os.pwrite(fd, struct.pack("<I", region.offset_bytes + at), window_at + _CAP_OFFSET)
            os.pwrite(fd, struct.pack("<I", size), window_at + _CAP_LENGTH)
            return os.pread(fd, size, window_at + _CAP_DATA)

        try:
            yield read
        finally:
            # lspci reads all of the configuration, the window too: with no length it shows nothing.
            os.pwrite(fd, bytes(4), window_at + _CAP_LENGTH)
