// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A cycle of free page reporting with 2 reports, 3 blocks of order 9 and 29 of order 10, then one of order 0; then one that
 * failed, and one of more blocks than the kernel reports. Prints for each report its pages, blocks, result, whether pages
 * are known, device, and blocks of the orders 0, 9 and 10; then calls and pages as summed up; then the time of the first.
 */
#include "written_spans.h"

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device };
static struct scatterlist list[MOST_BLOCKS + 1];

static void report(u32 blocks, int result)
{
	/* The upper half of a register with a u32 in it may be anything. */
	on_virtballoon_free_page_report_entry((u64)balloon.pr_dev_info, (u64)list, blocks | 7ULL << 32);
	now_ns += 500;
	on_virtballoon_free_page_report_return(result);
}

int main(void)
{
	struct bt_function_counters *sum = &counters.functions[BT_VIRTBALLOON_FREE_PAGE_REPORT];

	thread_id = 77;
	on_page_reporting_process_entry(0);
	for (int i = 0; i < MOST_BLOCKS; i++)
		list[i].length = 4096 << (i < 3 ? 9 : 10);
	report(32, 0);
	list[0].length = 4096;
	report(1, 0);
	on_page_reporting_process_return(0);
	report(1, -5);
	report(33, 0);
	for (u32 i = 0; i < reserved; i++)
		if (written[i].function == BT_VIRTBALLOON_FREE_PAGE_REPORT)
			printf("%u %u %d %d %u %u %u %u\n", written[i].pages, written[i].blocks, written[i].result,
			       !!(written[i].flags & BT_HAS_PAGES), written[i].device, written[i].orders[0],
			       written[i].orders[9], written[i].orders[10]);
	printf("%llu %llu %llu\n", sum->returns, sum->pages, written[0].duration_ns);
	printf("%u %u\n", written[2].function, written[2].flags);
	return 0;
}
