# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace top`: what a balloon is doing now, on either side, without a recording."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from balloontrace.console.option_types import (
    DURATION,
    Duration,
    all_option,
    attach_option,
    engine_option,
    missing_probes_option,
    pid_option,
    vm_option,
)
from balloontrace.console.stderr import say, verbose_option
from balloontrace.errors import BalloontraceError
from balloontrace.format.vocabulary import Side

if TYPE_CHECKING:
    from balloontrace.console.terminal import Terminal
    from balloontrace.live.read_all_sums import AllSource
    from balloontrace.live.read_sums import GuestSource, HostSource
    from balloontrace.results.live_view import GuestView, HostView, VmView
    from balloontrace.trace.guest.side import AttachedGuest
    from balloontrace.trace.host.all_side import AttachedAll
    from balloontrace.trace.host.side import AttachedHost
    from balloontrace.trace.options import TraceOptions

LEAST_INTERVAL_S = 0.1

_View = TypeVar("_View")
_PROCESS_ENDED = "process exited"  # which is no failure: what there was has been seen


@click.command("top", short_help="Show what a balloon is doing now, on a guest or its host.")
@click.option(
    "--side",
    type=click.Choice([*map(str, Side), "auto"]),
    default="auto",
    show_default=True,
    help="guest shows this machine's own balloon, host a process here that serves one, or the VMs "
    "here where there is not one alone; auto is guest where there is a balloon, unless -p, --vm or --all is "
    "given.",
)
@pid_option
@vm_option
@all_option
@click.option(
    "-i",
    "--interval",
    "interval_s",
    type=Duration(at_least_s=LEAST_INTERVAL_S),
    default="1s",
    show_default=True,
    metavar="TIME",
    help="How often to look.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="COUNT", help="Stop after so many looks.")
@click.option("-d", "--duration", "duration_s", type=DURATION, metavar="TIME", help="Stop after so long.")
@click.option("--plain", is_flag=True, help="Write lines, as when standard output is not a terminal.")
@missing_probes_option
@attach_option
@engine_option
@verbose_option
def top(interval_s: float, count: int | None, duration_s: float | None, *, plain: bool, **asked: Any) -> None:  # noqa: ANN401
    r"""Show a balloon live: its size, target and rate, the time left, and where the time goes.

    Ends with q, Ctrl-C, or the given end. Nothing is recorded.

    \b
    Examples:
      sudo balloontrace top
      sudo balloontrace top --side host -p 1234 -i 500ms
      sudo balloontrace top --side host --all
      sudo balloontrace top --plain -n 60 | tee balloon.log
    """  # fmt: skip
    from balloontrace.live.refresh_loop import Schedule, run_live
    from balloontrace.trace.attach import attach, attached_line, choose_side, describe_losses
    from balloontrace.trace.options import TraceOptions
    from balloontrace.trace.session import protect_from_oom_killer
    from balloontrace.units import name_of_many

    side = choose_side(_for_many(TraceOptions(**asked, ring_bytes=0)))
    # Until probes are attached there is nothing to put back: both signals end it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    protect_from_oom_killer()
    with attach(side) as attached:
        source, views = _look_at(attached)
        say(f"balloontrace: {attached_line(attached)}\n")
        shown: AbstractContextManager[_PlainDisplay[Any] | _ScreenDisplay[Any]]
        shown = _open_display(views, plain=plain)
        with shown as display:
            ending = run_live(source, display, Schedule(interval_s, count, duration_s))
        looks = f"{display.shown} {name_of_many(display.shown, 'look')}"
        say(f"balloontrace: {ending}: {looks}, {describe_losses(source.losses())}\n")
    if source.gone == ending and ending != _PROCESS_ENDED:
        raise BalloontraceError(f"the view ended: {ending}")


def _for_many(options: TraceOptions) -> TraceOptions:
    """Asked for the host alone, where there is not one VM: all of them."""
    from balloontrace.system.vmm import find_vmms, is_called

    if options.side != Side.HOST or options.pid is not None or options.engine == "bcc":
        return options
    vmms = [vmm for vmm in find_vmms() if options.vm is None or is_called(vmm, options.vm)]
    return options if len(vmms) == 1 else replace(options, all_vms=True)


@dataclass(frozen=True)
class _Views(Generic[_View]):
    """How one side is looked at and shown."""

    look: Callable[[], _View]
    header: str
    lines: Callable[[_View], Sequence[str]]
    screen: Callable[[_View, int, int], Sequence[str]]


def _look_at(
    attached: AttachedGuest | AttachedHost | AttachedAll,
) -> tuple[GuestSource | HostSource | AllSource, _Views[Any]]:
    from balloontrace.trace.guest.side import AttachedGuest

    if isinstance(attached, AttachedGuest):
        return _look_at_guest(attached)
    from balloontrace.trace.host.side import AttachedHost

    return _look_at_host(attached) if isinstance(attached, AttachedHost) else _look_at_all(attached)


def _look_at_guest(attached: AttachedGuest) -> tuple[GuestSource, _Views[GuestView]]:
    from balloontrace.live.make_views import GuestViews
    from balloontrace.live.read_sums import GuestSource
    from balloontrace.render.live.lines import guest_header, guest_line

    diagnosis = attached.diagnosis
    source = GuestSource(attached.collector, diagnosis)
    views = GuestViews(source.look(), balloons=len(diagnosis.devices))
    names = " ".join(device.name for device in diagnosis.devices)
    title = f"balloontrace top: guest, {names}, {diagnosis.driver_kind} driver; q quits"

    def screen(view: GuestView, columns: int, rows: int) -> Sequence[str]:
        from balloontrace.render.live.screen import guest_screen

        return guest_screen(view, title, columns, rows)

    return source, _Views(
        lambda: views.view(source.look()), guest_header(), lambda view: [guest_line(view)], screen
    )


def _look_at_host(attached: AttachedHost) -> tuple[HostSource, _Views[HostView]]:
    from balloontrace.live.make_views import HostViews
    from balloontrace.live.read_sums import HostSource
    from balloontrace.render.live.lines import host_header, host_line

    source = HostSource(attached.collector, attached.watch)
    views = HostViews(source.look())
    title = f"balloontrace top: host, process {attached.process.description}; q quits"

    def screen(view: HostView, columns: int, rows: int) -> Sequence[str]:
        from balloontrace.render.live.screen import host_screen

        return host_screen(view, title, columns, rows)

    return source, _Views(
        lambda: views.view(source.look()), host_header(), lambda view: [host_line(view)], screen
    )


def _look_at_all(attached: AttachedAll) -> tuple[AllSource, _Views[Sequence[VmView]]]:
    from balloontrace.live.make_all_views import AllViews
    from balloontrace.live.read_all_sums import AllSource
    from balloontrace.render.live.all_lines import all_header, all_lines, all_screen

    source = AllSource(attached.collector, attached.processes)
    views = AllViews(source.look())

    def look() -> Sequence[VmView]:
        found = views.view(source.look())
        source.follow()
        return found

    def screen(view: Sequence[VmView], columns: int, rows: int) -> Sequence[str]:
        return all_screen(view, "balloontrace top: host; q quits", columns, rows)

    return source, _Views(look, all_header(), all_lines, screen)


class _PlainDisplay(Generic[_View]):
    """A line a look, under one header."""

    keys_fd: int | None = None

    def __init__(self, views: _Views[_View]) -> None:
        self._views = views
        self.shown = 0
        click.echo(views.header)

    def show(self) -> None:
        for line in self._views.lines(self._views.look()):
            click.echo(line)
        self.shown += 1

    def redraw(self) -> None:
        """Lines stay as they are."""

    def begin(self) -> None:
        """Lines need no terminal."""

    def end(self) -> None:
        """Nor give one back."""


class _ScreenDisplay(Generic[_View]):
    """The whole terminal, drawn anew at each look."""

    def __init__(self, views: _Views[_View], terminal: Terminal) -> None:
        self._views = views
        self._terminal = terminal
        self._last: _View = views.look()
        self.keys_fd = terminal.keys_fd
        self.begin, self.end = terminal.begin, terminal.end
        self.shown = 0
        self.redraw()

    def show(self) -> None:
        self._last = self._views.look()
        self.redraw()
        self.shown += 1

    def redraw(self) -> None:
        self._terminal.draw(lambda columns, rows: self._views.screen(self._last, columns, rows))


@contextmanager
def _open_display(
    views: _Views[_View], *, plain: bool
) -> Iterator[_PlainDisplay[_View] | _ScreenDisplay[_View]]:
    if not plain:
        # Lines need none of it, and a guest that is being squeezed need not hold it.
        from balloontrace.console.terminal import Terminal, can_draw

        if can_draw():
            with Terminal() as terminal:
                yield _ScreenDisplay(views, terminal)
            return
    yield _PlainDisplay(views)
