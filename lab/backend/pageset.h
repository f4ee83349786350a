// SPDX-License-Identifier: GPL-2.0-or-later
/* Which guest pages the device believes to be in the balloon: what is sent twice shows up as already there. */
#ifndef PAGESET_H
#define PAGESET_H

#include <stdbool.h>
#include <stdint.h>

struct pageset {
	uint64_t *words; /* for all 16 TiB, but only what is touched takes memory */
	uint64_t pages;
};

bool pageset_open(struct pageset *set);
void pageset_clear(struct pageset *set);

/* Puts pages in (or takes them out); returns how many were in (or out) already. They must be below 16 TiB. */
uint64_t pageset_move(struct pageset *set, uint64_t pfn, uint64_t pages, bool in);

#endif
