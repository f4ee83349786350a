# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of a system built below a folder."""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fake_system import ALL_CAPABILITIES, FakeSystem

from balloontrace.system.kernel import (
    BalloonDevice,
    Symbol,
    read_balloon_devices,
    read_effective_capabilities,
    read_function_ranges,
    read_headers_path,
    read_layout,
    read_lockdown,
    read_module_srcversion,
    read_page_layout,
    read_symbols,
    read_vmstat,
)
from balloontrace.system.libbpf import BtfError, open_btf

CHUNK_BYTES = 1 << 20
STRUCT, UNION, ENUM = 4, 5, 6  # include/uapi/linux/btf.h


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def lay_out_symbols(root: Path, text: str) -> None:
    (root / "proc").mkdir()
    (root / "proc/kallsyms").write_text(text)


def found(root: Path, *names: str) -> list[tuple[str, int, str]]:
    return [(symbol.name, symbol.address, symbol.module) for symbol in read_symbols(names, root)]


# ---- kallsyms ----


@pytest.mark.parametrize(
    "suffix", ["", ".isra.0", ".constprop.0", ".part.0", ".cold", ".llvm.123", ".isra.0.cold", ".llvm.9.cold"]
)
def test_variants_are_found_with_their_suffix(tmp_path: Path, suffix: str) -> None:
    lay_out_symbols(tmp_path, f"ffffffffc0400010 t tell_host{suffix}\t[virtio_balloon]\n")
    (symbol,) = read_symbols(["tell_host"], tmp_path)
    assert symbol == Symbol(f"tell_host{suffix}", 0xFFFFFFFFC0400010, "virtio_balloon")
    assert (symbol.plain_name, symbol.suffix) == ("tell_host", suffix.removeprefix("."))


@pytest.mark.parametrize(
    "line",
    [
        "ffffffff81000010 t __pfx_tell_host",
        "ffffffff81000010 t __cfi_tell_host",
        "ffffffff81000010 t tell_hosts",
        "ffffffff81000010 t xtell_host",
        "ffffffff81000010 t tell_host_one_page",
        "ffffffff81000010 d tell_host",
        "ffffffff81000010 r tell_host",
        "ffffffff81000010 t other\t[tell_host]",
    ],
)
def test_what_only_looks_alike_is_not_found(tmp_path: Path, line: str) -> None:
    lay_out_symbols(tmp_path, f"{line}\nffffffff81000020 t plain\n")
    assert found(tmp_path, "tell_host", "plain") == [("plain", 0xFFFFFFFF81000020, "")]


@pytest.mark.parametrize("kind", "tTwW")
def test_every_kind_of_function_symbol_is_found(tmp_path: Path, kind: str) -> None:
    lay_out_symbols(tmp_path, f"ffffffff81000010 {kind} vp_get\n")
    assert found(tmp_path, "vp_get") == [("vp_get", 0xFFFFFFFF81000010, "")]


def test_equal_names_are_all_found_in_their_order(tmp_path: Path) -> None:
    lay_out_symbols(
        tmp_path,
        "ffffffff81a00010 t vp_get\nffffffff81a01010 t vp_get\n"
        "ffffffffc0400010 t tell_host\t[virtio_balloon]\nffffffffc0500010 t tell_host\t[other]\n",
    )
    assert found(tmp_path, "tell_host", "vp_get") == [
        ("vp_get", 0xFFFFFFFF81A00010, ""),
        ("vp_get", 0xFFFFFFFF81A01010, ""),
        ("tell_host", 0xFFFFFFFFC0400010, "virtio_balloon"),
        ("tell_host", 0xFFFFFFFFC0500010, "other"),
    ]


LINE = "ffffffffc0400010 t tell_host.isra.0\t[virtio_balloon]\n"


@pytest.mark.parametrize("ahead_bytes", range(len(LINE) + 2))
def test_a_line_across_the_border_of_two_pieces_is_found_once(tmp_path: Path, ahead_bytes: int) -> None:
    filler = "ffffffff81000000 t something_else\n"
    room_bytes = CHUNK_BYTES - ahead_bytes
    lines, rest = divmod(room_bytes, len(filler))
    before = filler * (lines - 1) + "f" * (rest + len(filler) - 1) + "\n"
    lay_out_symbols(tmp_path, before + LINE + filler)
    assert found(tmp_path, "tell_host") == [("tell_host.isra.0", 0xFFFFFFFFC0400010, "virtio_balloon")]


def test_a_last_line_without_its_end_is_found(tmp_path: Path) -> None:
    lay_out_symbols(tmp_path, "ffffffff81000010 t other\nffffffff81000020 t tell_host")
    assert found(tmp_path, "tell_host") == [("tell_host", 0xFFFFFFFF81000020, "")]


def test_hidden_addresses_are_zero(tmp_path: Path) -> None:
    lay_out_symbols(tmp_path, "0000000000000000 t tell_host\t[virtio_balloon]\n")
    assert found(tmp_path, "tell_host") == [("tell_host", 0, "virtio_balloon")]


