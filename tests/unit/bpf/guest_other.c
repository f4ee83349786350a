// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest runs out of memory twice, the second time with an empty balloon; the machine sleeps and wakes up; the host asks
 * for statistics; the driver goes. Prints of each span: function, device, flags, size of the balloon, result.
 */
#include "written_spans.h"

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device, 512 };
static struct virtqueue deflate = { 1, &device }, stats = { 2, &device };

static void leak(void)
{
	u32 pages = balloon.num_pages < 256 ? balloon.num_pages : 256;

	on_leak_balloon_entry((u64)&balloon, 256);
	balloon.num_pages -= pages;
	balloon.num_pfns = pages;
	if (pages) {
		on_tell_host_entry((u64)&balloon, (u64)&deflate, 1);
		on_tell_host_return(0);
	}
	on_leak_balloon_return(pages);
}

static void run_out(void)
{
	on_virtio_balloon_oom_notify_entry((u64)balloon.oom_nb, 0, 0);
	leak();
	on_virtio_balloon_oom_notify_return(1);
}

int main(void)
{
	thread_id = 77;
	run_out();
	run_out();
	run_out();
	balloon.num_pages = 300;
	on_virtballoon_freeze_entry((u64)&device);
	leak();
	leak();
	on_virtballoon_freeze_return(0);
	on_virtballoon_restore_entry((u64)&device);
	on_virtballoon_restore_return(0);
	on_stats_request_entry((u64)&stats);
	on_update_balloon_stats_func_entry((u64)balloon.update_balloon_stats_work);
	on_update_balloon_stats_func_return(0);
	balloon.num_pages = 1;
	on_virtballoon_remove_entry((u64)&device);
	leak();
	on_virtballoon_remove_return(0);
	for (u32 i = 0; i < reserved; i++)
		printf("%u %u %u %u %d\n", written[i].function, written[i].device, written[i].flags,
		       written[i].flags & BT_HAS_ACTUAL ? written[i].actual_pages : 9999, written[i].result);
	return 0;
}
