# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line `python -m lab`: guests that stay while you play with them."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Literal, NoReturn

import click

from balloontrace.console.option_types import DURATION
from lab.boot_retries import boot
from lab.cache import cache_folder, images_folder, locked
from lab.errors import LabError, VMLost
from lab.folders import read_state, remove_stale, vm_folders
from lab.guest import Guest
from lab.image import ensure_image, image_size_bytes, remove_leftovers, remove_tree, remove_unused
from lab.kernels import DEFAULT, IMAGES
from lab.process import GuestProcess
from lab.progress import Progress
from lab.qemu import VmConfig
from lab.signals import sigterm_raises
from lab.sizes import MIB_BYTES, format_size, parse_size_bytes, parse_size_mib
from lab.topology_nested import boot_nested
from lab.vhost import NO_EXTRA, BackendOptions, ExtraTime
from lab.vm import attach_vm

EXIT_LAB = 1
EXIT_VM_LOST = 3
_ANSWERS_S = 30
_LOOK_AGAIN_S = 0.05

name_option = click.option("--name", default="lab", show_default=True, help="Which VM.")
image_option = click.option(
    "--image", "image_name", type=click.Choice(list(IMAGES)), default=DEFAULT, show_default=True,
    help="Its system and its kernel.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Real guests with a virtio memory balloon, in QEMU on this machine."""


@cli.command()
@name_option
@click.option("--memory", default="8G", show_default=True, help="Memory of the guest.")
@click.option("--cpus", type=click.IntRange(1), help="CPUs of the guest; 2, but 1 with --icount or --nested.")
@click.option("--icount", is_flag=True, help="The guest's time counts instructions, 1 ns each.")
@click.option("--balloons", type=click.IntRange(0, 1), help="QEMU's own balloons; 1, with --backend 0.")
@click.option("--reporting", is_flag=True, help="The same, with free page reporting.")
@click.option("--backend", is_flag=True, help="The lab's own balloon device instead of QEMU's.")
@click.option("--page-bitmap", is_flag=True, help="The same, and it offers page bitmaps.")
@click.option("--extra-ns-per-buffer", type=click.IntRange(0), help="Slows the lab's own: each buffer.")
@click.option("--extra-ns-per-discard", type=click.IntRange(0), help="The same: before each discard.")
@click.option("--extra-ns-in-discard", type=click.IntRange(0), help="The same: inside each discard.")
@click.option("--nested", "is_nested", is_flag=True, help="In a host VM, which is called NAME-host.")
@image_option
@click.option("--machine", type=click.Choice(["pc", "microvm"]), default="pc", help="A microvm has no PCI.")
@click.option("--kernel-arg", multiple=True, help="Further word for the guest kernel's command line.")
def up(
    name: str,
    memory: str,
    cpus: int | None,
    icount: bool,
    balloons: int | None,
    reporting: bool,
    backend: bool,
    page_bitmap: bool,
    extra_ns_per_buffer: int | None,
    extra_ns_per_discard: int | None,
    extra_ns_in_discard: int | None,
    is_nested: bool,
    image_name: str,
    machine: Literal["pc", "microvm"],
    kernel_arg: tuple[str, ...],
) -> None:
    """Start a VM that stays until `down`."""
    extra = ExtraTime(extra_ns_per_buffer or 0, extra_ns_per_discard or 0, extra_ns_in_discard or 0)
    if extra != NO_EXTRA and not (backend or page_bitmap):
        raise click.UsageError("QEMU's own balloon cannot be slowed; add --backend.")
    device = BackendOptions(page_bitmap=page_bitmap, extra=extra) if backend or page_bitmap else None
    count = balloons if balloons is not None else int(device is None)
    if reporting and not count:
        raise click.UsageError("Only QEMU's own balloon has page reporting; add --balloons 1.")
    balloon = {"free-page-reporting": "on"} if reporting else {}
    config = VmConfig(
        memory_mib=parse_size_mib(memory),
        cpus=cpus if cpus is not None else (1 if icount or is_nested else 2),
        icount=icount,
        balloons=(balloon,) * count,
        backend=device,
        kernel_args=kernel_arg,
        machine=machine,
    )
    progress = Progress()
    progress.stage(f"starting VM {name}")
    start = boot_nested if is_nested else boot
    start(config, name, outlives_us=True, spec=IMAGES[image_name], progress=progress).detach()
    progress.stage(f"VM {name} is up; try: python -m lab run --name {name} -- balloontrace doctor")


@cli.command(context_settings={"ignore_unknown_options": True})
@name_option
@click.option("--stdin", "with_stdin", is_flag=True, help="Pass all of standard input to the command.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(name: str, with_stdin: bool, command: tuple[str, ...]) -> NoReturn:
    """Run COMMAND in the guest: its output, its exit status (128 + N for signal N)."""
    guest = attach_guest(name)
    try:
        stdin = sys.stdin.buffer.read() if with_stdin else None
        status = stream_output(guest.start(command, stdin=stdin))
    finally:
        guest.detach()
    sys.exit(status if status >= 0 else 128 - status)


@cli.command()
@name_option
@click.option(
    "--timeout", "timeout_s", type=DURATION, default="10m", show_default=True, help="How long to wait."
)
@click.argument("size", required=False)
def balloon(name: str, timeout_s: float, size: str | None) -> None:
    """Print how much memory the guest has; with SIZE, have the balloon leave that much and wait for it."""
    guest = attach_guest(name)
    try:
        if size is not None:
            guest.set_balloon(target_bytes=parse_size_bytes(size))
            guest.wait_balloon(timeout_s=timeout_s)
        click.echo(format_size(guest.balloon_actual_bytes()))
    finally:
        guest.detach()


@cli.command()
@name_option
def console(name: str) -> None:
    """Print what the guest has written to its console."""
    click.echo(attach_vm(name).console(), nl=False)


@cli.command("list")
def list_command() -> None:
    """List the VMs: name, state, memory, CPUs, accelerator, process."""
    for folder in vm_folders():
        state = read_state(folder)
        if state is None:
            continue
        life = "up" if state.qemu.is_alive() else "dead"
        memory = format_size(state.memory_mib * MIB_BYTES)
        click.echo(
            f"{folder.name:24} {life:5} {memory:>6} {state.cpus:>3} {state.accelerator:7} {state.qemu.pid}"
        )


@cli.command()
@click.option("--name", help="Which VM; default: lab.")
@click.option("--all", "everything", is_flag=True, help="Every VM started with `up`.")
def down(name: str | None, everything: bool) -> None:
    """End a VM, and the host VM it is in; those of running tests are ended only when named."""
    if name and everything:
        raise click.UsageError("--name and --all exclude each other.")
    remove_stale()
    states = {folder.name: read_state(folder) for folder in vm_folders()}
    names = [n for n, state in states.items() if state and not state.owner] if everything else [name or "lab"]
    hosts = [state.host for n in names if (state := states.get(n)) and state.host in states]
    for each in dict.fromkeys([*names, *hosts]):
        vm = attach_vm(each)
        vm.end()
        vm.remove()


@cli.command()
@image_option
def image(image_name: str) -> None:
    """Build the image if need be; print where it is."""
    built = ensure_image(IMAGES[image_name])
    click.echo(f"{image_size_bytes(built) >> 20} MiB on disk", err=True)
    click.echo(str(built.folder))


@cli.command()
def clean() -> None:
    """Remove the images and what ended VMs left; running VMs keep theirs."""
    remove_stale()
    with locked(images_folder() / "build.lock"):
        remove_leftovers()
        in_use = remove_unused()
    if in_use or vm_folders():
        raise LabError("Kept what VMs still use; `python -m lab list` names them, `down` ends them.")
    remove_tree(cache_folder())


def attach_guest(name: str) -> Guest:
    """The guest of a VM that `up` started. Raises LabError, VMLost when it has ended."""
    vm = attach_vm(name)
    if not vm.is_alive():
        raise vm.lost("it is not running any more")
    return Guest(vm, boot_timeout_s=_ANSWERS_S)


def stream_output(process: GuestProcess) -> int:
    """Copies both outputs while the command runs; Ctrl-C goes to the command, the third time kills it."""
    presses = 0

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        process.signal_group(signal.SIGINT if presses < 3 else signal.SIGKILL)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        positions = {"stdout": 0, "stderr": 0}
        while process.poll() is None:
            copy_new_output(process, positions)
            process.pause(_LOOK_AGAIN_S)
        copy_new_output(process, positions)
        return process.wait().status
    finally:
        signal.signal(signal.SIGINT, previous)


def copy_new_output(process: GuestProcess, positions: dict[str, int]) -> None:
    """Writes what is new since `positions`, and moves them."""
    for stream, target in (("stdout", sys.stdout.buffer), ("stderr", sys.stderr.buffer)):
        new = process.read(stream, positions[stream])
        positions[stream] += len(new)
        target.write(new)
        target.flush()


def main() -> NoReturn:
    """Runs the command line; the only place where an error becomes a message and an exit status."""
    try:
        with sigterm_raises():
            cli(prog_name="python -m lab")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_LAB)
    except VMLost as error:
        click.echo(f"lab: {error}", err=True)
        sys.exit(EXIT_VM_LOST)
    except LabError as error:
        click.echo(f"lab: {error}", err=True)
        sys.exit(EXIT_LAB)
    sys.exit(0)
