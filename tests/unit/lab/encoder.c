// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The patched driver's path from pages to records, in user space: lab/driver/page_bitmap.h behind a few lines that
 * stand in for the kernel. Reads operations from stdin and writes what would have been sent to stdout, both as
 * 64-bit numbers of this machine:
 *
 *   in:  end of memory, bitmaps that can be allocated, disturb (0/1), new pages, listed pages, their pfns
 *   out: windows told, pages disturbed, sends; for each send its words
 */
#include <assert.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the kernel, as far as it is used ---- */

typedef uint64_t u64;
typedef uint64_t __le64;

#define BITS_PER_BYTE 8
#define BITS_PER_LONG 64
#define VIRTIO_BALLOON_PFN_SHIFT 12
#define GFP_KERNEL 0
#define __GFP_NORETRY 0
#define __GFP_NOWARN 0
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define round_down(n, to) ((n) / (to) * (to))
#define round_up(n, to) (DIV_ROUND_UP(n, to) * (to))
#define list_entry(at, type, member) ((type *)((char *)(at) - offsetof(type, member)))

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "what is sent is little endian");

static u64 cpu_to_le64(u64 value) { return value; }
static unsigned int ilog2(unsigned long value) { return 63 - __builtin_clzl(value); }
static void cond_resched(void) {}

static bool test_bit(unsigned long bit, const unsigned long *bitmap)
{
	return bitmap[bit / BITS_PER_LONG] >> bit % BITS_PER_LONG & 1;
}

static void set_bit(unsigned long bit, unsigned long *bitmap)
{
	bitmap[bit / BITS_PER_LONG] |= 1UL << bit % BITS_PER_LONG;
}

static unsigned long find_next_bit(const unsigned long *bitmap, unsigned long end, unsigned long from)
{
	while (from < end && !test_bit(from, bitmap))
		from++;
	return min(from, end);
}

static unsigned long find_next_zero_bit(const unsigned long *bitmap, unsigned long end, unsigned long from)
{
	while (from < end && test_bit(from, bitmap))
		from++;
	return min(from, end);
}

struct list_head {
	struct list_head *next, *prev;
};

static void list_add(struct list_head *entry, struct list_head *after)
{
	entry->prev = after;
	entry->next = after->next;
	after->next->prev = entry;
	after->next = entry;
}

static void list_del(struct list_head *entry)
{
	entry->prev->next = entry->next;
	entry->next->prev = entry->prev;
	entry->next = entry->prev = NULL;
}

struct page {
	struct list_head lru;
	u64 pfn;
};

struct virtqueue {
	u64 sends;
};

struct virtio_balloon {
	__le64 *resp_data;
	unsigned long resp_pos;
	unsigned long *page_bitmap[32];
	unsigned int nr_page_bmap;
	unsigned long min_pfn, max_pfn, start_pfn, end_pfn;
	struct {
		int pages_lock;
	} vb_dev_info;
};

static unsigned long page_to_balloon_pfn(struct page *page) { return page->pfn; }

/* ---- one operation, and what happens around it ---- */

static struct {
	u64 end_of_memory, bitmaps, disturb, new_pages, listed_pages;
} operation;

static struct list_head list;
static struct page *pages;
static struct page *away;	/* taken off the list by "compaction" */
static u64 windows, disturbed;
static u64 *sent;		/* [words, words..., words, words...] */
static size_t sent_words, sent_room;
static unsigned int bitmaps_left;

static unsigned long end_of_memory_pfn(void) { return operation.end_of_memory; }

static void *kmalloc(size_t size, int flags)
{
	(void)flags;
	return bitmaps_left ? bitmaps_left--, malloc(size) : NULL;
}

static void kfree(void *memory) { free(memory); }

static void spin_lock_irq(int *lock)
{
	assert(!*lock);
	*lock = 1;
}

static bool is_page(struct list_head *entry)
{
	return (char *)entry >= (char *)pages && (char *)entry < (char *)(pages + operation.listed_pages);
}

/* In the middle of a walk: takes away the page it would see next, after putting back the one it took before. */
static void disturb(void)
{
	struct list_head *at = list.next;

	while (at != &list && is_page(at))
		at = at->next;
	if (at == &list || at->next == &list)
		return;
	struct page *next = list_entry(at->next, struct page, lru);
	list_del(&next->lru);
	if (away)
		list_add(&away->lru, &list);
	away = next;
	disturbed++;
}

static void spin_unlock_irq(int *lock)
{
	assert(*lock);
	*lock = 0;
	if (operation.disturb)
		disturb();
}

static void lock_list(struct virtio_balloon *vb) { spin_lock_irq(&vb->vb_dev_info.pages_lock); }
static void unlock_list(struct virtio_balloon *vb) { spin_unlock_irq(&vb->vb_dev_info.pages_lock); }

#include "page_bitmap.h"

static void put_sent(u64 word)
{
	if (sent_words == sent_room) {
		sent_room = sent_room ? 2 * sent_room : 1024;
		sent = realloc(sent, sent_room * sizeof(*sent));
		assert(sent);
	}
	sent[sent_words++] = word;
}

static void send_resp_data(struct virtio_balloon *vb, struct virtqueue *vq, bool busy_wait)
{
	assert(!busy_wait && vb->resp_pos && vb->resp_pos <= RESP_WORDS);
	vq->sends++;
	put_sent(vb->resp_pos);
	for (unsigned long i = 0; i < vb->resp_pos; i++)
		put_sent(vb->resp_data[i]);
	vb->resp_pos = 0;
}

static void tell_host(struct virtio_balloon *vb, struct virtqueue *vq)
{
	windows++;
	tell_window(vb, vq);
}

static u64 read_number(void)
{
	u64 value;

	assert(fread(&value, sizeof(value), 1, stdin) == 1);
	return value;
}

static void write_numbers(const u64 *numbers, size_t count)
{
	assert(!count || fwrite(numbers, sizeof(*numbers), count, stdout) == count);
}

/* As fill_balloon() does: the new pages are on the list too. */
static void run_operation(void)
{
	struct virtio_balloon vb = { .nr_page_bmap = 1 };
	struct virtqueue vq = { 0 };

	windows = disturbed = 0;
	sent_words = 0;
	away = NULL;
	list.next = list.prev = &list;
	vb.resp_data = malloc(BALLOON_BMAP_SIZE);
	vb.page_bitmap[0] = malloc(BALLOON_BMAP_SIZE);
	bitmaps_left = operation.bitmaps - 1;
	extend_page_bitmap(&vb);
	init_bmap_pfn_range(&vb);
	pages = calloc(operation.listed_pages + 1, sizeof(*pages));
	assert(pages && vb.resp_data && vb.page_bitmap[0]);
	for (u64 i = 0; i < operation.listed_pages; i++) {
		pages[i].pfn = read_number();
		list_add(&pages[i].lru, &list);
		if (i < operation.new_pages)
			update_bmap_pfn_range(&vb, &pages[i]);
	}
	set_page_bitmap(&vb, &list, &vq);
	assert(vb.nr_page_bmap == 1 && !vb.resp_pos && !vb.vb_dev_info.pages_lock);

	const u64 head[] = { windows, disturbed, vq.sends };
	write_numbers(head, 3);
	write_numbers(sent, sent_words);
	fflush(stdout);
	free(pages);
	free(vb.page_bitmap[0]);
	free(vb.resp_data);
}

int main(void)
{
	while (fread(&operation, sizeof(operation), 1, stdin) == 1)
		run_operation();
	free(sent);
	return 0;
}
