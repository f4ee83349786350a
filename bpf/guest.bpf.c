// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Guest side: one span per completed call of a balloon function, and sums read by mapping.
 *
 * Everything here runs at most once per send, never once per page, and wakes nobody. A call's state
 * is kept per thread between its entry and its return: the functions sleep and may change CPU.
 */
#include "balloon_engine.h"
#include "balloon_events.h"
#include "balloon_compat.h"
#include "thread_state.h"

/*
 * Without a ring nobody wants spans: what they would tell is summed up in `live`.
 */
#ifdef SPAN_RING_PAGES
RING(spans, SPAN_RING_PAGES);
#else
SHARED(struct bt_live, live);
#endif
SHARED(struct bt_counters, counters);
#ifdef PAYLOAD_RING_PAGES
#define CAPTURES PAYLOAD_RING_PAGES
RING(payloads, PAYLOAD_RING_PAGES);
#endif

/*
 * Calls in flight, by thread. A table of slots and not a hash: a lookup here costs a sixth of a hash's (28
 * instructions against 163, measured), and hardly more than one thread per balloon is ever inside. A thread
 * that finds its slot taken is not followed, and counted.
 */
#define SLOTS 1024
#define REPORT_LIST_BYTES 1024 /* a struct scatterlist of 32 bytes for each block of a page report */

/*
 * The last interrupt of each queue that somebody waits for: by the queue's index, and which device's it is. What interrupts
 * finds its place by comparing, as the kernel lets nobody calculate with an argument that is a pointer.
 */
#define ACK_QUEUES 8

struct queue_ack {
	u64 vq;
	u64 at_ns;
};

struct thread_slots {
	struct thread_state slots[SLOTS];
	struct queue_ack acks[ACK_QUEUES][BT_DEVICES];
	struct watched_task watched[BT_WATCHED];
	u8 report_list[REPORT_LIST_BYTES];
	u64 first_reported; /* address of the struct page that the first block of all reports begins with */
	u32 shrunk_pages[BT_DEVICES]; /* hinted ones that the shrinker gave back, by device */
};

SHARED(struct thread_slots, threads);

static __always_inline struct bt_counters *sums(void)
{
	return VALUE(struct bt_counters, counters);
}

static __always_inline struct thread_state *slot_of(u32 tid)
{
	return &VALUE(struct thread_slots, threads)->slots[tid % SLOTS];
}

/* The state of this thread if it is inside a traced function. */
static __always_inline struct thread_state *find_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread_state *thread = slot_of(tid);

	return thread && thread->tid == tid && thread->open ? thread : 0;
}

/*
 * The state of this thread, for its first call a slot that nobody uses. Two threads may race for one: the
 * last to write has it, and the return of the other is counted as unmatched.
 */
static __always_inline struct thread_state *claim_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread_state *thread = slot_of(tid);

	if (!thread || (thread->open && thread->tid != tid))
		return 0;
	if (!thread->open) {
		if (thread->tid != tid) {
			thread->tid = tid;
			thread->work = 0;
		}
		thread->flags = 0;
	}
	return thread;
}

/* Where the interrupts of queues with this index are, one for each device. */
static __always_inline struct queue_ack *acks_of(u32 queue)
{
	return VALUE(struct thread_slots, threads)->acks[queue % ACK_QUEUES];
}

/* Opens a call; returns the thread's state, 0 when the call cannot be followed. */
static __always_inline struct thread_state *enter(int function)
{
	struct bt_counters *sum = sums();
	struct thread_state *thread = claim_thread();

	if (!sum)
		return 0;
	ADD(sum->functions[function].entries, 1);
	if (!thread) {
		ADD(sum->functions[function].no_state, 1);
		return 0;
	}
	if (thread->open & (1 << function))
		ADD(sum->functions[function].overwritten, 1);
	thread->open |= 1 << function;
	thread->entry_ns[function] = bpf_ktime_get_ns();
	return thread;
}

