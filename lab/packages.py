# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine needs to run the lab: installs what is missing, and knows where Debian comes from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.cache import cache_folder, locked
from lab.errors import LabError
from lab.progress import Progress

_TAIL_LINES = 8
_TOOL_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_URL = re.compile(r"\w[\w+.-]*://(?:[^/\s@]*@)?(?P<host>[^/\s'\"]*)(?:[^\s'\"]*/)?")
# "Could not connect to NAME:80 (192.0.2.1)", "Could not resolve 'NAME'", "[IP: 192.0.2.1 80]"
_PEER = re.compile(r"(connect to |connection to |resolve ')[^\s',]+")
_NUMBERS = re.compile(r"\[IP: [^]]*\]|\(?\b\d+\.\d+\.\d+\.\d+\b\)?")


@dataclass(frozen=True)
class Requirement:
    """A Debian package, and the program or file by which its presence is known."""

    package: str
    evidence: str

    def is_met(self) -> bool:
        """Whether the evidence is there, however it was installed."""
        if self.evidence.startswith("/"):
            return Path(self.evidence).exists()
        return find_tool(self.evidence) is not None


TO_RUN = (
    Requirement("qemu-system-x86", "qemu-system-x86_64"),
    Requirement("seabios", "/usr/share/seabios/bios-256k.bin"),
    Requirement("util-linux", "setpriv"),
)
TO_RUN_ARM = (Requirement("qemu-system-arm", "qemu-system-aarch64"), Requirement("util-linux", "setpriv"))
TO_BUILD = (
    Requirement("mmdebstrap", "mmdebstrap"),
    Requirement("e2fsprogs", "mke2fs"),
    Requirement("util-linux", "unshare"),
    Requirement("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
)
TO_EMULATE = (
    Requirement("qemu-user-static", "qemu-aarch64-static"),
    Requirement("binfmt-support", "update-binfmts"),
    Requirement("arch-test", "arch-test"),
)
# Without root, mmdebstrap works in a user namespace whose users newuidmap sets up.
TO_BUILD_WITHOUT_ROOT = (*TO_BUILD, Requirement("uidmap", "newuidmap"))


def find_tool(name: str) -> str | None:
    """Path of a program, looked for in the administrator's folders too (not in every user's PATH)."""
    return shutil.which(name) or shutil.which(name, path=":".join(_TOOL_FOLDERS))


def ensure_packages(wanted: Sequence[Requirement], progress: Progress | None = None) -> None:
    """Installs what is missing; does nothing, and needs no root, when all is there. Raises LabError."""
    install(sorted({r.package for r in wanted if not r.is_met()}), progress or Progress())
    for requirement in wanted:
        if not requirement.is_met():
            raise LabError(
                f"Package {requirement.package} is installed but {requirement.evidence} is not there."
            )


def install(packages: Sequence[str], progress: Progress) -> None:
    """Installs Debian packages with apt-get, without what they merely recommend. Raises LabError."""
    if not packages:
        return
    names = " ".join(packages)
    become_root = root_prefix(f"apt-get install --no-install-recommends {names}")
    progress.stage("updating package lists (apt-get update)")
    _apt([*become_root, "apt-get", "update"], f"update its package lists, to install {names}")
    progress.stage(f"installing {names}")
    _apt(
        [*become_root, "apt-get", "install", "--yes", "--no-install-recommends", *packages],
        f"install {names}",
    )


def enable_emulation(progress: Progress) -> None:
    """Has this machine run programs of 64-bit ARM, as making an image of them needs. Raises LabError."""
    ensure_packages(TO_EMULATE, progress)
    enable = ["update-binfmts", "--enable", "qemu-aarch64"]
    done = subprocess.run([*root_prefix(" ".join(enable)), *enable], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"`{' '.join(enable)}` failed:\n{tail_lines(done.stderr, _TAIL_LINES)}")


def root_prefix(by_hand: str) -> list[str]:
    """What makes a command run as root: nothing, or sudo if it asks no password. Raises LabError.

    The error says that `by_hand` is to be run by someone who can.
    """
    if find_tool("apt-get") is None:
        raise LabError(f"The lab would run `{by_hand}`, and there is no apt-get here.")
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    raise LabError(f"The lab needs something only root can do; run as root: {by_hand}")


def _apt(command: Sequence[str], aim: str) -> None:
    """Runs apt-get, one at a time: tests that run in parallel may want packages at the same moment."""
    with locked(cache_folder() / "apt.lock"):
        _run_apt(command, aim)


def _run_apt(command: Sequence[str], aim: str) -> None:
    settings = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    if command[0] == "sudo":
        # sudo drops the environment, so it is set after it.
        command = [
            "sudo",
            "-n",
            "env",
            *(f"{name}={value}" for name, value in settings.items()),
            *command[2:],
        ]
    done = subprocess.run(
        command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        tail = hide_addresses(tail_lines(done.stdout + done.stderr, _TAIL_LINES))
        raise LabError(f"apt-get could not {aim} (status {done.returncode}):\n{tail}")


def tail_lines(text: str, lines: int) -> str:
    """The last `lines` lines that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def hide_addresses(text: str) -> str:
    """What apt wrote, without where this machine gets its packages from; names of files stay."""
    hosts = {host for match in _URL.finditer(text) if (host := match["host"])}
    text = _URL.sub("ARCHIVE/", text)
    for host in sorted(hosts | {host.partition(":")[0] for host in hosts}, key=len, reverse=True):
        text = text.replace(host, "ARCHIVE")
    return _NUMBERS.sub("ARCHIVE", _PEER.sub(r"\1ARCHIVE", text))


INDEXTARGETS_FORMAT = "$(CREATED_BY)\t$(ORIGIN)\t$(LABEL)\t$(REPO_URI)"


def read_debian_mirrors() -> list[str]:
    """URIs of the Debian archive this machine's apt uses, in its order. Raises LabError when it has none."""
    query = ["apt-get", "indextargets", "--format", INDEXTARGETS_FORMAT]
    mirrors = parse_indextargets(_apt_query(query))
    if not mirrors:
        # Without package lists, as on a fresh machine, apt does not know which of its archives is Debian's.
        _apt([*root_prefix("apt-get update"), "apt-get", "update"], "update its package lists")
        mirrors = parse_indextargets(_apt_query(query))
    if not mirrors:
        raise LabError(
            "apt on this machine knows no Debian archive, and the guest is made of Debian packages."
        )
    return mirrors


def parse_indextargets(text: str) -> list[str]:
    """Archive URIs from `apt-get indextargets`: Debian's own, without its security archive, each once."""
    rows = [line.split("\t") for line in text.splitlines()]
    return list(
        dict.fromkeys(row[3] for row in rows if len(row) == 4 and row[:3] == ["Packages", "Debian", "Debian"])
    )


def read_apt_proxies() -> list[str]:
    """The `Acquire::*::Proxy` settings of this machine's apt, as lines for another apt's configuration."""
    return parse_apt_proxies(_apt_query(["apt-config", "dump", "Acquire"]))


def parse_apt_proxies(text: str) -> list[str]:
    """The lines of `apt-config dump` that set a proxy, whole or for one host."""
    return [
        line
        for line in text.splitlines()
        if line.lower().startswith(("acquire::http::proxy", "acquire::https::proxy"))
        and not line.endswith('"";')
    ]


def _apt_query(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise LabError("There is no apt here, and the lab builds its guest from Debian packages.") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"`{' '.join(command)}` failed:\n{tail_lines(error.stderr, _TAIL_LINES)}") from None
