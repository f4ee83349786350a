# SPDX-License-Identifier: GPL-2.0-or-later
"""`measure.json` beside the recordings: on what they were made, and how. `compare` reads it."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import balloontrace
from balloontrace.format.provenance import NAME, VERSION
from balloontrace.measure.facts import read_conditions
from balloontrace.measure.folders import give_path_to_sudo_user
from balloontrace.measure.guest import Guest
from balloontrace.measure.plan import STATES, Plan
from balloontrace.measure.vm import VmName
from balloontrace.system.kernel import ROOT


@dataclass(frozen=True)
class RoundDone:
    """A round as it was driven: how long until the VMM said that its target was reached.

    What the recordings say is more exact: the VMM is asked a few times a second.
    """

    number: int
    inflate_s: float
    deflate_s: float
    touched_ns: int | None


def describe(plan: Plan, named: VmName, guest: Guest | None, root: Path = ROOT) -> dict[str, Any]:
    """Everything but the rounds."""
    return {
        "measure_version": VERSION,
        "balloontrace": balloontrace.__version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command_line": sys.argv,
        "vm": named.name,
        "vmm": read_command_line(named.pid, root),
        "take_bytes": plan.take_bytes,
        "settle_s": plan.settle_s,
        "touched": plan.touched,
        "host": read_conditions(),
        "guest": None if guest is None else guest.facts.conditions,
    }


def write(plan: Plan, described: dict[str, Any], rounds: dict[Path, list[RoundDone]]) -> None:
    """Write it into each folder of complete rounds, in place of the last. Raises OSError."""
    for state, folder in enumerate(plan.folders):
        own = {"state": STATES[state], "state_command": plan.alternate[state]} if plan.alternate else {}
        content = {**described, **own, "rounds": [asdict(each) for each in rounds.get(folder, [])]}
        partial = folder / f".{NAME}.part"
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n")
            give_path_to_sudo_user(partial)
            partial.replace(folder / NAME)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def read_command_line(pid: int | None, root: Path = ROOT) -> list[str] | None:
    """The words that a process was started with, secrets left out; None where they cannot be read."""
    if pid is None:
        return None
    with suppress(OSError):
        words = (root / f"proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return [hide_secret(word) for word in words if word]
    return None


def hide_secret(word: str) -> str:
    """A word of QEMU's without passwords: those of `-object secret,data=...`, `password=...`."""
    return re.sub(r"\b(data|password|key)=[^,]+", r"\1=...", word) if "=" in word else word
