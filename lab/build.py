# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs mmdebstrap: packages in, a folder with root.ext4, vmlinuz and initrd out; as root or as any user."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from lab.errors import LabError
from lab.kernels import ImageSpec
from lab.packages import find_tool, hide_addresses, read_apt_proxies, read_debian_mirrors, tail_lines
from lab.progress import Progress

FREE_MIB = 1024  # room in the root file system for what tests build and install
_TAIL_LINES = 12
_INSTALLS = re.compile(r"(\d+) newly installed")
_SETS_UP = re.compile(r"Setting up (\S+)")
# Most of a kernel's modules are for devices that no VM has.
_NO_DEVICES = (
    *("sound", "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/net/ethernet", "drivers/iio"),
    *("drivers/net/wireless", "drivers/usb", "drivers/scsi", "drivers/staging", "drivers/hwmon"),
)
_NOT_WANTED = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"),
    *(f"/*lib/modules/*/kernel/{part}/*" for part in _NO_DEVICES),
)


STAGES = (
    ("I: running apt-get update", "fetching package lists"),
    ("I: downloading packages", "downloading base packages"),
    ("I: extracting archives", "extracting base packages"),
    ("I: installing essential packages", "installing base packages"),
    ("I: installing remaining packages", "downloading and installing packages"),
    ("lab: kernels", "installing the kernels, compiling the lab's programs"),
    ("lab: file system", "making the root file system"),
    ("I: removing tempdir", "cleaning up"),
)


def build_tree(spec: ImageSpec, sources: Path, result: Path, progress: Progress) -> None:
    """Builds into the folder `result`. Raises LabError."""
    # A plain user's mmdebstrap works under other user ids: they must be able to reach and write its folder.
    is_root = os.geteuid() == 0
    base = result if is_root else Path("/var/tmp")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="balloontrace-lab-", dir=base) as work:
        Path(work).chmod(0o755 if is_root else 0o777)
        command = mmdebstrap_command(
            spec, sources, Path(work), result, read_debian_mirrors(), read_apt_proxies()
        )
        run_mmdebstrap([*guard(), *command], Path(work), result / "build.log", progress)
        shutil.move(Path(work) / "root.ext4", result / "root.ext4")
    (result / "root.ext4").chmod(0o444)


def guard() -> list[str]:
    """What to put before mmdebstrap so that it ends with us, however we end.

    As root it mounts /proc, /sys and this machine's own /dev/shm in the tree. In namespaces of its own these
    mounts are seen by nobody else, and vanish with all its processes when the first of them is killed.
    """
    if os.geteuid() == 0:
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
        return ["setpriv", "--pdeathsig", "KILL", *namespaces]
    return ["setpriv", "--pdeathsig", "TERM"]


def mmdebstrap_command(
    spec: ImageSpec,
    sources: Path,
    work: Path,
    result: Path,
    mirrors: Sequence[str],
    apt_options: Iterable[str] = (),
) -> list[str]:
    """The whole recipe; hooks see the tree as `$1`, before it is thrown away."""
    copied = " ".join(shlex.quote(str(path)) for path in sorted(sources.iterdir()))
    hooks = [
        'mkdir "$1/lab"',
        f"copy-in {copied} /lab",
        f'echo "lab: kernels" >&2; chroot "$1" env {build_variables(spec)} sh /lab/build',
        f"copy-out /lab/kernels {shlex.quote(str(result))}",
        'rm -r "$1/lab/kernels"',
        f'echo "lab: file system" >&2; {file_system_script(work)}',
    ]
    return [
        "mmdebstrap", "--verbose", "--variant=minbase", "--format=null",
        f"--architectures={spec.architecture}",
        "--include=" + ",".join(spec.packages),
        '--aptopt=APT::Install-Recommends "false"',
        # A mirror that was not updated for some days will do.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *(f"--aptopt={option}" for option in apt_options),
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _NOT_WANTED),
        *([f"--setup-hook={add_suite(spec.suite, spec.kernels_from)}"] if spec.kernels_from else ()),
        *(f"--customize-hook={hook}" for hook in hooks),
        spec.suite, "/dev/null", *mirrors,
    ]  # fmt: skip


def add_suite(suite: str, further: str) -> str:
    """Shell that has the tree `$1` get packages from another suite too, from where the first one comes."""
    return (
        f'sed -n "s/ {suite} main/ {further} main/p" "$1/etc/apt/sources.list" '
        f'>"$1/etc/apt/sources.list.d/{further}.list"'
    )


def build_variables(spec: ImageSpec) -> str:
    """What lab/image/build is told, as words of a shell."""
    variables = {
        "KERNELS": " ".join(spec.kernels),
        "KERNELS_FROM": spec.kernels_from,
        "HEADERS": "yes" if spec.headers else "no",
        "PURGED": " ".join(spec.purged),
    }
    return shlex.join(f"{name}={value}" for name, value in variables.items())


def file_system_script(work: Path) -> str:
    """Shell that makes root.ext4 of the tree `$1`.

    The bind mount shows the tree without what is mounted in it while hooks run (/proc, /sys). No journal and
    no checksums: every VM writes to a throw-away layer above the image.
    """
    mke2fs = shlex.quote(find_tool("mke2fs") or "mke2fs")
    bare = shlex.quote(str(work / "bare"))
    image = shlex.quote(str(work / "root.ext4"))
    inner = (
        f'set -e; mkdir {bare}; mount --bind "$1" {bare}; '
        f"size_mib=$(($(du -sxm {bare} | cut -f1) + {FREE_MIB})); "
        f"{mke2fs} -q -t ext4 -O ^has_journal,^metadata_csum -m 0 -d {bare} {image} ${{size_mib}}M; "
        f"umount {bare}; rmdir {bare}"
    )
    return f'unshare --mount sh -c {shlex.quote(inner)} sh "$1"'


def run_mmdebstrap(command: Sequence[str], work: Path, log: Path, progress: Progress) -> None:
    """Runs it with its output in `log` and its stages shown. Raises LabError with the output's end."""
    # INITRD=No: Debian's own initramfs would take longer to make than everything the lab's own needs.
    environment = {**os.environ, "TMPDIR": str(work), "INITRD": "No", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    try:
        with log.open("w") as log_file:
            show_stages(_copied(process.stdout, log_file), progress)
        status = process.wait()
    except BaseException:
        # unshare, which runs it as root, heeds nothing milder; once nobody has the output open, all are gone.
        process.send_signal(signal.SIGKILL if os.geteuid() == 0 else signal.SIGTERM)
        process.stdout.read()
        process.wait()
        raise
    finally:
        progress.close()
    if status:
        raise LabError(explain_failure(status, log.read_text()))


def _copied(lines: Iterable[str], log_file: TextIO) -> Iterator[str]:
    for line in lines:
        log_file.write(line)
        yield line


def show_stages(lines: Iterable[str], progress: Progress) -> None:
    """Turns mmdebstrap's output into stages and a count of installed packages."""
    total = done = 0
    for line in lines:
        for start, stage in STAGES:
            if line.startswith(start):
                progress.stage(stage)
        if match := _INSTALLS.search(line):
            total, done = int(match[1]), 0
        elif match := _SETS_UP.match(line):
            done += 1
            progress.step(min(done, total), total, match[1])


def explain_failure(status: int, output: str) -> str:
    """One sentence, and the end of the output where the sentence cannot say it all."""
    if "No space left on device" in output:
        return "The image could not be built: no space left; set XDG_CACHE_HOME to a place with more."
    tail = hide_addresses(tail_lines(output, _TAIL_LINES))
    return f"mmdebstrap could not build the image (status {status}):\n{tail}"
