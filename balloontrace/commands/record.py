# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace record`: trace the balloon of this guest, or a process that serves one, into a recording."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balloontrace.console.option_types import (
    DURATION,
    SIZE,
    SSH,
    all_option,
    engine_option,
    missing_probes_option,
    pid_option,
    ssh_option,
    vm_option,
)
from balloontrace.console.output_file import parse_file_name
from balloontrace.console.standard_streams import STDOUT, drop
from balloontrace.console.stderr import say, verbose_option
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.format.vocabulary import Side

if TYPE_CHECKING:
    from balloontrace.console.output_file import OutputFile
    from balloontrace.trace.attach import AnySide
    from balloontrace.trace.session import SessionResult

DEFAULT_OUTPUT = "balloon.bt"
DEFAULT_FOLDER = "balloontrace-waiting"

_BOTH = "both"

_LEAST_BUFFER_BYTES = 4 << 10
_MOST_BUFFER_BYTES = 256 << 20


@click.command(
    "record",
    short_help="Trace the balloon of this guest into a recording.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "-o",
    "output",
    type=click.Path(readable=False, allow_dash=True),
    default=DEFAULT_OUTPUT,
    show_default=True,
    metavar="FILE|-",
    help="Write the recording here; - is standard output, for a pipe. With --archive-every a folder, "
    f"{DEFAULT_FOLDER} unless given.",
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing recording.")
@click.option(
    "--side",
    type=click.Choice([*map(str, Side), _BOTH, "auto"]),
    default="auto",
    show_default=True,
    help="guest traces the driver of this machine's balloon, host a process here that serves one; auto is "
    "guest where there is a balloon, unless -p, --vm or --all is given. both is this host and --guest at "
    "once, into NAME-guest.bt and NAME-host.bt.",
)
@click.option("--guest", metavar="SSH_DESTINATION", help="With --side both: the guest, as ssh reaches it.")
@ssh_option
@pid_option
@vm_option
@all_option
@click.option(
    "-d",
    "--duration",
    "duration_s",
    type=DURATION,
    metavar="TIME",
    help="Stop after so long: 90s, 500ms, 2m; a number alone is seconds.",
)
@click.option(
    "--operations",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop when the balloon has reached its target N times.",
)
@click.option(
    "--until-eof",
    is_flag=True,
    help="Stop when standard input ends: over ssh, when the other end closes it or is gone.",
)
@missing_probes_option
@click.option(
    "--attach",
    type=click.Choice(["auto", "kprobe", "tracepoint"]),
    default="auto",
    show_default=True,
    help="auto takes fentry where it can, which costs less but keeps the driver's module loaded; tracepoint "
    "is for system calls on the host.",
)
@engine_option
@click.option(
    "--buffer",
    "ring_bytes",
    type=SIZE,
    default="2M",
    show_default=True,
    metavar="SIZE",
    help="Room in the kernel for events between two drains; a power of two, 4K to 256M.",
)
@click.option(
    "--capture",
    type=click.Choice(["none", "payload"]),
    default="none",
    show_default=True,
    help="payload copies what each send or page report carries, at most 32 KiB: which pages it names.",
)
@click.option(
    "--layout",
    metavar="STRUCT.MEMBER=BYTES,...",
    help="Offsets of structure members, for a driver without type information (pahole shows them).",
)
@click.option(
    "--count-freed",
    is_flag=True,
    help="On the host, count what calls free. A BPF program then runs for each page that any process frees.",
)
@click.option(
    "--split-allocation",
    is_flag=True,
    help="In a guest, tell what stage a consists of: direct reclaim, compaction, sleeping for a page, "
    "locks, off the processor. A BPF program then runs for each switch of a processor to another thread.",
)
@click.option(
    "--sample",
    is_flag=True,
    help="On the host, look from time to time whether the process is inside a call, and trace no call. It "
    "costs far less; c and d are estimates then, shown with their error, and calls are not counted.",
)
@click.option(
    "--time-faults",
    is_flag=True,
    help="With --sample, trace page faults all the same: how long it takes to take memory back. Each page "
    "fault of any process on the host then takes some 350 instructions more.",
)
@click.option(
    "--count-discards",
    is_flag=True,
    help="With --sample, count what KVM is told to take from its guest, hence the discards of an inflate "
    "and their bytes. Each then takes some 130 instructions more.",
)
@click.option(
    "--pair",
    metavar="NAME",
    help="A name for this recording and the other side's, made at the same time: they belong together "
    "then, whatever the clocks say. Use each name once, e.g. a date and a number.",
)
@click.option("--label", metavar="TEXT", help="A name for this recording, shown in reports.")
@click.option(
    "--archive-every",
    "every_s",
    type=DURATION,
    metavar="TIME",
    help="Begin a new recording so often, without a gap, in the folder -o. With --to each is archived when "
    "it has ended, and removed from there.",
)
@click.option(
    "--to", "dataset", metavar="DATASET", help="With --archive-every: a folder, or an object store's URL."
)
@verbose_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD [ARG]...]")
def record(
    output: str,
    guest: str | None,
    ssh: str,
    *,
    force: bool,
    capture: str,
    layout: str | None,
    every_s: float | None,
    dataset: str | None,
    **asked: Any,  # noqa: ANN401
) -> None:
    r"""Trace the balloon of this guest, or a process that serves one, until Ctrl-C or the given end.

    \b
    Examples:
      sudo balloontrace record -o inflate.bt --operations 1
      ssh guest sudo balloontrace record -o - -d 60 > guest.bt
      sudo balloontrace record --side host --all -o host.bt
    """  # fmt: skip
    started_ns = time.monotonic_ns()
    if asked["pair"] is not None and not asked["pair"].strip():
        raise UsageError("--pair takes a name, and an empty one is the same on every recording")
    if every_s is None and dataset is not None:
        raise UsageError("--to DATASET goes with --archive-every TIME")
    if every_s is None:
        parse_file_name(output)
    _check_ring_bytes(asked["ring_bytes"])
    if asked["command"] and shutil.which(asked["command"][0]) is None:
        raise UsageError(f"cannot run {asked['command'][0]}: no such program")
    from balloontrace.system.kernel import parse_offsets

    offsets = parse_offsets(layout) if layout else {}
    if guest is not None or asked["side"] == _BOTH:
        if every_s is not None:
            raise UsageError("--archive-every is for one side: have both sides record by themselves")
        _record_both(output, guest, ssh, force=force, **asked)
        return
    if ssh != SSH:
        raise UsageError("--ssh goes with --guest SSH_DESTINATION")
    if asked["command"] and asked["until_eof"]:
        raise UsageError("--until-eof takes no command: the end of either would end the recording")
    from balloontrace.trace.attach import choose_side
    from balloontrace.trace.options import TraceOptions

    # All other options of the command are called as their fields are.
    options = TraceOptions(
        **asked,
        capture=capture == "payload",
        offsets=offsets,
        show_progress=sys.stderr.isatty(),
        started_ns=started_ns,
    )
    side = choose_side(options)
    # Until the recording has begun there is nothing to end in order: signals drop it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, signal.default_int_handler)
    if every_s is not None:
        _record_in_pieces(side, output, every_s, dataset)
        return
    with _open_destination(output, force=force) as (output_fd, file):
        result = _record(side, output_fd, file)
    _tell(result, output)


