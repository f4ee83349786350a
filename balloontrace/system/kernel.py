# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of the running system: symbols, balloon devices, structure layouts, and the like.

Everything is read below an injectable root path, so that a test can lay out a system of its own.
"""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from balloontrace.errors import UsageError
from balloontrace.system.libbpf import BtfError, open_btf

ROOT = Path("/")
KVM_MODULE = "kvm"

_CAP_SYS_RAWIO = 17

_VIRTIO_ID_BALLOON = 5  # include/uapi/linux/virtio_ids.h
_VIRTIO_ID_MEM = 24
_KALLSYMS_CHUNK_BYTES = 1 << 20

# include/uapi/linux/virtio_balloon.h and virtio_config.h; bit 3 is listed by its mainline name and means
# something else to a driver with the page-bitmap patch.
FEATURE_NAMES = {
    0: "MUST_TELL_HOST",
    1: "STATS_VQ",
    2: "DEFLATE_ON_OOM",
    3: "FREE_PAGE_HINT",
    4: "PAGE_POISON",
    5: "REPORTING",
    24: "NOTIFY_ON_EMPTY",
    27: "ANY_LAYOUT",
    28: "RING_INDIRECT_DESC",
    29: "RING_EVENT_IDX",
    32: "VERSION_1",
    33: "ACCESS_PLATFORM",
    34: "RING_PACKED",
    35: "IN_ORDER",
    36: "ORDER_PLATFORM",
    38: "NOTIFICATION_DATA",
    40: "RING_RESET",
}


@dataclass(frozen=True, order=True)
class Symbol:
    """A line of kallsyms that may be a probe point."""

    name: str  # as kallsyms spells it, suffix included
    address: int  # 0 when kptr_restrict hides it
    module: str  # "" for the kernel image

    @property
    def plain_name(self) -> str:
        """The name without compiler suffixes: `tell_host` of `tell_host.isra.0`."""
        return self.name.split(".", 1)[0]

    @property
    def suffix(self) -> str:
        """The compiler's suffix without the dot: `isra.0`, or empty."""
        return self.name.partition(".")[2]


