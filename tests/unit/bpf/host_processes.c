// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads of three processes, whose numbers are neighbours in the table and whose slots are the same, each serve a buffer;
 * two of the processes are traced. Prints the batches, the process and the calls of each, the calls of both processes, and
 * how many eventfds the first has read.
 */
#include "balloon_events.h"
#define BATCH_RING_PAGES 1
#define RING(name, pages) static int name
#define MAP(name) (&name)
#define BPF_RB_NO_WAKEUP 1
#define TABLE(type, name) static type name[4]
#define TABLE_LOOKUP(name, key) (*(key) < 4 ? &name[*(key)] : 0)
#define FILE_PRIVATE_DATA 0
#define COUNT_FREED 0
#define KVM_MEMSLOTS 0
#define KVM_MEMSLOTS_NODE_IDX 0
#define KVM_MEMSLOTS_ID_HASH 0
#define KVM_MEMORY_SLOT_ID_NODE 0
#define KVM_MEMORY_SLOT_USERSPACE_ADDR 0
#define KVM_MEMORY_SLOT_NPAGES 0
#define KVM_MEMORY_SLOT_BASE_GFN 0
static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags);
static void bpf_ringbuf_submit(void *record, u64 flags) {}
#include "host.bpf.c"

enum { FIRST = 5, SECOND = FIRST + BT_TRACED / BT_TRACED_WAYS, THIRD = SECOND + BT_TRACED / BT_TRACED_WAYS };

static struct bt_process_batch written[8];
static u32 reserved;

static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags)
{
	return &written[reserved++];
}

static void serve(u32 pid, int calls)
{
	u64 file = 0x1000 * pid, context[] = {(u64)&file, 0, sizeof(u64)};

	thread_id = (u64)pid << 32 | 64;
	fexit_eventfd_read(context);
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
	u32 way = FIRST * BT_TRACED_WAYS;

	traced.at[way] = (struct bt_traced_process){FIRST, 2};
	traced.at[way + 1] = (struct bt_traced_process){SECOND, 3};
	processes[2].number = 7;
	processes[3].number = 9;
	serve(FIRST, 3);
	serve(THIRD, 11);
	serve(SECOND, 5);
	printf("%u\n", reserved);
	for (u32 at = 0; at < reserved; at++)
		printf("%u %u\n", written[at].process, written[at].batch.calls[BT_MADVISE_DONTNEED]);
	printf("%lu %lu %u\n", processes[2].calls, processes[3].calls, processes[2].eventfds.last_number);
	return 0;
}
