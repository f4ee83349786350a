# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of a machine: of this one directly, of a guest by sending it this text.

So it needs Python's own library alone. `python3 -c TEXT facts` prints one JSON object. With `serve` in its
place it answers each line of standard input until that ends.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_CPU = "/sys/devices/system/cpu"
_ANSWERS_S = 60
_ENDS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def read(path: str) -> str | None:
    """A small file, stripped; None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def read_conditions() -> dict[str, object]:
    """What decides how fast this machine is today; None for each thing that it does not tell."""
    cpuinfo = read("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    load = read("/proc/loadavg")
    thp = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    return {
        "kernel": f"{platform.release()} {platform.version()}",
        "cpu_model": model[1] if model else None,
        "cpus": os.cpu_count(),
        "governor": read(f"{_CPU}/cpu0/cpufreq/scaling_governor"),
        "boost": read(f"{_CPU}/cpufreq/boost") or _not(read(f"{_CPU}/intel_pstate/no_turbo")),
        "smt": read(f"{_CPU}/smt/control"),
        "thp": thp[1] if thp else None,
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        "load": float(load.split()[0]) if load else None,
    }


def _not(switch: str | None) -> str | None:
    return {"0": "1", "1": "0"}.get(switch or "")


def read_meminfo_bytes(name: str) -> int | None:
    """A line of /proc/meminfo."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", read("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def read_balloon_bytes() -> int | None:
    """How large the balloons are that this kernel has filled since it booted, by /proc/vmstat."""
    counts = dict(line.split() for line in (read("/proc/vmstat") or "").splitlines())
    if "balloon_inflate" not in counts or "balloon_deflate" not in counts:
        return None
    return (int(counts["balloon_inflate"]) - int(counts["balloon_deflate"])) * 4096


def find_balloontrace() -> str | None:
    """The version of an installed balloontrace, None where there is none that runs."""
    try:
        asked = subprocess.Popen(
            ["balloontrace", "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return None
    with asked:
        assert asked.stdout is not None
        first = asked.stdout.readline().decode(errors="replace").split()
        asked.kill()  # what more it would say takes as long again
    return first[1] if len(first) == 2 and first[0] == "balloontrace" else None


def may_trace() -> bool:
    """Whether this user is root, or becomes it without a password."""
    if os.getuid() == 0:
        return True
    try:
        done = subprocess.run(["sudo", "-n", "true"], capture_output=True, timeout=_ANSWERS_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def show_facts() -> dict[str, object]:
    """All that is to be known of a guest before it is measured."""
    return {
        "hostname": platform.node(),
        "uid": os.getuid(),
        "may_trace": may_trace(),
        "python": list(sys.version_info[:2]),
        "balloontrace": find_balloontrace(),
        "available_bytes": read_meminfo_bytes("MemAvailable"),
        "conditions": read_conditions(),
    }


def touch(size_bytes: int) -> dict[str, object]:
    """Write into so much memory and give it back; how long the writing took."""
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        started_ns = time.monotonic_ns()
        for place in range(0, size_bytes, mmap.PAGESIZE):
            memory[place] = 1
        return {"touched_ns": time.monotonic_ns() - started_ns}


def answer(words: list[str]) -> dict[str, object]:
    """What is asked for."""
    if words[0] == "touch":
        return touch(int(words[1]))
    if words[0] == "balloon":
        return {"balloon_bytes": read_balloon_bytes()}
    return show_facts()


class Ended(Exception):  # noqa: N818
    """A signal told us to end."""


def end(*_: object) -> None:
    """As a handler of signals. One is enough: another would cut short what is done after the first."""
    ignore_ends()
    raise Ended


def ignore_ends() -> None:
    """From here on nothing is left to be ended."""
    sys.unraisablehook = lambda _: None  # of a signal that came just before Python says that it is ignored
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)


def serve(*, keep: bool) -> None:
    """Answer until standard input ends, however it does. Then what was copied goes, unless it is kept."""
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # until there is a folder that is removed
    for number in _ENDS:
        signal.signal(number, end)
    folder = Path(tempfile.mkdtemp(prefix="balloontrace-"))
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
            serve_from(folder)
        finally:
            ignore_ends()  # and one that came together with the end of the input is `Ended` here
    except Ended:
        pass
    finally:
        if not keep or not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def serve_from(folder: Path) -> None:
    """Answer questions; the first answer is the name of the folder, unasked.

    A question is a number, which its answer has too, and words. `[NUMBER, "copy", NAME, SIZE]` is followed by
    so many bytes.
    """
    say({"folder": str(folder)})
    for line in iter(sys.stdin.buffer.readline, b""):
        number, *words = json.loads(line)
        if words[0] == "copy":
            found = try_to(copy, folder / words[1], sys.stdin.buffer.read(words[2]))
        else:
            found = try_to(answer, words)
        say({**found, "number": number})


def copy(path: Path, content: bytes) -> dict[str, object]:
    """A file with this in it."""
    return {"copied_bytes": path.write_bytes(content)}


def try_to(do: Callable[..., dict[str, object]], *words: object) -> dict[str, object]:
    """What is found, or what is wrong: the next question may go better."""
    try:
        return do(*words)
    except (OSError, ValueError, MemoryError) as error:
        return {"error": str(error) or type(error).__name__}


def say(found: dict[str, object]) -> None:
    """One line."""
    print(json.dumps(found), flush=True)


def main(words: list[str]) -> None:
    """`serve`, `serve keep`, or one answer."""
    if words[0] == "serve":
        serve(keep="keep" in words)
    else:
        say(answer(words))


if __name__ == "__main__":
    main(sys.argv[1:])
