// SPDX-License-Identifier: GPL-2.0-or-later
/* The balloon itself: its configuration space, what it does with one buffer, and what it has done so far. */
#ifndef BALLOON_H
#define BALLOON_H

#include "hold.h"
#include "log.h"
#include "memory.h"
#include "pageset.h"
#include "ring.h"

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_BYTES 16u
#define CONFIG_NUM_PAGES 0u
#define CONFIG_ACTUAL 4u

#define FEATURE_DEFLATE_ON_OOM (UINT64_C(1) << 2) /* the device's part of it is to offer it */
#define FEATURE_BIT_3 (UINT64_C(1) << 3) /* page bitmaps to the patched driver, free page hints to mainline's */

enum queue {
	QUEUE_INFLATE,
	QUEUE_DEFLATE,
	QUEUE_HINT, /* only with --free-page-hint; what comes is given back unread */
	QUEUES,
};

struct options {
	bool page_bitmap;
	bool free_page_hint;
	bool deflate_on_oom;
	bool no_discard;
	bool time_calls;
};

/* Time that is spent on purpose. */
struct extra {
	uint64_t per_buffer_ns; /* before it is given back */
	uint64_t per_discard_ns; /* before the call */
	uint64_t in_discard_ns; /* inside the call */
};

struct totals {
	uint64_t buffers;
	uint64_t bytes;
	uint64_t records;
	uint64_t words;
	uint64_t plain_runs;
	uint64_t pages;
	uint64_t already; /* pages that were in the balloon (inflate) or out of it (deflate) when they came */
	uint64_t discards;
	uint64_t discarded_bytes;
	uint64_t willneeds;
	uint64_t refused;
	uint64_t errors; /* calls of the kernel that failed */
	uint64_t ns;
	uint64_t extra_ns; /* really spent on purpose, outside calls; part of `ns` */
	uint64_t held_ns; /* inside calls, as far as it was on purpose; part of `ns` */
	uint64_t calls_ns; /* inside calls, with time_calls */
};

struct balloon {
	struct options options;
	struct extra extra;
	struct hold hold;
	struct log log;
	FILE *dump; /* payloads one after the other; NULL: not kept */
	uint64_t dumped_bytes;
	uint64_t features; /* what the driver accepted */
	bool has_hint_queue; /* the driver has set up the third queue */
	uint32_t target_pages;
	uint32_t actual_pages;
	uint64_t config_reads, config_writes;
	uint64_t buffers; /* number of the last one */
	struct pageset ballooned;
	struct totals totals[QUEUES];
};

const char *queue_name(enum queue queue);

/* "bitmap" or "pfn": how the next buffer will be read. */
const char *balloon_mode(const struct balloon *balloon);

/* Fills `bytes` with the configuration space from `offset`, zeros after its end. */
void balloon_read_config(struct balloon *balloon, uint32_t offset, uint32_t length, uint8_t *bytes);

/* Takes `actual` where a write covers it whole; all else in there is not the driver's to write. */
void balloon_write_config(struct balloon *balloon, uint32_t offset, uint32_t length, const uint8_t *bytes);

/* Serves the next buffer of a queue, whatever is in it; false when there is none. */
bool balloon_serve(struct balloon *balloon, enum queue queue, struct ring *ring, const struct memory *memory);

/* From the next buffer on; false, with errno, when calls cannot be held. */
bool balloon_set_extra(struct balloon *balloon, const struct extra *extra, const struct memory *memory);

/* Another guest may come: what this one had given away is forgotten, the totals are not. */
void balloon_forget_guest(struct balloon *balloon);

/* The inside of a JSON object. */
void balloon_print_status(const struct balloon *balloon, FILE *file);

#endif
