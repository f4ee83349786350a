// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Host side: one batch per buffer that a VMM serves, and sums of its single calls, read by mapping.
 *
 * The calls run once per page in some VMMs, so what is done per call is little: two looks at the clock, and sums
 * in a slot of an array that nobody else writes to. Other processes run into these programs too, and leave them after
 * one comparison. `target` is the process to trace: while attaching, the recorder itself, to see what a call costs.
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

/* Without a ring nothing is handed over: what would be is summed up in `live`. */
#ifdef BATCH_RING_PAGES
RING(batches, BATCH_RING_PAGES);
#else
SHARED(struct bt_live_slots, live);
#endif
SHARED(struct bt_threads, threads);
SHARED(u64, target);
#if MAY_BE(COUNT_FREED)
HASH(waiting, u64, u64, 4096);
SHARED(u64, waiting_pages);
#endif
SHARED(struct bt_eventfds, eventfds);
#if MAY_BE(SAMPLED)
SHARED(struct bt_vcpus, vcpus);
#endif

/* include/uapi/linux/kvm.h: _IO(0xAE, 0x80), and three that send an interrupt to the guest */
#define IOCTL_RUN 0xae80
#define IOCTL_IRQ_LINE 0x4008ae61
#define IOCTL_IRQ_LINE_STATUS 0xc008ae67
#define IOCTL_SIGNAL_MSI 0x4020aea5

#define LARGEST_ERRNO 4095

/* Keeps an address in one register: clang would rather add up its parts again wherever it is used. */
#define ONE_REGISTER(pointer) __asm__("" : "+r"(pointer))

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

/* The slot of this thread if it is the one at work there. */
static __always_inline struct bt_thread *find_thread(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_thread *thread = slot_of(id);

	return thread->id == id ? thread : 0;
}

static __always_inline int is_open(struct bt_batch *batch)
{
	return batch->first_call_ns != 0;
}

