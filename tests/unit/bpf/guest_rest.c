// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Work items of two balloons by one worker. Prints what `top` takes for waiting to be queued again when an inflate was
 * stopped half way for an hour; then where two balloons stand after the worker dealt with the second in between; then
 * what a send on a queue that moves no page of the balloon adds to inflated, deflated and unknown. Last how many pages the
 * host gets back out of memory, whether an inflate that got too few pages stalls, and, after a deflate, that it was superseded.
 */
#include "guest_drivers.h"
#include "guest.bpf.c"

#define HOUR_NS 3600000000000ull

static struct virtio_device devices[] = { { 3 }, { 7 } };
static struct virtio_balloon first = { &devices[0] }, second = { &devices[1] };
static struct virtqueue inflate = { 0, &devices[0] }, deflate = { 1, &devices[0] }, reporting = { 4, &devices[0] };

static void send(struct virtio_balloon *balloon, struct virtqueue *queue, u32 pages)
{
	balloon->num_pages += queue == &inflate ? pages : -pages;
	balloon->num_pfns = pages;
	on_tell_host_entry((u64)balloon, (u64)queue, 1);
	now_ns += 100000;
	on_tell_host_return(0);
}

static void run_item_of(struct virtio_balloon *balloon, u32 target_pages, struct virtqueue *queue, u32 moved_pages)
{
	on_update_balloon_size_func_entry((u64)balloon->update_balloon_size_work);
	now_ns += 1000;
	on_config_get(0, (u64)&target_pages, sizeof(target_pages));
	if (moved_pages)
		send(balloon, queue, moved_pages);
	on_update_balloon_size_func_return(0);
	now_ns += 1000;
}

static void run_item(struct virtio_balloon *balloon, u32 target_pages, u32 moved_pages)
{
	run_item_of(balloon, target_pages, &inflate, moved_pages);
}

int main(void)
{
	struct bt_device_state *states = counters.devices;

	thread_id = 77;
	run_item(&first, 512, 256);
	run_item(&first, 256, 0);
	now_ns += HOUR_NS;
	run_item(&first, 512, 256);
	printf("%llu\n", (unsigned long long)live.requeue_ns);

	on_virtio_balloon_oom_notify_entry((u64)second.oom_nb, 0, 0);
	on_virtio_balloon_oom_notify_return(0);
	run_item(&first, 768, 256);
	printf("%u %u\n", states[3].actual_pages, states[7].actual_pages);

	live.inflated_pages = live.deflated_pages = 0;
	on_tell_host_entry((u64)&first, (u64)&reporting, 1);
	on_tell_host_return(0);
	printf("%llu %llu %llu\n", (unsigned long long)live.inflated_pages,
	       (unsigned long long)live.deflated_pages, (unsigned long long)live.unknown_sends);

	on_virtio_balloon_oom_notify_entry((u64)first.oom_nb, 0, 0);
	send(&first, &deflate, 256);
	on_virtio_balloon_oom_notify_return(0);
	run_item(&first, 1024, 100);
	printf("%llu %u %llu\n", (unsigned long long)live.oom_pages, live.devices[3].is_short,
	       (unsigned long long)live.superseded);
	run_item_of(&first, 512, &deflate, 100);
	printf("%u %llu\n", live.devices[3].is_short, (unsigned long long)live.superseded);
	return 0;
}