def test_a_function_ends_where_the_next_symbol_begins(tmp_path: Path) -> None:
    FakeSystem(tmp_path).kallsyms(
        (
            "ffffffff81000010 T one",
            "ffffffff81000010 T its_other_name",
            "ffffffff81000070 t two",
            "0 T hidden",
        )
    )
    found = read_function_ranges(("one", "two", "hidden", "none"), tmp_path)
    assert found == {"one": (0xFFFFFFFF81000010, 0x60), "two": (0xFFFFFFFF81000070, 0)}


def test_no_kallsyms_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="kallsyms"):
        read_symbols(["tell_host"], tmp_path)


# ---- devices ----


def test_only_balloons_are_devices_and_by_index(system: FakeSystem) -> None:
    system.device("virtio10", 5, (), driver=None)
    system.device("virtio0", 2, (32,), driver="virtio_blk")
    assert read_balloon_devices(system.root) == (
        BalloonDevice("virtio3", (1, 32), "virtio_balloon"),
        BalloonDevice("virtio10", (), None),
    )


def test_features_have_their_mainline_names(system: FakeSystem) -> None:
    system.device("virtio3", 5, (0, 1, 2, 3, 4, 5, 28, 29, 32, 34, 40, 50), driver="virtio_balloon")
    (device,) = read_balloon_devices(system.root)
    assert device.index == 3
    assert device.feature_names == (
        "MUST_TELL_HOST", "STATS_VQ", "DEFLATE_ON_OOM", "FREE_PAGE_HINT", "PAGE_POISON", "REPORTING",
        "RING_INDIRECT_DESC", "RING_EVENT_IDX", "VERSION_1", "RING_PACKED", "RING_RESET", "BIT_50",
    )  # fmt: skip


def test_a_machine_without_virtio_has_no_devices(tmp_path: Path) -> None:
    assert read_balloon_devices(tmp_path) == ()


# ---- the rest ----


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("[none] integrity confidentiality\n", "none"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("", None),
    ],
)
def test_lockdown(system: FakeSystem, text: str, mode: str | None) -> None:
    system.write("sys/kernel/security/lockdown", text)
    assert read_lockdown(system.root) == mode


def test_a_kernel_without_lockdown(tmp_path: Path) -> None:
    """Securityfs is there, the file is not."""
    FakeSystem(tmp_path).write("sys/kernel/security/lsm", "capability\n")
    (tmp_path / "sys/kernel/security/lockdown").unlink()
    assert read_lockdown(tmp_path) == "none"


def test_lockdown_that_cannot_be_read_is_not_none(tmp_path: Path) -> None:
    assert read_lockdown(tmp_path) is None
    (tmp_path / "sys/kernel/security").mkdir(parents=True)  # nothing mounted there
    assert read_lockdown(tmp_path) is None
    (tmp_path / "sys/kernel/security/lockdown").mkdir()  # unreadable, even for root
    assert read_lockdown(tmp_path) is None


@pytest.mark.parametrize(
    ("number", "mask", "mode"),
    [
        (errno.EPERM, ALL_CAPABILITIES, "confidentiality"),
        (errno.EPERM, ALL_CAPABILITIES & ~(1 << 17), None),  # refused to this user anyway
        (errno.EACCES, ALL_CAPABILITIES, None),  # by a security module
        (errno.ENOENT, ALL_CAPABILITIES, None),
        (0, ALL_CAPABILITIES, None),  # could be integrity
    ],
)
def test_without_securityfs_confidentiality_is_known_by_what_it_refuses(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch, number: int, mask: int, mode: str | None
) -> None:
    (system.root / "sys/kernel/security/lockdown").unlink()
    system.capabilities(mask)
    opened = system.write("proc/kcore", "")

    def open_(path: Path, flags: int, open_file: Callable[..., int] = os.open) -> int:
        if number and path == opened:
            raise OSError(number, os.strerror(number))
        return open_file(path, flags)

    monkeypatch.setattr("balloontrace.system.kernel.os.open", open_)
    assert read_lockdown(system.root) == mode


def test_capabilities_are_the_effective_ones(system: FakeSystem) -> None:
    system.write(
        "proc/self/status", "CapInh:\t0000000000000001\nCapEff:\t00000000a80425fb\nCapBnd:\t000001ff\n"
    )
    assert read_effective_capabilities(system.root) == 0xA80425FB
    assert read_effective_capabilities(system.root / "nowhere") == 0


def test_headers_of_this_very_kernel(system: FakeSystem) -> None:
    release = platform.release()
    assert read_headers_path(system.root) == system.root / f"lib/modules/{release}/build"
    assert read_headers_path(system.root, "9.9.9-other") is None


def test_a_dangling_link_to_headers_is_no_headers(tmp_path: Path) -> None:
    (tmp_path / "lib/modules/6.12.0").mkdir(parents=True)
    (tmp_path / "lib/modules/6.12.0/build").symlink_to("/usr/src/linux-headers-that-were-removed")
    assert read_headers_path(tmp_path, "6.12.0") is None


def test_headers_inside_the_kernel(tmp_path: Path) -> None:
    archive = tmp_path / "sys/kernel/kheaders.tar.xz"
    archive.parent.mkdir(parents=True)
    archive.touch()
    assert read_headers_path(tmp_path) == archive


