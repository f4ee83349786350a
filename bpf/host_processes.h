/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many processes at once (ALL_PROCESSES): each has slots, eventfds and sums of its own. Part of host.bpf.c, which has
 * slot_of and is_traced of one process otherwise.
 *
 * The recorder puts a process into `traced` and gives it one of `processes`; it alone writes to `traced`. So a process costs
 * a look-up in an array, and one that is not traced the comparison of its neighbours' numbers.
 */
#ifndef HOST_PROCESSES_H
#define HOST_PROCESSES_H

SHARED(struct bt_traced_processes, traced);
TABLE(struct bt_process, processes);

static __always_inline struct bt_process *process_of(u64 id)
{
	struct bt_traced_processes *known = VALUE(struct bt_traced_processes, traced);
	u32 pid = id >> 32, first = pid * BT_TRACED_WAYS & (BT_TRACED - BT_TRACED_WAYS), way, place;

#pragma unroll
	for (way = 0; way < BT_TRACED_WAYS; way++) {
		if (known->at[first | way].pid == pid) {
			place = known->at[first | way].place;
			return TABLE_LOOKUP(processes, &place);
		}
	}
	return 0;
}

#define HAS_NO_SLOT(slot) (!(slot))
#define is_traced(id) 1 /* or it would have no slot */

/*
 * The slot of a thread; 0: its process is not traced. Without ONE_REGISTER clang adds to the pointer first and compares it
 * with 0 afterwards, which the verifier does not allow.
 */
static __always_inline struct bt_thread *slot_of(u64 id)
{
	struct bt_process *process = process_of(id);

	if (!process)
		return 0;
	ONE_REGISTER(process);
	return &process->slots[id % BT_PROCESS_SLOTS];
}

static __always_inline struct bt_eventfds *eventfds_of(u64 id)
{
	struct bt_process *process = process_of(id);

	if (!process)
		return 0;
	ONE_REGISTER(process);
	return &process->eventfds;
}

static __always_inline struct bt_live_batches *live_batches_of(u64 id)
{
	struct bt_process *process = process_of(id);

	if (!process)
		return 0;
	ONE_REGISTER(process);
	return &process->live[id % BT_PROCESS_SLOTS];
}

/* What the recorder looks at to see whether a process did anything. */
static __always_inline void count_call(u64 id)
{
	struct bt_process *process = process_of(id);

	if (!process)
		return;
	ONE_REGISTER(process);
	ADD(process->calls, 1);
}

#define RECORD struct bt_process_batch

static __always_inline void fill(struct bt_process_batch *record, struct bt_thread *thread)
{
	struct bt_process *process = process_of(thread->id);

	record->batch = thread->batch;
	record->process = process ? process->number : 0;
	record->reserved = 0;
}

#endif
