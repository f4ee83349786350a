// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Guest side: one span per completed call of a balloon function, and sums read by mapping.
 *
 * Everything here runs at most once per send, never once per page, and wakes nobody. A call's state
 * is kept per thread between its entry and its return: the functions sleep and may change CPU.
 */
#include <uapi/linux/ptrace.h>
#include "balloon_events.h"
#include "balloon_compat.h"

/* Without a ring nobody wants spans: what they would tell is summed up in `live`. */
#ifdef SPAN_RING_PAGES
BPF_RINGBUF_OUTPUT(spans, SPAN_RING_PAGES);
#else
#define LIVE
BPF_F_TABLE("array", int, struct bt_live, live, 1, BPF_F_MMAPABLE);
#endif
BPF_F_TABLE("array", int, struct bt_counters, counters, 1, BPF_F_MMAPABLE);
#ifdef PAYLOAD_RING_PAGES
BPF_RINGBUF_OUTPUT(payloads, PAYLOAD_RING_PAGES);
#endif

/*
 * Calls in flight, by thread. A table of slots and not a hash: a lookup here costs a sixth of a hash's (28
 * instructions against 163, measured), and hardly more than one thread per balloon is ever inside. A thread
 * that finds its slot taken is not followed, and counted.
 */
#define SLOTS 1024

/* VIRTIO_BALLOON_ARRAY_PFNS_MAX in the driver: page numbers in its array, and all that one work item moves by it. */
#define ITEM_PAGES 256

/* The driver takes its target up to whole pages of its kernel (towards_target), each UNIT_PAGES of 4 KiB. */
#ifndef UNIT_PAGES
#define UNIT_PAGES 1
#endif
#define GOAL_PAGES(target) (((target) + UNIT_PAGES - 1) / UNIT_PAGES * UNIT_PAGES)

#ifdef LIVE
/* Of the work item under way, as far as it went; its own sends only, none by compaction or out of memory. */
struct item_state {
	u64 body_ns;          /* in fill_balloon or leak_balloon */
	u64 send_ns;
	u64 bitmap_ns;        /* in set_page_bitmap */
	u64 bitmap_send_ns;   /* of send_ns, inside that */
	u64 sent_ns;          /* the last of these returned; 0: there was none */
	u32 pages;
	u8 sends;             /* whether there were any; the flags below say the same */
	u8 bodies;
	u8 bitmaps;
	u8 unknown;           /* sends of unknown pages */
	u8 inflates;          /* sends on the queue for that */
	u8 windowed;          /* the tell_host under way has send_resp_data inside, and is no send itself */
	u16 padding;
};
#endif

struct thread_state {
	u32 tid;
	u32 open;             /* bit f: inside function f */
	u64 entry_ns[BT_FUNCTIONS];
	u64 work;             /* the work item `device` was read for */
	u64 balloon;          /* struct virtio_balloon of that work item, 0 when unknown */
	u64 config_buffer;    /* where a config read will put its value */
	u64 config_ns;
	u32 config_calls;
	u32 target_pages;
	u32 actual_pages;
	u32 pages;            /* of the send in flight */
	u32 bytes;            /* of that send */
	u16 queue;            /* of that send */
	u16 device;
	u16 passes;           /* of the set_page_bitmap in flight */
	u16 bitmaps;          /* of that call */
	u8 flags;             /* of the device, target and actual: BT_HAS_* */
	u8 send_flags;        /* of the send in flight */
	u16 padding;
#ifdef LIVE
	struct item_state item;
#endif
};

BPF_ARRAY(threads, struct thread_state, SLOTS);

static __always_inline struct bt_counters *sums(void)
{
	int zero = 0;

	return counters.lookup(&zero);
}

