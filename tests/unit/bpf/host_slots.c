// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A thread serves buffers of many calls each, while a vCPU of the same process comes out of the guest now and then.
 * Takes the vCPU's thread number; prints batches, those wholly delimited, and calls.
 */
#include <stdlib.h>
#include "host.bpf.c"

enum { SERVER = 1000, BUFFERS = 100, CALLS = 256, CALLS_PER_EXIT = 16 };

static void as(u32 tid)
{
	thread_id = (u64)TGID << 32 | tid;
	now_ns += 100;
}

static void call_madvise(void)
{
	struct bt_thread *thread;
	u64 returned_ns;

	start_clock(begin_call());
	now_ns += 1000;
	thread = find_call(&returned_ns);
	if (thread)
		add_result(thread, end_call(thread, returned_ns, BT_MADVISE_DONTNEED), 4096, 0, 0);
}

int main(int count, char **words)
{
	u64 batches = 0, delimited = 0, calls = 0;
	u32 vcpu = count == 2 ? atoi(words[1]) : 0;

	target = TGID;

	for (int buffer = 0; buffer < BUFFERS; buffer++) {
		as(SERVER);
		on_eventfd_read_return(sizeof(u64));
		for (int call = 0; call < CALLS; call++) {
			if (call % CALLS_PER_EXIT == 0) {
				as(vcpu);
				left_guest();
			}
			as(SERVER);
			call_madvise();
		}
		on_eventfd_write_entry(0, 1);
	}
	for (int slot = 0; slot < BT_SLOTS; slot++) {
		batches += threads.slots[slot].batches;
		delimited += live.slots[slot].delimited;
		for (int bucket = 0; bucket < BT_BUCKETS; bucket++)
			calls += threads.slots[slot].sums[BT_MADVISE_DONTNEED].buckets[bucket];
	}
	printf("%llu %llu %llu\n", (unsigned long long)batches, (unsigned long long)delimited,
	       (unsigned long long)calls);
	return 0;
}
