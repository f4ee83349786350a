// SPDX-License-Identifier: GPL-2.0-or-later
/* The guest's memory as the frontend shares it: regions, each mapped from a descriptor. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_REGIONS 8u
/* 16 TiB: keeps what is allocated per page of guest memory within bounds. */
#define GUEST_LIMIT_BYTES (UINT64_C(1) << 44)

struct region_request { /* as it comes over the socket */
	uint64_t guest_start;
	uint64_t bytes;
	uint64_t user_start; /* where the frontend has it mapped: ring addresses are given so */
	uint64_t mmap_offset; /* where it starts in the descriptor */
};

struct region {
	uint64_t guest_start;
	uint64_t bytes;
	uint64_t user_start;
	uint8_t *host;
};

struct memory {
	struct region regions[MEMORY_REGIONS];
	unsigned int count;
};

/* Maps one more region; NULL, or why it was not taken. The descriptor stays the caller's. */
const char *memory_add(struct memory *memory, const struct region_request *request, int descriptor);

void memory_clear(struct memory *memory);

/* Where `bytes` at a guest address are, all of them in one region; NULL when they are not. */
void *memory_guest(const struct memory *memory, uint64_t guest_address, uint64_t bytes);

/* The same for an address of the frontend's. */
void *memory_user(const struct memory *memory, uint64_t user_address, uint64_t bytes);

/* How many of `pages` lie in the region of `pfn` (0: there is none), and where. */
uint64_t memory_pages(const struct memory *memory, uint64_t pfn, uint64_t pages, void **host);

/* Whether all these pages are memory, in however many regions. */
bool memory_holds(const struct memory *memory, uint64_t pfn, uint64_t pages);

#endif
