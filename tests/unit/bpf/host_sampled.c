// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A thread serves buffers of a disk and of a balloon, kicked by an eventfd each, while a timer samples it. Of the balloon's
 * first two buffers no sample is inside a call. Prints batches handed over after each step: of the disk; of the balloon; of
 * the disk again, which only has calls that are none of ours. Then samples and those inside calls of the balloon's last
 * one, and how often the disk set a timer. Then for a thread that waits inside a buffer: its samples when it comes back, how
 * often the timer fires for one that stays away, and whether it fires between buffers. Last samples by interrupts that
 * come before the timer's, how far from its grid a timer is set that fired late, whether that is ahead, and when the first
 * sample of a buffer comes. At the end discards of a buffer and their bytes: two of a page each, one of which splits a huge
 * page, between them one of another thread; and one behind a split that KVM was not told of. Then what the next buffer begins
 * with.
 */
#include "balloon_events.h"

struct bpf_timer {
	u64 set_for_ns;            /* 0: not set */
	int (*function)(void *map, u32 *slot, void *timer);
};

#define CLOCK_MONOTONIC 1
#define TIMERS(type, name, size) static type name[size]
#define TABLE_LOOKUP(name, key) (&name[*(key)])
#define KERNEL_VARIABLE(type, name) static type name
#define SAMPLE_PERIOD_NS 1000
#define CALL_ENTRY 1000
#define CALL_ENTRY_BYTES 100
#define CALL_TABLE 0
#define CALL_TABLE_BYTES 0
#define CALL_EXIT 0
#define CALL_EXIT_BYTES 0
#define READ 0
static struct pt_regs at_entry, interrupted;
static u64 random_number, set;
static void *bpf_get_current_task_btf(void) { return 0; }
static void *bpf_task_pt_regs(void *task) { return &at_entry; }
static void *bpf_this_cpu_ptr(const void *variable) { return (void *)variable; }
static u32 bpf_get_prandom_u32(void) { return random_number; }
static void bpf_timer_init(struct bpf_timer *timer, void *map, u64 clock) {}
static void bpf_timer_set_callback(struct bpf_timer *timer, void *function) { timer->function = function; }

static void bpf_timer_start(struct bpf_timer *timer, u64 after_ns, u64 flags)
{
	timer->set_for_ns = now_ns + after_ns;
	set++;
}
#include "host.bpf.c"

enum { SERVER = 1000, DISK = 0x111100, BALLOON = 0x222200, MANY = 1000, IN_CALL = 5000, IN_ENTRY = 1050 };

static struct bt_timer *const timer = &timers[SERVER % BT_SLOTS];
static struct bt_sampled_batch last;

static void as(u32 tid)
{
	thread_id = (u64)TGID << 32 | tid;
}

static void kick(u64 file)
{
	u64 context[] = {(u64)&file, 0, sizeof(u64)};

	as(SERVER);
	now_ns += 100;
	fexit_eventfd_read(context);
}

static void complete(void)
{
	as(SERVER);
	now_ns += 10;
	if (slot_of(thread_id)->sampled.first_call_ns)
		last = slot_of(thread_id)->sampled;
	on_eventfd_write_entry(0, 1);
}

/* A timer interrupt comes upon a thread that came to the kernel with this call, and is at this place; 0: is in user space. */
static void interrupt(u32 tid, u64 number, u64 place)
{
	as(tid);
	at_entry.orig_ax = number;
	at_entry.dx = ADVICE_DONTNEED;
	interrupted.cs = place ? 0x10 : 0x33;
	interrupted.ip = place;
	__irq_regs = &interrupted;
	on_hrtimer_interrupt_entry(0);
}

/* Whether the timer was set: then it is what interrupts. */
static int fire(u32 tid, u64 number, u64 place)
{
	u32 slot = SERVER % BT_SLOTS;

	if (!timer->timer.set_for_ns)
		return 0;
	now_ns = timer->timer.set_for_ns;
	timer->timer.set_for_ns = 0;
	interrupt(tid, number, place);
	if (!timer->timer.set_for_ns)
		timer->timer.function(timers, &slot, timer);
	return 1;
}

static void buffer(u64 file, int inside)
{
	kick(file);
	fire(SERVER, -1, 0);
	fire(SERVER, READ, IN_CALL);
	fire(SERVER, NUMBER_MADVISE, IN_ENTRY);
	fire(SERVER, NUMBER_MADVISE, 0);
	for (int i = 0; i < inside; i++)
		fire(SERVER, NUMBER_MADVISE, IN_CALL);
	complete();
}

static void show(u64 number)
{
	printf("%llu ", (unsigned long long)number);
}

/* KVM is told to take so many bytes from the guest. */
static void discard(u32 tid, u64 bytes)
{
	as(tid);
	on_kvm_unmap_hva_range_entry(1 << 30, (1 << 30) + bytes);
}

static u64 batches(void)
{
	return slot_of((u64)TGID << 32 | SERVER)->batches;
}

static u64 samples(void)
{
	return slot_of((u64)TGID << 32 | SERVER)->sampled.samples;
}

static u64 fires_elsewhere(void)
{
	u64 fired = 0;

	while (fire(SERVER + 1, -1, 0))
		fired++;
	return fired;
}

int main(void)
{
	u64 by_disk, first_ns;

	target = TGID;
	for (int i = 0; i < MANY; i++)
		buffer(DISK, 0);
	show(batches());
	buffer(BALLOON, 0);
	buffer(BALLOON, 0);
	for (int i = 0; i < MANY; i++)
		buffer(BALLOON, 3);
	show(batches());
	by_disk = set;
	for (int i = 0; i < MANY; i++)
		buffer(DISK, 0);
	show(batches());
	show(last.samples);
	show(last.samples_in[BT_MADVISE_DONTNEED]);
	show(set - by_disk);

	kick(BALLOON);
	for (int i = 0; i < PERIODS_AWAY - 1; i++)
		fire(SERVER + 1, -1, 0);
	fire(SERVER, NUMBER_MADVISE, IN_CALL);
	show(samples());
	show(fires_elsewhere());
	complete();
	kick(BALLOON);
	fire(SERVER, -1, 0);
	complete();
	show(timer->timer.set_for_ns - now_ns == PUT_OFF_NS && fires_elsewhere() == 1);

	kick(BALLOON);
	first_ns = timer->due_ns;
	now_ns = first_ns - 1;
	interrupt(SERVER, NUMBER_MADVISE, IN_CALL);
	show(samples());
	timer->timer.set_for_ns += 2 * SAMPLE_PERIOD_NS + 300;
	fire(SERVER, -1, 0);
	show((timer->timer.set_for_ns - first_ns) % SAMPLE_PERIOD_NS);
	show(timer->timer.set_for_ns > now_ns);
	complete();
	random_number = 4 * SAMPLE_PERIOD_NS + 700;
	kick(BALLOON);
	show(timer->timer.set_for_ns - now_ns);

	discard(SERVER, 1 << 12);
	discard(SERVER + 1, 1 << 12);
	on_split_huge_pmd_entry(0);
	discard(SERVER, 1 << 12);
	as(SERVER);
	on_split_huge_pmd_entry(0);
	discard(SERVER, 1 << 21);
	on_split_huge_pmd_entry(0);
	discard(SERVER, 1 << 12);
	show(slot_of(thread_id)->sampled.discards);
	show(slot_of(thread_id)->sampled.discarded_bytes);
	complete();
	discard(SERVER, 1 << 12);
	kick(BALLOON);
	printf("%llu\n", (unsigned long long)slot_of(thread_id)->sampled.discards);
	return 0;
}