#ifdef SPAN_RING_PAGES
/* Room for a span, 0 and counted when there is none. */
static __always_inline struct bt_span *reserve_span(struct bt_counters *sum, int function)
{
	struct bt_span *span = bpf_ringbuf_reserve(MAP(spans), sizeof(*span), 0);

	if (!span)
		ADD(sum->functions[function].lost, 1);
	return span;
}

/* Writes a span; `flags` says which of the optional fields the caller measured, beside device and size. */
static __always_inline void emit(struct bt_counters *sum, struct thread_state *thread, int function, u64 now_ns,
				 u32 pages, int result, u16 flags)
{
	struct bt_span *span = reserve_span(sum, function);

	if (!span)
		return;
	span->start_ns = thread->entry_ns[function];
	span->duration_ns = now_ns - thread->entry_ns[function];
	span->tid = thread->tid;
	span->cpu = bpf_get_smp_processor_id();
	span->function = function;
	span->flags = flags | (thread->flags & (BT_HAS_DEVICE | BT_HAS_ACTUAL));
	span->device = thread->device;
	span->queue = thread->queue;
	span->pages = pages;
	span->result = result;
	span->config_calls = thread->config_calls;
	span->bytes = thread->bytes;
	if (function == BT_VIRTBALLOON_FREE_PAGE_REPORT || function == BT_REPORT_FREE_PAGE_FUNC) {
		__builtin_memcpy(span->orders, thread->orders, BT_ORDERS);
		span->blocks = thread->blocks;
	} else {
		span->target_pages = thread->target_pages;
		span->actual_pages = thread->actual_pages;
		span->config_ns = thread->config_ns;
		span->passes = thread->passes;
	}
	span->wait_ns = flags & (BT_HAS_ACK | BT_HAS_RUN_DELAY) ? thread->wait_ns : 0;
	span->bitmaps = function == BT_SET_PAGE_BITMAP ? thread->bitmaps : 0;
	bpf_ringbuf_submit(span, BPF_RB_NO_WAKEUP);
}

/* An interrupt has no state and no duration. */
static __always_inline void emit_interrupt(struct bt_counters *sum, int function, u64 vdev)
{
	struct bt_span *span = reserve_span(sum, function);

	if (!span)
		return;
	__builtin_memset(span, 0, sizeof(*span));
	span->start_ns = bpf_ktime_get_ns();
	span->tid = bpf_get_current_pid_tgid();
	span->cpu = bpf_get_smp_processor_id();
	span->function = function;
	if (vdev && VIRTIO_DEVICE_INDEX != NO_OFFSET) {
		span->device = read_u32(vdev, VIRTIO_DEVICE_INDEX);
		span->flags = BT_HAS_DEVICE;
	}
	bpf_ringbuf_submit(span, BPF_RB_NO_WAKEUP);
}

/* User space drains the ring once it is a quarter full; where it is fuller, user space does not keep up. */
static __always_inline int is_filling(void)
{
	return bpf_ringbuf_query(MAP(spans), BPF_RB_AVAIL_DATA) > bpf_ringbuf_query(MAP(spans), BPF_RB_RING_SIZE) / 2;
}

static __always_inline void live_item_begins(struct thread_state *thread) {}
static __always_inline void live_send_begins(struct thread_state *thread) {}
static __always_inline void live_target_read(struct thread_state *thread) {}
#else
static __always_inline struct bt_live *live_sums(void)
{
	return VALUE(struct bt_live, live);
}

#include "live_sums.h"

static __always_inline int is_filling(void)
{
	return 0;
}
#endif

#if MAY_BE(SPLIT_ALLOCATION) && defined(SPAN_RING_PAGES)
#include "allocation.h"
#else
static __always_inline void watch_item(struct thread_state *thread) {}
static __always_inline void keep_parts(struct thread_state *thread) {}
static __always_inline void tell_parts(struct thread_state *thread) {}
#endif

