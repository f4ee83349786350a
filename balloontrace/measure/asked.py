# SPDX-License-Identifier: GPL-2.0-or-later
"""How the VM and its guest are to be reached, as the options have it; what contradicts itself is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from balloontrace.console.option_types import SSH
from balloontrace.errors import UsageError
from balloontrace.measure.plan import Plan

LIBVIRT = "libvirt"
_MIB_BYTES = 1 << 20
_TEXTS = ("vm", "set_target", "read_balloon", "guest", "guest_agent")


@dataclass(frozen=True)
class Asked:
    """Fields are called as the options are."""

    vm: str | None = None
    qmp: Path | None = None
    set_target: str | None = None
    read_balloon: str | None = None
    memory: int | None = None
    pid: int | None = None
    guest: str | None = None
    ssh: str = SSH
    guest_agent: str | None = None
    host_only: bool = False
    guest_only: bool = False
    keep: bool = False


def check(plan: Plan, asked: Asked) -> None:
    """UsageError for what contradicts itself or would do nothing, before anything is done."""
    for name in _TEXTS:
        if getattr(asked, name) == "":
            raise UsageError(f"--{name.replace('_', '-')} is empty")
    _check_vm(asked)
    _check_guest(plan, asked)
    if plan.take_bytes % _MIB_BYTES:
        raise UsageError("--take needs whole MiB, such as 512M or 7G")
    if not all(command.strip() for command in plan.alternate):
        raise UsageError("--alternate needs two commands: an empty one brings about no state")


def _check_vm(asked: Asked) -> None:
    ways = [name for name in ("vm", "qmp", "set_target") if getattr(asked, name) is not None]
    if len(ways) != 1:
        raise UsageError("give one of --vm NAME, --qmp SOCKET and --set-target CMD")
    if asked.set_target is None:
        if asked.read_balloon is not None or asked.memory is not None:
            raise UsageError("--read-balloon and --memory go with --set-target CMD")
        return
    if asked.memory is None:
        raise UsageError("--set-target needs --memory SIZE: all memory of the guest, the balloon included")
    if asked.pid is None and not asked.guest_only:
        raise UsageError("--set-target needs --pid: the process that serves the balloon, or --guest-only")


def _check_guest(plan: Plan, asked: Asked) -> None:
    if asked.host_only and asked.guest_only:
        raise UsageError("--host-only and --guest-only leave nothing to record")
    if asked.guest is not None and asked.guest_agent is not None:
        raise UsageError("give one of --guest and --guest-agent")
    has_way = asked.guest is not None or asked.guest_agent is not None
    if plan.touched and not has_way:
        raise UsageError("--touched needs a way into the guest: --guest SSH_DESTINATION")
    if not asked.host_only and not has_way:
        raise UsageError("give --guest SSH_DESTINATION, --guest-agent SOCKET, or --host-only")
    if asked.guest_agent == LIBVIRT and asked.vm is None:
        raise UsageError("--guest-agent libvirt needs --vm NAME")
    if asked.ssh != SSH and asked.guest is None:
        raise UsageError("--ssh goes with --guest SSH_DESTINATION")
    if asked.host_only and (plan.guest_options or asked.keep):
        raise UsageError("--guest-options and --keep are for the guest's recorder, and --host-only has none")
    if asked.guest_only and plan.host_options:
        raise UsageError("--host-options are for the host's recorder, and --guest-only has none")
