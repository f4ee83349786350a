# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace serve`: metrics of a guest's balloon, or of every VM of a host, for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balloontrace.console.option_types import (
    attach_option,
    engine_option,
    missing_probes_option,
    served_vm_option,
)
from balloontrace.console.stderr import say, verbose_option
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.format.vocabulary import Side

if TYPE_CHECKING:
    from balloontrace.live.read_all_sums import AllSource
    from balloontrace.live.read_sums import GuestSource
    from balloontrace.serve.families import Family
    from balloontrace.serve.serve_loop import Duty
    from balloontrace.trace.guest.side import AttachedGuest
    from balloontrace.trace.host.all_side import AttachedAll
    from balloontrace.trace.options import TraceOptions

DEFAULT_LISTEN = "127.0.0.1:9435"

_FOLLOW_S = 1.0
_TEXTFILE_S = 15.0
_RECORDER_S = 5.0
_MOST_PORT = 65535


@click.command("serve", short_help="Serve metrics of balloons to Prometheus.")
@click.option(
    "--side",
    type=click.Choice([*map(str, Side), "auto"]),
    default="auto",
    show_default=True,
    help="guest serves this machine's own balloon, host every VM here; auto is guest where there is one.",
)
@served_vm_option
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where Prometheus comes for /metrics. The default is reached by this machine alone.",
)
@click.option(
    "--textfile",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write balloontrace.prom there each 15 s, for node_exporter, instead of listening.",
)
@click.option(
    "--count-freed",
    is_flag=True,
    help="On a host, count what calls free. A BPF program then runs for each page that any process frees.",
)
@click.option(
    "--archive-every",
    "every",
    metavar="TIME",
    help="Run record --archive-every beside it, with probes of its own.",
)
@click.option("--to", "dataset", metavar="DATASET", help="With --archive-every: where to archive.")
@click.option("-o", "waiting", metavar="DIR", help="With --archive-every: where recordings wait for that.")
@missing_probes_option
@attach_option
@engine_option
@verbose_option
def serve(
    listen: str,
    folder: Path | None,
    every: str | None,
    dataset: str | None,
    waiting: str | None,
    **asked: Any,  # noqa: ANN401
) -> None:
    r"""Serve metrics until SIGTERM: of this guest's balloon, or of every VM of this host.

    Needs prometheus_client: pip install 'balloontrace[serve]'. docs/serve.md lists the metrics.

    \b
    Examples:
      sudo balloontrace serve
      sudo balloontrace serve --side host --listen 0.0.0.0:9435
      sudo balloontrace serve --textfile /var/lib/prometheus/node-exporter
    """  # fmt: skip
    from dataclasses import replace

    from balloontrace.serve.exposition import Exposition, HttpServer, write_textfile
    from balloontrace.serve.notify import ServiceManager
    from balloontrace.serve.recorder_child import RecorderChild
    from balloontrace.serve.serve_loop import Duty, serve_until_end
    from balloontrace.system.own_memory import keep_memory_flat
    from balloontrace.trace.attach import attach, attached_line, choose_side, side_of
    from balloontrace.trace.host.side import AttachedHost
    from balloontrace.trace.options import TraceOptions
    from balloontrace.trace.session import protect_from_oom_killer

    address = parse_listen(listen)
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--textfile {folder}: there is no such folder")
    options = TraceOptions(**asked, ring_bytes=0)
    is_host = side_of(options.side, None, options.vm) == Side.HOST
    side = choose_side(replace(options, all_vms=is_host))
    recorder_words = _words_of_recorder(every, dataset, waiting, options, is_host=is_host)
    protect_from_oom_killer()
    keep_memory_flat()
    with attach(side) as attached, ExitStack() as stack:
        assert not isinstance(attached, AttachedHost)  # which is of one process
        served = _Served(attached)
        exposition = Exposition(served.families)
        duties: list[Duty] = [*served.duties]
        if recorder_words:  # while there are the privileges that it needs
            recorder = stack.enter_context(RecorderChild(recorder_words, say))
            duties.append(Duty(_RECORDER_S, recorder.look))
        if folder is not None:
            to = folder
            duties.append(Duty(_TEXTFILE_S, lambda: _try_to_write(lambda: write_textfile(exposition, to))))
            place = f"writing to {folder}"
        else:
            server = HttpServer(exposition, *address)
            place = f"serving http://{_shown(address[0])}:{server.port}/metrics"
        served.drop_privileges(keeps_user=folder is not None)
        if folder is None:
            stack.enter_context(server)  # its thread has what is left of the privileges
        say(f"balloontrace: {attached_line(attached)}; {place}\n")
        ending = serve_until_end(served.source, ServiceManager(), duties)
        say(f"balloontrace: {ending}\n")
    if served.source.gone == ending:
        raise BalloontraceError(f"nothing is left to serve: {ending}")


