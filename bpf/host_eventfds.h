/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which eventfd kicked a thread, and when each did: a queue of a device has its own. Part of host.bpf.c; where calls are
 * sampled, host_samples.h has what becomes of those that kicked no balloon.
 */
#ifndef HOST_EVENTFDS_H
#define HOST_EVENTFDS_H

/* The place of an eventfd, its own from now on: that of one seen earlier goes to it if all neighbours are taken. */
static __always_inline u32 place_of(struct bt_eventfds *known, u64 file)
{
	u32 first = file * 0x9e3779b97f4a7c15ull >> 32 & (BT_EVENTFDS - BT_EVENTFD_WAYS);
	u32 place = first | (known->last_number & (BT_EVENTFD_WAYS - 1));
	u32 way;

#pragma unroll
	for (way = BT_EVENTFD_WAYS; way--;)
		if (!known->at[first | way].file)
			place = first | way;
#pragma unroll
	for (way = 0; way < BT_EVENTFD_WAYS; way++)
		if (known->at[first | way].file == file)
			return first | way;
	/* clang knows that it is below; the verifier of Linux 6.1 has lost sight of that. */
	__asm__("" : "+r"(place));
	place &= BT_EVENTFDS - 1;
	__builtin_memset(&known->at[place], 0, sizeof(known->at[place]));
	known->at[place].file = file;
	known->at[place].left = UNPROVEN_BUFFERS;
	/* Two threads may race for a number; older instruction sets have no addition that returns one. */
	known->at[place].number = ++known->last_number;
	return place;
}

/* Which eventfd has kicked this thread, and when. */
static __always_inline void kicked_by(struct bt_thread *thread, u64 pointer)
{
	struct bt_eventfds *known = eventfds_of(thread->id);
	struct bt_eventfd *eventfd;
	u32 place;

	if (HAS_NO_SLOT(known))
		return;
	/* The verifier allows no arithmetic with a pointer that has a type: what comes back from a map has none. */
	*(volatile u64 *)&thread->length = pointer;
	place = place_of(known, *(volatile u64 *)&thread->length) & (BT_EVENTFDS - 1);
	eventfd = &known->at[place];
	eventfd->tid = thread->id;
	eventfd->kick_ns[eventfd->kicks++ & (BT_KICK_TIMES - 1)] = thread->batch.kick_ns;
	if (SAMPLED)
		thread->sampled.place = place;
	thread->batch.kicked_by = eventfd->number;
}

#endif
