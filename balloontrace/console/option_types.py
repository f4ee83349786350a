# SPDX-License-Identifier: GPL-2.0-or-later
"""What people type for sizes, durations and recordings: `7G`, `512M`, `500ms`, `2m`, `inflate.bt`."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balloontrace.console.output_file import parse_file_name
from balloontrace.console.stderr import Command
from balloontrace.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _SizeType = click.ParamType[int]
    _DurationType = click.ParamType[float]
else:  # no generic in the click of Debian 12 and 13
    _SizeType = _DurationType = click.ParamType

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?:(?P<unit>[KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_SIZE_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s|m|min|h)?")
_DURATION_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_size_bytes(text: str) -> int | None:
    """Bytes in `text`; K, M, G and T are powers of 1024. None if it is not a size of at least a byte."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    size_bytes = float(match["number"]) * _SIZE_BYTES[(match["unit"] or "").upper()]
    return int(size_bytes) if size_bytes >= 1 and size_bytes == int(size_bytes) else None


def parse_duration_s(text: str) -> float | None:
    """Seconds meant by `text`, a number alone being seconds. None when it is no duration above zero."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return None
    duration_s = float(match["number"]) * _DURATION_S[match["unit"] or "s"]
    return duration_s if duration_s > 0 and math.isfinite(duration_s) else None


class Size(_SizeType):
    """A size in bytes, written as `512M`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; click's usage error when `value` is no size."""
        if isinstance(value, int):
            return value
        size_bytes = parse_size_bytes(str(value))
        if size_bytes is None:
            self.fail(f"{str(value)!r} is not a size; write for example 512M, 7G or 4096.", param, ctx)
        return size_bytes


class Duration(_DurationType):
    """A duration in seconds, written as `500ms`."""

    name = "duration"

    def __init__(self, *, at_least_s: float = 0.0) -> None:
        """Nothing shorter than `at_least_s` is taken."""
        self._at_least_s = at_least_s

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; click's usage error when `value` is no duration or too short."""
        if isinstance(value, float):
            return value
        duration_s = parse_duration_s(str(value))
        if duration_s is None:
            self.fail(
                f"{str(value)!r} is not a duration; write for example 10s, 500ms, 2m or 1.5.", param, ctx
            )
        if duration_s < self._at_least_s:
            self.fail(f"{value} is too short; the least is {self._at_least_s * 1000:.0f}ms.", param, ctx)
        return duration_s


class RecordingPath(click.Path):
    """A recording to read, or `-`; completed with the names that end in `.bt`, else as any file."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """A path; click's usage error for no name, which as a path would be the current folder."""
        if value == "":
            self.fail("the name of a recording is empty.", param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The recordings that `incomplete` is the beginning of, by the path as it was begun."""
        return complete_recordings(ctx, param, incomplete)


class OutputPath(click.Path):
    """A file to write, or `-`; never a folder."""

    def __init__(self) -> None:
        super().__init__(allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ANN401
        """A path. UsageError for the name of a folder."""
        return parse_file_name(str(super().convert(value, param, ctx)))


def split_words(text: str, option: str) -> list[str]:
    """The words of an option's value as a shell has them. UsageError for a quotation without its end."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} cannot be divided into words: {error}") from error


def complete_recordings(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The recordings that `incomplete` is the beginning of; where there are none, whatever file is."""
    from click.shell_completion import CompletionItem

    typed = incomplete.rpartition("/")
    folder = "".join(typed[:2])
    try:
        names = sorted(path.name for path in Path(folder or ".").glob("*.bt"))
    except OSError:
        names = []
    items = [CompletionItem(folder + name) for name in names if name.startswith(typed[2])]
    return items or [CompletionItem(incomplete, type="file")]


class FolderPath(click.Path):
    """A folder to write into, by its name; standard output is none."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """A path; click's usage error for no name, which as a path would be the current folder."""
        if value in ("", "-"):
            self.fail(f"{value!r} is not the name of a folder.", param, ctx)
        return super().convert(value, param, ctx)


SIZE = Size()
DURATION = Duration()
RECORDING = RecordingPath()
OUTPUT = OutputPath()
FOLDER = FolderPath()

SSH = "ssh"


def output_options(command: Command) -> Command:
    """Give a command `-o` and `-f`, for one text that goes to standard output without them."""
    to_file = click.option(
        "-o",
        "output",
        type=OUTPUT,
        help="Write to this file, not to stdout.",
    )
    force = click.option("-f", "--force", is_flag=True, help="Let -o replace a file.")
    decorated: Command = to_file(force(command))
    return decorated


missing_probes_option = click.option(
    "--missing-probes",
    type=click.Choice(["error", "warn"]),
    default="error",
    show_default=True,
    help="What to do when a required function cannot be traced.",
)

pid_option = click.option(
    "-p",
    "--pid",
    type=click.IntRange(min=1),
    metavar="PID",
    help="The process on the host: a VMM where there are several, or a vhost-user backend.",
)
_NAMES = "Names are those of QEMU, libvirt, Firecracker, cloud-hypervisor or the control group."
vm_option = click.option(
    "--vm",
    metavar="GLOB",
    help="The process on the host whose VM is called so, e.g. web1 or 'web*', or has this uuid. " + _NAMES,
)
served_vm_option = click.option(
    "--vm",
    metavar="GLOB",
    help="On a host, only the VMs that are called so, e.g. web1 or 'web*', or the one of this uuid. "
    + _NAMES,
)
recorded_vm_option = click.option(
    "--vm",
    metavar="GLOB",
    help="Of a recording of many VMs (record --all) only those that are called so.",
)
all_option = click.option(
    "--all",
    "all_vms",
    is_flag=True,
    help="Every VM of this host at once, those too that start later; with --vm those that are called so.",
)
ssh_option = click.option(
    "--ssh", default=SSH, show_default=True, metavar="CMD", help="ssh with options: 'ssh -i key -p 2222'."
)
attach_option = click.option(
    "--attach",
    type=click.Choice(["auto", "kprobe"]),
    default="auto",
    show_default=True,
    help="auto takes fentry where it can, which costs less but keeps the driver's module loaded.",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "prebuilt", "bcc"]),
    default="auto",
    show_default=True,
    help="prebuilt loads programs that came compiled; bcc compiles them here, with kernel headers. "
    "auto takes prebuilt where it can.",
)