def _record_both(output: str, guest: str | None, ssh: str, *, force: bool, **asked: Any) -> None:  # noqa: ANN401
    """Record this host and a guest at once; raises what went wrong, when what was recorded is written."""
    if guest is None or asked["side"] != _BOTH:
        raise UsageError("--guest SSH_DESTINATION and --side both go together")
    if asked["all_vms"]:
        raise UsageError("--side both is of one guest: leave --all out, or record both sides by themselves")
    if not guest:
        raise UsageError("--guest is empty")
    if asked["until_eof"]:
        raise UsageError("--until-eof is for one side: --side both ends with its command, -d or Ctrl-C")
    for name in ("operations", "pair"):
        if asked[name] is not None:
            raise UsageError(f"--{name} is for one side: --side both pairs its recordings itself")
    if output == "-":
        raise UsageError("--side both makes two recordings: name a file with -o")
    from balloontrace.make_bundle import make_bundle
    from balloontrace.measure.ending import ended_once
    from balloontrace.measure.record_both import record_both, refuse_taken_names
    from balloontrace.measure.recorder_options import given_options
    from balloontrace.measure.sides import Sides
    from balloontrace.measure.ssh_guest import SshGuest
    from balloontrace.system.vmm import choose_process, find_vmms
    from balloontrace.trace.engines.shipped import read_all

    path = Path(output)
    refuse_taken_names(path, force=force)
    process = choose_process(asked["pid"], find_vmms(), vm=asked["vm"])
    with ended_once(), closing(SshGuest(guest, ssh).open(lambda: make_bundle(read_all()))) as reached:
        ctx = click.get_current_context()
        sides = Sides(process.pid, reached, given_options(ctx, Side.HOST), given_options(ctx, Side.GUEST))
        status = record_both(
            sides, path, asked["label"] or path.stem, asked["command"], asked["duration_s"],
            lambda sentence: say(f"balloontrace: {sentence}\n"),
        )  # fmt: skip
    if status:
        raise BalloontraceError(f"the command ended with status {status}; both recordings are complete")


