// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A work item that gets no page and one that gets some, each in all the ways in which it can be held up. Prints the parts as
 * they were written: function, part, how long and how often; then how many of another thread's are among them, which is 0.
 */
static unsigned long long task;
static unsigned long long bpf_get_current_task(void) { return task; }

#include "written_spans.h"

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device, 512 };
static struct virtqueue inflate = { 0, &device };

#define BALLOON 0x1000ull
#define OTHER 0x2040ull
#define LOCK 0x77ull

static void switch_away(u64 preempt, u64 away_ns)
{
	on_sched_switch_entry(preempt, BALLOON, OTHER);
	thread_id = 88, task = OTHER;
	on_mm_vmscan_direct_reclaim_begin_entry(0); /* of another thread */
	now_ns += away_ns;
	on_mm_vmscan_direct_reclaim_end_entry(1);
	on_sched_switch_entry(0, OTHER, BALLOON);
	thread_id = 77, task = BALLOON;
}

static void begin_item(void)
{
	u32 target_pages = 512;

	on_update_balloon_size_func_entry((u64)balloon.update_balloon_size_work);
	switch_away(1, 1); /* before the target is read: in no part */
	on_config_get(0, (u64)&target_pages, sizeof(target_pages));
}

static void reclaim(u64 takes_ns)
{
	on_mm_vmscan_direct_reclaim_begin_entry(0);
	now_ns += takes_ns;
	switch_away(0, 500000000); /* waiting for a disk */
	on_contention_begin_entry(LOCK);
	now_ns += 7;
	on_contention_end_entry(LOCK);
	on_mm_vmscan_direct_reclaim_end_entry(32);
}

static void compact_with_a_send(void)
{
	on_mm_compaction_begin_entry(0);
	on_virtballoon_migratepage_entry((u64)balloon.vb_dev_info, 0, 0, 0);
	on_tell_host_entry((u64)&balloon, (u64)&inflate, 1);
	switch_away(0, 300);
	on_tell_host_return(0);
	on_virtballoon_migratepage_return(0);
	now_ns += 40;
	on_mm_compaction_end_entry(0);
}

static void wait_for_a_mutex(void)
{
	on_contention_begin_entry(LOCK); /* it spins first */
	now_ns += 10;
	on_contention_begin_entry(LOCK);
	switch_away(0, 100);
	on_contention_end_entry(LOCK + 8); /* of a lock taken in an interrupt */
	on_contention_end_entry(LOCK);
}

int main(void)
{
	thread_id = 77, task = BALLOON;
	begin_item();
	reclaim(1000);
	reclaim(2000);
	switch_away(0, 200000000); /* Out of puff */
	switch_away(1, 200000000); /* another thread's turn */
	on_update_balloon_size_func_return(0);

	begin_item();
	compact_with_a_send();
	wait_for_a_mutex();
	switch_away(1, 20);
	switch_away(0, 30);
	now_ns += 5; /* the allocator itself */
	on_tell_host_entry((u64)&balloon, (u64)&inflate, 1);
	switch_away(0, 100000);
	on_tell_host_return(0);
	switch_away(1, 3000); /* while `actual` is written */
	on_contention_begin_entry(LOCK);
	on_contention_end_entry(LOCK);
	on_update_balloon_size_func_return(0);

	begin_item(); /* it deflates: pages are released after the send as well */
	switch_away(1, 900);
	on_leak_balloon_entry((u64)&balloon, 512);
	wait_for_a_mutex();
	on_tell_host_entry((u64)&balloon, (u64)&inflate, 1);
	switch_away(0, 100000);
	on_tell_host_return(0);
	switch_away(1, 60);
	on_leak_balloon_return(256);
	switch_away(1, 3000);
	on_update_balloon_size_func_return(0);

	begin_item(); /* out of memory inside allocating: that part goes on until the work item's own send */
	on_mm_vmscan_direct_reclaim_begin_entry(0);
	now_ns += 10;
	on_virtio_balloon_oom_notify_entry((u64)&balloon.oom_nb, 0, 0);
	on_leak_balloon_entry((u64)&balloon, 512);
	on_tell_host_entry((u64)&balloon, (u64)&inflate, 1);
	now_ns += 20;
	on_tell_host_return(0);
	on_leak_balloon_return(256);
	on_virtio_balloon_oom_notify_return(0);
	on_mm_vmscan_direct_reclaim_end_entry(1);
	switch_away(1, 8);
	on_tell_host_entry((u64)&balloon, (u64)&inflate, 1);
	on_tell_host_return(0);
	on_update_balloon_size_func_return(0);

	begin_item(); /* held up by nothing */
	on_update_balloon_size_func_return(0);
	switch_away(1, 4000);

	for (u32 i = 0; i < reserved; i++)
		if (written[i].function == BT_ALLOCATION_PARTS)
			printf("%u %llu %u ", written[i].queue, (unsigned long long)written[i].duration_ns,
			       written[i].pages);
	for (u32 i = 0, others = 0; i <= reserved; i++)
		if (i == reserved)
			printf("%u\n", others);
		else
			others += written[i].function == BT_ALLOCATION_PARTS && written[i].tid != 77;
	return 0;
}
