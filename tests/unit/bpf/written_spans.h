/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's programs, whose spans end up one after the other in `written`, `reserved` of them; pieces of payloads, where
 * these are captured, in `pieces`, `captured` of them.
 */
#include "guest_drivers.h"

#define RING(name, pages) static int name
#define MAP(name) (&name)
#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_AVAIL_DATA 0
#define BPF_RB_RING_SIZE 1
#define ROOM 32

static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags);
static void bpf_ringbuf_submit(void *record, u64 flags) {}
static u64 bpf_ringbuf_query(void *ring, u64 flags) { return 0; }

#include "guest.bpf.c"

static struct bt_span written[ROOM];
static u32 reserved;
#ifdef CAPTURES
static struct bt_payload pieces[ROOM];
static u32 captured;
#endif

static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags)
{
#ifdef CAPTURES
	if (ring == &payloads)
		return captured < ROOM ? &pieces[captured++] : 0;
#endif
	return reserved < ROOM ? &written[reserved++] : 0;
}
