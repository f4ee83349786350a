// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Calls, and what the kernel does with pages inside them. Prints after each the calls so far by which no page became free,
 * and the pages that became free.
 */
#include <stddef.h>

struct page {
	unsigned long flags;
	void *lru, *more;
	unsigned long mapping, index, private;
	int _mapcount, _refcount;
};

enum flags { PG_lru = 5, PG_uptodate = 3, PG_swapbacked = 17 };
enum { PAGE = 4096, LRU = 1 << PG_lru, READ = 1 << PG_uptodate, SWAPPABLE = 1 << PG_swapbacked };
enum { ANONYMOUS = 1, OF_FILE = 64 };

#define COUNT_FREED 4096
#define FOLIO_FLAGS offsetof(struct page, flags)
#define FOLIO_MAPPING offsetof(struct page, mapping)
#define FOLIO__MAPCOUNT offsetof(struct page, _mapcount)
#define FOLIO__REFCOUNT offsetof(struct page, _refcount)
#define PG_LRU PG_lru
#define PG_UPTODATE PG_uptodate
#define PG_SWAPBACKED PG_swapbacked

#include "host.bpf.c"

static struct page page;
static int huge_order;

/* A page as it is when a call comes to it: how often it is mapped, and how many references it has in all. */
static void is(unsigned long flags, unsigned long mapping, int mappings, int references)
{
	page = (struct page){ .flags = flags, .mapping = mapping, ._mapcount = mappings - 1, ._refcount = references };
	huge_order = 0;
}

static void begin(void)
{
	now_ns += 1000;
	start_clock(begin_call());
}

static void end(void)
{
	struct bt_call_sums *sums = &threads.slots[thread_id % BT_SLOTS].sums[BT_MADVISE_DONTNEED];
	u64 returned_ns;
	struct bt_thread *thread = find_call(&returned_ns);

	add_result(thread, end_call(thread, returned_ns, BT_MADVISE_DONTNEED), PAGE, 0, 0);
	printf("%u %llu\n", sums->freed_nothing, (unsigned long long)sums->freed_bytes / PAGE);
}

static void unmap(void)
{
	on_remove_rmap_entry((u64)&page);
}

static void remove_from_file(void)
{
	on_truncate_folio_entry(0, (u64)&page);
}

static void remove_batch(void)
{
	unsigned char batch[8] = { 2, 1 };

	on_delete_batch_entry(0, (u64)batch);
}

static void is_free(void)
{
	on_mm_page_free_entry((u64)&page, huge_order);
}

static void with(void (*first)(void), void (*second)(void))
{
	begin();
	if (first)
		first();
	if (second)
		second();
	end();
}

int main(void)
{
	target = TGID;
	thread_id = (u64)TGID << 32 | 1000;
	is(LRU | READ | SWAPPABLE, ANONYMOUS, 1, 1);
	with(unmap, is_free);                    /* the common case */
	with(0, 0);                              /* never touched */
	is(LRU | READ | SWAPPABLE, OF_FILE, 1, 2);
	with(unmap, 0);                          /* shared memory: its file keeps it */
	is(LRU | READ | SWAPPABLE, ANONYMOUS, 2, 2);
	with(unmap, 0);                          /* a child has it too */
	is(LRU | READ | SWAPPABLE, ANONYMOUS, 1, 2);
	with(unmap, 0);                          /* it is in a pipe */
	is(READ | SWAPPABLE, ANONYMOUS, 1, 2);
	with(unmap, 0);                          /* on another CPU's list of new pages: free soon */
	with(0, 0);
	with(unmap, is_free);                    /* on this CPU's: once only */
	with(unmap, 0);
	with(0, is_free);                        /* worked off inside the next call: once only */
	with(unmap, 0);                          /* somebody has had that page again, and so on */
	with(0, is_free);
	is(READ | SWAPPABLE, ANONYMOUS, 1, 3);
	with(unmap, 0);                          /* new, and in a pipe */
	is(LRU | READ | SWAPPABLE, OF_FILE, 0, 2);
	with(remove_from_file, is_free);
	is(SWAPPABLE, OF_FILE, 1, 4);
	with(remove_from_file, 0);               /* new, mapped, never read */
	is(SWAPPABLE, OF_FILE, 0, 4);
	with(remove_from_file, 0);               /* new, and held by somebody */
	is(0, 0, 0, 0);
	with(is_free, 0);                        /* a page of the kernel's own */
	is(LRU | READ | SWAPPABLE, ANONYMOUS, 0, 1);
	with(is_free, 0);                        /* a page of another process, left on this CPU's list */
	with(remove_batch, is_free);             /* of two from a file on a disk, one becomes free */
	is(LRU | READ | SWAPPABLE, ANONYMOUS, 1, 512);
	huge_order = 9;
	with(unmap, 0);                          /* part of a huge page */
	with(unmap, is_free);                    /* its last part */
	is_free();                               /* inside no call */
	with(0, 0);
	return 0;
}
