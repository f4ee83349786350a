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
#include "guest_spans.h"
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
static __always_inline void begin_release(struct thread_state *thread) {}
static __always_inline void end_release(struct thread_state *thread) {}
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

	if (!thread)
		return 0;
	set_device_of_balloon(thread, balloon);
	begin_release(thread);
	return 0;
}

static __always_inline int on_leak_balloon_return(u64 result)
{
	struct thread_state *thread = find_thread();

	if (thread)
		end_release(thread);
	leave(BT_LEAK_BALLOON, thread, result, result, BT_HAS_PAGES | BT_HAS_RESULT);
	return 0;
}

#include "payloads.h"
#include "guest_sends.h"

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

#include "config_space.h"
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
