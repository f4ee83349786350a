# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording says of its machine, and the line a report makes of it."""

from __future__ import annotations

import gzip
import os
import platform
from pathlib import Path

import pytest
from fake_system import FakeSystem
from flows import typical_flow
from people import render_table
from synthetic import metadata, recording

from balloontrace.analysis.make_report import analyse
from balloontrace.render.report.machine_section import describe_machine
from balloontrace.results.recording_header import Machine
from balloontrace.system.machine import decide_initialisation, parse_switch, read_machine

RELEASE = platform.release()
DEBIAN = "CONFIG_X=y\nCONFIG_INIT_ON_ALLOC_DEFAULT_ON=y\n# CONFIG_INIT_ON_FREE_DEFAULT_ON is not set\n"
ALWAYS_KNOWN = {"hostname", "kernel_release", "architecture", "page_size_bytes", "cpus"}


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def test_machine(system: FakeSystem) -> None:
    system.write("proc/meminfo", "MemTotal:        8123456 kB\nMemFree:  1 kB\nSwapTotal:     0 kB\n")
    system.write("proc/sys/kernel/random/boot_id", "4f7c-boot\n")
    system.write("proc/sys/vm/min_free_kbytes", "67584\n")
    system.write("proc/cmdline", "root=/dev/vda quiet\n")
    system.write(f"boot/config-{RELEASE}", DEBIAN)
    for node in range(2):
        system.folder(f"sys/devices/system/node/node{node}")
    system.folder("sys/devices/system/node/power")
    for name, text in (
        ("enabled", "always [madvise] never\n"),
        ("defrag", "always defer [defer+madvise] madvise never\n"),
        ("shmem_enabled", "always within_size advise [never] deny force\n"),
        ("hpage_pmd_size", "2097152\n"),
        ("khugepaged/max_ptes_none", "511\n"),
        ("hugepages-64kB/enabled", "[always] inherit madvise never\n"),
        ("hugepages-2048kB/enabled", "always [inherit] madvise never\n"),
    ):
        system.write(f"sys/kernel/mm/transparent_hugepage/{name}", text)
    machine = read_machine(system.root)
    assert machine["page_size_bytes"] == os.sysconf("SC_PAGE_SIZE")
    assert {name: value for name, value in machine.items() if name not in ALWAYS_KNOWN} == {
        "boot_id": "4f7c-boot",
        "memory_bytes": 8123456 * 1024,
        "swap_bytes": 0,
        "min_free_kbytes": 67584,
        "numa_nodes": 2,
        "init_on_alloc": True,
        "init_on_free": False,
        "page_poison": False,
        "thp_enabled": "madvise",
        "thp_defrag": "defer+madvise",
        "thp_shmem_enabled": "never",
        "khugepaged_max_ptes_none": 511,
        "thp_bytes": 2 << 20,
        "thp_sizes_bytes": [64 << 10, 2 << 20],
    }


def test_machine_that_tells_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert {name for name, value in machine.items() if value is not None} == ALWAYS_KNOWN


def test_the_kernel_s_own_copy_of_its_configuration_comes_first(system: FakeSystem) -> None:
    system.write("proc/cmdline", "quiet\n")
    (system.root / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_INIT_ON_FREE_DEFAULT_ON=y\n"))
    system.write(f"boot/config-{RELEASE}", DEBIAN)
    machine = read_machine(system.root)
    assert (machine["init_on_alloc"], machine["init_on_free"]) == (False, True)


def test_damaged_configuration_is_none(system: FakeSystem) -> None:
    system.write("proc/cmdline", "quiet\n")
    system.write("proc/config.gz", "no gzip")
    assert read_machine(system.root)["init_on_alloc"] is None


@pytest.mark.parametrize(
    ("command_line", "config", "decided"),
    [
        (None, DEBIAN, (None, None, None)),
        ("quiet", None, (None, None, False)),
        ("quiet", DEBIAN, (True, False, False)),
        ("init_on_alloc=0", DEBIAN, (False, False, False)),
        ("init-on-alloc=0 init_on_free=yes", None, (False, True, False)),
        ("init_on_alloc=0 init_on_alloc=on", None, (True, None, False)),
        # Words that make no sense change nothing, and what follows `--` is for init.
        ("init_on_alloc=0 init_on_alloc=maybe init_on_alloc", None, (False, None, False)),
        ("init_on_alloc=0 -- init_on_alloc=1", None, (False, None, False)),
        ('dyndbg="file a init_on_alloc=1" init_on_alloc=0', None, (False, None, False)),
        ("not_init_on_alloc=1", "", (False, False, False)),
        # Poisoning takes precedence, where the kernel was built with it.
        ("page_poison=1", DEBIAN + "CONFIG_PAGE_POISONING=y", (False, False, True)),
        ("page_poison=1", DEBIAN, (True, False, False)),
        ("page_poison=1 init_on_alloc=1 init_on_free=0", None, (None, False, None)),
        ("page_poison=off", DEBIAN, (True, False, False)),
    ],
)
def test_clearing_is_decided_as_the_kernel_does(
    command_line: str | None, config: str | None, decided: tuple[bool | None, ...]
) -> None:
    assert tuple(decide_initialisation(command_line, config).values()) == decided


@pytest.mark.parametrize(
    ("value", "meant"),
    [("1", True), ("Y", True), ("true", True), ("on", True), ("0", False), ("No", False), ("OFF", False),
     ("f", False), ("o", None), ("", None), ("2", None)],
)  # fmt: skip
def test_words_for_on_and_off(value: str, meant: bool | None) -> None:
    assert parse_switch(f"a=1 x={value} b", "x") is meant


# ---- as a report shows it ----


@pytest.mark.parametrize(
    ("machine", "line"),
    [
        (Machine(), ""),
        (Machine(cpus=2, memory_bytes=8 << 30), ""),
        (
            Machine(cpus=2, memory_bytes=8 << 30, swap_bytes=0, init_on_alloc=True, thp_enabled="always"),
            "2 CPUs, 8.00 GiB, no swap; init_on_alloc=1; THP always",
        ),
        (
            Machine(
                cpus=1, numa_nodes=2, swap_bytes=1 << 30, init_on_alloc=False, init_on_free=True,
                page_poison=False,
            ),
            "1 CPU, 2 NUMA nodes, 1.00 GiB of swap; init_on_alloc=0; init_on_free=1",
        ),
        (Machine(page_poison=True), "page_poison=1"),
    ],
)  # fmt: skip
def test_a_machine_in_one_line(machine: Machine, line: str) -> None:
    assert describe_machine(machine) == line


def test_reports_show_the_settings() -> None:
    described = metadata()["machine"]
    assert isinstance(described, dict)
    told = {"machine": {**described, "swap_bytes": 0, "init_on_alloc": True, "thp_enabled": "never"}}
    report = analyse(recording(typical_flow(), changes=told))
    line = "2 CPUs, 8.00 GiB, no swap; init_on_alloc=1; THP never"
    assert line in render_table(report).splitlines()
    assert report.header.machine.init_on_alloc is True