@dataclass(frozen=True)
class BalloonDevice:
    """A virtio balloon this kernel has found."""

    name: str  # virtioN
    feature_bits: tuple[int, ...]  # negotiated, as sysfs shows them
    driver: str | None  # bound driver, None when unbound

    @property
    def index(self) -> int:
        """N of virtioN."""
        return int(self.name.removeprefix("virtio"))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Feature bits by their mainline names, `BIT_n` when there is none."""
        return tuple(FEATURE_NAMES.get(bit, f"BIT_{bit}") for bit in self.feature_bits)


@dataclass(frozen=True)
class Layout:
    """Byte offsets of the structure members the programs read, by `struct.member`; absent means unknown."""

    offsets: dict[str, int] = field(default_factory=dict)
    functions: frozenset[str] = frozenset()  # those asked for that the driver's BTF describes
    source: str = "none"  # where they come from
    problem: str | None = None  # why some are unknown, one sentence

    def get(self, struct: str, member: str) -> int | None:
        """Offset of `struct.member`, None when unknown."""
        return self.offsets.get(f"{struct}.{member}")

    def overruled(self, offsets: Mapping[str, int]) -> Layout:
        """The same with `offsets` that somebody knows better."""
        if not offsets:
            return self
        source = "command line" if self.source == "none" else f"{self.source} and command line"
        return replace(self, offsets={**self.offsets, **offsets}, source=source)


# What the BPF programs read; the last line is of the page-bitmap driver only.
_DRIVER_MEMBERS = (
    "vdev", "num_pages", "num_pfns", "pfns", "update_balloon_size_work", "update_balloon_stats_work",
    "vb_dev_info", "oom_nb", "pr_dev_info", "report_free_page_work", "cmd_id_active", "cmd_id_received_cache",
    "num_free_page_blocks", "shrinker",
    "resp_data", "resp_pos", "nr_page_bmap", "min_pfn", "max_pfn",
)  # fmt: skip
_SLOT_MEMBERS = {
    "file": ("private_data",),
    "kvm": ("memslots",),
    "kvm_memslots": ("node_idx", "id_hash"),
    "kvm_memory_slot": ("id_node", "userspace_addr", "npages", "base_gfn"),
}
# Read through the helper that gives the current thread with its type; before Linux 5.11 there is none.
_TASK_HELPER = ("bpf_func_id", "BPF_FUNC_get_current_task_btf")
_TASK_MEMBERS = {"task_struct": ("sched_info",), "sched_info": ("run_delay",)}
_KERNEL_MEMBERS = {
    "virtqueue": ("index", "vdev"),
    "virtio_device": ("index",),
    "scatterlist": ("page_link", "length"),
    "shrinker": ("private_data",),
    **_TASK_MEMBERS,
}
_ONE_AFTER_ANOTHER = ("scatterlist", "page")


# What shows what a page is and who uses it; before v5.16 there were no folios.
_PAGE_MEMBERS = ("flags", "mapping", "_mapcount", "_refcount")
_PAGE_FLAGS = ("PG_lru", "PG_uptodate", "PG_swapbacked")
_PAGE_STRUCTS = ("folio", "page")

KNOWN_MEMBERS = (
    *(f"virtio_balloon.{name}" for name in _DRIVER_MEMBERS),
    *(f"{struct}.{name}" for struct, names in _KERNEL_MEMBERS.items() for name in names),
    *(f"{struct}.end" for struct in _ONE_AFTER_ANOTHER),
)
"""Every `struct.member` whose offset the BPF programs can make use of; at `end` the next one begins."""

_MAX_OFFSET_BYTES = 1 << 20


def parse_offsets(text: str) -> dict[str, int]:
    """Offsets written as `virtio_balloon.pfns=316,virtio_balloon.num_pfns=0x138`; UsageError if not."""
    offsets = {}
    for pair in text.split(","):
        name, _, number = (part.strip() for part in pair.partition("="))
        if name not in KNOWN_MEMBERS:
            raise UsageError(
                f"{name or 'an empty name'} is none of the members needed: {', '.join(KNOWN_MEMBERS)}"
            )
        try:
            offsets[name] = int(number, 0)
        except ValueError:
            raise UsageError(
                f"{name} takes a number of bytes, such as 316 or 0x13c, not {number!r}"
            ) from None
        if not 0 <= offsets[name] < _MAX_OFFSET_BYTES:
            raise UsageError(f"no structure has a member at byte {number} ({name})")
    return offsets


def read_text(path: Path) -> str | None:
    """A small file of the kernel's; None where there is none or it may not be read."""
    try:
        return path.read_bytes().decode()
    except OSError:
        return None


def _symbol_lines(path: Path, names: Iterable[str]) -> Iterator[re.Match[bytes]]:
    """Matching lines of kallsyms, read in pieces: the whole is some 10 MB, too much for a squeezed guest."""
    alternatives = b"|".join(re.escape(name.encode()) for name in sorted(set(names)))
    # Finding the name first and the line around it second takes a tenth of the time of matching every line.
    name = re.compile(rb" (?:" + alternatives + rb")[.\t\n]")
    line = re.compile(rb"([0-9a-f]+) [tTwW] ((?:" + alternatives + rb")(?:\.[\w.]+)?)(?:\t\[(\w+)\])?\n")
    with path.open("rb", buffering=0) as stream:
        rest = b""
        at_end = False
        while not at_end:
            piece = stream.read(_KALLSYMS_CHUNK_BYTES)
            at_end = not piece
            text = rest + (piece or b"\n")  # the end of the file ends a line too
            end = text.rfind(b"\n") + 1
            for found in name.finditer(text, 0, end):
                whole = line.match(text, text.rfind(b"\n", 0, found.start()) + 1)
                if whole:
                    yield whole
            rest = text[end:]


def read_symbols(names: Iterable[str], root: Path = ROOT) -> tuple[Symbol, ...]:
    """Every function symbol whose plain name is one of `names`, in kallsyms' order, variants included.

    Raises OSError when kallsyms cannot be read.
    """
    return tuple(
        Symbol(match[2].decode(), int(match[1], 16), (match[3] or b"").decode())
        for match in _symbol_lines(root / "proc/kallsyms", names)
    )


