# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine built below a folder, as the kernel would show it: what `kernel` and `diagnosis` look at."""

from __future__ import annotations

import platform
import resource
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ALL_CAPABILITIES = 0x1FFFFFFFFFF
STATS_AND_VERSION_1 = (1, 32)
DRIVER = "virtio_balloon"

# A Debian 6.12 with the stock driver as a module, in the order kallsyms has: the image first, then modules.
STOCK_SYMBOLS = (
    "ffffffff81200010 T bpf_ringbuf_reserve",
    "ffffffff81200020 T bpf_trampoline_link_prog",
    "ffffffff81a00010 t vp_get",
    "ffffffff81a00200 t vp_set",
    "ffffffff81a01010 t vp_get",
    "ffffffff81a01200 t vp_set",
    "ffffffffc0400000 t __pfx_tell_host\t[virtio_balloon]",
    "ffffffffc0400010 t tell_host\t[virtio_balloon]",
    "ffffffffc0400100 t leak_balloon\t[virtio_balloon]",
    "ffffffffc0400200 t update_balloon_size_func\t[virtio_balloon]",
    "ffffffffc0400300 t virtballoon_changed\t[virtio_balloon]",
    "ffffffffc0400400 t virtio_balloon_oom_notify\t[virtio_balloon]",
    "ffffffffc0400500 t virtballoon_migratepage\t[virtio_balloon]",
    "ffffffffc0400600 t virtballoon_migratepage.cold\t[virtio_balloon]",
)


class FakeSystem:
    """Writes the files of a system below `root`; starts out as one that can be traced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kallsyms(STOCK_SYMBOLS)
        self.capabilities(ALL_CAPABILITIES)
        self.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.write(
            "proc/vmstat", "nr_free_pages 1\nballoon_inflate 7\nballoon_deflate 5\nballoon_migrate 0\n"
        )
        self.folder("sys/bus/event_source/devices/kprobe")
        self.folder(f"lib/modules/{platform.release()}/build/include")
        self.device("virtio3", 5, STATS_AND_VERSION_1, driver=DRIVER)

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def folder(self, path: str) -> Path:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def kallsyms(self, lines: Iterable[str]) -> None:
        self.write("proc/kallsyms", "".join(f"{line}\n" for line in lines))

    def capabilities(self, mask: int) -> None:
        self.write("proc/self/status", f"Name:\tpython3\nCapPrm:\t{0:016x}\nCapEff:\t{mask:016x}\n")

    def device(self, name: str, device_id: int, features: Iterable[int], *, driver: str | None) -> None:
        """Puts a virtio device of kind `device_id` where sysfs shows it."""
        device = f"sys/bus/virtio/devices/{name}"
        wanted = frozenset(features)
        self.write(f"{device}/device", f"0x{device_id:04x}\n")
        self.write(f"{device}/features", "".join("01"[bit in wanted] for bit in range(64)) + "\n")
        link = self.root / device / "driver"
        link.unlink(missing_ok=True)
        if driver is not None:
            link.symlink_to(self.folder(f"sys/bus/virtio/drivers/{driver}"))


def lay_out_bcc(folder: Path, version: str = "0.31.0", *, init: str = "") -> Path:
    """A package that looks like the BPF Compiler Collection without being imported; returns its parent."""
    package = folder / "bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(init)
    (package / "libbcc.py").write_text("")
    (package / "version.py").write_text(f"__version__ = '{version}'\n")
    return folder


def lay_out_foreign_bcc(folder: Path) -> Path:
    """The unrelated package of the same name on PyPI; returns its parent."""
    package = folder / "bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return folder


@contextmanager
def limited_to(size_bytes: int) -> Iterator[None]:
    """No file of this process may become larger, as on a disk that has no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
