# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace measure`: drive the balloon of a VM, and record both sides of each inflate and deflate."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balloontrace.commands.formats import Format, format_option
from balloontrace.console.option_types import DURATION, FOLDER, SIZE, ssh_option
from balloontrace.console.output_file import write_output
from balloontrace.console.stderr import say, warn
from balloontrace.errors import BalloontraceError, ExitCode, UsageError
from balloontrace.format.vocabulary import Side

if TYPE_CHECKING:
    from balloontrace.measure.asked import Asked
    from balloontrace.measure.getting_ready import GettingReady
    from balloontrace.measure.guest import Guest
    from balloontrace.measure.plan import Plan
    from balloontrace.measure.rounds import Rounds
    from balloontrace.measure.vm import Vm

PAGE = "report.html"
_SLACK_S = 60.0


@click.command("measure", short_help="Drive the balloon of a VM, and record both sides, round by round.")
@click.option("--vm", metavar="NAME", help="The VM, by its name in libvirt.")
@click.option(
    "--qmp", type=click.Path(path_type=Path), metavar="SOCKET", help="The VM, by the QMP socket of its QEMU."
)
@click.option(
    "--set-target",
    metavar="CMD",
    help="Any other VM: this command, run by the shell, sets the target. {mib} or {bytes} in it is the "
    "memory to leave, {balloon_mib} or {balloon_bytes} the size of the balloon. Needs --memory, and --pid.",
)
@click.option(
    "--read-balloon", metavar="CMD", help="With --set-target: prints the size of the balloon in MiB."
)
@click.option("--memory", type=SIZE, metavar="SIZE", help="With --set-target: all memory of the guest.")
@click.option(
    "-p",
    "--pid",
    type=click.IntRange(min=1),
    metavar="PID",
    help="The process that serves the balloon; with --vm and --qmp it is found.",
)
@click.option(
    "--guest",
    metavar="SSH_DESTINATION",
    help="The guest, as ssh reaches it: root@guest1. A recorder is copied there if it has none.",
)
@ssh_option
@click.option(
    "--guest-agent",
    metavar="SOCKET|libvirt",
    help="The guest, by its qemu-guest-agent: a socket, or with --vm the way that libvirt has to it.",
)
@click.option("--host-only", is_flag=True, help="Record the host's side alone.")
@click.option("--guest-only", is_flag=True, help="Record the guest's side alone.")
@click.option("--keep", is_flag=True, help="Leave the recorder that was copied in the guest.")
@click.option(
    "--take",
    type=SIZE,
    required=True,
    metavar="SIZE",
    help="How much memory each inflate takes, in whole MiB, e.g. 512M or 7G.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 999),
    default=10,
    show_default=True,
    metavar="N",
    help="How many inflates and deflates count.",
)
@click.option(
    "--first/--no-first",
    default=True,
    show_default=True,
    help="Begin with a round that does not count: it takes memory that was never taken before.",
)
@click.option(
    "--settle", type=DURATION, default="2s", show_default=True, metavar="TIME", help="Rest before each move."
)
@click.option(
    "--timeout",
    type=DURATION,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long a move may take.",
)
@click.option("--touched", is_flag=True, help="Have the guest write to the memory before it is taken.")
@click.option(
    "--alternate",
    nargs=2,
    metavar="CMD_A CMD_B",
    help="Measure two states in turn, A, B, B, A. Each command, run by the shell here, brings about one.",
)
@click.option("--guest-options", default="", metavar="OPTIONS", help="More options of record in the guest.")
@click.option("--host-options", default="", metavar="OPTIONS", help="More options of record on the host.")
@click.option(
    "-o",
    "output",
    type=FOLDER,
    required=True,
    metavar="FOLDER",
    help="A new or empty folder for the recordings.",
)
@format_option("measure", default="table")
@click.option("--html", is_flag=True, help=f"Write {PAGE} into the folder, too.")
def measure(
    take: int,
    rounds: int,
    settle: float,
    timeout: float,
    alternate: tuple[str, str] | None,
    guest_options: str,
    host_options: str,
    output: Path,
    form: Format,
    *,
    first: bool,
    touched: bool,
    html: bool,
    **asked: Any,  # noqa: ANN401
) -> int:
    r"""Drive the balloon of a VM: settle, inflate, settle, deflate, N times, both sides recorded.

    Each round has a recording of the guest and one of the host. They are in FOLDER, as compare reads them,
    and in first/ what does not count. At the end the medians of all rounds are shown. Run it on the host, as
    root. However it ends, the balloon is put back to where it was.

    \b
    Examples:
      sudo balloontrace measure --vm vm1 --guest root@vm1 --take 7G -o before/
      sudo balloontrace measure --qmp qmp.sock --host-only --take 1G -o host/
    """
    from balloontrace.commands.record import record
    from balloontrace.measure.asked import Asked, check
    from balloontrace.measure.ending import ended_once
    from balloontrace.measure.getting_ready import begin
    from balloontrace.measure.plan import Plan
    from balloontrace.measure.recorder_options import parse_options

    ready = begin()
    ready.done("start")
    plan = Plan(
        out=output,
        take_bytes=take,
        rounds=rounds,
        first=first,
        settle_s=settle,
        timeout_s=timeout,
        touched=touched,
        alternate=tuple(alternate or ()),
        guest_options=parse_options(guest_options, "--guest-options", Side.GUEST, record),
        host_options=parse_options(host_options, "--host-options", Side.HOST, record),
    )
    wanted = Asked(**asked)
    check(plan, wanted)
    with ended_once():
        status = _run(plan, wanted, ready)
    if status is ExitCode.OK:
        _show(plan, form, html=html, with_guest=not wanted.host_only)
    return status