static __always_inline struct thread_state *slot_of(u32 tid)
{
	int slot = tid % SLOTS;

	return threads.lookup(&slot);
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

/* Opens a call; returns the thread's state, 0 when the call cannot be followed. */
static __always_inline struct thread_state *enter(int function)
{
	struct bt_counters *sum = sums();
	struct thread_state *thread = claim_thread();

	if (!sum)
		return 0;
	__sync_fetch_and_add(&sum->functions[function].entries, 1);
	if (!thread) {
		__sync_fetch_and_add(&sum->functions[function].no_state, 1);
		return 0;
	}
	if (thread->open & (1 << function))
		__sync_fetch_and_add(&sum->functions[function].overwritten, 1);
	thread->open |= 1 << function;
	thread->entry_ns[function] = bpf_ktime_get_ns();
	return thread;
}

#ifdef SPAN_RING_PAGES
/* Writes a span; `flags` says which of the optional fields the caller measured. */
static __always_inline void emit(struct bt_counters *sum, struct thread_state *thread, int function, u64 now_ns,
				 u32 pages, int result, u8 flags)
{
	struct bt_span *span = spans.ringbuf_reserve(sizeof(*span));

	if (!span) {
		__sync_fetch_and_add(&sum->functions[function].lost, 1);
		return;
	}
	span->start_ns = thread->entry_ns[function];
	span->duration_ns = now_ns - thread->entry_ns[function];
	span->tid = thread->tid;
	span->cpu = bpf_get_smp_processor_id();
	span->function = function;
	span->flags = flags;
	span->device = thread->device;
	span->queue = thread->queue;
	span->pages = pages;
	span->result = result;
	span->config_calls = thread->config_calls;
	span->target_pages = thread->target_pages;
	span->actual_pages = thread->actual_pages;
	span->config_ns = thread->config_ns;
	span->bytes = thread->bytes;
	span->passes = thread->passes;
	span->bitmaps = function == BT_SET_PAGE_BITMAP ? thread->bitmaps : 0;
	spans.ringbuf_submit(span, BPF_RB_NO_WAKEUP);
}
#else
#define ADD(sum, value) __sync_fetch_and_add(&(sum), value)

static __always_inline struct bt_live *live_sums(void)
{
	int zero = 0;

	return live.lookup(&zero);
}

/* Whether what this thread does now is done for its work item: compaction and out of memory may come in between. */
static __always_inline int is_of_item(struct thread_state *thread)
{
	return thread->open & (1 << BT_UPDATE_BALLOON_SIZE_FUNC) &&
	       !(thread->open & (1 << BT_VIRTIO_BALLOON_OOM_NOTIFY | 1 << BT_VIRTBALLOON_MIGRATEPAGE));
}

/* Pages that a send, or a set_page_bitmap with all its sends, tells the host of. */
static __always_inline void count_pages(struct bt_live *sum, struct thread_state *thread, u32 pages, u8 flags)
{
	if (thread->open & 1 << BT_VIRTBALLOON_MIGRATEPAGE)
		return; /* one in and one out */
	if ((flags & (BT_HAS_PAGES | BT_HAS_QUEUE)) != (BT_HAS_PAGES | BT_HAS_QUEUE)) {
		ADD(sum->unknown_sends, 1);
		thread->item.unknown = 1;
		return;
	}
	if (thread->queue == 0)
		ADD(sum->inflated_pages, pages);
	else
		ADD(sum->deflated_pages, pages);
	if (is_of_item(thread)) {
		thread->item.pages += pages;
		thread->item.inflates = thread->queue == 0;
	}
}

static __always_inline void end_send(struct bt_live *sum, struct thread_state *thread, u64 now_ns, u64 duration_ns)
{
	ADD(sum->sends, 1);
	if (!is_of_item(thread))
		return;
	thread->item.sends = 1;
	thread->item.send_ns += duration_ns;
	thread->item.sent_ns = now_ns;
	if (thread->open & 1 << BT_SET_PAGE_BITMAP)
		thread->item.bitmap_send_ns += duration_ns;
}

/* One send of page numbers is as much as a work item moves, but by bitmaps it moves all there is to move. */
static __always_inline int is_short(struct thread_state *thread, u8 flags)
{
	struct item_state *item = &thread->item;

	if (!(flags & BT_HAS_TARGET) || !(flags & BT_HAS_ACTUAL) || item->unknown)
		return 0;
	return GOAL_PAGES(thread->target_pages) > thread->actual_pages && (item->bitmaps || item->pages < ITEM_PAGES);
}

/* Stages as balloontrace/analysis/work_items.py has them. */
static __always_inline void end_item(struct bt_live *sum, struct thread_state *thread, u64 now_ns, u64 duration_ns,
				     u8 flags)
{
	struct bt_live_device *device = &sum->devices[thread->device % BT_DEVICES];
	struct item_state *item = &thread->item;
	u8 both = BT_HAS_TARGET | BT_HAS_ACTUAL;
	int away = (flags & both) == both && GOAL_PAGES(thread->target_pages) != thread->actual_pages;
	u64 config_ns = flags & BT_HAS_CONFIG ? thread->config_ns : 0;
	u64 build_ns = item->sends ? item->bitmap_ns - item->bitmap_send_ns : 0;
	u64 body_ns = item->body_ns;

	device->entered_ns = 0;
	if (!item->sends && !item->bodies && !away) {
		device->left_ns = 0; /* at its target: what follows is rest */
		return;
	}
	if (!item->bodies) {
		body_ns = duration_ns;
		if (item->sent_ns && item->inflates)
			body_ns = item->sent_ns - thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
		body_ns -= config_ns;
	}
	ADD(sum->items, 1);
	ADD(sum->item_ns, duration_ns);
	ADD(sum->allocate_ns, body_ns - item->send_ns - build_ns);
	ADD(sum->build_ns, build_ns);
	ADD(sum->send_ns, item->send_ns);
	if (device->left_ns)
		ADD(sum->requeue_ns, thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC] - device->left_ns);
	device->left_ns = away ? now_ns : 0;
	if (is_short(thread, flags))
		ADD(sum->failed_allocations, 1);
}