/*
 * Compaction can move tens of thousands of pages in seconds, with two sends each. Where the ring fills up, migrations are
 * summed up: what is left of it is for spans of operations. One that the balloon gives up has its span all the same, for
 * the balloon is smaller then.
 */
#define ENOENT 2

static __always_inline int is_summed(struct thread_state *thread, int function, int result)
{
	if (function != BT_VIRTBALLOON_MIGRATEPAGE && function != BT_TELL_HOST && function != BT_SEND_RESP_DATA)
		return 0;
	if (function == BT_VIRTBALLOON_MIGRATEPAGE && result == -ENOENT)
		return 0;
	return thread->summed && thread->open & 1 << BT_VIRTBALLOON_MIGRATEPAGE;
}

/* Closes a call: span and sums. `flags` as for a span. */
static __always_inline void leave(int function, struct thread_state *thread, u32 pages, int result, u16 flags)
{
	struct bt_counters *sum = sums();
	u64 now_ns = bpf_ktime_get_ns();

	if (!sum)
		return;
	ADD(sum->functions[function].returns, 1);
	if (!thread || !(thread->open & (1 << function))) {
		ADD(sum->functions[function].unmatched_returns, 1);
		return;
	}
	ADD(sum->functions[function].duration_ns, now_ns - thread->entry_ns[function]);
	if (flags & BT_HAS_PAGES)
		ADD(sum->functions[function].pages, pages);
	if (is_summed(thread, function, result)) {
		ADD(sum->functions[function].summed, 1);
		ADD(sum->functions[function].summed_ns, now_ns - thread->entry_ns[function]);
		if (function == BT_VIRTBALLOON_MIGRATEPAGE)
			pages = result ? 0 : UNIT_PAGES;
		else if (!(flags & BT_HAS_PAGES))
			pages = 0;
		ADD(sum->functions[function].summed_pages, pages);
	} else {
		emit(sum, thread, function, now_ns, pages, result, flags);
	}
	thread->open &= ~(1 << function);
}

/* Remembers which device this thread works for, from its struct virtio_device. */
static __always_inline void set_device(struct thread_state *thread, u64 vdev)
{
	if (!vdev || VIRTIO_DEVICE_INDEX == NO_OFFSET)
		return;
	thread->device = read_u32(vdev, VIRTIO_DEVICE_INDEX);
	thread->flags |= BT_HAS_DEVICE;
	/* Outside the work item this may be another device's than that of the item remembered. */
	if (!(thread->open & (1 << BT_UPDATE_BALLOON_SIZE_FUNC)))
		thread->work = 0;
}

static __always_inline void set_device_of_balloon(struct thread_state *thread, u64 balloon)
{
	if (!(thread->flags & BT_HAS_DEVICE))
		set_device(thread, read_pointer(balloon, VIRTIO_BALLOON_VDEV));
}

static __always_inline struct bt_device_state *device_state(struct bt_counters *sum, struct thread_state *thread)
{
	return &sum->devices[thread->device % BT_DEVICES];
}

/* How long this thread has been ready to run and waited for a processor, since it was made: struct sched_info. */
static __always_inline u64 run_delay_ns(void)
{
	if (TASK_STRUCT_SCHED_INFO == NO_OFFSET || SCHED_INFO_RUN_DELAY == NO_OFFSET)
		return 0;
	return *(u64 *)((u64)bpf_get_current_task_btf() + TASK_STRUCT_SCHED_INFO + SCHED_INFO_RUN_DELAY);
}

/* BT_HAS_RUN_DELAY, or 0 where the kernel does not tell. */
static __always_inline u16 note_run_delay(struct thread_state *thread)
{
	if (TASK_STRUCT_SCHED_INFO == NO_OFFSET || SCHED_INFO_RUN_DELAY == NO_OFFSET)
		return 0;
	thread->wait_ns = run_delay_ns() - thread->run_delay_ns;
	return BT_HAS_RUN_DELAY;
}