def _run(plan: Plan, asked: Asked, ready: GettingReady) -> ExitCode:
    """Measure; BalloontraceError when it did not go as asked, having told what is kept."""
    from balloontrace.measure.folders import made_folders
    from balloontrace.measure.rounds import Rounds
    from balloontrace.measure.sides import Sides

    with ExitStack() as stack:
        stack.enter_context(made_folders(plan))
        guest, vm = _open(plan, asked, stack, ready)
        if guest is not None and guest.kept:
            stack.callback(_tell, f"left in the guest: {guest.kept}")
        if vm.named.pid is None and not asked.guest_only:
            raise UsageError(f"the process of the VM {vm.named.name} is not known: name it with --pid")
        sides = Sides(
            None if asked.guest_only else vm.named.pid,
            None if asked.host_only else guest,
            plan.host_options,
            plan.guest_options,
        )
        rounds = Rounds(vm, guest, plan, sides, _tell, ready)
        try:
            rounds.run()
        except UsageError:
            raise
        except KeyboardInterrupt:
            _tell(f"interrupted; {_kept(plan, rounds)}")
            return ExitCode.INTERRUPTED
        except BalloontraceError as error:
            failed = BalloontraceError(f"{error}; {_kept(plan, rounds)}")
            failed.exit_code = error.exit_code
            raise failed from error
        except OSError as error:
            said = f"cannot write into {plan.out}: {error.strerror}"
            raise BalloontraceError(f"{said}; {_kept(plan, rounds)}") from error
    return ExitCode.OK


def _open(plan: Plan, asked: Asked, stack: ExitStack, ready: GettingReady) -> tuple[Guest | None, Vm]:
    """Both, to be closed with `stack`. The guest is first where it tells how the VM is called."""
    from balloontrace.measure.asked import LIBVIRT

    if asked.guest_agent == LIBVIRT:
        vm = _open_vm(asked, None)
        stack.callback(vm.close)
        ready.done("vm")
        guest = _open_agent(plan, asked, vm, ready)
        stack.callback(guest.close)
        return guest, vm
    reached = _open_guest(plan, asked, ready)
    if reached is not None:
        stack.callback(reached.close)
    vm = _open_vm(asked, reached)
    stack.callback(vm.close)
    ready.done("vm")
    return reached, vm


