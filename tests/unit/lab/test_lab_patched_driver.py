# SPDX-License-Identifier: GPL-2.0-or-later
"""What is built from lab/driver/ has a name of its own per source, and free memory is read right."""

from __future__ import annotations

import lzma
import re
import shutil
import struct
from pathlib import Path

import pytest

from lab.aging import free_pages, parse_buddyinfo, share_in_small_blocks
from lab.errors import LabError
from lab.patched_driver import SOURCES, DriverFiles, build_command, copy_out, driver_key, unpack_vmlinuz

BUDDYINFO = """\
Node 0, zone      DMA      1      0      0      0      2
Node 0, zone    DMA32     30      5      7      0      1
"""


def copy_sources(folder: Path) -> Path:
    shutil.copytree(SOURCES, folder)
    return folder


def test_key_is_the_same_for_the_same_sources(tmp_path: Path) -> None:
    assert driver_key(copy_sources(tmp_path / "copy")) == driver_key()


@pytest.mark.parametrize("name", sorted(path.name for path in SOURCES.iterdir()))
def test_key_changes_with_every_source_but_not_with_the_readme(tmp_path: Path, name: str) -> None:
    sources = copy_sources(tmp_path / "copy")
    (sources / name).write_bytes((sources / name).read_bytes() + b"\n")
    assert (driver_key(sources) == driver_key()) == (name == "README.md")


def test_both_modules_have_the_stock_drivers_name(tmp_path: Path) -> None:
    files = DriverFiles(tmp_path)
    modules = {files.module(), files.module(btf=False)}
    assert len(modules) == 2
    assert {module.name for module in modules} == {"virtio_balloon.ko"}


def test_copying_out_of_what_is_no_file_system_says_so(tmp_path: Path) -> None:
    (tmp_path / "root.ext4").write_bytes(b"no file system")
    with pytest.raises(LabError, match="/usr/bin"):
        copy_out(tmp_path / "root.ext4", tmp_path / "tree")


def test_build_runs_in_namespaces_of_its_own(tmp_path: Path) -> None:
    assert {"setpriv", "unshare", "--mount"} <= set(build_command(tmp_path / "a folder", "6.12"))
    assert "cd '" in build_command(tmp_path / "a folder", "6.12")[-1]


def test_buddyinfo() -> None:
    blocks = parse_buddyinfo(BUDDYINFO)
    assert blocks == (31, 5, 7, 0, 3)
    assert free_pages(blocks) == 31 + 10 + 28 + 48
    assert share_in_small_blocks(blocks) == pytest.approx(69 / 117)
    assert share_in_small_blocks((0, 0, 0, 0, 0)) == 0


def test_the_struct_has_the_members_tracers_look_for() -> None:
    source = (SOURCES / "virtio_balloon.c").read_text()
    (body,) = re.findall(r"^struct virtio_balloon \{\n(.*?)^\};", source, re.MULTILINE | re.DOTALL)
    members = (
        "resp_hdr",
        "resp_data",
        "resp_pos",
        "page_bitmap",
        "nr_page_bmap",
        "min_pfn",
        "num_pfns",
        "pfns",
    )
    for member in members:
        assert re.search(rf"\b{member}\b", body), member


def test_a_kernel_is_unpacked_where_python_can() -> None:
    packed = lzma.compress(b"\x7fELF of types", check=lzma.CHECK_CRC32)
    header = bytearray(1024)
    header[0x1F1] = 1
    struct.pack_into("<II", header, 0x248, 16, len(packed))
    assert unpack_vmlinuz(bytes(header) + bytes(16) + packed + b"rest") == b"\x7fELF of types"
    assert unpack_vmlinuz(bytes(header) + bytes(16) + b"\x28\xb5\x2f\xfd zstd") == b""
