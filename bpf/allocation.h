/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a work item does while it allocates, in parts: direct reclaim, compaction, the sleep after "Out of puff", waiting
 * for locks, and off the processor. Part of guest.bpf.c, and only where SPLIT_ALLOCATION asks for it: sched_switch runs for
 * every switch of the machine.
 *
 * Allocating is what happens between reading the target and the first send of the work item itself (or in fill_balloon,
 * where that is traced). A work item that deflates releases pages instead, also after its sends: all of its leak_balloon but
 * those. Of what lies inside each other the outermost counts: waiting for a disk in reclaim is reclaim.
 * Each program is a test of one word for all threads but the balloon's.
 */
#ifndef ALLOCATION_H
#define ALLOCATION_H

/* The driver calls msleep(200) for a page; that counts ticks and may be 10 ms short. Nothing else sleeps so long there. */
#define PUFF_NS 180000000ULL

#define OWN_SENDS (1 << BT_TELL_HOST | 1 << BT_SEND_RESP_DATA | 1 << BT_SET_PAGE_BITMAP)
#define OTHERS_SENDS (1 << BT_VIRTBALLOON_MIGRATEPAGE | 1 << BT_VIRTIO_BALLOON_OOM_NOTIFY)

static __always_inline struct watched_task *watched_slot(u64 task)
{
	return &VALUE(struct thread_slots, threads)->watched[task >> 6 & (BT_WATCHED - 1)];
}

/* The state of a thread in a work item by its struct task_struct, which is only compared. */
static __always_inline struct thread_state *find_watched(u64 task)
{
	struct watched_task *watched = watched_slot(task);
	struct thread_state *thread;

	if (watched->task != task)
		return 0;
	thread = slot_of(watched->tid);
	return thread->tid == watched->tid && thread->open ? thread : 0;
}

/* Whether the thread is in a leak_balloon of the work item's own, not in one that running out of memory makes inside it. */
static __always_inline int is_releasing(struct thread_state *thread)
{
	return thread->open & 1 << BT_LEAK_BALLOON && !(thread->open & OTHERS_SENDS);
}

/* Whether the thread is at what the analysis calls stage a. */
static __always_inline int is_allocating(struct thread_state *thread)
{
	if (!(thread->open & 1 << BT_UPDATE_BALLOON_SIZE_FUNC) || !(thread->flags & BT_HAS_CONFIG))
		return 0;
	if (is_releasing(thread))
		return !(thread->open & OWN_SENDS);
	if (thread->parts_kept)
		return 0;
	if (FILL_BALLOON_TRACED && !(thread->open & 1 << BT_FILL_BALLOON))
		return 0;
	return !(thread->open & OWN_SENDS) || thread->open & OTHERS_SENDS;
}

static __always_inline void add_part(struct thread_state *thread, int part, u64 since_ns)
{
	thread->part_ns[part] += bpf_ktime_get_ns() - since_ns;
	thread->part_count[part]++;
}

static __always_inline void begin_part(struct thread_state *thread, int part)
{
	if (!thread || thread->in_part || !is_allocating(thread))
		return;
	thread->in_part = part + 1;
	thread->part_since_ns = bpf_ktime_get_ns();
}

static __always_inline void end_part(struct thread_state *thread, int part)
{
	if (!thread || thread->in_part != part + 1)
		return;
	thread->in_part = 0;
	add_part(thread, part, thread->part_since_ns);
}

static __always_inline void forget_parts(struct thread_state *thread)
{
	__builtin_memset(thread->part_ns, 0, sizeof(thread->part_ns));
	__builtin_memset(thread->part_count, 0, sizeof(thread->part_count));
}

/* At the entry of a work item. */
static __always_inline void watch_item(struct thread_state *thread)
{
	u64 task = (u64)bpf_get_current_task();
	struct watched_task *watched = watched_slot(task);
	struct bt_counters *sum = sums();

	if (!SPLIT_ALLOCATION)
		return;
	forget_parts(thread);
	thread->in_part = 0;
	thread->parts_kept = 0;
	thread->off_ns = 0;
	ADD(sum->functions[BT_ALLOCATION_PARTS].entries, 1);
	if (watched->task && watched->task != task) {
		ADD(sum->functions[BT_ALLOCATION_PARTS].no_state, 1);
		return;
	}
	watched->task = task;
	watched->tid = thread->tid;
}

/* At the entry of each send: what stage a is made of is known where the first one of the work item's own begins. */
static __always_inline void keep_parts(struct thread_state *thread)
{
	if (SPLIT_ALLOCATION && !(thread->open & OTHERS_SENDS))
		thread->parts_kept = 1;
}

/* At the entry of leak_balloon: what came before it in its work item is not stage a. */
static __always_inline void begin_release(struct thread_state *thread)
{
	if (SPLIT_ALLOCATION && is_releasing(thread))
		forget_parts(thread);
}

/* At its return, while it still is open. */
static __always_inline void end_release(struct thread_state *thread)
{
	if (SPLIT_ALLOCATION && is_releasing(thread))
		thread->parts_kept = 1;
}

