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

/* include/uapi/linux/kvm.h: _IO(0xAE, 0x80), and three that send an interrupt to the guest */
#define IOCTL_RUN 0xae80
#define IOCTL_IRQ_LINE 0x4008ae61
#define IOCTL_IRQ_LINE_STATUS 0xc008ae67
#define IOCTL_SIGNAL_MSI 0x4020aea5

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

#include "host_eventfds.h"

/* This thread is about to tell the guest that its buffer was used; without a call before that, it is none of ours. */
static __always_inline int completing(struct bt_thread *thread, u32 flags, int typed)
{
	if (typed) /* by fentry: the kernel allows kprobes no timer */
		stop_sampling(thread);
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

	if (HAS_NO_SLOT(thread))
		return 0;
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
static __always_inline int on_eventfd_write_entry(u64 file, int typed)
{
	struct bt_thread *thread = find_thread();

	return thread ? completing(thread, BT_DONE_SEEN, typed) : 0;
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

#include "host_memory_slots.h"

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
		return completing(thread, BT_DONE_SEEN | BT_DONE_IOCTL, 0);
	}
	return 0;
}

#if SAMPLED
/* kvm_send_userspace_msi(kvm, msi), of an ioctl that was seen before */
static __always_inline int on_kvm_send_userspace_msi_entry(u64 kvm, int typed)
{
	struct bt_thread *thread = find_thread();

	if (thread && typed)
		stop_sampling(thread);
	return 0;
}
#endif

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

#ifndef ALL_PROCESSES
#include "host_faults.h"
#endif

#if !SAMPLED
#include "host_freed.h"
#endif

/* Only the return of these is of interest; fentry shows the arguments then too. */
#define EVENTFD_READ_fentry \
	PROGRAM("fexit") fexit_eventfd_read(u64 *ctx) \
	{ \
		struct bt_thread *thread = on_eventfd_read_return(ctx[2]); \
\
		if (thread) { \
			kicked_by(thread, *(u64 *)ctx[0]); \
			start_sampling(thread); \
		} \
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
ENTRY_PROGRAM(eventfd_write, 1_TYPED)
#ifdef PREBUILT
KVM_VCPU_IOCTL_fentry
KVM_VCPU_IOCTL_kprobe
#else
CONCAT(KVM_VCPU_IOCTL_, KIND_kvm_vcpu_ioctl)
#endif
ENTRY_PROGRAM(kvm_vm_ioctl, 2)
#if SAMPLED
ENTRY_PROGRAM(hrtimer_interrupt, 1)
ENTRY_PROGRAM(kvm_send_userspace_msi, 1_TYPED)
#else
ENTRY_PROGRAM(split_huge_pmd, 1)
#endif