def test_vmstat_is_the_balloon_s_part(system: FakeSystem) -> None:
    expected = {"balloon_inflate": 7, "balloon_deflate": 5, "balloon_migrate": 0}
    assert read_vmstat(system.root) == expected
    assert read_vmstat(system.root / "nowhere") == {}


def test_srcversion(system: FakeSystem) -> None:
    system.write("sys/module/virtio_balloon/srcversion", "0123456789ABCDEF\n")
    assert read_module_srcversion("virtio_balloon", system.root) == "0123456789ABCDEF"
    assert read_module_srcversion("other", system.root) is None


def btf(types: Sequence[tuple[int, str, tuple[tuple[str, int, int], ...]]], base: bytes = b"") -> bytes:
    """Type information in this machine's byte order: types by kind, name and members (name, type, bytes).

    That of a module stands on `base`, whose numbers and names it goes on from.
    """
    names, numbers = b"\0", b""
    base_names_bytes = struct.unpack_from("=I", base, 20)[0] if base else 0

    def at(name: str) -> int:
        nonlocal names
        if not name:
            return 0
        names += name.encode() + b"\0"
        return base_names_bytes + len(names) - len(name) - 1

    for kind, name, members in types:
        numbers += struct.pack("=III", at(name), kind << 24 | len(members), 64 if kind != ENUM else 4)
        for member, kind_of_it, offset in members:
            if kind == ENUM:
                numbers += struct.pack("=II", at(member), offset)
            else:
                numbers += struct.pack("=III", at(member), kind_of_it, offset * 8)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(numbers), len(numbers), len(names))
    return header + numbers + names


def test_members_of_nameless_structures_and_enumerators(tmp_path: Path) -> None:
    flags = (ENUM, "pageflags", (("PG_locked", 0, 0), ("PG_uptodate", 0, 3), ("PG_lru", 0, 5)))
    types = [
        (STRUCT, "", (("lru", 5, 0), ("mapping", 5, 16))),
        (UNION, "", (("", 1, 0), ("private", 5, 8))),
        (STRUCT, "folio", (("flags", 5, 0), ("", 2, 8), ("_mapcount", 5, 48), ("_refcount", 5, 52))),
        flags,
        (STRUCT, "other", ()),
    ]
    folder = tmp_path / "sys/kernel/btf"
    folder.mkdir(parents=True)
    (folder / "vmlinux").write_bytes(btf(types))
    with open_btf(tmp_path) as found:
        assert found.struct_members("folio") == {
            "flags": 0, "lru": 8, "mapping": 24, "private": 16, "_mapcount": 48, "_refcount": 52,
        }  # fmt: skip
        assert found.enumerators("pageflags") == {"PG_locked": 0, "PG_uptodate": 3, "PG_lru": 5}
        assert (found.struct_members("page"), found.enumerators("others")) == (None, {})
    assert read_page_layout(tmp_path) == {}  # one flag is not known
    types[3] = (ENUM, "pageflags", (*flags[2], ("PG_swapbacked", 0, 17)))
    (folder / "vmlinux").write_bytes(btf(types))
    assert read_page_layout(tmp_path) == {
        "FOLIO_FLAGS": 0, "FOLIO_MAPPING": 24, "FOLIO__MAPCOUNT": 48, "FOLIO__REFCOUNT": 52,
        "PG_LRU": 5, "PG_UPTODATE": 3, "PG_SWAPBACKED": 17,
    }  # fmt: skip


def test_the_types_of_a_module_come_before_those_of_the_kernel(tmp_path: Path) -> None:
    kernel = btf([(STRUCT, "shared", (("first", 1, 0),)), (STRUCT, "only_kernel", (("second", 1, 8),))])
    module = btf([(STRUCT, "shared", (("third", 1, 16),)), (STRUCT, "own", (("fourth", 2, 24),))], kernel)
    folder = tmp_path / "sys/kernel/btf"
    folder.mkdir(parents=True)
    (folder / "vmlinux").write_bytes(kernel)
    (folder / "driver").write_bytes(module)
    with open_btf(tmp_path, "driver") as found:
        assert found.struct_members("shared") == {"third": 16}
        assert found.struct_members("own") == {"fourth": 24}
        assert found.struct_members("only_kernel") == {"second": 8}
        assert found.struct_members("nowhere") is None
        assert not found.has_function("own")


@pytest.mark.parametrize("content", [None, b"", b"\x9f\xeb\x01\x00 not type information"])
def test_missing_or_damaged_type_information_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "sys/kernel/btf").mkdir(parents=True)
        (tmp_path / "sys/kernel/btf/vmlinux").write_bytes(content)
    layout = read_layout("virtio_balloon", ["tell_host"], tmp_path)
    assert (layout.offsets, layout.functions, layout.source) == ({}, frozenset(), "none")
    assert layout.get("virtio_balloon", "num_pages") is None
    assert layout.problem is not None
    assert "\n" not in layout.problem
    with pytest.raises(BtfError), open_btf(tmp_path):
        pass
