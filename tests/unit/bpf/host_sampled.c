// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A thread serves buffers of a disk and of a balloon, kicked by an eventfd each, while it is sampled. Of the balloon's first
 * two buffers no sample is inside a call; later one is found without a kick. Prints batches handed over after each step:
 * of the disk; of the balloon; of the disk again, which only has calls that are none of ours. Then samples and those
 * inside calls of the last one of the balloon, and which thread runs a guest.
 */
#include "balloon_events.h"

#define CALL_ENTRY 1000
#define CALL_ENTRY_BYTES 100
#define CALL_TABLE 0
#define CALL_TABLE_BYTES 0
#define CALL_EXIT 0
#define CALL_EXIT_BYTES 0
#define READ 0
static struct pt_regs at_entry;
static void *bpf_get_current_task_btf(void) { return 0; }
static void *bpf_task_pt_regs(void *task) { return &at_entry; }
#include "host.bpf.c"

enum { SERVER = 1000, VCPU = 1001, DISK = 0x111100, BALLOON = 0x222200, MANY = 1000, IN_CALL = 5000, IN_ENTRY = 1050 };

static struct bt_sampled_batch last;

static void as(u32 tid)
{
	thread_id = (u64)TGID << 32 | tid;
	now_ns += 100;
}

static void kick(u64 file)
{
	u64 context[] = {(u64)&file, 0, sizeof(u64)};

	as(SERVER);
	fexit_eventfd_read(context);
}

static void complete(void)
{
	as(SERVER);
	if (slot_of(thread_id)->sampled.first_call_ns) {
		last = slot_of(thread_id)->sampled;
		last.idle_ns = slot_of(thread_id)->idle_ns;
	}
	on_eventfd_write_entry(0);
}

static void sample(u32 tid, u64 number, u64 second, u64 place)
{
	struct sample_context context = {{.ip = place, .cs = place ? 0x10 : 0x33}};

	as(tid);
	at_entry.orig_ax = number;
	at_entry.si = second;
	at_entry.dx = ADVICE_DONTNEED;
	sample_thread(&context);
}

static void buffer(u64 file, int inside)
{
	if (file)
		kick(file);
	sample(SERVER, -1, 0, 0);
	sample(SERVER, READ, 0, IN_CALL);
	sample(SERVER, NUMBER_MADVISE, 0, IN_ENTRY);
	for (int i = 0; i < inside; i++)
		sample(SERVER, NUMBER_MADVISE, 0, IN_CALL);
	complete();
}

static void show(void)
{
	as(SERVER);
	printf("%llu ", (unsigned long long)slot_of(thread_id)->batches);
}

int main(void)
{
	target = TGID;
	for (int i = 0; i < MANY; i++)
		buffer(DISK, 0);
	show();
	buffer(BALLOON, 0);
	buffer(BALLOON, 0);
	for (int i = 0; i < MANY; i++)
		buffer(BALLOON, i ? 0 : 3);
	buffer(0, 2);
	complete();
	show();
	for (int i = 0; i < MANY; i++)
		buffer(DISK, 0);
	show();
	sample(VCPU, NUMBER_IOCTL, IOCTL_RUN, IN_CALL);
	sample(SERVER + 2, -1, 0, 0);
	printf("%llu %u %d %u\n", (unsigned long long)last.samples, last.samples_in[BT_MADVISE_DONTNEED],
	       last.idle_ns > 0 && !last.kick_ns, vcpus.tid[VCPU % BT_SLOTS] + vcpus.tid[(SERVER + 2) % BT_SLOTS]);
	return 0;
}