/* update_balloon_size_func(work): the work item, once per MiB in the stock driver. */
static __always_inline int on_update_balloon_size_func_entry(u64 work)
{
	struct thread_state *thread = enter(BT_UPDATE_BALLOON_SIZE_FUNC);

	if (!thread)
		return 0;
	thread->config_ns = 0;
	thread->config_calls = 0;
	thread->summed = 0;
	thread->run_delay_ns = run_delay_ns();
	live_item_begins(thread);
	watch_item(thread);
	if (thread->work == work) {
		if (VIRTIO_DEVICE_INDEX != NO_OFFSET && thread->balloon)
			thread->flags |= BT_HAS_DEVICE;
		return 0;
	}
	thread->work = work;
	thread->balloon = 0;
	if (VIRTIO_BALLOON_UPDATE_BALLOON_SIZE_WORK != NO_OFFSET) {
		thread->balloon = work - VIRTIO_BALLOON_UPDATE_BALLOON_SIZE_WORK;
		set_device_of_balloon(thread, thread->balloon);
	}
	return 0;
}

/*
 * Keeps the device's standing: an operation ends when `actual` reaches the target. `moved` tells whether this
 * work item did anything; one that found nothing to do ends no operation, whatever size the balloon had before.
 */
static __always_inline void follow_device(struct thread_state *thread, int moved)
{
	struct bt_counters *sum = sums();
	struct bt_device_state *device;
	u32 was_moving;

	if (!sum || !(thread->flags & BT_HAS_TARGET) || !(thread->flags & BT_HAS_ACTUAL))
		return;
	device = device_state(sum, thread);
	was_moving = device->moving || moved;
	device->target_pages = thread->target_pages;
	device->actual_pages = thread->actual_pages;
	device->changed_ns = thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
	device->moving = thread->actual_pages != GOAL_PAGES(thread->target_pages);
	if (was_moving && !device->moving)
		ADD(device->operations, 1);
}

static __always_inline int on_update_balloon_size_func_return(u64 result)
{
	struct thread_state *thread = find_thread();
	/* Sending and writing `actual` set this; a work item with nothing to do does neither. */
	int moved = thread && thread->flags & BT_HAS_ACTUAL;

	if (thread && !moved && thread->balloon && VIRTIO_BALLOON_NUM_PAGES != NO_OFFSET) {
		thread->actual_pages = read_u32(thread->balloon, VIRTIO_BALLOON_NUM_PAGES);
		thread->flags |= BT_HAS_ACTUAL;
	}
	if (thread)
		tell_parts(thread);
	leave(BT_UPDATE_BALLOON_SIZE_FUNC, thread, 0, 0, thread ? thread->flags | note_run_delay(thread) : 0);
	if (thread)
		follow_device(thread, moved);
	return 0;
}

static __always_inline int on_fill_balloon_entry(u64 balloon, u64 num)
{
	struct thread_state *thread = enter(BT_FILL_BALLOON);

	if (thread)
		set_device_of_balloon(thread, balloon);
	return 0;
}

static __always_inline int on_fill_balloon_return(u64 result)
{
	leave(BT_FILL_BALLOON, find_thread(), result, result, BT_HAS_PAGES | BT_HAS_RESULT);
	return 0;
}

static __always_inline int on_leak_balloon_entry(u64 balloon, u64 num)
{
	struct thread_state *thread = enter(BT_LEAK_BALLOON);

	if (thread)
		set_device_of_balloon(thread, balloon);
	return 0;
}

static __always_inline int on_leak_balloon_return(u64 result)
{
	leave(BT_LEAK_BALLOON, find_thread(), result, result, BT_HAS_PAGES | BT_HAS_RESULT);
	return 0;
}

#ifdef CAPTURES
/* Room for a piece of a payload, 0 and counted when there is none. */
static __always_inline struct bt_payload *reserve_piece(struct bt_counters *sum)
{
	struct bt_payload *piece;

	ADD(sum->functions[BT_PAYLOAD].entries, 1);
	piece = bpf_ringbuf_reserve(MAP(payloads), sizeof(*piece), 0);
	if (!piece)
		ADD(sum->functions[BT_PAYLOAD].lost, 1);
	return piece;
}

