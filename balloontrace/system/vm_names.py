# SPDX-License-Identifier: GPL-2.0-or-later
"""What people call the VM of a process: told by its command line, or by its control group.

A VMM says the name of its VM in its own way. QEMU has `-name`, which libvirt and KubeVirt use too, and
Firecracker `--id`, as its jailer gives it. cloud-hypervisor has none, so that its API socket has to do. A
manager may leave the name in that of the control group: machine.slice of systemd, a pod of Kubernetes, a
sandbox of Kata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from balloontrace.untrusted import printable

_LONGEST_NAME = 128
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# qemu-options.hx, "escaped by doubling"; a value ends at a comma that stands alone.
_QEMU_OPTION = re.compile(r"((?:[^,]|,,)*)(?:,|$)")
# Names of sockets that say only what listens there; the folder they are in is the VM's then.
_SAYS_NOTHING = frozenset(
    {"api", "ch", "clh", "clh-api", "cloud-hypervisor", "firecracker", "socket", "sock"}
)
# systemd escapes what is no letter or digit (systemd.unit(5)). Scopes of libvirt: machine-qemu\x2dN\x2dNAME.
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_MACHINE_SCOPE = re.compile(r"machine-(?:(?:qemu|lxc|ch)-\d+-)?(.+)\.scope")
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?")
_KATA = re.compile(r"kata(?:_overhead)?[_:-]([0-9a-f]{12,64})")


@dataclass(frozen=True)
class VmName:
    """How a VM is called, and what tells it apart for ever; None: not known."""

    name: str | None = None
    uuid: str | None = None


def read_vm_name(folder: Path) -> VmName:
    """The VM of the process whose files are in `folder` (/proc/PID)."""
    words = _read(folder / "cmdline").rstrip("\0").split("\0")[1:]
    uuid = _uuid_of(words)
    found = _name_of(words) or name_by_cgroup(_read(folder / "cgroup")) or uuid
    return VmName(_shown(found) if found else None, uuid)


def _read(path: Path) -> str:
    """What a user of the machine chose may be no text at all."""
    with suppress(OSError):
        return path.read_bytes().decode(errors="replace")
    return ""


def _name_of(words: Sequence[str]) -> str | None:
    """By the options of a command line: QEMU's, Firecracker's, then cloud-hypervisor's."""
    for value in _values(words, "-name", "--name"):
        options = _qemu_options(value)
        if options.get("guest"):
            return options["guest"]
    for value in _values(words, "--id"):
        return value
    for value in _values(words, "--api-socket"):
        return _by_socket(value.removeprefix("path="))
    return None


def _values(words: Sequence[str], *options: str) -> Iterator[str]:
    """What is given for an option, as the next word or behind `=`."""
    for word, following in zip(words, (*words[1:], ""), strict=False):
        option, equals, value = word.partition("=")
        if word in options and following:
            yield following
        elif equals and value and option in options:
            yield value


def _qemu_options(text: str) -> dict[str, str]:
    """`web1,debug-threads=on` by name; the first without a name is `guest`."""
    found: dict[str, str] = {}
    for place, option in enumerate(each.replace(",,", ",") for each in _QEMU_OPTION.findall(text)):
        name, equals, value = option.partition("=")
        if equals:
            found.setdefault(name, value)
        elif not place:
            found["guest"] = option
    return found


def _by_socket(path: str) -> str | None:
    """The file's name, or the folder's where every VM has one of that name."""
    stem, folder = Path(path).stem, Path(path).parent.name
    return (folder if stem in _SAYS_NOTHING else stem) or None


def _uuid_of(words: Sequence[str]) -> str | None:
    """QEMU's `-uuid`, or what cloud-hypervisor gives to its guest as such."""
    given = [*_values(words, "-uuid", "--uuid")]
    given += [
        option["uuid"]
        for value in _values(words, "--platform")
        if (option := _qemu_options(value)).get("uuid")
    ]
    return next((value.lower() for value in given if _UUID.fullmatch(value)), None)


def name_by_cgroup(text: str) -> str | None:
    """A VM's name by /proc/PID/cgroup: of its machine, its Kata sandbox, or its pod; None: of neither."""
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    parts = [_unescaped(part) for path in paths for part in path.split("/")]
    for part in reversed(parts):
        machine = _MACHINE_SCOPE.fullmatch(part) or _KATA.search(part)
        if machine:
            return machine[1]
    pods = (match[1] for part in reversed(parts) if (match := _POD.search(part)))
    return next((f"pod {pod.replace('_', '-')}" for pod in pods), None)


def _unescaped(part: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), part)


def _shown(name: str) -> str:
    """As it may stand in a table: a stranger may have chosen it."""
    return printable(name)[:_LONGEST_NAME]
