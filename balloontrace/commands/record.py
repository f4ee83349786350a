# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace record`: trace the balloon of this guest, or a process that serves one, into a recording."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balloontrace.console.option_types import DURATION, SIZE
from balloontrace.console.standard_streams import STDOUT, drop
from balloontrace.console.stderr import note, say, verbose_option
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.format.vocabulary import Side

if TYPE_CHECKING:
    from balloontrace.console.output_file import OutputFile
    from balloontrace.trace.guest.diagnosis import Diagnosis
    from balloontrace.trace.guest.probes import Plan
    from balloontrace.trace.session import RecordingSession, SessionOptions, SessionResult

DEFAULT_OUTPUT = "balloon.bt"

_LEAST_BUFFER_BYTES = 4 << 10
_MOST_BUFFER_BYTES = 256 << 20


@click.command("record", context_settings={"allow_interspersed_args": False})
@click.option(
    "-o",
    "output",
    type=click.Path(readable=False, allow_dash=True),
    default=DEFAULT_OUTPUT,
    show_default=True,
    metavar="FILE|-",
    help="Write the recording here; - is standard output, for a pipe.",
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing recording.")
@click.option(
    "--side",
    type=click.Choice([*map(str, Side), "auto"]),
    default="auto",
    show_default=True,
    help="guest traces the driver of this machine's balloon, host a process here that serves one; auto is "
    "guest where there is a balloon, unless -p is given.",
)
@click.option(
    "-p",
    "--pid",
    type=click.IntRange(min=1),
    metavar="PID",
    help="The process to trace on the host: a VMM where there are several, or a vhost-user backend.",
)
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
    "--missing-probes",
    type=click.Choice(["error", "warn"]),
    default="error",
    show_default=True,
    help="What to do when a required function cannot be traced.",
)
@click.option(
    "--attach",
    type=click.Choice(["auto", "kprobe", "tracepoint"]),
    default="auto",
    show_default=True,
    help="auto takes fentry where it can, which costs less but keeps the driver's module loaded; tracepoint "
    "is for system calls on the host.",
)
@click.option(
    "--buffer",
    "buffer_bytes",
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
    help="payload copies what each send carries, at most 32 KiB: which pages it names.",
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
@click.option("--label", metavar="TEXT", help="A name for this recording, shown in reports.")
@verbose_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD [ARG]...]")
def record(
    output: str,
    *,
    force: bool,
    side: str,
    pid: int | None,
    duration_s: float | None,
    operations: int | None,
    missing_probes: str,
    attach: str,
    buffer_bytes: int,
    capture: str,
    layout: str | None,
    count_freed: bool,
    label: str | None,
    command: Sequence[str],
) -> None:
    r"""Trace the balloon of this guest, or a process that serves one, until Ctrl-C or the given end.

    \b
    Examples:
      sudo balloontrace record -o inflate.bt --operations 1
      ssh guest sudo balloontrace record -o - -d 60 > guest.bt
      sudo balloontrace record --side host -p 1234 -o host.bt
    """  # fmt: skip
    started_ns = time.monotonic_ns()
    if buffer_bytes & (buffer_bytes - 1) or not _LEAST_BUFFER_BYTES <= buffer_bytes <= _MOST_BUFFER_BYTES:
        raise UsageError(
            f"--buffer takes a power of two from 4K to 256M, such as 2M, not {buffer_bytes} bytes"
        )
    if command and shutil.which(command[0]) is None:
        raise UsageError(f"cannot run {command[0]}: no such program")
    from balloontrace.system.kernel import parse_offsets
    from balloontrace.trace.attach_plan import choose_side

    how = _How(
        missing_probes,
        attach,
        buffer_bytes,
        capture=capture == "payload",
        offsets=parse_offsets(layout) if layout else {},
    )
    if choose_side(side, pid) is Side.HOST:
        _check_host_options(operations, capture, layout)
        how = replace(how, host=True, pid=pid, count_freed=count_freed)
    elif count_freed:
        raise UsageError("--count-freed is for the host's side: nothing is freed on the guest's")
    elif attach == "tracepoint":
        raise UsageError("--attach tracepoint is for the host's side: the driver has no tracepoints")
    # Until the recording has begun there is nothing to end in order: signals drop it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, signal.default_int_handler)
    from balloontrace.trace.session import SessionOptions

    options = SessionOptions(
        duration_s=duration_s,
        operations=operations,
        command=command,
        label=label,
        show_progress=sys.stderr.isatty(),
    )
    with _open_destination(output, force=force) as (output_fd, file):
        result = _record(output_fd, file, options, how, started_ns)
    _tell(result, output)


@dataclass(frozen=True)
class _How:
    """What is to be traced, and how."""

    missing_probes: str
    attach: str
    ring_bytes: int
    capture: bool
    offsets: Mapping[str, int]
    host: bool = False
    pid: int | None = None
    count_freed: bool = False


def _check_host_options(operations: int | None, capture: str, layout: str | None) -> None:
    for option, given in (
        ("--operations", operations is not None),
        ("--capture payload", capture != "none"),
        ("--layout", layout is not None),
    ):
        if given:
            raise UsageError(f"{option} is for the guest's side: a host does not see what it needs")


