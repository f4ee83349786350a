// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A migration with hints: 7 blocks under one id, of which the shrinker takes 2 meanwhile; then the device says stop, and the
 * work item has nothing to do; 3 more blocks under the next id, until it has to stop; the shrinker takes 1; the device is
 * done. Prints of each span its function, pages, id, id received, pages given back, blocks held, device, and whether pages
 * are known; then pages as summed up for the work item.
 */
#include "written_spans.h"

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device };
static struct shrinker shrinker = { &balloon };

enum { WORKER = 77, NEEDY = 78, STOP = 0, DONE = 1, FIRST = 1u << 31, SECOND };

static void shrink(u32 blocks)
{
	u32 before = thread_id;

	thread_id = NEEDY;
	on_virtio_balloon_shrinker_scan_entry((u64)&shrinker, 0);
	balloon.num_free_page_blocks -= blocks;
	now_ns += 10;
	on_virtio_balloon_shrinker_scan_return(blocks * HINT_BLOCK_PAGES / UNIT_PAGES);
	thread_id = before;
}

/* What the work item does about this id, and which one it has read when it ends. */
static void work(u32 id, u32 blocks, u32 shrunk_blocks, u32 received)
{
	thread_id = WORKER;
	on_report_free_page_func_entry((u64)balloon.report_free_page_work);
	now_ns += 1000;
	if (id == DONE)
		balloon.num_free_page_blocks = 0;
	else if (id != STOP)
		balloon.cmd_id_active = id;
	balloon.num_free_page_blocks += blocks;
	if (shrunk_blocks)
		shrink(shrunk_blocks);
	balloon.cmd_id_received_cache = received;
	on_report_free_page_func_return(0);
}

int main(void)
{
	work(FIRST, 7, 2, FIRST);
	work(STOP, 0, 0, STOP);
	work(SECOND, 3, 0, STOP);
	shrink(1);
	work(DONE, 0, 0, DONE);
	for (u32 i = 0; i < reserved; i++)
		printf("%u %u %u %u %u %u %u %d\n", written[i].function, written[i].pages, written[i].hint.command,
		       written[i].hint.received, written[i].hint.returned_pages, written[i].hint.held_blocks,
		       written[i].device, !!(written[i].flags & BT_HAS_PAGES));
	printf("%llu\n", counters.functions[BT_REPORT_FREE_PAGE_FUNC].pages);
	return 0;
}
