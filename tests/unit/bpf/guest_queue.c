// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The page-bitmap driver where a compiler made a variant of send_resp_data, whose arguments say nothing. Prints how many
 * pages an inflate then adds to inflated and to unknown, and for each of four sends its queue, or -1: inside tell_host,
 * inside set_page_bitmap alone, there after compaction came in between, and inside nothing.
 */
#include "guest_drivers.h"
#include "guest.bpf.c"

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device };
static struct virtqueue inflate = { 0, &device }, deflate = { 1, &device };

static void send_records(void)
{
	struct thread_state *thread;

	on_send_resp_data_entry(0, 0, 0, 1);
	thread = find_thread();
	printf("%d\n", thread->send_flags & BT_HAS_QUEUE ? thread->queue : -1);
	on_send_resp_data_return(0);
}

static void migrate(void)
{
	on_virtballoon_migratepage_entry((u64)balloon.vb_dev_info, 0, 0, 0);
	on_tell_host_entry((u64)&balloon, (u64)&deflate, 1);
	on_tell_host_return(0);
	on_virtballoon_migratepage_return(0);
}

int main(void)
{
	u32 target_pages = 1000;

	thread_id = 77;
	balloon.num_pages = balloon.num_pfns = target_pages;
	on_update_balloon_size_func_entry((u64)balloon.update_balloon_size_work);
	on_config_get(0, (u64)&target_pages, sizeof(target_pages));
	on_set_page_bitmap_entry((u64)&balloon, 0, (u64)&inflate, 1);
	on_tell_host_entry((u64)&balloon, (u64)&inflate, 1);
	send_records();
	on_tell_host_return(0);
	send_records();
	on_set_page_bitmap_return(0);
	on_update_balloon_size_func_return(0);
	printf("%llu %llu\n", (unsigned long long)live_sums()->inflated_pages,
	       (unsigned long long)live_sums()->unknown_sends);
	on_set_page_bitmap_entry((u64)&balloon, 0, (u64)&inflate, 1);
	migrate();
	send_records();
	on_set_page_bitmap_return(0);
	send_records();
	return 0;
}
