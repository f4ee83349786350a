# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests the lab can boot: images by what is installed in them, and the kernels in each.

A further kernel is one more word in `IMAGES`: its series ("7" is the newest of all 7.x) and, if it is not the
plain one, its flavour. The newest package is installed, with headers where the archive has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_SYSTEM = ("kmod", "procps", "util-linux", "python3", "xz-utils", "cpio")
_COMPILER = ("gcc", "libc6-dev")
FULL = (
    *_SYSTEM,
    *_COMPILER,
    *("udev", "iproute2", "openssh-server", "make", "bpftool", "bpftrace", "strace"),
    *(
        "python3-bpfcc",
        "python3-click",
        "python3-numpy",
        "python3-pandas",
        "python3-rich",
        "python3-tabulate",
    ),
)
NATIVE = "amd64"
BARE = (*_SYSTEM, *_COMPILER, "libbpf1", "iproute2", "openssh-server", "qemu-guest-agent")
SERVICE = (*_SYSTEM, *_COMPILER, "libbpf1", "systemd", "python3-click", "python3-prometheus-client")


@dataclass(frozen=True)
class ImageSpec:
    """What goes into an image, and which of its kernels is booted; lab/image/ is part of every image."""

    suite: str = "trixie"
    kernels: tuple[str, ...] = ("6.12",)
    packages: tuple[str, ...] = FULL
    kernels_from: str = ""  # another suite that has some of the kernels
    headers: bool = True
    purged: tuple[str, ...] = ()  # needed to make the image, and not in it
    architecture: str = NATIVE
    booted: str = ""  # "": the first; the same image, whichever it is

    @property
    def kernel(self) -> str:
        """The kernel that is booted, as it is called in `kernels`."""
        return self.booted or self.kernels[0]


def _bare(
    suite: str, kernels: tuple[str, ...], kernels_from: str = "", architecture: str = NATIVE
) -> ImageSpec:
    """Python, libbpf and ways in (ssh, an agent): no compiler, no headers, no library for Python."""
    return ImageSpec(suite, kernels, BARE, kernels_from, False, _COMPILER, architecture)


def _by_name(prefix: str, spec: ImageSpec) -> dict[str, ImageSpec]:
    return {f"{prefix}-{kernel}": replace(spec, booted=kernel) for kernel in spec.kernels}


BACKPORTS = "trixie-backports"
DEFAULT = "trixie-6.12"
IMAGES = {
    **_by_name("trixie", ImageSpec()),
    **_by_name(
        "trixie", ImageSpec("trixie", ("6.12-cloud", "6.12-rt", "7.2", "7.3", "7.3-cloud"), FULL, BACKPORTS)
    ),
    # Continuous integration needs the first: kernels that stay in the archive, the newest of 7 for one.
    **_by_name("trixie-bare", _bare("trixie", ("6.12", "7"), BACKPORTS)),
    **_by_name(
        "trixie-bare", _bare("trixie", ("6.16", "6.17", "6.18", "6.18-cloud", "7.2", "7.3"), BACKPORTS)
    ),
    **_by_name("bookworm", ImageSpec("bookworm", ("6.1", "6.1-cloud", "6.12"), FULL, "bookworm-backports")),
    **_by_name("bookworm-bare", _bare("bookworm", ("6.1",))),
    **_by_name("forky", ImageSpec("forky", ("7.2-cloud",))),
    **_by_name("sid", ImageSpec("sid", ("7.2",))),
    **_by_name("sid-bare", _bare("sid", ("7.2",))),
    **_by_name("bookworm-arm64-bare", _bare("bookworm", ("6.1",), architecture="arm64")),
    **_by_name("trixie-arm64-bare", _bare("trixie", ("6.12", "6.12-16k"), architecture="arm64")),
}
# A host VM whose guest is libvirt's. Nothing of it starts by itself.
HOST_OF_DOMAINS = ImageSpec(
    packages=(*FULL, "libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "python3-libvirt")
)
# For the service alone: a real systemd can be started in it.
SYSTEMD = ImageSpec(packages=SERVICE, headers=False, purged=_COMPILER)
