// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Host side: one batch per buffer that a VMM serves, and sums of its single calls, read by mapping.
 *
 * The calls run once per page in some VMMs, so what is done per call is little: two looks at the clock, and sums
 * in a slot of an array that nobody else writes to. Other processes run into these programs too, and leave them after
 * one comparison. `target` is the process to trace: while attaching, the recorder itself, to see what a call costs. With
 * ALL_PROCESSES there are many (host_processes.h).
 *
 * What delimits a batch is what its thread does. It learns of a kick by reading an eventfd or, where the device has no
 * ioeventfd, by leaving the guest; it completes a buffer by writing an eventfd or by an ioctl that sends an interrupt.
 *
 * COUNT_FREED is the bytes of a page where what becomes free is to be counted, else 0; that takes a program per page.
 * SAMPLED is not 0 where calls are not traced: samples tell how much of a buffer's time is inside them (host_samples.h).
 */
#include "balloon_engine.h"
#include "balloon_batches.h"
#include "balloon_compat.h"

#ifndef SAMPLED
#define SAMPLED 0
#endif

/* Keeps an address in one register: clang would rather add up its parts again wherever it is used. */
#define ONE_REGISTER(pointer) __asm__("" : "+r"(pointer))

#ifdef ALL_PROCESSES
#include "host_processes.h"
#endif

/* Without a ring nothing is handed over: what would be is summed up in `live`. */
#ifdef BATCH_RING_PAGES
RING(batches, BATCH_RING_PAGES);
#endif
#ifndef ALL_PROCESSES
#ifndef BATCH_RING_PAGES
SHARED(struct bt_live_slots, live);
#endif
SHARED(struct bt_threads, threads);
SHARED(u64, target);
SHARED(struct bt_eventfds, eventfds);
#endif
#if MAY_BE(COUNT_FREED) && !SAMPLED
HASH(waiting, u64, u64, 4096);
SHARED(u64, waiting_pages);
#endif

#define LARGEST_ERRNO 4095

#ifndef ALL_PROCESSES
#define HAS_NO_SLOT(slot) 0
#define eventfds_of(id) VALUE(struct bt_eventfds, eventfds)
#define live_batches_of(id) (&VALUE(struct bt_live_slots, live)->slots[(id) % BT_SLOTS])
#define count_call(id)
#define RECORD struct bt_batch
#define fill(record, thread) (*(record) = (thread)->batch)

static __always_inline struct bt_thread *slot_of(u64 id)
{
	struct bt_thread *slot = &VALUE(struct bt_threads, threads)->slots[id % BT_SLOTS];

	ONE_REGISTER(slot);
	return slot;
}

/*
 * Whose slot it is tells whether a thread is to be traced at all: one comparison for those that are at work in theirs.
 * All others are asked for their process then.
 */
static __always_inline int is_traced(u64 id)
{
	return id >> 32 == *VALUE(u64, target);
}
#endif

/* The slot of this thread if it is the one at work there. */
static __always_inline struct bt_thread *find_thread(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_thread *thread = slot_of(id);

	return !HAS_NO_SLOT(thread) && thread->id == id ? thread : 0;
}

static __always_inline int is_open(struct bt_batch *batch)
{
	return batch->first_call_ns != 0;
}

#ifdef BATCH_RING_PAGES
static __always_inline void hand_over(struct bt_thread *thread)
{
	RECORD *record = bpf_ringbuf_reserve(MAP(batches), sizeof(*record), 0);

	if (record) {
		fill(record, thread);
		bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	} else {
		thread->lost++;
	}
}
#else
static __always_inline void hand_over(struct bt_thread *thread)
{
	struct bt_batch *batch = &thread->batch;
	struct bt_live_batches *sum;
	u64 served_ns;

	if (!(batch->flags & BT_KICK_SEEN) || !(batch->flags & BT_DONE_SEEN))
		return;
	sum = live_batches_of(thread->id);
	if (HAS_NO_SLOT(sum))
		return;
	served_ns = batch->done_ns - batch->kick_ns;
	sum->delimited++;
	sum->served_ns += served_ns;
	sum->calls_ns += batch->calls_ns;
	if (served_ns > sum->longest_ns)
		sum->longest_ns = served_ns;
}
#endif

/* Submits the batch under way, and starts the next one. */
static __always_inline void finish_batch(struct bt_thread *thread)
{
	hand_over(thread);
	thread->batches++;
	__builtin_memset(&thread->batch, 0, sizeof(thread->batch));
}

/*
 * Makes the slot this thread's; 0 when another one is at work in it. A batch that nothing delimits, say of a thread that
 * gave back its stack and ended, does not keep the slot.
 */
