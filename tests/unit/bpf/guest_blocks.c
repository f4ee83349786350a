// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two page reports whose payloads are captured: of page 700 of 1000 and of the last one, with the flags of a scatterlist's
 * end; then of page 3, and of more blocks than the kernel reports. Prints for each piece bytes, whether it goes with its
 * span, and of each block its page, counted from page 700, and its bytes; then pieces wanted, and those lost.
 */
#include "written_spans.h"

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device };
static struct scatterlist list[MOST_BLOCKS + 1];
static struct page pages[1000];

static void report(u32 blocks)
{
	now_ns += 100;
	on_virtballoon_free_page_report_entry((u64)balloon.pr_dev_info, (u64)list, blocks);
	now_ns += 500;
	on_virtballoon_free_page_report_return(0);
}

static void put(u32 at, u32 page, u32 length, u32 flags)
{
	list[at].page_link = (unsigned long)&pages[page] | flags;
	list[at].length = length;
}

int main(void)
{
	struct bt_function_counters *sum = &counters.functions[BT_PAYLOAD];

	thread_id = 77;
	put(0, 700, 4096 << 9, 0);
	put(1, 999, 4096, 2);
	report(2);
	put(0, 3, 4096 << 4, 2);
	report(1);
	report(33);
	for (u32 i = 0; i < captured; i++) {
		struct bt_block *blocks = (struct bt_block *)pieces[i].data;

		printf("%u %u %d\n", pieces[i].bytes, pieces[i].total_bytes,
		       pieces[i].start_ns == written[i].start_ns && pieces[i].tid == 77 &&
			       pieces[i].function == BT_VIRTBALLOON_FREE_PAGE_REPORT);
		for (u32 block = 0; block < pieces[i].bytes / sizeof(*blocks); block++)
			printf("%lld %u\n", (long long)(blocks[block].first_page - PAGES_BELOW / sizeof(struct page)),
			       blocks[block].bytes);
	}
	printf("%llu %llu\n", sum->entries, sum->lost);
	return 0;
}
