/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Free page reporting: blocks of free pages that mm/page_reporting.c hands to the driver, and the work item that collects
 * them. Part of guest.bpf.c. No program of an inflate or deflate does anything for it.
 */
#ifndef PAGE_REPORTING_H
#define PAGE_REPORTING_H

#define BT_PAGE_BYTES 4096
#define MOST_BLOCKS 32 /* PAGE_REPORTING_CAPACITY in include/linux/page_reporting.h */

/* Hides from the compiler what it knows of a number: what it would make of that, the verifier could not follow. */
#define OPAQUE(number) __asm__("" : "+r"(number))

#ifdef TYPED_READS
/* Any address can be followed: nothing is copied. */
static __always_inline int copy_list(u64 sg, u64 blocks)
{
	return 1;
}

static __always_inline u32 length_of_block(u64 sg, u64 i)
{
	return read_u32(sg + i * SCATTERLIST_END, SCATTERLIST_LENGTH);
}
#else
/* One copy of all instead of a call for each block, which takes 89 instructions. The kernel has one report under way. */
static __always_inline int copy_list(u64 sg, u64 blocks)
{
	u64 bytes = blocks * SCATTERLIST_END;

	OPAQUE(bytes);
	if (bytes > REPORT_LIST_BYTES)
		return 0;
	return !bpf_probe_read_kernel(VALUE(struct thread_slots, threads)->report_list, bytes, (void *)sg);
}

static __always_inline u32 length_of_block(u64 sg, u64 i)
{
	return *(u32 *)(VALUE(struct thread_slots, threads)->report_list + i * SCATTERLIST_END + SCATTERLIST_LENGTH);
}
#endif

/* Whether lengths lie where 32 blocks have room for them. */
static __always_inline int knows_list(void)
{
	return SCATTERLIST_LENGTH != NO_OFFSET && SCATTERLIST_END != NO_OFFSET &&
	       SCATTERLIST_END <= REPORT_LIST_BYTES / MOST_BLOCKS &&
	       SCATTERLIST_LENGTH <= SCATTERLIST_END - (long long)sizeof(u32);
}

/* Whether it is known where pages lie, too, and how far apart. */
static __always_inline int knows_pages(void)
{
	return SCATTERLIST_PAGE_LINK != NO_OFFSET && PAGE_END != NO_OFFSET && knows_list() &&
	       SCATTERLIST_PAGE_LINK <= SCATTERLIST_END - (long long)sizeof(u64);
}

/*
 * The k of 2^k: as many ones as 2^k - 1 has, counted two, four and eight bits at a time. Without a branch, for the verifier
 * would go both ways at each one, in each round of the loop below.
 */
static __always_inline u32 order_of(u32 power)
{
	u32 ones = power - 1;

	ones -= ones >> 1 & 0x55555555;
	ones = (ones & 0x33333333) + (ones >> 2 & 0x33333333);
	ones = (ones + (ones >> 4)) & 0x0f0f0f0f;
	return ones * 0x01010101 >> 24;
}

/*
 * What is in a scatterlist of free blocks. Returns its pages of 4 KiB, 0 where that cannot be read: then no block is
 * of any order.
 */
static __always_inline u32 count_blocks(struct thread_state *thread, u64 sg, u64 blocks)
{
	u64 pages = 0;

	__builtin_memset(thread->orders, 0, sizeof(thread->orders));
	thread->blocks = blocks;
	if (!knows_list() || blocks > MOST_BLOCKS || !copy_list(sg, blocks))
		return 0;
	for (u64 i = 0; i < MOST_BLOCKS; i++) {
		u32 block_pages;

		OPAQUE(i);
		if (i >= blocks)
			break;
		block_pages = length_of_block(sg, i) / BT_PAGE_BYTES;
		pages += block_pages;
		thread->orders[order_of(block_pages / (u32)UNIT_PAGES) & (BT_ORDERS - 1)]++;
	}
	return pages;
}

/*
 * Begins the payload of a report: its blocks, for whose pages the kernel has a struct page each. Returns 0 when nothing is
 * captured. Blocks before the first one have addresses below its own, hence numbers below PAGES_BELOW.
 */