static __always_inline struct bt_thread *take_slot(struct bt_thread *thread, u64 id)
{
	if (thread->entry_ns || (is_open(&thread->batch) && thread->batch.kick_ns))
		return 0;
	if (is_open(&thread->batch))
		finish_batch(thread);
	thread->id = id;
	thread->in_run = 0;
	thread->batch.kick_ns = 0;
	thread->batch.flags = 0;
	thread->batch.kicked_by = 0;
	return thread;
}

/* ---- calls ---- */

/* The slot in which this thread begins a call; 0 when it is not traced, or cannot be. */
static __always_inline struct bt_thread *begin_call(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_thread *thread = slot_of(id);

	if (HAS_NO_SLOT(thread))
		return 0;
	if (thread->id != id) {
		if (!is_traced(id))
			return 0;
		if (!take_slot(thread, id)) {
			ADD(thread->no_state, 1);
			return 0;
		}
	}
	if (thread->entry_ns) {
		thread->overwritten++;
		thread->freed_bytes = 0;
		thread->let_go = 0;
	}
	return thread;
}

/* The last thing before the call itself. */
static __always_inline int start_clock(struct bt_thread *thread)
{
	if (thread)
		thread->entry_ns = bpf_ktime_get_ns();
	return 0;
}

/*
 * After the call itself, and before anything else is read: what is needed later would have to be saved meanwhile.
 * The slot of this thread; 0 when it is not traced, or when the call began unseen.
 */
static __always_inline struct bt_thread *find_call(u64 *now_ns)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_thread *thread = slot_of(id);

	if (HAS_NO_SLOT(thread))
		return 0;
	if (thread->id == id && thread->entry_ns) {
		*now_ns = bpf_ktime_get_ns();
		return thread;
	}
	if (is_traced(id))
		ADD(thread->unmatched_returns, 1);
	return 0;
}

/* Counts a call that has returned, whatever its result; returns the sums of its kind. */
static __always_inline struct bt_call_sums *end_call(struct bt_thread *thread, u64 now_ns, u32 call)
{
	u64 entry_ns = thread->entry_ns;
	u64 duration_ns = now_ns - entry_ns;
	struct bt_batch *batch = &thread->batch;
	struct bt_call_sums *sums = &thread->sums[call & (BT_CALLS - 1)];

	ONE_REGISTER(sums);
	thread->entry_ns = 0;
	if (!is_open(batch)) {
		batch->first_call_ns = entry_ns;
		batch->tid = thread->id;
	}
	batch->last_return_ns = now_ns;
	batch->calls_ns += duration_ns;
	batch->calls[call & (BT_CALLS - 1)]++;
	sums->duration_ns += duration_ns;
	sums->buckets[LOG2_OF_32(duration_ns) & (BT_BUCKETS - 1)]++;
	count_call(thread->id);
	return sums;
}

/* Counts what it achieved. */
static __always_inline int add_result(struct bt_thread *thread, struct bt_call_sums *sums, u64 bytes, long result,
				      int is_fallocate)
{
	struct bt_batch *batch = &thread->batch;
	int failed = result < 0 && result >= -LARGEST_ERRNO;

	if (COUNT_FREED) {
		sums->freed_bytes += thread->freed_bytes;
		if (!failed && !thread->freed_bytes)
			sums->freed_nothing++;
		thread->freed_bytes = 0;
		thread->let_go = 0;
	}
	if (failed) {
		batch->errors++;
		batch->last_errno = -result;
		sums->errors++;
		return 0;
	}
	if (!bytes)
		sums->no_bytes++;
	sums->bytes += bytes;
	if (is_fallocate)
		batch->fallocate_bytes += bytes;
	else
		batch->madvise_bytes += bytes;
	return 0;
}

#include "host_calls.h"
#include "host_samples.h"

#if !SAMPLED
CALL_PROGRAMS(madvise)
CALL_PROGRAMS(process_madvise)
CALL_PROGRAMS(fallocate)
#endif

#include "host_delimiters.h"

/* __split_huge_pmd(vma, pmd, address, ...): the mapping of a huge page becomes one of small pages. */
static __always_inline int on_split_huge_pmd_entry(u64 vma)
{
	struct bt_thread *thread = find_thread();

	if (!thread)
		return 0;
	thread->thp_splits++;
	if (SAMPLED && thread->sampled.kick_ns) {
		thread->sampled.thp_splits++;
		thread->sampled.splitting = 1;
	}
	if (thread->entry_ns)
		thread->batch.thp_splits++;
	return 0;
}

ENTRY_PROGRAM(split_huge_pmd, 1)

#if !SAMPLED
#include "host_freed.h"
#endif

#ifndef ALL_PROCESSES
#include "host_faults.h"
#endif
