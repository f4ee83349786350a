// SPDX-License-Identifier: GPL-2.0-or-later
/* A bit per page of guest memory. */
#include "pageset.h"

#include "decode.h"
#include "memory.h"

#include <sys/mman.h>

#define SET_BYTES (GUEST_LIMIT_BYTES / PAGE_BYTES / 8)

bool pageset_open(struct pageset *set)
{
	void *words = mmap(NULL, SET_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	*set = (struct pageset){ .words = words == MAP_FAILED ? NULL : words };
	return set->words;
}

void pageset_clear(struct pageset *set)
{
	madvise(set->words, SET_BYTES, MADV_DONTNEED);
	set->pages = 0;
}

static uint64_t move_in_word(uint64_t *word, uint64_t mask, bool in)
{
	uint64_t already = (in ? *word : ~*word) & mask;

	*word = in ? *word | mask : *word & ~mask;
	return (uint64_t)__builtin_popcountll(already);
}

uint64_t pageset_move(struct pageset *set, uint64_t pfn, uint64_t pages, bool in)
{
	uint64_t left = pages, already = 0;

	while (left) {
		uint64_t first = pfn % 64;
		uint64_t count = left < 64 - first ? left : 64 - first;
		uint64_t mask = (~UINT64_C(0) >> (64 - count)) << first;

		already += move_in_word(&set->words[pfn / 64], mask, in);
		pfn += count;
		left -= count;
	}
	if (in)
		set->pages += pages - already;
	else
		set->pages -= pages - already;
	return already;
}