def _words_of_recorder(
    every: str | None, dataset: str | None, waiting: str | None, options: TraceOptions, *, is_host: bool
) -> list[str]:
    """What the recorder beside the server is told; none without --archive-every. UsageError for a part."""
    if every is None or dataset is None:
        if (every, dataset, waiting) != (None, None, None):
            raise UsageError("--archive-every TIME and --to DATASET go together")
        return []
    side = ["--side", "host", "--all"] if is_host else ["--side", "guest"]
    named = ["--vm", options.vm] if options.vm is not None else []
    named += ["--count-freed"] if options.count_freed else []
    kept = ["-o", waiting] if waiting is not None else []
    how = ["--missing-probes", options.missing_probes, "--attach", options.attach, "--engine", options.engine]
    return [*side, *named, *how, *kept, "--archive-every", every, "--to", dataset]


def parse_listen(text: str) -> tuple[str, int]:
    """`127.0.0.1:9435`, `[::1]:9435` or `:9435`, which is loopback. UsageError for anything else."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > _MOST_PORT:
        raise UsageError(f"--listen takes an address and a port such as {DEFAULT_LISTEN}, not {text!r}")
    return host or "127.0.0.1", int(port)


class _Served:
    """What is served of one side; scrapes come from other threads than what follows processes."""

    def __init__(self, attached: AttachedGuest | AttachedAll) -> None:
        from balloontrace.trace.guest.side import AttachedGuest

        self._lock = threading.Lock()
        self._families: Callable[[], Iterable[Family]]
        self.source: GuestSource | AllSource
        self.duties: tuple[Duty, ...] = ()
        if isinstance(attached, AttachedGuest):
            self._begin_guest(attached)
        else:
            self._begin_host(attached)

    def families(self) -> list[Family]:
        """All metrics as they are now."""
        with self._lock:
            return list(self._families())

    def drop_privileges(self, *, keeps_user: bool) -> None:
        """Give up what only attaching needed."""
        from balloontrace.serve.privileges import OF_HOST, drop_privileges

        drop_privileges(OF_HOST if self._is_host else (), keeps_user=keeps_user)

    def _begin_guest(self, attached: AttachedGuest) -> None:
        from balloontrace.live.read_sums import GuestSource
        from balloontrace.serve.guest_metrics import guest_families

        source = GuestSource(attached.collector, attached.diagnosis)
        self.source, self._is_host = source, False
        self._families = lambda: guest_families(source.look(), missed=source.missed())

    def _begin_host(self, attached: AttachedAll) -> None:
        from balloontrace.live.read_all_sums import AllSource
        from balloontrace.serve.host_metrics import host_families
        from balloontrace.serve.serve_loop import Duty

        source = AllSource(attached.collector, attached.processes)
        self.source, self._is_host = source, True
        self.duties = (Duty(_FOLLOW_S, self._follow),)
        self._families = lambda: host_families(source.look(), source.tracing())

    def _follow(self) -> None:
        from balloontrace.live.read_all_sums import AllSource

        assert isinstance(self.source, AllSource)  # only that has this duty
        with self._lock:
            self.source.follow()


def _try_to_write(write: Callable[[], None]) -> None:
    """A full disk is said, and tried again the next time."""
    try:
        write()
    except OSError as error:
        say(f"balloontrace: warning: metrics cannot be written: {error.strerror}\n")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