/* All that a piece has besides its data. */
static __always_inline void describe_piece(struct bt_payload *piece, struct thread_state *thread, int function,
					   u64 total_bytes, u64 offset_bytes, u64 bytes)
{
	piece->start_ns = thread->entry_ns[function];
	piece->tid = thread->tid;
	piece->total_bytes = total_bytes;
	piece->offset_bytes = offset_bytes;
	piece->bytes = bytes;
	piece->function = function;
	piece->padding = 0;
}
#endif

/*
 * What a send copied out of the driver's memory, in pieces of one size. `total_bytes` is the driver's word; whatever
 * it says, no more than BT_PAYLOAD_PIECES are read. All of it has 64 bits: of fewer LLVM 14 makes code in which the
 * verifier sees a length that may be negative.
 */
static __always_inline void capture(struct thread_state *thread, int function, u64 from, u64 total_bytes)
{
#ifdef CAPTURES
	struct bt_counters *sum = sums();

	if (!CAPTURES || !sum || !from || is_summed(thread, function, 0))
		return;
	for (int i = 0; i < BT_PAYLOAD_PIECES; i++) {
		u64 offset_bytes = i * BT_PAYLOAD_BYTES;
		struct bt_payload *piece;
		u64 bytes;

		if (offset_bytes >= total_bytes)
			break;
		piece = reserve_piece(sum);
		if (!piece)
			continue;
		bytes = total_bytes - offset_bytes;
		if (bytes > BT_PAYLOAD_BYTES)
			bytes = BT_PAYLOAD_BYTES;
		describe_piece(piece, thread, function, total_bytes, offset_bytes, bytes);
		if (bpf_probe_read_kernel(piece->data, bytes, (void *)(from + offset_bytes)))
			piece->bytes = 0;
		bpf_ringbuf_submit(piece, BPF_RB_NO_WAKEUP);
	}
#endif
}

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

static __always_inline int note_interrupt(int function, u64 vdev)
{
	struct bt_counters *sum = sums();

	if (!sum)
		return 0;
	ADD(sum->functions[function].entries, 1);
	emit_interrupt(sum, function, vdev);
	return 0;
}

