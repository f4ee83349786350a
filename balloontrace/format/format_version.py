# SPDX-License-Identifier: GPL-2.0-or-later
"""The version of recordings, major and minor, and what each minor version brought."""

from __future__ import annotations

# A new minor version may add piece types, JSON keys and span fields, all of which an older reader skips; a
# new major version is one that an older reader must refuse.
#   1.0  META, SPAN, CNTR, ENDR
#   1.1  PAYL with `payload_layout`; span fields bytes, passes, bitmaps; BTCH with `batch_layout`
#   1.2  DRVR; end: vmstat_traced, under_way_pages; SPAN, PAYL and BTCH of 4 KiB instead of 64
#        `balloons` at start and end: size and target of each, as its device has them
#        `machine` tells swap, clearing of pages, huge pages, NUMA nodes and vm.min_free_kbytes
#        host: `freed_counts`, freed_bytes in its sums, hugetlb_bytes of its memory
#   1.3  span fields flags and function of 16 bits, config_calls too
#   1.4  counters and losses: summed, summed_ns, summed_pages of calls without a span of their own
#   1.5  spans of page reports, with blocks and orders in place of fields that these have not; of the cycles
#        around them; `page_reporting`: from which order on, and after which delay
#   1.5  spans of freeze, restore and removal, and of statistics; sends have actual_pages; `virtio_mem`
#   1.5  SMPL with `sampled_layout` and `sampling`
#   1.5  spans of free page hinting, with `struct bt_hint` in place of the same fields; `page_hinting`: the
#        order of its blocks
#   1.5  batches: kicked_by, file; `files` at start and end: names of those open, by descriptor
#   1.6  PAYL: of page reports too, their blocks as `struct bt_block`
#   1.6  READ: readings of the machine, before, while and after something moved
#   1.6  batches: address; of the host's side `regions` at start and end, readings of the process
#   1.6  host: `memory_slots` at start and end: addresses that are the guest's memory
#   1.6  host: `eventfds` at the end: how often each was read, and when the last times
#   1.6  span field wait_ns, of sends and reports (ACK) or work items (RUN_DELAY); counters for 32 functions
#   1.6  SMPL: thp_splits, where its probe is attached
#   1.6  spans of allocation_parts: what a work item did while it allocated, one for each part in `queue`, as
#        often as `pages` says; they have the work item's start
#   1.6  `parts_of_a`: the kinds of operations of which such parts are all that there were
#   1.6  host: PROC, PCTR, batch field `process`; `is_of_many` of its metadata, which has no `process` then
#   1.6  READ, host: `partly_mapped_bytes`
#   1.6  READ, host: `collapsed`, huge pages that khugepaged made; `merged_pages`, by KSM; `swap`
#        `machine` tells khugepaged_max_ptes_none, thp_bytes, thp_sizes_bytes
#   1.6  SMPL: discards, discarded_bytes, where `sampling` has `discards_by`
FORMAT_VERSION = (1, 6)
