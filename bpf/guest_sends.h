/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sends of either driver, and the interrupts that answer them. Part of guest.bpf.c. */
#ifndef GUEST_SENDS_H
#define GUEST_SENDS_H

static __always_inline struct queue_ack *ack_of_send(struct thread_state *thread)
{
	return &acks_of(thread->queue)[thread->device % BT_DEVICES];
}

/*
 * What is known at the entry of each of the functions (vb, vq, ...) that send or lead to sends. Every driver
 * counts its pages first and tells the host then, and writes num_pages to `actual`.
 */
static __always_inline void note_send(struct thread_state *thread, u64 balloon, u64 vq, int typed)
{
	if (VIRTQUEUE_INDEX != NO_OFFSET) {
		thread->queue = read_argument_u32(typed, vq, VIRTQUEUE_INDEX);
		thread->send_flags |= BT_HAS_QUEUE;
	}
	if (VIRTIO_BALLOON_NUM_PAGES != NO_OFFSET) {
		thread->actual_pages = read_argument_u32(typed, balloon, VIRTIO_BALLOON_NUM_PAGES);
		thread->flags |= BT_HAS_ACTUAL;
	}
	if (!(thread->flags & BT_HAS_DEVICE))
		set_device(thread, read_pointer(vq, VIRTQUEUE_VDEV));
	thread->vq = vq;
	ack_of_send(thread)->vq = vq;
}

/*
 * A send goes where the call around it goes, one of `outer`, if that is known; its own arguments, where they can be
 * trusted, say the same.
 */
static __always_inline void begin_send(struct thread_state *thread, u32 outer)
{
	keep_parts(thread);
	thread->vq = 0;
	thread->send_flags &= thread->open & outer ? BT_HAS_QUEUE : 0;
}

/* When the interrupt came that ended the wait of this send: BT_HAS_ACK, or 0 where none came inside it. */
static __always_inline u16 note_ack(struct thread_state *thread, int function)
{
	struct queue_ack *ack = ack_of_send(thread);

	if (!thread->vq || ack->vq != thread->vq || ack->at_ns < thread->entry_ns[function])
		return 0;
	thread->wait_ns = ack->at_ns - thread->entry_ns[function];
	return BT_HAS_ACK;
}

/*
 * tell_host(vb, vq): a send of page numbers. In the patched driver with bitmaps a window instead, whose sends
 * are calls of send_resp_data, and num_pfns counts the pages of all windows.
 */
static __always_inline int on_tell_host_entry(u64 balloon, u64 vq, int typed)
{
	struct thread_state *thread = enter(BT_TELL_HOST);

	if (!thread)
		return 0;
	live_send_begins(thread);
	begin_send(thread, 1 << BT_SET_PAGE_BITMAP);
	if (!TELL_HOST_ARGUMENTS)
		return 0;
	note_send(thread, balloon, vq, typed);
	if (VIRTIO_BALLOON_NUM_PFNS == NO_OFFSET || thread->open & (1 << BT_SET_PAGE_BITMAP))
		return 0;
	thread->pages = read_argument_u32(typed, balloon, VIRTIO_BALLOON_NUM_PFNS);
	thread->send_flags |= BT_HAS_PAGES;
	if (VIRTIO_BALLOON_PFNS != NO_OFFSET && thread->pages <= ITEM_PAGES)
		capture(thread, BT_TELL_HOST, balloon + VIRTIO_BALLOON_PFNS, thread->pages * sizeof(u32));
	return 0;
}

static __always_inline int on_tell_host_return(u64 result)
{
	struct thread_state *thread = find_thread();
	u16 flags = thread ? thread->send_flags | note_ack(thread, BT_TELL_HOST) : 0;

	leave(BT_TELL_HOST, thread, thread ? thread->pages : 0, 0, flags);
	return 0;
}

/* send_resp_data(vb, vq, busy_wait): one send of the patched driver; resp_pos counts the u64 that wait in resp_data. */
static __always_inline int on_send_resp_data_entry(u64 balloon, u64 vq, u64 busy_wait, int typed)
{
	struct thread_state *thread = enter(BT_SEND_RESP_DATA);

	if (!thread)
		return 0;
	begin_send(thread, 1 << BT_TELL_HOST | 1 << BT_SET_PAGE_BITMAP);
	if (!SEND_RESP_DATA_ARGUMENTS)
		return 0;
	note_send(thread, balloon, vq, typed);
	if (VIRTIO_BALLOON_RESP_POS == NO_OFFSET)
		return 0;
	thread->bytes = read_argument_u32(typed, balloon, VIRTIO_BALLOON_RESP_POS) * sizeof(u64);
	thread->send_flags |= BT_HAS_BYTES;
	if (VIRTIO_BALLOON_RESP_DATA != NO_OFFSET)
		capture(thread, BT_SEND_RESP_DATA, read_pointer(balloon, VIRTIO_BALLOON_RESP_DATA), thread->bytes);
	return 0;
}

