# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine needs to run the lab: installs what is missing, and knows where Debian comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.progress import Progress

_TAIL_LINES = 8
_TOOL_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Requirement:
    """A Debian package, and the program or file by which its presence is known."""

    package: str
    evidence: str

    def is_met(self) -> bool:
        """Whether the evidence is there, whoever installed it."""
        if self.evidence.startswith("/"):
            return Path(self.evidence).exists()
        return find_tool(self.evidence) is not None


REQUIREMENTS = (
    Requirement("qemu-system-x86", "qemu-system-x86_64"),
    Requirement("seabios", "/usr/share/seabios/bios-256k.bin"),
    Requirement("mmdebstrap", "mmdebstrap"),
    Requirement("e2fsprogs", "mke2fs"),
    Requirement("util-linux", "setpriv"),
    Requirement("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
)
# Without root, mmdebstrap works in a user namespace whose users newuidmap sets up.
ROOTLESS_REQUIREMENTS = (Requirement("uidmap", "newuidmap"),)


def find_tool(name: str) -> str | None:
    """Path of a program, looked for in the administrator's folders too (not in every user's PATH)."""
    return shutil.which(name) or shutil.which(name, path=":".join(_TOOL_FOLDERS))


def ensure_packages(progress: Progress | None = None) -> None:
    """Installs what is missing; does nothing, and needs no root, when all is there. Raises LabError."""
    wanted = REQUIREMENTS if os.geteuid() == 0 else REQUIREMENTS + ROOTLESS_REQUIREMENTS
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
    become_root = root_prefix(packages)
    progress.stage("updating package lists (apt-get update)")
    _apt([*become_root, "apt-get", "update"], packages)
    progress.stage("installing " + " ".join(packages))
    _apt([*become_root, "apt-get", "install", "--yes", "--no-install-recommends", *packages], packages)


def root_prefix(packages: Iterable[str]) -> list[str]:
    """What to put before a command that needs root: nothing, or sudo if that works. Raises LabError."""
    if shutil.which("apt-get") is None:
        raise LabError(
            f"The lab needs the Debian packages {' '.join(packages)}, and there is no apt-get here."
        )
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    raise LabError(
        f"Missing packages: {' '.join(packages)}; install them as root with "
        f"`apt-get install --no-install-recommends {' '.join(packages)}`."
    )


def _apt(command: Sequence[str], packages: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    environment_words = [f"{name}={environment[name]}" for name in ("DEBIAN_FRONTEND", "LC_ALL")]
    if command[0] == "sudo":
        command = ["sudo", "-n", "env", *environment_words, *command[2:]]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        tail = tail_lines(done.stdout + done.stderr, _TAIL_LINES)
        raise LabError(f"apt-get could not install {' '.join(packages)} (status {done.returncode}):\n{tail}")


def tail_lines(text: str, lines: int) -> str:
    """The last `lines` lines that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def read_debian_mirrors() -> list[str]:
    """URIs of the Debian archive this machine's apt uses, in its order. Raises LabError when it has none."""
    mirrors = parse_indextargets(_apt_query(["apt-get", "indextargets", "--format", INDEXTARGETS_FORMAT]))
    if not mirrors:
        # On a fresh machine the release files may not have been fetched yet: apt does not know origins then.
        _apt([*root_prefix(["(none)"]), "apt-get", "update"], ["its package lists"])
        mirrors = parse_indextargets(_apt_query(["apt-get", "indextargets", "--format", INDEXTARGETS_FORMAT]))
    if not mirrors:
        raise LabError(
            "apt on this machine has no Debian archive configured, and the guest is made of Debian packages."
        )
    return mirrors


INDEXTARGETS_FORMAT = "$(CREATED_BY)\t$(ORIGIN)\t$(LABEL)\t$(REPO_URI)"


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


def _apt_query(
    command: Sequence[str], run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
) -> str:
    try:
        return run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise LabError("There is no apt here, and the lab builds its guest from Debian packages.") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"`{' '.join(command)}` failed:\n{tail_lines(error.stderr, _TAIL_LINES)}") from None
