# SPDX-License-Identifier: GPL-2.0-or-later
"""What `measure` takes from the command to the first inflate, beside attaching: by ssh, to an emulated guest.

The guest has Python and libbpf alone, so that the recorder is copied. This machine's load shows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lab
from bench.figures import Benchmark, Figure, say
from lab import ssh
from lab.kernels import IMAGES

GUEST_MIB, TAKEN_MIB = 512, 64
RUNS = 3
MOST_BEYOND_ATTACHING_S = 10


def measure_getting_ready() -> Iterator[Figure]:
    """The best of RUNS, settling included: it is part of the wait."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        way, qmp = ssh.Way(ssh.make_key(folder), ssh.free_port()), folder / "qmp"
        options = (*ssh.network_arguments(way.port), "-qmp", f"unix:{qmp},server=on,wait=off")
        with lab.solo(
            memory_mib=GUEST_MIB, cpus=1, spec=IMAGES["trixie-bare-6.12"], extra_args=options
        ) as guest:
            ssh.start_sshd(guest, way.key.with_suffix(".pub").read_bytes())
            runs = [_get_ready(way, qmp, folder / f"{number}") for number in range(RUNS)]
    ready_s = min(runs, key=_beyond_attaching_s)
    yield Figure("ready_beyond_attaching", _beyond_attaching_s(ready_s), "s", MOST_BEYOND_ATTACHING_S)
    yield Figure("ready_attaching", ready_s["attach"], "s")


def _beyond_attaching_s(ready_s: dict[str, float]) -> float:
    return sum(ready_s.values()) - ready_s["attach"]


def _get_ready(way: ssh.Way, qmp: Path, out: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "balloontrace", "measure", "--qmp", qmp, "--guest", ssh.DESTINATION,
         "--ssh", way.command, "--guest-only", "--no-first", "--rounds", "1", "--take", f"{TAKEN_MIB}M",
         "-o", out],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    say(next(line for line in done.stderr.splitlines() if "ready after" in line))
    told: dict[str, float] = json.loads((out / "measure.json").read_text())["ready_s"]
    return told


BENCHMARKS = (Benchmark(("ready_beyond_attaching", "ready_attaching"), measure_getting_ready, "ready"),)