/* A part is a span without a call: as long as it took in this work item, with the part in `queue` and its number in `pages`. */
static __always_inline void emit_part(struct bt_counters *sum, struct thread_state *thread, int part)
{
	struct bt_span *span;

	if (!thread->part_count[part])
		return;
	span = reserve_span(sum, BT_ALLOCATION_PARTS);
	if (!span)
		return;
	__builtin_memset(span, 0, sizeof(*span));
	span->start_ns = thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
	span->duration_ns = thread->part_ns[part];
	span->tid = thread->tid;
	span->cpu = bpf_get_smp_processor_id();
	span->function = BT_ALLOCATION_PARTS;
	span->queue = part;
	span->pages = thread->part_count[part];
	bpf_ringbuf_submit(span, BPF_RB_NO_WAKEUP);
}

/* At the return of a work item. */
static __always_inline void tell_parts(struct thread_state *thread)
{
	u64 task = (u64)bpf_get_current_task();
	struct watched_task *watched = watched_slot(task);
	struct bt_counters *sum = sums();

	if (!SPLIT_ALLOCATION)
		return;
	if (watched->task == task)
		watched->task = 0;
	ADD(sum->functions[BT_ALLOCATION_PARTS].returns, 1);
	emit_part(sum, thread, BT_PART_RECLAIM);
	emit_part(sum, thread, BT_PART_COMPACTION);
	emit_part(sum, thread, BT_PART_PUFF);
	emit_part(sum, thread, BT_PART_LOCK);
	emit_part(sum, thread, BT_PART_OFF_CPU);
}

static __always_inline void count_run(int function)
{
	struct bt_counters *sum = sums();

	ADD(sum->functions[function].entries, 1);
}

/* sched:sched_switch(preempt, prev, next): before the switch, so that prev still is the current thread. */
static __always_inline int on_sched_switch_entry(u64 preempt, u64 prev, u64 next)
{
	struct thread_state *thread = find_watched(prev);

	count_run(BT_SCHED_SWITCH);
	if (thread && !thread->in_part && is_allocating(thread)) {
		thread->off_ns = bpf_ktime_get_ns();
		thread->was_preempted = (u8)preempt;
	}
	thread = find_watched(next);
	if (thread && thread->off_ns) {
		int slept = !thread->was_preempted && bpf_ktime_get_ns() - thread->off_ns >= PUFF_NS;

		if (slept)
			add_part(thread, BT_PART_PUFF, thread->off_ns);
		else
			add_part(thread, BT_PART_OFF_CPU, thread->off_ns);
		thread->off_ns = 0;
	}
	return 0;
}

/* vmscan:mm_vmscan_direct_reclaim_begin and _end: around the reclaim that an allocation does itself. */
static __always_inline int on_mm_vmscan_direct_reclaim_begin_entry(u64 order)
{
	count_run(BT_MM_VMSCAN_DIRECT_RECLAIM_BEGIN);
	begin_part(find_thread(), BT_PART_RECLAIM);
	return 0;
}

static __always_inline int on_mm_vmscan_direct_reclaim_end_entry(u64 reclaimed)
{
	count_run(BT_MM_VMSCAN_DIRECT_RECLAIM_END);
	end_part(find_thread(), BT_PART_RECLAIM);
	return 0;
}

/* compaction:mm_compaction_begin and _end: one zone compacted, by whoever needs it. */
static __always_inline int on_mm_compaction_begin_entry(u64 control)
{
	count_run(BT_MM_COMPACTION_BEGIN);
	begin_part(find_thread(), BT_PART_COMPACTION);
	return 0;
}

static __always_inline int on_mm_compaction_end_entry(u64 control)
{
	count_run(BT_MM_COMPACTION_END);
	end_part(find_thread(), BT_PART_COMPACTION);
	return 0;
}

/*
 * lock:contention_begin and _end(lock): a mutex may begin several times before it ends once. Until the end of the same lock
 * all is waiting for that one.
 */
static __always_inline int on_contention_begin_entry(u64 lock)
{
	struct thread_state *thread = find_thread();

	count_run(BT_CONTENTION_BEGIN);
	if (!thread || thread->in_part)
		return 0;
	begin_part(thread, BT_PART_LOCK);
	thread->lock = lock;
	return 0;
}

static __always_inline int on_contention_end_entry(u64 lock)
{
	struct thread_state *thread = find_thread();

	count_run(BT_CONTENTION_END);
	if (thread && thread->lock == lock)
		end_part(thread, BT_PART_LOCK);
	return 0;
}

ENTRY_raw_tracepoint(sched_switch, 3)
ENTRY_raw_tracepoint(mm_vmscan_direct_reclaim_begin, 1)
ENTRY_raw_tracepoint(mm_vmscan_direct_reclaim_end, 1)
ENTRY_raw_tracepoint(mm_compaction_begin, 1)
ENTRY_raw_tracepoint(mm_compaction_end, 1)
ENTRY_raw_tracepoint(contention_begin, 1)
ENTRY_raw_tracepoint(contention_end, 1)

#endif