def _open_guest(plan: Plan, asked: Asked, ready: GettingReady) -> Guest | None:
    if asked.guest is None:
        return None if asked.guest_agent is None else _open_agent(plan, asked, None, ready)
    from balloontrace.measure.ssh_guest import SshGuest

    return SshGuest(asked.guest, asked.ssh, keep=asked.keep).open(_make_bundle, ready.done)


def _open_agent(plan: Plan, asked: Asked, vm: Vm | None, ready: GettingReady) -> Guest:
    """By libvirt's way where there is a VM."""
    from balloontrace.measure.agent_guest import AgentGuest
    from balloontrace.measure.guest_agent import AgentSocket, GuestAgent
    from balloontrace.measure.libvirt_vm import LibvirtVm
    from balloontrace.measure.sides import ATTACH_S

    # Nobody can tell a recorder there that this end is gone, so it has an end of its own.
    longest_s = ATTACH_S + 2 * plan.timeout_s + 3 * plan.settle_s + _SLACK_S
    if isinstance(vm, LibvirtVm):
        guest = AgentGuest(
            vm.named.name, GuestAgent(vm.exchange), lambda: None, longest_s=longest_s, keep=asked.keep
        )
    else:
        connection = AgentSocket(Path(asked.guest_agent or ""))
        agent = GuestAgent(connection.exchange)
        guest = AgentGuest("the guest", agent, connection.close, longest_s=longest_s, keep=asked.keep)
    return guest.open(_make_bundle, ready.done)


def _make_bundle() -> bytes:
    from balloontrace.make_bundle import make_bundle
    from balloontrace.trace.engines.shipped import read_all

    return make_bundle(read_all())


def _open_vm(asked: Asked, guest: Guest | None) -> Vm:
    if asked.qmp is not None:
        from balloontrace.measure.qmp_vm import open_qmp

        return open_qmp(asked.qmp, asked.pid, guest.facts.hostname if guest is not None else None)
    if asked.vm is not None:
        from balloontrace.measure.libvirt_vm import open_libvirt

        return open_libvirt(asked.vm, asked.pid)
    from balloontrace.measure.command_vm import CommandVm
    from balloontrace.measure.vm import VmName
    from balloontrace.system.vm_names import read_vm_name

    assert asked.set_target is not None and asked.memory is not None  # `check` has seen to it  # noqa: PT018
    name = read_vm_name(Path(f"/proc/{asked.pid}")).name
    if name is None:
        name = guest.facts.hostname if guest is not None else f"process {asked.pid}"
    read_guest_bytes = guest.read_balloon_bytes if guest is not None else None
    named = VmName(name, asked.pid)
    return CommandVm(named, asked.memory, asked.set_target, asked.read_balloon, read_guest_bytes)


def _kept(plan: Plan, rounds: Rounds) -> str:
    from balloontrace.units import format_things

    if not rounds.complete:
        return "no round is complete"
    return f"{format_things(rounds.complete, 'round')} complete, kept in {plan.out}"


def _tell(sentence: str) -> None:
    say(f"balloontrace: {sentence}\n")


def _show(plan: Plan, form: Format, *, html: bool, with_guest: bool) -> None:
    """The result of each folder; where a library for it is missing, what else can be done."""
    if with_guest and find_spec("numpy") is None:
        _tell(f"numpy is not installed here, so there is no report: the recordings are in {plan.out}")
        return
    from balloontrace.commands.formats import offered
    from balloontrace.compare.summarise import summarise_driven, summarise_folder

    assert form.measure is not None  # it was offered
    for number, folder in enumerate(plan.folders):
        found = (
            summarise_folder(folder, plan.out if not number else None)
            if with_guest
            else summarise_driven(folder)
        )
        write_output(form.measure(found), None, force=False, for_people=form.for_people)
        if html:
            page = offered("measure")["html"].measure
            assert page is not None  # it is offered
            write_output(page(found), folder / PAGE, force=False)
        warn(found.warnings)
    if plan.alternate:
        _tell(f"in pairs: balloontrace compare {' '.join(map(str, plan.folders))}")