static __always_inline int on_send_resp_data_return(u64 result)
{
	struct thread_state *thread = find_thread();

	u16 flags = thread ? (thread->send_flags & ~BT_HAS_PAGES) | note_ack(thread, BT_SEND_RESP_DATA) : 0;

	leave(BT_SEND_RESP_DATA, thread, 0, 0, flags);
	return 0;
}

/*
 * set_page_bitmap(vb, pages, vq): everything of an operation between its last page and its end. It walks the list
 * of pages once for each window; a window is as many bitmaps of 32 KiB (1 GiB of guest) as could be allocated.
 */
#define BITMAP_PFNS (1ULL << 18)
#define WORD_PFNS 64ULL

static __always_inline void count_passes(struct thread_state *thread, u64 balloon, int typed)
{
	u64 bitmaps = read_argument_u32(typed, balloon, VIRTIO_BALLOON_NR_PAGE_BMAP);
	u64 first = read_pointer(balloon, VIRTIO_BALLOON_MIN_PFN) & ~(WORD_PFNS - 1);
	u64 end = (read_pointer(balloon, VIRTIO_BALLOON_MAX_PFN) + WORD_PFNS - 1) & ~(WORD_PFNS - 1);
	u64 window = (bitmaps ? bitmaps : 1) * BITMAP_PFNS;

	thread->bitmaps = bitmaps;
	thread->passes = end > first ? (end - first + window - 1) / window : 0;
}

static __always_inline int on_set_page_bitmap_entry(u64 balloon, u64 pages, u64 vq, int typed)
{
	struct thread_state *thread = enter(BT_SET_PAGE_BITMAP);

	if (!thread)
		return 0;
	thread->bitmaps = 0;
	begin_send(thread, 0);
	if (!SET_PAGE_BITMAP_ARGUMENTS)
		return 0;
	note_send(thread, balloon, vq, typed);
	if (VIRTIO_BALLOON_NUM_PFNS != NO_OFFSET)
		thread->pages = read_argument_u32(typed, balloon, VIRTIO_BALLOON_NUM_PFNS);
	if (VIRTIO_BALLOON_NR_PAGE_BMAP != NO_OFFSET && VIRTIO_BALLOON_MIN_PFN != NO_OFFSET &&
	    VIRTIO_BALLOON_MAX_PFN != NO_OFFSET)
		count_passes(thread, balloon, typed);
	return 0;
}

static __always_inline int on_set_page_bitmap_return(u64 result)
{
	struct thread_state *thread = find_thread();
	u16 flags = 0;

	/* The queue is that of the sends inside, the number of pages its own: those inside set none. */
	if (thread && SET_PAGE_BITMAP_ARGUMENTS) {
		flags = thread->send_flags & BT_HAS_QUEUE;
		if (VIRTIO_BALLOON_NUM_PFNS != NO_OFFSET)
			flags |= BT_HAS_PAGES;
	}
	leave(BT_SET_PAGE_BITMAP, thread, thread ? thread->pages : 0, 0, flags);
	return 0;
}

static __always_inline int on_extend_page_bitmap_entry(u64 balloon)
{
	enter(BT_EXTEND_PAGE_BITMAP);
	return 0;
}

static __always_inline int on_extend_page_bitmap_return(u64 result)
{
	leave(BT_EXTEND_PAGE_BITMAP, find_thread(), 0, 0, 0);
	return 0;
}

/* balloon_ack(vq): the host has answered; an interrupt on top of whatever thread runs, which wakes the one that waits. */
static __always_inline int on_balloon_ack_entry(u64 vq, int typed)
{
	struct bt_counters *sum = sums();
	struct queue_ack *acks;

	if (!sum)
		return 0;
	ADD(sum->functions[BT_BALLOON_ACK].entries, 1);
	acks = acks_of(VIRTQUEUE_INDEX == NO_OFFSET ? 0 : read_argument_u32(typed, vq, VIRTQUEUE_INDEX));
	for (int device = 0; device < BT_DEVICES; device++)
		if (acks[device].vq == vq) {
			acks[device].at_ns = bpf_ktime_get_ns();
			break;
		}
	return 0;
}

#endif
