// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sends and interrupts: one inside a send; none; one before the send; two inside, of which the last counts; one of another
 * queue; its own, then one of another device's queue; that device's send, with an interrupt of the first one's queue in
 * between. Prints of each send when its interrupt came, or -1.
 */
#include "written_spans.h"

static struct virtio_device devices[] = { { 3 }, { 4 } };
static struct virtio_balloon balloons[] = { { &devices[0], 512 }, { &devices[1], 512 } };
static struct virtqueue queues[] = { { 0, &devices[0] }, { 1, &devices[0] }, { 0, &devices[1] } };

static void send(int queue, const int *interrupts_of, int interrupts)
{
	on_tell_host_entry((u64)&balloons[queue / 2], (u64)&queues[queue], 1);
	for (int i = 0; i < interrupts; i++) {
		now_ns += 100;
		on_balloon_ack_entry((u64)&queues[interrupts_of[i]], 1);
	}
	now_ns += 1000;
	on_tell_host_return(0);
}

int main(void)
{
	thread_id = 77;
	send(0, (int[]){ 0 }, 1);
	send(0, 0, 0);
	on_balloon_ack_entry((u64)&queues[0], 1);
	now_ns += 5;
	send(0, 0, 0);
	send(0, (int[]){ 0, 0 }, 2);
	send(0, (int[]){ 1 }, 1);
	send(0, (int[]){ 0, 2 }, 2);
	send(2, (int[]){ 2, 0 }, 2);
	for (u32 i = 0; i < reserved; i++)
		printf("%d ", written[i].flags & BT_HAS_ACK ? (int)written[i].wait_ns : -1);
	printf("%llu\n", (unsigned long long)sums()->functions[BT_BALLOON_ACK].entries);
	return 0;
}
