/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the calls of the traced process freed, counted where the kernel frees it. Part of host.bpf.c, which has find_thread;
 * calls end in add_result there. COUNT_FREED is the bytes of a page, or 0 where nothing is counted.
 */
#ifndef HOST_FREED_H
#define HOST_FREED_H

#if MAY_BE(COUNT_FREED)
/* include/linux/page-flags.h: so marked, the pointer to what a page belongs to is of anonymous memory. */
#define MAPPING_ANONYMOUS 1

/* The slot of this thread if it is inside a call. */
static __always_inline struct bt_thread *find_caller(void)
{
	struct bt_thread *thread = find_thread();

	return thread && thread->entry_ns ? thread : 0;
}

/* Whether a page that becomes free, in any process, was counted when it had to wait for that; forgets it then. */
static __always_inline int has_waited(u64 page)
{
	u64 *left = VALUE(u64, waiting_pages);

	if (!*left || !HASH_LOOKUP(waiting, &page))
		return 0;
	HASH_DELETE(waiting, &page);
	ADD(*left, -1);
	return 1;
}

/*
 * kmem:mm_page_free(page, order): pages go back to the kernel's allocator. The page tables, lists and such that a call
 * frees besides hold no data: neither did anybody read it in, nor could it be swapped. Nor does a call free more single
 * pages than it has let go of; others are another process's, left on this CPU's list of new pages, which calls work off.
 */
static __always_inline int on_mm_page_free_entry(u64 page, u64 order)
{
	struct bt_thread *thread;

	if (!order && has_waited(page))
		return 0;
	thread = find_caller();
	if (!thread || !(read_pointer(page, FOLIO_FLAGS) & (1ull << PG_UPTODATE | 1ull << PG_SWAPBACKED)))
		return 0;
	if (!order) {
		if (!thread->let_go)
			return 0;
		thread->let_go--;
	}
	thread->freed_bytes += (u64)COUNT_FREED << (order & 31);
	return 0;
}

/*
 * A page loses its last mapping, or its file. If only `references` are left, of which one is a CPU's list of new pages, it
 * becomes free when that CPU empties the list: later, maybe inside another call. Such a page is counted here, and not
 * again then.
 */
static __always_inline int let_go(struct bt_thread *thread, u64 page, u32 references)
{
	u64 *sum, entry_ns = thread->entry_ns;

	if (read_u32(page, FOLIO__REFCOUNT) != references || read_pointer(page, FOLIO_FLAGS) >> PG_LRU & 1) {
		thread->let_go++;
		return 0;
	}
	sum = VALUE(u64, waiting_pages);
	if (!HASH_LOOKUP(waiting, &page) && !HASH_UPDATE(waiting, &page, &entry_ns))
		ADD(*sum, 1);
	thread->freed_bytes += COUNT_FREED;
	return 0;
}

/* folio_remove_rmap_ptes(folio, ...), page_remove_rmap(page, ...): a mapping of a page is about to go. */
static __always_inline int on_remove_rmap_entry(u64 page)
{
	struct bt_thread *thread = find_caller();

	/* _mapcount is one less than the mappings; pages of files stay in them. */
	if (!thread || read_u32(page, FOLIO__MAPCOUNT) || !(read_pointer(page, FOLIO_MAPPING) & MAPPING_ANONYMOUS))
		return 0;
	return let_go(thread, page, 2);
}

/* truncate_inode_folio(mapping, folio): a page is about to leave its file, which holds it, as do mappings and our caller. */
static __always_inline int on_truncate_folio_entry(u64 mapping, u64 page)
{
	struct bt_thread *thread = find_caller();

	return thread ? let_go(thread, page, 4 + read_u32(page, FOLIO__MAPCOUNT)) : 0;
}

/* delete_from_page_cache_batch(mapping, batch): also many pages, of files on a disk; the batch begins with their number. */
static __always_inline int on_delete_batch_entry(u64 mapping, u64 batch)
{
	struct bt_thread *thread = find_caller();

	if (thread)
		thread->let_go += (u8)read_u32(batch, 0);
	return 0;
}

ENTRY_raw_tracepoint(mm_page_free, 2)
ENTRY_PROGRAM(remove_rmap, 1)
ENTRY_PROGRAM(truncate_folio, 2)
ENTRY_PROGRAM(delete_batch, 2)
#endif

#endif