#ifdef BATCH_RING_PAGES
static __always_inline void hand_over(struct bt_thread *thread)
{
	struct bt_batch *record = bpf_ringbuf_reserve(MAP(batches), sizeof(*record), 0);

	if (record) {
		*record = thread->batch;
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
	sum = &VALUE(struct bt_live_slots, live)->slots[thread->id % BT_SLOTS];
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

CALL_PROGRAMS(madvise)
CALL_PROGRAMS(process_madvise)
CALL_PROGRAMS(fallocate)

/* ---- what delimits batches ---- */

/* This thread has learnt that a buffer may be waiting. */
static __always_inline int kicked(struct bt_thread *thread, u32 flags)
{
	if (is_open(&thread->batch))
		finish_batch(thread);
	else if (SAMPLED)
		__builtin_memset(&thread->batch, 0, sizeof(thread->batch));
	thread->batch.kick_ns = bpf_ktime_get_ns();
	thread->batch.flags = flags;
	thread->batch.kicked_by = 0;
	return 0;
}

/* The place of an eventfd, its own from now on: that of one seen earlier goes to it if all neighbours are taken. */
static __always_inline u32 place_of(struct bt_eventfds *known, u64 file)
{
	u32 first = file * 0x9e3779b97f4a7c15ull >> 32 & (BT_EVENTFDS - BT_EVENTFD_WAYS);
	u32 place = first | (known->last_number & (BT_EVENTFD_WAYS - 1));
	u32 way;

#pragma unroll
	for (way = BT_EVENTFD_WAYS; way--;)
		if (!known->at[first | way].file)
			place = first | way;
#pragma unroll
	for (way = 0; way < BT_EVENTFD_WAYS; way++)
		if (known->at[first | way].file == file)
			return first | way;
	__builtin_memset(&known->at[place], 0, sizeof(known->at[place]));
	known->at[place].file = file;
	known->at[place].left = UNPROVEN_BUFFERS;
	/* Two threads may race for a number; older instruction sets have no addition that returns one. */
	known->at[place].number = ++known->last_number;
	return place;
}

/* Which eventfd has kicked this thread, and when. */
static __always_inline void kicked_by(struct bt_thread *thread, u64 pointer)
{
	struct bt_eventfds *known = VALUE(struct bt_eventfds, eventfds);
	struct bt_eventfd *eventfd;
	u32 place;

	/* The verifier allows no arithmetic with a pointer that has a type: what comes back from a map has none. */
	*(volatile u64 *)&thread->length = pointer;
	place = place_of(known, *(volatile u64 *)&thread->length) & (BT_EVENTFDS - 1);
	eventfd = &known->at[place];
	eventfd->tid = thread->id;
	eventfd->kick_ns[eventfd->kicks++ & (BT_KICK_TIMES - 1)] = thread->batch.kick_ns;
	if (SAMPLED)
		thread->sampled.place = place;
	thread->batch.kicked_by = eventfd->number;
}

/* This thread is about to tell the guest that its buffer was used; without a call before that, it is none of ours. */
static __always_inline int completing(struct bt_thread *thread, u32 flags)
{
	if (SAMPLED ? !may_be_of_balloon(thread) : !is_open(&thread->batch))
		return 0;
	thread->batch.done_ns = bpf_ktime_get_ns();
	thread->batch.flags |= flags;
	if (SAMPLED) {
		thread->sampled.tid = thread->id;
		thread->sampled.idle_ns = thread->idle_ns;
		thread->idle_ns = thread->batch.done_ns;
	}
	finish_batch(thread);
	return 0;
}

/* The slot of this thread, taken if nobody is at work there. */
static __always_inline struct bt_thread *claim_thread(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_thread *thread = slot_of(id);

	if (thread->id == id)
		return thread;
	/* Only a call takes a slot from a thread that serves a buffer, or has seen the kick of one. */
	if (!is_traced(id) || is_open(&thread->batch) ||
	    (thread->batch.kick_ns && !(thread->batch.flags & BT_KICK_VCPU)))
		return 0;
	return take_slot(thread, id);
}

/* eventfd_read(iocb, to): the counter's 8 bytes, or an error when nothing was written to it. */
static __always_inline struct bt_thread *on_eventfd_read_return(u64 result)
{
	struct bt_thread *thread;

	if (result != sizeof(u64))
		return 0;
	thread = claim_thread();
	if (thread)
		kicked(thread, BT_KICK_SEEN);
	return thread;
}

/* eventfd_write(file, buffer, count, position) */
static __always_inline int on_eventfd_write_entry(u64 file)
{
	struct bt_thread *thread = find_thread();

	return thread ? completing(thread, BT_DONE_SEEN) : 0;
}

/* kvm_vcpu_ioctl(file, ioctl, argument): KVM_RUN returns 0 when the guest wants something of the VMM. */
static __always_inline int left_guest(void)
{
	struct bt_thread *thread = claim_thread();

	return thread ? kicked(thread, BT_KICK_SEEN | BT_KICK_VCPU) : 0;
}

static __always_inline int on_kvm_vcpu_ioctl_entry(u64 file, u64 ioctl)
{
	struct bt_thread *thread = claim_thread();

	if (thread)
		thread->in_run = (u32)ioctl == IOCTL_RUN;
	return 0;
}

static __always_inline int on_kvm_vcpu_ioctl_return(u64 result)
{
	struct bt_thread *thread = find_thread();

	if (!thread || !thread->in_run)
		return 0;
	thread->in_run = 0;
	return result ? 0 : left_guest();
}

#include "memory_slots.h"

/* kvm_vm_ioctl(file, ioctl, argument) */
static __always_inline int on_kvm_vm_ioctl_entry(u64 file, u64 ioctl)
{
	struct bt_thread *thread;

	if ((u32)ioctl == IOCTL_CHECK_EXTENSION)
		return copy_memory_slots(file);
	thread = find_thread();
	if (!thread)
		return 0;
	switch ((u32)ioctl) {
	case IOCTL_SIGNAL_MSI:
	case IOCTL_IRQ_LINE:
	case IOCTL_IRQ_LINE_STATUS:
		return completing(thread, BT_DONE_SEEN | BT_DONE_IOCTL);
	}
	return 0;
}

/* __split_huge_pmd(vma, pmd, address, ...): the mapping of a huge page becomes one of small pages. */
static __always_inline int on_split_huge_pmd_entry(u64 vma)
{
	struct bt_thread *thread = find_thread();

	if (!thread)
		return 0;
	thread->thp_splits++;
	if (thread->entry_ns)
		thread->batch.thp_splits++;
	return 0;
}

#include "host_faults.h"

/* ---- what became free ---- */

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

/* Only the return of these is of interest; fentry shows the arguments then too. */
#define EVENTFD_READ_fentry \
	PROGRAM("fexit") fexit_eventfd_read(u64 *ctx) \
	{ \
		struct bt_thread *thread = on_eventfd_read_return(ctx[2]); \
\
		if (thread) \
			kicked_by(thread, *(u64 *)ctx[0]); \
		return 0; \
	}
#define EVENTFD_READ_kprobe \
	PROGRAM("kretprobe") kretprobe_eventfd_read(struct pt_regs *ctx) { on_eventfd_read_return(PT_REGS_RC(ctx)); return 0; }
#define EVENTFD_READ_absent

#define KVM_VCPU_IOCTL_fentry \
	PROGRAM("fexit") fexit_kvm_vcpu_ioctl(u64 *ctx) { return (u32)ctx[1] == IOCTL_RUN && !ctx[3] ? left_guest() : 0; }
#define KVM_VCPU_IOCTL_kprobe PROGRAMS_kprobe(kvm_vcpu_ioctl, 2, RESULT)
#define KVM_VCPU_IOCTL_absent

#ifdef PREBUILT
EVENTFD_READ_fentry
EVENTFD_READ_kprobe
#else
CONCAT(EVENTFD_READ_, KIND_eventfd_read)
#endif
ENTRY_PROGRAM(eventfd_write, 1)
#ifdef PREBUILT
KVM_VCPU_IOCTL_fentry
KVM_VCPU_IOCTL_kprobe
#else
CONCAT(KVM_VCPU_IOCTL_, KIND_kvm_vcpu_ioctl)
#endif
ENTRY_PROGRAM(kvm_vm_ioctl, 2)
ENTRY_PROGRAM(split_huge_pmd, 1)