/* virtballoon_changed(vdev): an interrupt on top of whatever thread runs. */
static __always_inline int on_virtballoon_changed_entry(u64 vdev)
{
	return note_interrupt(BT_VIRTBALLOON_CHANGED, vdev);
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

/*
 * vdev->config->get(vdev, offset, buffer, length) and ->set(...): function pointers, so always symbols
 * (vp_get on PCI, vm_get on virtio-mmio). Other virtio devices use them too; only what a work item does
 * itself is followed. struct virtio_balloon_config starts with num_pages, then actual, both 32 bits.
 */
#define CONFIG_NUM_PAGES 0
#define CONFIG_ACTUAL 4

/* A test for the caller's own branch: a pointer chosen by it would become arithmetic that the verifier forbids. */
static __always_inline int in_work_item(struct thread_state *thread)
{
	return thread->open & (1 << BT_UPDATE_BALLOON_SIZE_FUNC);
}

/* The target is known: a work item reads it before anything else. */
static __always_inline void target_read(struct thread_state *thread, u64 buffer)
{
	thread->target_pages = read_u32(buffer, 0);
	thread->config_ns = bpf_ktime_get_ns() - thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
	thread->config_calls++;
	thread->flags |= BT_HAS_TARGET | BT_HAS_CONFIG;
	live_target_read(thread);
}

static __always_inline void count_config_get(int by_kprobe)
{
	struct bt_counters *sum = sums();

	if (!sum)
		return;
	if (by_kprobe)
		ADD(sum->functions[BT_CONFIG_GET].entries, 1);
	else
		ADD(sum->functions[BT_CONFIG_GET].returns, 1);
}

static __always_inline int is_target(u64 offset, u64 length)
{
	return (u32)offset == CONFIG_NUM_PAGES && (u32)length == sizeof(u32);
}

/* On return fentry still shows the arguments, so that one program does. */
#define CONFIG_GET_fentry \
	PROGRAM("fexit") fexit_config_get(u64 *ctx) { return on_config_get(ctx[1], ctx[2], ctx[3]); }
#define CONFIG_GET_kprobe PROGRAMS_kprobe(config_get, 4, NO_RESULT)
#define CONFIG_GET_both CONFIG_GET_fentry CONFIG_GET_kprobe
#define CONFIG_GET_absent

static __always_inline int on_config_get(u64 offset, u64 buffer, u64 length)
{
	struct thread_state *thread = find_thread();

	count_config_get(0);
	if (thread && in_work_item(thread) && is_target(offset, length))
		target_read(thread, buffer);
	return 0;
}

static __always_inline int on_config_get_entry(u64 vdev, u64 offset, u64 buffer, u64 length)
{
	struct thread_state *thread = find_thread();

	count_config_get(1);
	if (thread && in_work_item(thread))
		thread->config_buffer = is_target(offset, length) ? buffer : 0;
	return 0;
}

static __always_inline int on_config_get_return(u64 result)
{
	struct thread_state *thread = find_thread();

	if (!thread || !in_work_item(thread))
		return 0;
	if (thread->config_buffer)
		target_read(thread, thread->config_buffer);
	thread->config_buffer = 0;
	return 0;
}

/* Attached only where the driver's own num_pages cannot be read. */
static __always_inline int on_config_set_entry(u64 vdev, u64 offset, u64 buffer, u64 length)
{
	struct thread_state *thread = find_thread();
	struct bt_counters *sum = sums();

	if (sum)
		ADD(sum->functions[BT_CONFIG_SET].entries, 1);
	if (!thread || !in_work_item(thread) || (u32)offset != CONFIG_ACTUAL || (u32)length != sizeof(u32))
		return 0;
	thread->actual_pages = read_u32(buffer, 0);
	thread->flags |= BT_HAS_ACTUAL;
	return 0;
}

#include "other_work.h"
#include "page_reporting.h"
#include "page_hinting.h"

PROGRAMS(update_balloon_size_func, 1, NO_RESULT)
PROGRAMS(fill_balloon, 2, RESULT)
PROGRAMS(leak_balloon, 2, RESULT)
PROGRAMS(tell_host, 2_TYPED, NO_RESULT)
PROGRAMS(send_resp_data, 3_TYPED, NO_RESULT)
PROGRAMS(set_page_bitmap, 3_TYPED, NO_RESULT)
PROGRAMS(extend_page_bitmap, 1, NO_RESULT)
ENTRY_PROGRAM(virtballoon_changed, 1)
ENTRY_PROGRAM(balloon_ack, 1_TYPED)
PROGRAMS(virtio_balloon_oom_notify, 3, RESULT)
PROGRAMS(virtballoon_migratepage, 4, RESULT)
PROGRAMS(virtballoon_freeze, 1, RESULT)
PROGRAMS(virtballoon_restore, 1, RESULT)
PROGRAMS(virtballoon_remove, 1, NO_RESULT)
ENTRY_PROGRAM(stats_request, 1)
PROGRAMS(update_balloon_stats_func, 1, NO_RESULT)
PROGRAMS(virtballoon_free_page_report, 3, RESULT)
PROGRAMS(page_reporting_process, 1, NO_RESULT)
PROGRAMS(report_free_page_func, 1, NO_RESULT)
PROGRAMS(virtio_balloon_shrinker_scan, 2, RESULT)
#ifdef PREBUILT
CONFIG_GET_both
#else
CONCAT(CONFIG_GET_, KIND_config_get)
#endif
ENTRY_PROGRAM(config_set, 4)
