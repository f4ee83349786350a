/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Free page hinting: while the VM migrates, the driver takes free blocks of the largest order and tells the host of them. It
 * keeps them until the host is done, or memory gets short. Part of guest.bpf.c. No program of an inflate or deflate does
 * anything for it.
 */
#ifndef PAGE_HINTING_H
#define PAGE_HINTING_H

/* Whether what the driver has can be told in pages. */
static __always_inline int knows_hints(void)
{
	return HINT_BLOCK_PAGES && VIRTIO_BALLOON_REPORT_FREE_PAGE_WORK != NO_OFFSET &&
	       VIRTIO_BALLOON_CMD_ID_ACTIVE != NO_OFFSET && VIRTIO_BALLOON_CMD_ID_RECEIVED_CACHE != NO_OFFSET &&
	       VIRTIO_BALLOON_NUM_FREE_PAGE_BLOCKS != NO_OFFSET;
}

static __always_inline u32 *shrunk_pages(struct thread_state *thread)
{
	return &VALUE(struct thread_slots, threads)->shrunk_pages[thread->device % BT_DEVICES];
}

/*
 * Pages of the blocks that the driver has, and of those that it had to give back early: hints make them more, and only what
 * the host is done with makes them fewer. The shrinker takes its blocks a moment before they are counted here.
 */
static __always_inline u32 hinted_so_far(struct thread_state *thread)
{
	return thread->hint.held_blocks * (u32)HINT_BLOCK_PAGES + *shrunk_pages(thread);
}

static __always_inline u32 above(u32 more, u32 less)
{
	return (int)(more - less) > 0 ? more - less : 0;
}

/* report_free_page_func(work): sends blocks under a new id until there are no more or it has to stop; or gives all back. */
static __always_inline int on_report_free_page_func_entry(u64 work)
{
	struct thread_state *thread = enter(BT_REPORT_FREE_PAGE_FUNC);
	u64 balloon;

	if (!thread)
		return 0;
	thread->hint_balloon = 0;
	if (VIRTIO_BALLOON_REPORT_FREE_PAGE_WORK == NO_OFFSET)
		return 0;
	balloon = work - VIRTIO_BALLOON_REPORT_FREE_PAGE_WORK;
	set_device_of_balloon(thread, balloon);
	thread->hint_balloon = balloon;
	thread->hint.command = read_u32(balloon, VIRTIO_BALLOON_CMD_ID_ACTIVE);
	thread->hint.held_blocks = read_pointer(balloon, VIRTIO_BALLOON_NUM_FREE_PAGE_BLOCKS);
	thread->hint_pages = hinted_so_far(thread);
	return 0;
}

static __always_inline u32 end_hint(struct thread_state *thread)
{
	u32 command = read_u32(thread->hint_balloon, VIRTIO_BALLOON_CMD_ID_ACTIVE);
	u32 pages;

	thread->hint.command = command != thread->hint.command ? command : 0;
	thread->hint.received = read_u32(thread->hint_balloon, VIRTIO_BALLOON_CMD_ID_RECEIVED_CACHE);
	thread->hint.held_blocks = read_pointer(thread->hint_balloon, VIRTIO_BALLOON_NUM_FREE_PAGE_BLOCKS);
	pages = hinted_so_far(thread);
	thread->hint.returned_pages = thread->hint.command ? 0 : above(thread->hint_pages, pages);
	return thread->hint.command ? above(pages, thread->hint_pages) : 0;
}

static __always_inline int on_report_free_page_func_return(u64 result)
{
	struct thread_state *thread = find_thread();
	u16 flags = 0;
	u32 pages = 0;

	if (thread) {
		thread->blocks = 0;
		if (thread->hint_balloon && knows_hints()) {
			pages = end_hint(thread);
			flags = BT_HAS_PAGES;
		} else {
			__builtin_memset(&thread->hint, 0, sizeof(thread->hint));
		}
	}
	leave(BT_REPORT_FREE_PAGE_FUNC, thread, pages, 0, flags);
	return 0;
}

/* virtio_balloon_shrinker_scan(shrinker, control): any thread that needs memory, or kswapd; the result is in pages. */
static __always_inline int on_virtio_balloon_shrinker_scan_entry(u64 shrinker, u64 control)
{
	struct thread_state *thread = enter(BT_VIRTIO_BALLOON_SHRINKER_SCAN);

	if (!thread)
		return 0;
	/* Kernels whose shrinkers have no such member have the shrinker inside struct virtio_balloon. */
	if (SHRINKER_PRIVATE_DATA != NO_OFFSET)
		set_device_of_balloon(thread, read_pointer(shrinker, SHRINKER_PRIVATE_DATA));
	else if (VIRTIO_BALLOON_SHRINKER != NO_OFFSET)
		set_device_of_balloon(thread, shrinker - VIRTIO_BALLOON_SHRINKER);
	return 0;
}

static __always_inline int on_virtio_balloon_shrinker_scan_return(u64 result)
{
	struct thread_state *thread = find_thread();
	u32 pages = (u32)result * (u32)UNIT_PAGES;

	if (thread)
		ADD(*shrunk_pages(thread), pages);
	leave(BT_VIRTIO_BALLOON_SHRINKER_SCAN, thread, pages, result, BT_HAS_PAGES | BT_HAS_RESULT);
	return 0;
}

#endif