def _check_ring_bytes(ring_bytes: int) -> None:
    if ring_bytes & (ring_bytes - 1) or not _LEAST_BUFFER_BYTES <= ring_bytes <= _MOST_BUFFER_BYTES:
        raise UsageError(f"--buffer takes a power of two from 4K to 256M, such as 2M, not {ring_bytes} bytes")


def _record(side: AnySide, output_fd: int, file: OutputFile | None) -> SessionResult:
    from balloontrace.trace.attach import attach, attached_line
    from balloontrace.trace.session import protect_from_oom_killer

    protect_from_oom_killer()
    with attach(side) as attached:
        session = attached.open_session(output_fd, side.options)
        try:
            session.write_start()
        except OSError as error:
            raise BalloontraceError(f"cannot write the recording: {error.strerror}") from error
        try:
            if file is not None:
                file.publish()
            return session.run(f"balloontrace: {attached_line(attached)}\n")
        except (KeyboardInterrupt, UsageError):
            if file is not None:
                file.discard()
            raise


def _record_in_pieces(side: AnySide, folder: str, every_s: float, dataset: str | None) -> None:
    """Record into a folder, or a dataset. BalloontraceError, too, for what was not archived in the end."""
    from balloontrace.trace.archiver import Archiver, NoArchiver
    from balloontrace.trace.attach import attach, attached_line
    from balloontrace.trace.pieces import Pieces, record_in_pieces
    from balloontrace.trace.session import protect_from_oom_killer

    if side.options.command:
        raise UsageError("--archive-every takes no command: a recording ends before it, and another begins")
    if every_s < 1:
        raise UsageError("--archive-every takes a second or more, such as 1h")
    if folder in ("", "-"):
        raise UsageError("--archive-every keeps recordings in a folder: name it with -o")
    folder = DEFAULT_FOLDER if folder == DEFAULT_OUTPUT else folder
    archiver: Archiver | NoArchiver = Archiver(Path(folder), dataset) if dataset else NoArchiver()
    pieces = Pieces(Path(folder), every_s, archiver)
    pieces.prepare()
    protect_from_oom_killer()
    with attach(side) as attached:
        doing = f"archiving to {dataset}" if dataset else f"recording into {folder}"
        greeting = f"balloontrace: {attached_line(attached)}; {doing}\n"
        result = record_in_pieces(attached, side.options, pieces, greeting)
    try:
        _tell(result, folder)
    finally:
        archiver.finish()


@contextmanager
def _open_destination(output: str, *, force: bool) -> Iterator[tuple[int, OutputFile | None]]:
    """Standard output for `-`, else a file that takes its name once probes are attached."""
    if output == "-":
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal; send the recording to a file or a pipe")
        yield sys.stdout.fileno(), None
        return
    from balloontrace.console.output_file import open_output

    with open_output(Path(output), force=force) as file:
        yield file.fd, file


def _tell(result: SessionResult, output: str) -> None:
    """The last words on stderr; raises when the recording did not end as asked."""
    from balloontrace.format.moved_pages import describe_unseen
    from balloontrace.trace.attach import describe_losses, describe_off_target
    from balloontrace.trace.session import Ending
    from balloontrace.units import name_of_many

    place = "standard output" if output == "-" else output
    if sys.stderr.isatty():
        say("\n")
    unseen = result.unseen
    if unseen is not None and unseen.pages:
        say(f"balloontrace: {describe_unseen(unseen, _why_unseen(result))}\n")
    for sentence in describe_off_target(result.balloons):
        say(f"balloontrace: {sentence}\n")
    say(
        f"balloontrace: {result.ending}: {result.records} {name_of_many(result.records, *result.what)}, "
        f"{result.bytes_written} bytes to {place}, "
        f"{describe_losses(result.losses)}\n"
    )
    if result.error is not None:
        if output == "-":
            drop(STDOUT)
        raise BalloontraceError(
            f"the recording is incomplete: {result.error.strerror} after {result.bytes_written} bytes; "
            "what was written can be reported"
        )
    if not result.ending.clean:
        raise BalloontraceError(
            f"the recording is incomplete: {result.ending}; what was written can be reported"
        )
    if unseen is not None and unseen.pages:
        raise BalloontraceError(
            "the recording is incomplete: pages moved that no probe saw; what was seen can be reported"
        )
    # Where the user ended it, the terminal's Ctrl-C has ended the command too.
    if result.command_status and result.ending is Ending.COMMAND:
        raise BalloontraceError(
            f"the command ended with status {result.command_status}; the recording is complete"
        )


def _why_unseen(result: SessionResult) -> str:
    """Why pages that moved are not in the recording."""
    if result.error is not None:
        return result.error.strerror or "it could not be written"
    if not result.records:
        return "no probe fired; balloontrace doctor says why"
    if result.reattached:
        return "they moved before probes were attached again to the driver"
    return "the probes did not see them; balloontrace doctor says what disarms probes"
