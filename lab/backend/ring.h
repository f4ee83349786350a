// SPDX-License-Identifier: GPL-2.0-or-later
/* A split virtqueue, the device's side, without event index, indirect descriptors or the packed layout. */
#ifndef RING_H
#define RING_H

#include "memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_MAX 32768u

struct ring {
	unsigned int size;
	uint16_t next_avail; /* survives a stop: it is what SET_VRING_BASE and GET_VRING_BASE exchange */
	uint16_t next_used;
	uint64_t desc_user, avail_user, used_user; /* addresses of the frontend's */
	uint8_t *desc, *avail, *used; /* NULL until ring_map */
	int kick, call; /* eventfds, -1 when there is none */
	bool is_enabled;
	bool is_started;
	bool is_broken; /* the guest's index ran away; nothing is served until the ring is set up anew */
};

struct chain {
	uint16_t head;
	bool has_head; /* false: not even the head could be trusted, so it cannot be handed back */
	const char *refusal; /* NULL: `bytes` is what the guest sent */
	uint64_t refused_value;
	size_t length;
	uint8_t bytes[8 + 32768]; /* our own copy: the guest may write to its own at any time */
};

void ring_init(struct ring *ring);

/* Finds the three parts in memory; NULL, or why not. */
const char *ring_map(struct ring *ring, const struct memory *memory);
void ring_unmap(struct ring *ring);

/* Takes the next chain of read-only descriptors; false when there is none. Sets `is_broken` when it must. */
bool ring_pop(struct ring *ring, const struct memory *memory, struct chain *chain);

/* Gives a chain back to the guest, with nothing written to it, and interrupts unless the guest wants none. */
void ring_push(struct ring *ring, uint16_t head);

#endif
