// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compaction moves many pages while nobody drains the ring: of every 8 migrations one finds the lock taken, and one is
 * given up. Then an inflate. Prints how many spans there are of migrations, of sends and of work items, how many calls
 * of each were summed up, pages of summed migrations and of summed sends, lost spans, spans of migrations given up.
 */
#include "guest_drivers.h"

#define RING(name, pages) static int name
#define MAP(name) (&name)
#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_AVAIL_DATA 0
#define BPF_RB_RING_SIZE 1
#define ROOM 100

static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags);
static void bpf_ringbuf_submit(void *record, u64 flags);
static u64 bpf_ringbuf_query(void *ring, u64 flags);

#include "guest.bpf.c"

#define MIGRATIONS 80
#define RECORD_BYTES (sizeof(struct bt_span) + 8)

static struct bt_span written[ROOM];
static u32 reserved;

static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags)
{
	return reserved < ROOM ? &written[reserved++] : 0;
}

static void bpf_ringbuf_submit(void *record, u64 flags) {}

static u64 bpf_ringbuf_query(void *ring, u64 flags)
{
	return (flags == BPF_RB_RING_SIZE ? ROOM : reserved) * RECORD_BYTES;
}

static struct virtio_device device = { 3 };
static struct virtio_balloon balloon = { &device };
static struct virtqueue inflate = { 0, &device }, deflate = { 1, &device };

static void send(struct virtqueue *queue, u32 pages)
{
	balloon.num_pfns = pages;
	on_tell_host_entry((u64)&balloon, (u64)queue, 1);
	now_ns += 100;
	on_tell_host_return(0);
}

static void migrate(int result)
{
	on_virtballoon_migratepage_entry((u64)balloon.vb_dev_info, 0, 0, 0);
	if (result != -11) {
		send(&inflate, 1);
		send(&deflate, 1);
	}
	on_virtballoon_migratepage_return(result);
}

static void run_item(void)
{
	on_update_balloon_size_func_entry((u64)balloon.update_balloon_size_work);
	send(&inflate, 256);
	on_update_balloon_size_func_return(0);
}

int main(void)
{
	struct bt_function_counters *sums = counters.functions;
	u32 of[BT_FUNCTIONS] = { 0 }, given_up = 0;

	thread_id = 77;
	for (int i = 0; i < MIGRATIONS; i++)
		migrate(i % 8 == 6 ? -11 : i % 8 == 7 ? -ENOENT : 0);
	thread_id = 78;
	run_item();
	for (u32 i = 0; i < reserved; i++) {
		of[written[i].function]++;
		given_up += written[i].function == BT_VIRTBALLOON_MIGRATEPAGE && written[i].result == -ENOENT;
	}
	printf("%u %u %u\n", of[BT_VIRTBALLOON_MIGRATEPAGE], of[BT_TELL_HOST], of[BT_UPDATE_BALLOON_SIZE_FUNC]);
	printf("%llu %llu %llu\n", sums[BT_VIRTBALLOON_MIGRATEPAGE].summed, sums[BT_TELL_HOST].summed,
	       sums[BT_UPDATE_BALLOON_SIZE_FUNC].summed);
	printf("%llu %llu %llu\n", sums[BT_VIRTBALLOON_MIGRATEPAGE].summed_pages, sums[BT_TELL_HOST].summed_pages,
	       sums[BT_TELL_HOST].summed_ns);
	printf("%llu %u\n", sums[BT_VIRTBALLOON_MIGRATEPAGE].lost + sums[BT_TELL_HOST].lost, given_up);
	return 0;
}
