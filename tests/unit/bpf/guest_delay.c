// SPDX-License-Identifier: GPL-2.0-or-later
/* Two work items whose thread waits for a processor, inside and between. Prints of each span: flags, wait. */
#include "written_spans.h"

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device, 512 };

static void work(u64 waits_ns)
{
	on_update_balloon_size_func_entry((u64)balloon.update_balloon_size_work);
	current_task.sched_info.run_delay += waits_ns;
	on_update_balloon_size_func_return(0);
}

int main(void)
{
	thread_id = 77;
	current_task.sched_info.run_delay = 5000;
	work(700);
	current_task.sched_info.run_delay += 60000;
	work(0);
	for (u32 i = 0; i < reserved; i++)
		printf("%u %llu\n", written[i].flags & BT_HAS_RUN_DELAY, (unsigned long long)written[i].wait_ns);
	return 0;
}