def _record(
    output_fd: int,
    file: OutputFile | None,
    options: SessionOptions,
    how: _How,
    started_ns: int,
) -> SessionResult:
    from balloontrace.trace.session import protect_from_oom_killer

    protect_from_oom_killer()
    opened = _open_host_session if how.host else _open_guest_session
    with opened(output_fd, options, how, started_ns) as (session, greeting):
        try:
            session.write_start()
        except OSError as error:
            raise BalloontraceError(f"cannot write the recording: {error.strerror}") from error
        try:
            if file is not None:
                file.publish()
            return session.run(f"balloontrace: {greeting}\n")
        except (KeyboardInterrupt, UsageError):
            if file is not None:
                file.discard()
            raise


@contextmanager
def _open_guest_session(
    output_fd: int, options: SessionOptions, how: _How, started_ns: int
) -> Iterator[tuple[RecordingSession, str]]:
    """A session on attached probes of the driver, and what to say of it."""
    from balloontrace.trace.attach_plan import attached_line, describe_attached, describe_findings, plan_guest
    from balloontrace.trace.guest.collector import PAYLOAD_RING_BYTES, Collector
    from balloontrace.trace.guest.diagnosis import diagnose
    from balloontrace.trace.guest.session import Session

    diagnosis = diagnose(offsets=how.offsets)
    note(lambda: describe_findings(diagnosis))
    plan = plan_guest(diagnosis, missing_probes=how.missing_probes, attach=how.attach)
    if how.capture:
        _warn_of_missing_payloads(diagnosis)
    if options.operations is not None:
        _require_progress(plan, diagnosis)
    payload_ring_bytes = PAYLOAD_RING_BYTES if how.capture else 0
    with Collector(
        plan, diagnosis.layout, ring_bytes=how.ring_bytes, payload_ring_bytes=payload_ring_bytes
    ) as collector:
        if options.operations is not None:
            _require_progress(plan, diagnosis, collector.loaded.failures)
        session = Session(collector, diagnosis, output_fd, options, started_ns=started_ns, say=say)
        note(lambda: describe_attached(collector))
        yield session, attached_line(collector)


@contextmanager
def _open_host_session(
    output_fd: int, options: SessionOptions, how: _How, started_ns: int
) -> Iterator[tuple[RecordingSession, str]]:
    """A session on attached probes of one process, and what to say of it."""
    from balloontrace.system.vmm import choose_process, has_hugetlb_pages
    from balloontrace.trace.attach_plan import (
        describe_attached,
        describe_findings,
        hold_to_problems,
        host_attached_line,
        plan_host,
    )
    from balloontrace.trace.host.collector import HostCollector
    from balloontrace.trace.host.diagnosis import diagnose_host
    from balloontrace.trace.host.session import HostSession, ProcessWatch

    diagnosis = diagnose_host()
    note(lambda: describe_findings(diagnosis))
    hold_to_problems(diagnosis)
    process = choose_process(how.pid, diagnosis.vmms)
    if how.count_freed and has_hugetlb_pages(process.pid):
        # hugetlb_remove_rmap is inlined, and hugetlbfs empties its files itself.
        raise UsageError(
            f"--count-freed cannot tell what process {process.pid} frees: it has memory of hugetlbfs, which "
            "is freed in other functions than those probed; leave it out"
        )
    plan = plan_host(
        diagnosis, missing_probes=how.missing_probes, attach=how.attach, count_freed=how.count_freed
    )
    with (
        closing(ProcessWatch(process)) as watch,
        HostCollector(plan, process.pid, ring_bytes=how.ring_bytes) as collector,
    ):
        session = HostSession(collector, process, watch, output_fd, options, started_ns=started_ns, say=say)
        note(lambda: describe_attached(collector))
        yield session, f"{host_attached_line(collector)} to process {process.description}"


def _warn_of_missing_payloads(diagnosis: Diagnosis) -> None:
    """Say which payloads cannot be captured because it is not known where they are."""
    wanted = {"num_pfns", "pfns"} | ({"resp_data", "resp_pos"} if diagnosis.plan.patched else set())
    unknown = sorted(name for name in wanted if diagnosis.layout.get("virtio_balloon", name) is None)
    if unknown:
        members = ", ".join(f"virtio_balloon.{name}" for name in unknown)
        say(f"balloontrace: warning: payloads are not captured without the offsets of {members}: --layout\n")


def _require_progress(plan: Plan, diagnosis: Diagnosis, failures: Collection[str] = ()) -> None:
    """UsageError unless the end of an operation can be seen with `plan`, less the functions in `failures`."""
    from balloontrace.format.vocabulary import Function

    attached = {probe.function for probe in plan.attachable if probe.function.symbol not in failures}
    has_actual = (
        diagnosis.layout.get("virtio_balloon", "num_pages") is not None or Function.CONFIG_SET in attached
    )
    if Function.CONFIG_GET not in attached or not has_actual:
        raise UsageError(
            "--operations needs the balloon's target and size, which this kernel does not show; use -d"
        )


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
    from balloontrace.trace.attach_plan import describe_losses, describe_off_target
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