def read_function_ranges(names: Iterable[str], root: Path = ROOT) -> dict[str, tuple[int, int]]:
    """Address and size of functions of the kernel image, by name; without those that are hidden or not there.

    A function ends where the next symbol begins. Raises OSError when kallsyms cannot be read.
    """
    text = (root / "proc/kallsyms").read_bytes()
    ranges = {}
    for name in names:
        found = re.search(rb"^([0-9a-f]+) [tT] " + re.escape(name.encode()) + rb"\n", text, re.MULTILINE)
        address = int(found[1], 16) if found else 0
        if found and address:
            following = (
                int(line[1], 16) for line in re.finditer(rb"([0-9a-f]+) .*\n", text[found.end() :][:4096])
            )
            end = next((place for place in following if place > address), address)
            ranges[name] = address, end - address
    return ranges


def _virtio_devices(virtio_id: int, root: Path) -> Iterator[Path]:
    for path in (root / "sys/bus/virtio/devices").glob("virtio*"):
        text = read_text(path / "device")
        if text is not None and int(text, 16) == virtio_id:
            yield path


def read_virtio_mem_devices(root: Path = ROOT) -> tuple[str, ...]:
    """The devices of this system that plug and unplug memory, by name."""
    return tuple(sorted(path.name for path in _virtio_devices(_VIRTIO_ID_MEM, root)))


def read_balloon_devices(root: Path = ROOT) -> tuple[BalloonDevice, ...]:
    """The virtio balloons of this system, by index."""
    devices = []
    for path in _virtio_devices(_VIRTIO_ID_BALLOON, root):
        features = (read_text(path / "features") or "").strip()
        driver = path / "driver"
        devices.append(
            BalloonDevice(
                path.name,
                tuple(bit for bit, char in enumerate(features) if char == "1"),
                driver.resolve().name if driver.exists() else None,
            )
        )
    return tuple(sorted(devices, key=lambda device: device.index))


def read_layout(module: str, functions: Iterable[str] = (), root: Path = ROOT) -> Layout:
    """Offsets of what the programs read, from the BTF of `module` ("": built in) and vmlinux.

    `functions` are looked up in the driver's BTF too.
    """
    offsets: dict[str, int] = {}
    try:
        with open_btf(root) as btf:
            enum, helper = _TASK_HELPER
            left_out = set() if helper in btf.enumerators(enum) else set(_TASK_MEMBERS)
            for struct, members in _KERNEL_MEMBERS.items():
                if struct in left_out:
                    continue
                offsets.update(_named_offsets(struct, btf.struct_members(struct), members))
            sizes_bytes = {struct: btf.struct_bytes(struct) for struct in _ONE_AFTER_ANOTHER}
            offsets.update({f"{struct}.end": size for struct, size in sizes_bytes.items() if size})
        with open_btf(root, module) as btf:
            offsets.update(
                _named_offsets("virtio_balloon", btf.struct_members("virtio_balloon"), _DRIVER_MEMBERS)
            )
            known = frozenset(name for name in functions if btf.has_function(name))
    except BtfError as error:
        return Layout(offsets, source="btf" if offsets else "none", problem=str(error))
    return Layout(offsets, known, source="btf")


def read_page_layout(root: Path = ROOT) -> dict[str, int]:
    """Members of pages by offset, as FOLIO_MEMBER, and their flags by bit; empty unless all are known."""
    try:
        with open_btf(root) as btf:
            flags = btf.enumerators("pageflags")
            found = [btf.struct_members(struct) for struct in _PAGE_STRUCTS]
    except BtfError:
        return {}
    members = next((each for each in found if each), {})
    known = {f"FOLIO_{name.upper()}": members[name] for name in _PAGE_MEMBERS if name in members}
    known |= {name.upper(): flags[name] for name in _PAGE_FLAGS if name in flags}
    return known if len(known) == len(_PAGE_MEMBERS) + len(_PAGE_FLAGS) else {}


