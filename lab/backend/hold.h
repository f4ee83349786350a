// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Discards that take longer inside the call, for tests that a tracer finds the time there and not around it.
 *
 * The kernel tells a userfaultfd of a range that is about to be removed, and makes the call wait until that has been
 * read. A thread of its own reads it, so much later.
 */
#ifndef HOLD_H
#define HOLD_H

#include "memory.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct hold {
	int descriptor; /* the userfaultfd; -1 until it is needed */
	_Atomic uint64_t extra_ns; /* 0: calls are not held */
	_Atomic uint64_t call_ns; /* when the call that may be held began */
	_Atomic uint64_t held_ns; /* since hold_begin */
};

void hold_init(struct hold *hold);

/* Has each MADV_REMOVE of this memory take so much longer; with 0 none. False, with errno: the kernel cannot. */
bool hold_set(struct hold *hold, uint64_t extra_ns, const struct memory *memory);

/* The same for memory that has been mapped since. */
bool hold_cover(struct hold *hold, const struct memory *memory);

/* Right before a call, and right after it: from when it began until it was let go, 0 if it was not held. */
void hold_begin(struct hold *hold);
uint64_t hold_end(struct hold *hold);

#endif
