/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls that are sampled instead of traced: a perf event that counts the time of one thread on a processor runs a program
 * each time it has counted so much. The program looks whether the thread serves a buffer, and is inside a call. Part of
 * host.bpf.c, which has find_thread and is_open.
 *
 * A call's own function is meant, as where calls are traced: the kernel's way into it and back is outside.
 */
#ifndef HOST_SAMPLES_H
#define HOST_SAMPLES_H

/* Buffers by one eventfd that are handed over without a sample inside a call; a device has some samples a buffer. */
#define UNPROVEN_BUFFERS 256

#if MAY_BE(SAMPLED) && !defined(ALL_PROCESSES)
#define BT_PROVEN 0xffffffff

/*
 * Which call a thread is in, and where its arguments are, by the registers with which it came to the kernel. A number below
 * 0 is that of no call. include/uapi/asm-generic/unistd.h, arch/x86/entry/syscalls/syscall_64.tbl; arch/arm64's struct
 * pt_regs has the number behind what user space knows of it.
 */
#ifdef __aarch64__
#define CALL_NUMBER(regs) (*(int *)((regs) + sizeof(struct user_pt_regs) + sizeof(u64)))
#define CALL_FIRST(regs) OF_ADDRESS(regs, REGISTER(regs[0]))
#define CALL_SECOND(regs) OF_ADDRESS(regs, REGISTER(regs[1]))
#define CALL_THIRD(regs) OF_ADDRESS(regs, REGISTER(regs[2]))
#define IS_IN_USER_MODE(regs) (!((regs)->pstate & 0xf))
#define PLACE(regs) ((regs)->pc)
#define NUMBER_IOCTL 29
#define NUMBER_FALLOCATE 47
#define NUMBER_MADVISE 233
#else
#define CALL_NUMBER(regs) (*(long *)((regs) + REGISTER(orig_ax)))
#define CALL_FIRST(regs) OF_ADDRESS(regs, REGISTER(di))
#define CALL_SECOND(regs) OF_ADDRESS(regs, REGISTER(si))
#define CALL_THIRD(regs) OF_ADDRESS(regs, REGISTER(dx))
#define IS_IN_USER_MODE(regs) ((regs)->cs & 3)
#define PLACE(regs) ((regs)->ip)
#define NUMBER_IOCTL 16
#define NUMBER_FALLOCATE 285
#define NUMBER_MADVISE 28
#endif
#define NUMBER_PROCESS_MADVISE 440
#define OUTSIDE BT_CALLS

/* struct bpf_perf_event_data of include/uapi/linux/bpf_perf_event.h, as far as it is read: in words, no less. */
struct sample_context {
	volatile struct pt_regs regs;
};

/* The call that a thread is inside, by its registers; OUTSIDE of all of ours. */
static __always_inline u32 call_inside(u64 regs)
{
	switch (CALL_NUMBER(regs)) {
	case NUMBER_MADVISE:
		return call_of_advice(CALL_THIRD(regs));
	case NUMBER_PROCESS_MADVISE:
		return BT_PROCESS_MADVISE;
	case NUMBER_FALLOCATE:
		return CALL_SECOND(regs) & MODE_PUNCH_HOLE ? BT_FALLOCATE_PUNCH_HOLE : BT_FALLOCATE_OTHER;
	}
	return OUTSIDE;
}

/* The kernel's way into a call and back is no part of it. */
static __always_inline int is_on_the_way(u64 place)
{
	return place - CALL_ENTRY < CALL_ENTRY_BYTES || place - CALL_TABLE < CALL_TABLE_BYTES ||
	       place - CALL_EXIT < CALL_EXIT_BYTES;
}

/* Whether what a thread has just served may be a balloon's buffer: with a sample inside a call, or by what kicked it. */
static __always_inline int may_be_of_balloon(struct bt_thread *thread)
{
	u32 *left = &VALUE(struct bt_eventfds, eventfds)->at[thread->sampled.place & (BT_EVENTFDS - 1)].left;

	if (is_open(&thread->batch))
		return 1;
	if (!thread->sampled.kicked_by)
		return 0;
	if (*left == BT_PROVEN)
		return 1;
	if (*left) {
		--*left;
		return 1;
	}
	__builtin_memset(&thread->sampled, 0, sizeof(thread->sampled));
	return 0;
}

/* A sample of a thread that is inside a call for the buffer that it serves. */
static __always_inline void add_call(struct bt_thread *thread, u32 call, u64 address)
{
	struct bt_sampled_batch *batch = &thread->sampled;
	u64 now_ns = bpf_ktime_get_ns();

	if (!batch->first_call_ns) {
		batch->first_call_ns = now_ns;
		batch->tid = thread->id;
		batch->address = address;
		if (batch->kicked_by)
			VALUE(struct bt_eventfds, eventfds)->at[batch->place & (BT_EVENTFDS - 1)].left = BT_PROVEN;
	}
	batch->last_return_ns = now_ns;
	batch->samples_in[call & (BT_CALLS - 1)]++;
}

PROGRAM("perf_event") sample_thread(struct sample_context *ctx)
{
	u64 regs, id = bpf_get_current_pid_tgid();
	struct bt_thread *thread = slot_of(id);
	u32 call = OUTSIDE;

	regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (thread->id != id) {
		if (!IS_IN_USER_MODE(&ctx->regs) && CALL_NUMBER(regs) == NUMBER_IOCTL && CALL_SECOND(regs) == IOCTL_RUN)
			VALUE(struct bt_vcpus, vcpus)->tid[id % BT_SLOTS] = id;
		return 0;
	}
	if (!IS_IN_USER_MODE(&ctx->regs) && !is_on_the_way(PLACE(&ctx->regs)))
		call = call_inside(regs);
	thread->sampled.samples++;
	if (call != OUTSIDE)
		add_call(thread, call, CALL_NUMBER(regs) == NUMBER_MADVISE ? CALL_FIRST(regs) : 0);
	return 0;
}
#else
#define may_be_of_balloon(thread) 0
#endif

#endif