def read_slot_layout(root: Path = ROOT) -> dict[str, int]:
    """Members that lead from the file of a VM to KVM's memory slots, by offset as KVM_MEMSLOTS_ID_HASH.

    Empty unless all are known: before Linux 5.17 slots are kept otherwise.
    """
    for module in (KVM_MODULE, ""):  # the latter where it is built in
        with suppress(BtfError), open_btf(root, module) as btf:
            structs = {struct: btf.struct_members(struct) or {} for struct in _SLOT_MEMBERS}
            wanted = [(struct, name) for struct, names in _SLOT_MEMBERS.items() for name in names]
            if all(name in structs[struct] for struct, name in wanted):
                return {f"{struct}_{name}".upper(): structs[struct][name] for struct, name in wanted}
    return {}


def _named_offsets(struct: str, members: dict[str, int] | None, wanted: Iterable[str]) -> dict[str, int]:
    return {f"{struct}.{name}": members[name] for name in wanted if members and name in members}


def read_vmstat(root: Path = ROOT, *, prefix: str | tuple[str, ...] = "balloon_") -> dict[str, int]:
    """Counters of /proc/vmstat since boot that begin so, those of the balloon in pages of PAGE_SIZE.

    Empty where there are none.
    """
    text = read_text(root / "proc/vmstat") or ""
    pairs = (line.split() for line in text.splitlines() if line.startswith(prefix))
    return {name: int(value) for name, value in pairs}


def read_lockdown(root: Path = ROOT) -> str | None:
    """The kernel's lockdown mode: none, integrity or confidentiality; None when it is not known.

    A mounted securityfs without the file is a kernel without lockdown. Without securityfs confidentiality is
    known by what it refuses.
    """
    folder = root / "sys/kernel/security"
    text = read_text(folder / "lockdown")
    if text is not None:
        selected = re.search(r"\[(\w+)\]", text)
        return selected[1] if selected else None
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        names = set()
    if names and "lockdown" not in names:
        return "none"
    return "confidentiality" if _refuses_memory(root) else None


def _refuses_memory(root: Path) -> bool:
    """Whether the kernel's memory is kept from who may read it (open_kcore in fs/proc/kcore.c)."""
    if not read_effective_capabilities(root) >> _CAP_SYS_RAWIO & 1:
        return False
    try:
        os.close(os.open(root / "proc/kcore", os.O_RDONLY))
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def is_confidential(root: Path = ROOT) -> bool:
    """Whether BPF programs may not copy memory of the kernel: only what has a type can be read."""
    return read_lockdown(root) == "confidentiality"


def read_headers_path(root: Path = ROOT, release: str | None = None) -> Path | None:
    """Where bcc will find this kernel's headers, None when it will not."""
    build = root / "lib/modules" / (release or platform.release()) / "build"
    if (build / "include").exists():
        return build
    archive = root / "sys/kernel/kheaders.tar.xz"
    return archive if archive.exists() else None


def read_effective_capabilities(root: Path = ROOT) -> int:
    """The capability mask of this process."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", read_text(root / "proc/self/status") or "", re.MULTILINE)
    return int(match[1], 16) if match else 0


def read_page_reporting(root: Path = ROOT) -> dict[str, int | None]:
    """From which order on free blocks are reported, and after which delay; None where it is not shown."""
    folder = root / "sys/module/page_reporting/parameters"
    names = {"order": "page_reporting_order", "delay_ms": "page_reporting_delay_ms"}
    texts = {what: (read_text(folder / name) or "").strip() for what, name in names.items()}
    return {what: int(text) if text.isdecimal() else None for what, text in texts.items()}


def read_highest_order(root: Path = ROOT) -> int | None:
    """The order of the kernel's largest free blocks, by the columns of /proc/buddyinfo; None without one."""
    zone = re.match(r"Node +\d+, zone +\S+((?: +\d+)+)", read_text(root / "proc/buddyinfo") or "")
    return len(zone[1].split()) - 1 if zone else None


def read_module_srcversion(module: str, root: Path = ROOT) -> str | None:
    """The hash of a module's sources, which tells two builds of one driver apart; "" is built in."""
    if not module:
        return None
    text = read_text(root / "sys/module" / module / "srcversion")
    return text.strip() if text else None
