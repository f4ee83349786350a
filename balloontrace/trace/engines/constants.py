# SPDX-License-Identifier: GPL-2.0-or-later
"""What a prebuilt object leaves open, and how: a mark stands in its instructions where a value belongs.

bcc is told the same by -D before it compiles. Read by whatever compiles the objects, and by what loads them.
"""

from __future__ import annotations

MARK = 0x6274636E
"""The upper half of a 64-bit immediate that is to be replaced; the lower half is a name's place in NAMES."""

SLOT_CONSTANTS = (
    "FILE_PRIVATE_DATA",
    "KVM_MEMSLOTS",
    "KVM_MEMSLOTS_NODE_IDX",
    "KVM_MEMSLOTS_ID_HASH",
    "KVM_MEMORY_SLOT_ID_NODE",
    "KVM_MEMORY_SLOT_USERSPACE_ADDR",
    "KVM_MEMORY_SLOT_NPAGES",
    "KVM_MEMORY_SLOT_BASE_GFN",
)
"""Offsets that lead from the file of a VM to KVM's memory slots."""

NAMES = (
    # The guest: offsets of members in bytes, -1 where unknown.
    "VIRTIO_BALLOON_VDEV",
    "VIRTIO_BALLOON_NUM_PFNS",
    "VIRTIO_BALLOON_PFNS",
    "VIRTIO_BALLOON_RESP_DATA",
    "VIRTIO_BALLOON_RESP_POS",
    "VIRTIO_BALLOON_NR_PAGE_BMAP",
    "VIRTIO_BALLOON_MIN_PFN",
    "VIRTIO_BALLOON_MAX_PFN",
    "VIRTIO_BALLOON_NUM_PAGES",
    "VIRTIO_BALLOON_UPDATE_BALLOON_SIZE_WORK",
    "VIRTIO_BALLOON_UPDATE_BALLOON_STATS_WORK",
    "VIRTIO_BALLOON_VB_DEV_INFO",
    "VIRTIO_BALLOON_OOM_NB",
    "VIRTIO_BALLOON_PR_DEV_INFO",
    "VIRTIO_BALLOON_REPORT_FREE_PAGE_WORK",
    "VIRTIO_BALLOON_CMD_ID_ACTIVE",
    "VIRTIO_BALLOON_CMD_ID_RECEIVED_CACHE",
    "VIRTIO_BALLOON_NUM_FREE_PAGE_BLOCKS",
    "VIRTIO_BALLOON_SHRINKER",
    "SHRINKER_PRIVATE_DATA",
    "VIRTQUEUE_INDEX",
    "VIRTQUEUE_VDEV",
    "VIRTIO_DEVICE_INDEX",
    "TASK_STRUCT_SCHED_INFO",
    "SCHED_INFO_RUN_DELAY",
    "SCATTERLIST_PAGE_LINK",
    "SCATTERLIST_LENGTH",
    "SCATTERLIST_END",
    "PAGE_END",
    "UNIT_PAGES",  # 4 KiB units in a page of this kernel
    "HINT_BLOCK_PAGES",  # 4 KiB units in a block of free page hinting; 0: unknown
    "PAYLOAD_RING_PAGES",  # room for payloads; 0: they are not captured
    "SPLIT_ALLOCATION",  # whether allocating is told in parts
    "FILL_BALLOON_TRACED",  # whether it is fill_balloon that allocates
    # Whether a function's arguments are what its source says.
    "TELL_HOST_ARGUMENTS",
    "SEND_RESP_DATA_ARGUMENTS",
    "SET_PAGE_BITMAP_ARGUMENTS",
    "VIRTBALLOON_FREE_PAGE_REPORT_ARGUMENTS",
    # The host: bytes of a page if what becomes free is counted, and where a page says so.
    "COUNT_FREED",
    "FOLIO_FLAGS",
    "FOLIO__REFCOUNT",
    "FOLIO__MAPCOUNT",
    "FOLIO_MAPPING",
    "PG_UPTODATE",
    "PG_SWAPBACKED",
    "PG_LRU",
    *SLOT_CONSTANTS,
    # Where calls are sampled: where the kernel's way into them and back lies.
    "CALL_ENTRY",
    "CALL_ENTRY_BYTES",
    "CALL_TABLE",
    "CALL_TABLE_BYTES",
    "CALL_EXIT",
    "CALL_EXIT_BYTES",
    # Under lockdown: the number of the type that everything read is taken for.
    "READ_TYPE",
)


SAMPLE_PERIOD_NS = 809_023
"""Between samples of a thread that serves a buffer. Nothing that repeats itself may keep in step with it.

Kernels tick each 1, 4 or 10 ms: so it is prime, and near half the golden ratio, which no fraction of
small numbers comes close to.
"""


def c_definitions() -> dict[str, str]:
    """Each name as a mark, for the compiler, and what no kernel changes as a number."""
    marks = {name: f"CONSTANT({MARK << 32 | number}LL)" for number, name in enumerate(NAMES)}
    return {**marks, "SAMPLE_PERIOD_NS": f"{SAMPLE_PERIOD_NS}"}