#define PAGES_BELOW (1ULL << 48)
#define LINK_BITS 3ULL /* of a page_link: flags of scatterlists */

static __always_inline struct bt_payload *begin_blocks(struct thread_state *thread)
{
#if defined(CAPTURES) && !defined(TYPED_READS)
	struct thread_slots *all = VALUE(struct thread_slots, threads);
	struct bt_counters *sum = sums();
	struct bt_payload *piece;
	u64 blocks = thread->blocks, first;

	if (!CAPTURES || !sum || !thread->pages || !knows_pages())
		return 0;
	piece = reserve_piece(sum);
	if (!piece)
		return 0;
	first = all->first_reported;
	if (!first) {
		first = *(u64 *)(all->report_list + SCATTERLIST_PAGE_LINK) & ~LINK_BITS;
		all->first_reported = first;
	}
	for (u64 i = 0; i < MOST_BLOCKS; i++) {
		struct bt_block *block;
		u64 link;

		OPAQUE(i);
		if (i >= blocks)
			break;
		block = (struct bt_block *)(piece->data + i * sizeof(*block));
		link = *(u64 *)(all->report_list + i * SCATTERLIST_END + SCATTERLIST_PAGE_LINK) & ~LINK_BITS;
		block->first_page = (link - first + PAGES_BELOW) / (u64)PAGE_END;
		block->bytes = length_of_block(0, i);
		block->padding = 0;
	}
	return piece;
#else
	return 0;
#endif
}

static __always_inline void end_blocks(struct bt_payload *piece, struct thread_state *thread)
{
#if defined(CAPTURES) && !defined(TYPED_READS)
	u64 bytes = thread->blocks * sizeof(struct bt_block);

	if (!piece)
		return;
	describe_piece(piece, thread, BT_VIRTBALLOON_FREE_PAGE_REPORT, bytes, 0, bytes);
	bpf_ringbuf_submit(piece, BPF_RB_NO_WAKEUP);
#endif
}

/* virtballoon_free_page_report(pr_dev_info, sg, nents): waits until the host has answered. */
static __always_inline int on_virtballoon_free_page_report_entry(u64 info, u64 sg, u64 nents)
{
	struct thread_state *thread = enter(BT_VIRTBALLOON_FREE_PAGE_REPORT);
	struct bt_payload *piece;

	if (!thread)
		return 0;
	if (VIRTIO_BALLOON_PR_DEV_INFO != NO_OFFSET)
		set_device_of_balloon(thread, info - VIRTIO_BALLOON_PR_DEV_INFO);
	thread->pages = 0;
	thread->blocks = 0;
	if (!VIRTBALLOON_FREE_PAGE_REPORT_ARGUMENTS)
		return 0;
	thread->pages = count_blocks(thread, sg, (u32)nents);
	piece = begin_blocks(thread);
	/* Reading a list of blocks is no time of the host's. */
	thread->entry_ns[BT_VIRTBALLOON_FREE_PAGE_REPORT] = bpf_ktime_get_ns();
	end_blocks(piece, thread);
	return 0;
}

static __always_inline int on_virtballoon_free_page_report_return(u64 result)
{
	struct thread_state *thread = find_thread();
	u16 flags = BT_HAS_RESULT;

	/* No report is empty: 0 pages were not read. */
	if (thread && thread->pages)
		flags |= BT_HAS_PAGES;
	leave(BT_VIRTBALLOON_FREE_PAGE_REPORT, thread, thread ? thread->pages : 0, result, flags);
	return 0;
}

/* page_reporting_process(work): looks through all free lists, isolates blocks, has them reported, gives them back. */
static __always_inline int on_page_reporting_process_entry(u64 work)
{
	enter(BT_PAGE_REPORTING_PROCESS);
	return 0;
}

static __always_inline int on_page_reporting_process_return(u64 result)
{
	leave(BT_PAGE_REPORTING_PROCESS, find_thread(), 0, 0, 0);
	return 0;
}

#endif