/* Adds a call to the sums; arguments as for a span. */
static __always_inline void emit(struct bt_counters *unused, struct thread_state *thread, int function, u64 now_ns,
				 u32 pages, int result, u8 flags)
{
	u64 duration_ns = now_ns - thread->entry_ns[function];
	struct bt_live *sum = live_sums();

	if (!sum)
		return;
	ADD(sum->buckets[function][LOG2_OF_32(duration_ns) & (BT_BUCKETS - 1)], 1);
	switch (function) {
	case BT_UPDATE_BALLOON_SIZE_FUNC:
		end_item(sum, thread, now_ns, duration_ns, flags);
		break;
	case BT_FILL_BALLOON:
	case BT_LEAK_BALLOON:
		if (is_of_item(thread)) {
			thread->item.bodies = 1;
			thread->item.body_ns += duration_ns;
		}
		break;
	case BT_TELL_HOST:
		if (thread->item.windowed)
			break;
		end_send(sum, thread, now_ns, duration_ns);
		if (!(thread->open & 1 << BT_SET_PAGE_BITMAP))
			count_pages(sum, thread, pages, flags);
		break;
	case BT_SEND_RESP_DATA:
		thread->item.windowed = 1;
		end_send(sum, thread, now_ns, duration_ns);
		if (!(thread->open & 1 << BT_SET_PAGE_BITMAP))
			count_pages(sum, thread, 0, 0);
		break;
	case BT_SET_PAGE_BITMAP:
		count_pages(sum, thread, pages, flags);
		if (is_of_item(thread)) {
			thread->item.bitmaps = 1;
			thread->item.bitmap_ns += duration_ns;
			thread->item.sent_ns = now_ns;
		}
		break;
	}
}
#endif

