# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording says of the machine it was made on: size, and what decides how long pages take.

Clearing pages at allocation, huge pages and swap change every stage; two runs that differ in them do not
compare drivers. What cannot be read is None: no default is guessed.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
from pathlib import Path

from balloontrace.system.huge_pages import chosen_of, read_huge_page_bytes, read_sizes_enabled
from balloontrace.system.kernel import ROOT, read_text, read_vmstat

# Of pages in zswap, and of those that are all zeros, the kernel counts apart that they come back.
_SWAPPED_IN = ("pswpin ", "zswpin ", "swpin_zero ")
_THP = "sys/kernel/mm/transparent_hugepage"


def read_machine(root: Path = ROOT) -> dict[str, object]:
    """The `machine` of a recording's metadata; None for each thing that is not known."""
    release = platform.release()
    return {
        "hostname": platform.node(),
        "boot_id": (read_text(root / "proc/sys/kernel/random/boot_id") or "").strip() or None,
        "kernel_release": release,
        "architecture": platform.machine(),
        "page_size_bytes": os.sysconf("SC_PAGE_SIZE"),
        "cpus": os.cpu_count(),
        "memory_bytes": read_meminfo_bytes("MemTotal", root),
        "swap_bytes": read_meminfo_bytes("SwapTotal", root),
        "min_free_kbytes": _number(read_text(root / "proc/sys/vm/min_free_kbytes")),
        "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        **decide_initialisation(read_text(root / "proc/cmdline"), _read_config(root, release)),
        "thp_enabled": chosen_of(read_text(root / _THP / "enabled")),
        "thp_defrag": chosen_of(read_text(root / _THP / "defrag")),
        "thp_shmem_enabled": chosen_of(read_text(root / _THP / "shmem_enabled")),
        "khugepaged_max_ptes_none": _number(read_text(root / _THP / "khugepaged/max_ptes_none")),
        "thp_bytes": read_huge_page_bytes(root),
        "thp_sizes_bytes": read_sizes_enabled(root),
    }


def decide_initialisation(command_line: str | None, config: str | None) -> dict[str, bool | None]:
    """Whether pages are cleared when they are allocated or freed, or poisoned.

    The kernel's command line decides, else its configuration (mm/mm_init.c). Poisoning, which it must have
    been built with, takes precedence over both kinds of clearing.
    """
    poison = None if command_line is None else parse_switch(command_line, "page_poison") or False
    if poison:
        poison = None if config is None else _configured(config, "PAGE_POISONING")
    return {
        "init_on_alloc": _initialises(
            "init_on_alloc", "INIT_ON_ALLOC_DEFAULT_ON", command_line, config, poison
        ),
        "init_on_free": _initialises("init_on_free", "INIT_ON_FREE_DEFAULT_ON", command_line, config, poison),
        "page_poison": poison,
    }


def _initialises(
    parameter: str, option: str, command_line: str | None, config: str | None, poison: bool | None
) -> bool | None:
    if command_line is None:
        return None
    wanted = parse_switch(command_line, parameter)
    if wanted is None and config is not None:
        wanted = _configured(config, option)
    if wanted and poison is not False:
        return None if poison is None else False
    return wanted


def parse_switch(command_line: str, parameter: str) -> bool | None:
    """The value of an on/off parameter of the kernel, None where it is not given.

    As the kernel reads it: the last one that makes sense counts, dashes are underscores (parameq), words are
    told by their first letters (kstrtobool), and all after `--` is for init.
    """
    words = re.findall(r'(?:[^\s"]|"[^"]*")+', command_line)
    of_kernel = words[: words.index("--")] if "--" in words else words
    found = None
    for word in of_kernel:
        name, _, value = word.replace('"', "").partition("=")
        if name.replace("-", "_") == parameter:
            known = _parse_bool(value.lower())
            found = found if known is None else known
    return found


def _parse_bool(value: str) -> bool | None:
    if value[:1] in ("1", "y", "t") or value[:2] == "on":
        return True
    if value[:1] in ("0", "n", "f") or value[:2] == "of":
        return False
    return None


def _configured(config: str, option: str) -> bool:
    """Whether the kernel was built with it; one that does not know the option has not."""
    return f"\nCONFIG_{option}=y\n" in f"\n{config}\n"


def _read_config(root: Path, release: str) -> str | None:
    """The running kernel's configuration, None where nothing shows it."""
    try:
        with gzip.open(root / "proc/config.gz", "rt", errors="replace") as stream:
            return stream.read()
    except (OSError, EOFError):
        pass
    places = (root / f"boot/config-{release}", root / f"lib/modules/{release}/config")
    return next((text for text in map(read_text, places) if text), None)


def read_meminfo_bytes(name: str, root: Path = ROOT) -> int | None:
    """A line of /proc/meminfo, in bytes; None where the kernel does not show it."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def read_swap(root: Path = ROOT) -> dict[str, int]:
    """`used_bytes` in swap, of all processes and memory files; `cached_bytes` of it are in memory still.

    `brought_in_pages` were so since the machine was booted, for any process. Empty where nothing tells.
    """
    lines = (line.partition(":") for line in (read_text(root / "proc/meminfo") or "").splitlines())
    sizes = {name: int(size.split()[0]) * 1024 for name, _, size in lines if name.startswith("Swap")}
    if not {"SwapTotal", "SwapFree", "SwapCached"} <= sizes.keys():
        return {}
    swap = {"used_bytes": sizes["SwapTotal"] - sizes["SwapFree"], "cached_bytes": sizes["SwapCached"]}
    if sizes["SwapTotal"]:  # to add up all counters takes far longer
        brought_in = read_vmstat(root, prefix=_SWAPPED_IN)
        swap |= {"brought_in_pages": sum(brought_in.values())} if brought_in else {}
    return swap


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
