/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls that are sampled instead of traced: while a thread serves a buffer, a timer interrupts it now and then. Where timer
 * interrupts come in, a program looks whether the thread was inside a call. Part of host.bpf.c, which has find_thread and
 * is_open.
 *
 * A call's own function is meant, as where calls are traced: the kernel's way into it and back is outside. The first
 * sample comes at a random instant of a period, so that every instant of a buffer is as likely to be seen.
 */
#ifndef HOST_SAMPLES_H
#define HOST_SAMPLES_H

/* Buffers by one eventfd that are handed over without a sample inside a call; a device has some samples a buffer. */
#define UNPROVEN_BUFFERS 256

#if SAMPLED
/* A thread that waits inside a buffer, or is moved to another processor, is sampled no more after so many periods. */
#define PERIODS_AWAY 16

/* How long a timer waits that is not to fire: to cancel it would take its function away as well. */
#define PUT_OFF_NS (1ull << 40)

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
#define PLACE REGISTER(pc)
#define MODE REGISTER(pstate)
#define IS_IN_USER_MODE(mode) (!((mode) & 0xf))
#define NUMBER_FALLOCATE 47
#define NUMBER_MADVISE 233
#else
#define CALL_NUMBER(regs) (*(long *)((regs) + REGISTER(orig_ax)))
#define CALL_FIRST(regs) OF_ADDRESS(regs, REGISTER(di))
#define CALL_SECOND(regs) OF_ADDRESS(regs, REGISTER(si))
#define CALL_THIRD(regs) OF_ADDRESS(regs, REGISTER(dx))
#define PLACE REGISTER(ip)
#define MODE REGISTER(cs)
#define IS_IN_USER_MODE(mode) ((mode) & 3)
#define NUMBER_FALLOCATE 285
#define NUMBER_MADVISE 28
#endif
#define NUMBER_PROCESS_MADVISE 440
#define LEAST_HUGE_BYTES (1 << 21) /* of what one entry of a PMD maps: with pages of 4 KiB */
#define OUTSIDE BT_CALLS

/* By slot, as threads are. */
struct bt_timer {
	struct bpf_timer timer;
	u64 id;                    /* the thread that it is for; 0: the timer is new */
	u64 due_ns;                /* of the next sample; 0: there is to be none */
	u64 away;                  /* times that it fired since the last sample */
};

TIMERS(struct bt_timer, timers, BT_SLOTS);

/* What this processor's interrupt came upon; lib/irq_regs.c. */
KERNEL_VARIABLE(struct pt_regs *, __irq_regs);

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
static __always_inline void add_call(struct bt_thread *thread, u32 call, u64 address, u64 now_ns)
{
	struct bt_sampled_batch *batch = &thread->sampled;

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

static __always_inline struct bt_timer *timer_of(struct bt_thread *thread)
{
	u32 slot = thread->id % BT_SLOTS;

	return TABLE_LOOKUP(timers, &slot);
}

/* For the next sample, on the grid of periods that the first one began. */
static __always_inline void start_timer(struct bt_timer *timer, u64 now_ns)
{
	if (now_ns >= timer->due_ns)
		timer->due_ns = now_ns + SAMPLE_PERIOD_NS - (now_ns - timer->due_ns) % SAMPLE_PERIOD_NS;
	bpf_timer_start(&timer->timer, timer->due_ns - now_ns, 0);
}

/* The timer has fired, and did not come upon its thread. */
static int seek_thread(void *map, u32 *slot, struct bt_timer *timer)
{
	struct bt_thread *thread = slot_of(timer->id);

	if (timer->due_ns && thread->id == timer->id && thread->sampled.kick_ns && ++timer->away < PERIODS_AWAY)
		start_timer(timer, bpf_ktime_get_ns());
	else
		timer->due_ns = 0;
	return 0;
}

/* Samples this thread, which has learnt of a kick, unless the eventfd is known to be no balloon's. */
static __always_inline void start_sampling(struct bt_thread *thread)
{
	struct bt_timer *timer = timer_of(thread);

	if (!timer || !VALUE(struct bt_eventfds, eventfds)->at[thread->sampled.place & (BT_EVENTFDS - 1)].left)
		return;
	if (!timer->id) {
		bpf_timer_init(&timer->timer, &timers, CLOCK_MONOTONIC);
		bpf_timer_set_callback(&timer->timer, seek_thread);
	}
	timer->id = thread->id;
	timer->away = 0;
	timer->due_ns = thread->sampled.kick_ns + bpf_get_prandom_u32() % SAMPLE_PERIOD_NS;
	start_timer(timer, thread->sampled.kick_ns);
}

/* A timer that fires behind the buffer would interrupt the guest, or wake a processor. */
static __always_inline void stop_sampling(struct bt_thread *thread)
{
	struct bt_timer *timer = timer_of(thread);

	if (timer && timer->id == thread->id && timer->due_ns) {
		timer->due_ns = 0;
		bpf_timer_start(&timer->timer, PUT_OFF_NS, 0);
	}
}

/* Whether the interrupt came upon the thread inside its call. */
static __always_inline int is_in_call(void)
{
	u64 mode = 0, place = 0, regs = *(u64 *)bpf_this_cpu_ptr(&__irq_regs);

	READ_KERNEL(mode, regs + MODE);
	if (IS_IN_USER_MODE(mode))
		return 0;
	READ_KERNEL(place, regs + PLACE);
	return !is_on_the_way(place);
}

/* hrtimer_interrupt(device): a timer interrupt, for whatever timer. */
static __always_inline int on_hrtimer_interrupt_entry(u64 device)
{
	struct bt_thread *thread = find_thread();
	struct bt_timer *timer = thread ? timer_of(thread) : 0;
	u64 regs, now_ns;
	u32 call;

	if (!timer || timer->id != thread->id)
		return 0;
	now_ns = bpf_ktime_get_ns();
	if (!timer->due_ns || now_ns < timer->due_ns)
		return 0;
	/* Before the kernel looks which timers are due: so it has nothing to do for this one. */
	start_timer(timer, now_ns);
	timer->away = 0;
	regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
	call = is_in_call() ? call_inside(regs) : OUTSIDE;
	thread->sampled.samples++;
	if (call != OUTSIDE)
		add_call(thread, call, CALL_NUMBER(regs) == NUMBER_MADVISE ? CALL_FIRST(regs) : 0, now_ns);
	return 0;
}

/*
 * kvm:kvm_unmap_hva_range(start, end): KVM is told to take this range of the process from its guest, for whoever discards it.
 * A huge page that is split on the way is told of as a whole, and stays.
 */
static __always_inline int on_kvm_unmap_hva_range_entry(u64 start, u64 end)
{
	struct bt_thread *thread = find_thread();

	if (!thread || !thread->sampled.kick_ns)
		return 0;
	if (thread->sampled.splitting) {
		thread->sampled.splitting = 0;
		if (end - start >= LEAST_HUGE_BYTES)
			return 0;
	}
	thread->sampled.discards++;
	thread->sampled.discarded_bytes += end - start;
	return 0;
}
#else
#define may_be_of_balloon(thread) 0
#define start_sampling(thread)
#define stop_sampling(thread)
#endif

#endif