/* Closes a call: span and sums. `flags` adds to what is known of the thread's device. */
static __always_inline void leave(int function, struct thread_state *thread, u32 pages, int result, u8 flags)
{
	struct bt_counters *sum = sums();
	u64 now_ns = bpf_ktime_get_ns();

	if (!sum)
		return;
	__sync_fetch_and_add(&sum->functions[function].returns, 1);
	if (!thread || !(thread->open & (1 << function))) {
		__sync_fetch_and_add(&sum->functions[function].unmatched_returns, 1);
		return;
	}
	__sync_fetch_and_add(&sum->functions[function].duration_ns, now_ns - thread->entry_ns[function]);
	if (flags & BT_HAS_PAGES)
		__sync_fetch_and_add(&sum->functions[function].pages, pages);
	emit(sum, thread, function, now_ns, pages, result, flags | (thread->flags & BT_HAS_DEVICE));
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

/* update_balloon_size_func(work): the work item, once per MiB in the stock driver. */
static __always_inline int on_update_balloon_size_func_entry(u64 work)
{
	struct thread_state *thread = enter(BT_UPDATE_BALLOON_SIZE_FUNC);

	if (!thread)
		return 0;
	thread->config_ns = 0;
	thread->config_calls = 0;
#ifdef LIVE
	__builtin_memset(&thread->item, 0, sizeof(thread->item));
#endif
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
		__sync_fetch_and_add(&device->operations, 1);
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
	leave(BT_UPDATE_BALLOON_SIZE_FUNC, thread, 0, 0, thread ? thread->flags : 0);
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

/*
 * What a send copied out of the driver's memory, in pieces of one size. `total_bytes` is the driver's word; whatever
 * it says, no more than BT_PAYLOAD_PIECES are read.
 */
static __always_inline void capture(struct thread_state *thread, int function, u64 from, u32 total_bytes)
{
#ifdef PAYLOAD_RING_PAGES
	struct bt_counters *sum = sums();

	if (!sum || !from)
		return;
	for (int i = 0; i < BT_PAYLOAD_PIECES; i++) {
		u32 offset_bytes = i * BT_PAYLOAD_BYTES;
		struct bt_payload *piece;
		u32 bytes;

		if (offset_bytes >= total_bytes)
			break;
		__sync_fetch_and_add(&sum->functions[BT_PAYLOAD].entries, 1);
		piece = payloads.ringbuf_reserve(sizeof(*piece));
		if (!piece) {
			__sync_fetch_and_add(&sum->functions[BT_PAYLOAD].lost, 1);
			continue;
		}
		bytes = total_bytes - offset_bytes;
		if (bytes > BT_PAYLOAD_BYTES)
			bytes = BT_PAYLOAD_BYTES;
		piece->start_ns = thread->entry_ns[function];
		piece->tid = thread->tid;
		piece->total_bytes = total_bytes;
		piece->offset_bytes = offset_bytes;
		piece->bytes = bytes;
		piece->function = function;
		piece->padding = 0;
		if (bpf_probe_read_kernel(piece->data, bytes, (void *)(from + offset_bytes)))
			piece->bytes = 0;
		payloads.ringbuf_submit(piece, BPF_RB_NO_WAKEUP);
	}
#endif
}

/*
 * What is known at the entry of each of the functions (vb, vq, ...) that send or lead to sends. Every driver
 * counts its pages first and tells the host then, and writes num_pages to `actual`.
 */
#define NOTE_SEND(function, thread, balloon, vq) do { \
	(thread)->send_flags = 0; \
	if (VIRTQUEUE_INDEX != NO_OFFSET) { \
		(thread)->queue = ARGUMENT_U32(function, vq, VIRTQUEUE_INDEX); \
		(thread)->send_flags |= BT_HAS_QUEUE; \
	} \
	if (VIRTIO_BALLOON_NUM_PAGES != NO_OFFSET) { \
		(thread)->actual_pages = ARGUMENT_U32(function, balloon, VIRTIO_BALLOON_NUM_PAGES); \
		(thread)->flags |= BT_HAS_ACTUAL; \
	} \
	if (!((thread)->flags & BT_HAS_DEVICE)) \
		set_device(thread, read_pointer(vq, VIRTQUEUE_VDEV)); \
} while (0)

/*
 * tell_host(vb, vq): a send of page numbers. In the patched driver with bitmaps a window instead, whose sends
 * are calls of send_resp_data, and num_pfns counts the pages of all windows.
 */
static __always_inline int on_tell_host_entry(u64 balloon, u64 vq)
{
	struct thread_state *thread = enter(BT_TELL_HOST);

	if (!thread)
		return 0;
#ifdef LIVE
	thread->item.windowed = 0;
#endif
	thread->send_flags = 0;
	if (!TELL_HOST_ARGUMENTS)
		return 0;
	NOTE_SEND(tell_host, thread, balloon, vq);
	if (VIRTIO_BALLOON_NUM_PFNS == NO_OFFSET || thread->open & (1 << BT_SET_PAGE_BITMAP))
		return 0;
	thread->pages = ARGUMENT_U32(tell_host, balloon, VIRTIO_BALLOON_NUM_PFNS);
	thread->send_flags |= BT_HAS_PAGES;
	if (VIRTIO_BALLOON_PFNS != NO_OFFSET && thread->pages <= ITEM_PAGES)
		capture(thread, BT_TELL_HOST, balloon + VIRTIO_BALLOON_PFNS, thread->pages * sizeof(u32));
	return 0;
}

static __always_inline int on_tell_host_return(u64 result)
{
	struct thread_state *thread = find_thread();

	leave(BT_TELL_HOST, thread, thread ? thread->pages : 0, 0, thread ? thread->send_flags : 0);
	return 0;
}

/* send_resp_data(vb, vq, busy_wait): one send of the patched driver; resp_pos counts the u64 that wait in resp_data. */
static __always_inline int on_send_resp_data_entry(u64 balloon, u64 vq, u64 busy_wait)
{
	struct thread_state *thread = enter(BT_SEND_RESP_DATA);

	if (!thread)
		return 0;
	thread->send_flags = 0;
	if (!SEND_RESP_DATA_ARGUMENTS)
		return 0;
	NOTE_SEND(send_resp_data, thread, balloon, vq);
	if (VIRTIO_BALLOON_RESP_POS == NO_OFFSET)
		return 0;
	thread->bytes = ARGUMENT_U32(send_resp_data, balloon, VIRTIO_BALLOON_RESP_POS) * sizeof(u64);
	thread->send_flags |= BT_HAS_BYTES;
	if (VIRTIO_BALLOON_RESP_DATA != NO_OFFSET)
		capture(thread, BT_SEND_RESP_DATA, read_pointer(balloon, VIRTIO_BALLOON_RESP_DATA), thread->bytes);
	return 0;
}

static __always_inline int on_send_resp_data_return(u64 result)
{
	struct thread_state *thread = find_thread();

	leave(BT_SEND_RESP_DATA, thread, 0, 0, thread ? thread->send_flags & ~BT_HAS_PAGES : 0);
	return 0;
}

/*
 * set_page_bitmap(vb, pages, vq): everything of an operation between its last page and its end. It walks the list
 * of pages once for each window; a window is as many bitmaps of 32 KiB (1 GiB of guest) as could be allocated.
 */
#define BITMAP_PFNS (1ULL << 18)
#define WORD_PFNS 64ULL

static __always_inline void count_passes(struct thread_state *thread, u64 balloon)
{
	u64 bitmaps = ARGUMENT_U32(set_page_bitmap, balloon, VIRTIO_BALLOON_NR_PAGE_BMAP);
	u64 first = read_pointer(balloon, VIRTIO_BALLOON_MIN_PFN) & ~(WORD_PFNS - 1);
	u64 end = (read_pointer(balloon, VIRTIO_BALLOON_MAX_PFN) + WORD_PFNS - 1) & ~(WORD_PFNS - 1);
	u64 window = (bitmaps ? bitmaps : 1) * BITMAP_PFNS;

	thread->bitmaps = bitmaps;
	thread->passes = end > first ? (end - first + window - 1) / window : 0;
}

static __always_inline int on_set_page_bitmap_entry(u64 balloon, u64 pages, u64 vq)
{
	struct thread_state *thread = enter(BT_SET_PAGE_BITMAP);

	if (!thread)
		return 0;
	thread->bitmaps = 0;
	thread->send_flags = 0;
	if (!SET_PAGE_BITMAP_ARGUMENTS)
		return 0;
	NOTE_SEND(set_page_bitmap, thread, balloon, vq);
	if (VIRTIO_BALLOON_NUM_PFNS != NO_OFFSET)
		thread->pages = ARGUMENT_U32(set_page_bitmap, balloon, VIRTIO_BALLOON_NUM_PFNS);
	if (VIRTIO_BALLOON_NR_PAGE_BMAP != NO_OFFSET && VIRTIO_BALLOON_MIN_PFN != NO_OFFSET &&
	    VIRTIO_BALLOON_MAX_PFN != NO_OFFSET)
		count_passes(thread, balloon);
	return 0;
}

static __always_inline int on_set_page_bitmap_return(u64 result)
{
	struct thread_state *thread = find_thread();
	u8 flags = 0;

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

/* virtballoon_changed(vdev): an interrupt on top of whatever thread runs, so it has no state and no duration. */
static __always_inline int on_virtballoon_changed_entry(u64 vdev)
{
	struct bt_counters *sum = sums();

	if (!sum)
		return 0;
	__sync_fetch_and_add(&sum->functions[BT_VIRTBALLOON_CHANGED].entries, 1);
#ifdef SPAN_RING_PAGES
	struct bt_span *span;

	span = spans.ringbuf_reserve(sizeof(*span));
	if (!span) {
		__sync_fetch_and_add(&sum->functions[BT_VIRTBALLOON_CHANGED].lost, 1);
		return 0;
	}
	__builtin_memset(span, 0, sizeof(*span));
	span->start_ns = bpf_ktime_get_ns();
	span->tid = bpf_get_current_pid_tgid();
	span->cpu = bpf_get_smp_processor_id();
	span->function = BT_VIRTBALLOON_CHANGED;
	if (VIRTIO_DEVICE_INDEX != NO_OFFSET) {
		span->device = read_u32(vdev, VIRTIO_DEVICE_INDEX);
		span->flags = BT_HAS_DEVICE;
	}
	spans.ringbuf_submit(span, BPF_RB_NO_WAKEUP);
#endif
	return 0;
}

/* virtio_balloon_oom_notify(notifier, unused, freed): the out-of-memory path of any thread. */
static __always_inline int on_virtio_balloon_oom_notify_entry(u64 notifier, u64 unused, u64 freed)
{
	struct thread_state *thread = enter(BT_VIRTIO_BALLOON_OOM_NOTIFY);

	if (thread && VIRTIO_BALLOON_OOM_NB != NO_OFFSET)
		set_device_of_balloon(thread, notifier - VIRTIO_BALLOON_OOM_NB);
	return 0;
}

static __always_inline int on_virtio_balloon_oom_notify_return(u64 result)
{
	leave(BT_VIRTIO_BALLOON_OOM_NOTIFY, find_thread(), 0, result, BT_HAS_RESULT);
	return 0;
}

/* virtballoon_migratepage(vb_dev_info, newpage, page, mode): compaction moves one ballooned page. */
static __always_inline int on_virtballoon_migratepage_entry(u64 info, u64 newpage, u64 page, u64 mode)
{
	struct thread_state *thread = enter(BT_VIRTBALLOON_MIGRATEPAGE);

	if (thread && VIRTIO_BALLOON_VB_DEV_INFO != NO_OFFSET)
		set_device_of_balloon(thread, info - VIRTIO_BALLOON_VB_DEV_INFO);
	return 0;
}

static __always_inline int on_virtballoon_migratepage_return(u64 result)
{
	leave(BT_VIRTBALLOON_MIGRATEPAGE, find_thread(), 0, result, BT_HAS_RESULT);
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
#ifdef LIVE
	struct bt_live *sum = live_sums();

	if (!sum)
		return;
	struct bt_live_device *device = &sum->devices[thread->device % BT_DEVICES];

	device->target_pages = thread->target_pages;
	device->entered_ns = thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
#endif
}

static __always_inline void count_config_get(int by_kprobe)
{
	struct bt_counters *sum = sums();

	if (!sum)
		return;
	if (by_kprobe)
		__sync_fetch_and_add(&sum->functions[BT_CONFIG_GET].entries, 1);
	else
		__sync_fetch_and_add(&sum->functions[BT_CONFIG_GET].returns, 1);
}

static __always_inline int is_target(u64 offset, u64 length)
{
	return (u32)offset == CONFIG_NUM_PAGES && (u32)length == sizeof(u32);
}

/* On return fentry still shows the arguments, so that one program does. */
#define CONFIG_GET_fentry \
	int fexit_config_get(u64 *ctx) { return on_config_get(ctx[1], ctx[2], ctx[3]); }
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
		__sync_fetch_and_add(&sum->functions[BT_CONFIG_SET].entries, 1);
	if (!thread || !in_work_item(thread) || (u32)offset != CONFIG_ACTUAL || (u32)length != sizeof(u32))
		return 0;
	thread->actual_pages = read_u32(buffer, 0);
	thread->flags |= BT_HAS_ACTUAL;
	return 0;
}

PROGRAMS(update_balloon_size_func, 1, NO_RESULT)
PROGRAMS(fill_balloon, 2, RESULT)
PROGRAMS(leak_balloon, 2, RESULT)
PROGRAMS(tell_host, 2, NO_RESULT)
PROGRAMS(send_resp_data, 3, NO_RESULT)
PROGRAMS(set_page_bitmap, 3, NO_RESULT)
PROGRAMS(extend_page_bitmap, 1, NO_RESULT)
ENTRY_PROGRAM(virtballoon_changed, 1)
PROGRAMS(virtio_balloon_oom_notify, 3, RESULT)
PROGRAMS(virtballoon_migratepage, 4, RESULT)
CONCAT(CONFIG_GET_, KIND_config_get)
ENTRY_PROGRAM(config_set, 4)
