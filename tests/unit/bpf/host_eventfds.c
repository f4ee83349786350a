// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A thread serves buffers that two eventfds kick in turn, one that it found by looking, one after a vCPU came out of the
 * guest, and one of the first eventfd whose kick before had no buffer of ours. Prints the number of
 * the eventfd of each; then how often each eventfd kicked, the thread, and the first three times.
 */
#include "balloon_events.h"
#define BATCH_RING_PAGES 1
#define RING(name, pages) static int name
#define MAP(name) (&name)
#define BPF_RB_NO_WAKEUP 1
static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags);
static void bpf_ringbuf_submit(void *record, u64 flags) {}
#include "host.bpf.c"

enum { SERVER = 1000, FIRST = 0x111100, SECOND = 0x222200 };

static struct bt_batch written[8];
static u32 reserved;

static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags)
{
	return &written[reserved++];
}

static void kick(u64 file)
{
	u64 context[] = {(u64)&file, 0, sizeof(u64)};

	now_ns += 100;
	fexit_eventfd_read(context);
}

static void serve(int calls)
{
	for (int i = 0; i < calls; i++) {
		struct bt_thread *thread;
		u64 returned_ns;

		start_clock(begin_call());
		now_ns += 1000;
		thread = find_call(&returned_ns);
		if (thread)
			add_result(thread, end_call(thread, returned_ns, BT_MADVISE_DONTNEED), 4096, 0, 0);
	}
	now_ns += 100;
	on_eventfd_write_entry(0, 1);
}

int main(void)
{
	target = TGID;
	thread_id = (u64)TGID << 32 | SERVER;
	for (int i = 0; i < 4; i++) {
		kick(i % 2 ? SECOND : FIRST);
		serve(3);
	}
	serve(3);
	kick(SECOND);
	serve(0);
	left_guest();
	serve(3);
	kick(FIRST);
	serve(3);
	for (u32 i = 0; i < reserved; i++)
		printf("%u ", written[i].kicked_by);
	for (u32 number = 1; number <= eventfds.last_number; number++)
		for (u32 i = 0; i < BT_EVENTFDS; i++)
			if (eventfds.at[i].number == number)
				printf("%u %u %lu %lu %lu ", eventfds.at[i].kicks, eventfds.at[i].tid,
				       eventfds.at[i].kick_ns[0], eventfds.at[i].kick_ns[1], eventfds.at[i].kick_ns[2]);
	return 0;
}
