/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a list of pages to the records that name them: everything of the page-bitmap format that needs no device.
 *
 * The driver includes this file; so does a test in user space, behind a few lines that stand in for the kernel.
 * Whoever includes it defines struct virtio_balloon, page_to_balloon_pfn(), tell_host() and send_resp_data().
 */
#ifndef LAB_DRIVER_PAGE_BITMAP_H
#define LAB_DRIVER_PAGE_BITMAP_H

/* One bitmap: 32 KiB, so 1 GiB of guest. The response buffer is as large. */
#define BALLOON_BMAP_SIZE 32768UL
#define PFNS_PER_BMAP (BALLOON_BMAP_SIZE * BITS_PER_BYTE)
#define BALLOON_BMAP_COUNT 32

/*
 * With more than 4032 of its 4096 words used, the buffer is sent before the next run of pages. A run takes 16
 * at most: two words at either end, and one for each power of two from 64 to 2^17 pages.
 */
#define RESP_WORDS (BALLOON_BMAP_SIZE / sizeof(u64))
#define RESP_RESERVE 64

/* A record's head: first page 0-51, log2 of bytes 52-57, bytes of bitmap that follow 58-63. */
#define RECORD_PAGE_SHIFT_POS 52
#define RECORD_BMAP_LEN_POS 58

/* Pages looked at before the list's lock is given up for a moment. */
#ifndef PAGES_PER_LOCK
#define PAGES_PER_LOCK 4096
#endif

static void tell_host(struct virtio_balloon *vb, struct virtqueue *vq);
static void send_resp_data(struct virtio_balloon *vb, struct virtqueue *vq, bool busy_wait);

/* ---- pages to bitmap ---- */

static inline void init_bmap_pfn_range(struct virtio_balloon *vb)
{
	vb->min_pfn = ULONG_MAX;
	vb->max_pfn = 0;
}

static inline void update_bmap_pfn_range(struct virtio_balloon *vb, struct page *page)
{
	const unsigned long pfn = page_to_balloon_pfn(page);

	vb->min_pfn = min(vb->min_pfn, pfn);
	vb->max_pfn = max(vb->max_pfn, pfn);
}

/*
 * Allocates as many bitmaps as the guest's memory may need; with fewer there are more windows, that is all.
 * Never with the help of the OOM killer: its notifier, which calls us, waits for a lock that our callers hold.
 */
static void extend_page_bitmap(struct virtio_balloon *vb)
{
	const unsigned long useful = DIV_ROUND_UP(end_of_memory_pfn(), PFNS_PER_BMAP);
	const unsigned int wanted = min(useful, (unsigned long)BALLOON_BMAP_COUNT);

	while (vb->nr_page_bmap < wanted) {
		unsigned long *bitmap = kmalloc(BALLOON_BMAP_SIZE, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);

		if (!bitmap)
			return;
		vb->page_bitmap[vb->nr_page_bmap++] = bitmap;
	}
}

/* Back to the one bitmap that is always there. */
static void free_extended_page_bitmap(struct virtio_balloon *vb)
{
	while (vb->nr_page_bmap > 1) {
		vb->nr_page_bmap--;
		kfree(vb->page_bitmap[vb->nr_page_bmap]);
		vb->page_bitmap[vb->nr_page_bmap] = NULL;
	}
}

static void clear_page_bitmap(struct virtio_balloon *vb)
{
	for (unsigned int i = 0; i < vb->nr_page_bmap; i++)
		memset(vb->page_bitmap[i], 0, BALLOON_BMAP_SIZE);
}

#ifdef NO_PAGES_LOCK
/* As mark_window(), of all pages in the balloon. */
static bool mark_held(struct virtio_balloon *vb, unsigned long window_pfns)
{
	const unsigned long end = min(vb->start_pfn + window_pfns, vb->held_end);
	unsigned long pfn = vb->start_pfn;
	bool found = false;

	for_each_set_bit_from(pfn, vb->held, end) {
		const unsigned long bit = pfn - vb->start_pfn;

		set_bit(bit % PFNS_PER_BMAP, vb->page_bitmap[bit / PFNS_PER_BMAP]);
		vb->end_pfn = pfn;
		found = true;
	}
	return found;
}
#endif

/*
 * Sets the bit of each listed page that lies in the window from start_pfn; returns whether there is one, and the
 * highest in end_pfn. Compaction takes pages from the balloon's list, and puts them back, under pages_lock only: the
 * walk holds it, and keeps its place by an entry of its own while it gives others a chance.
 */
static bool mark_window(struct virtio_balloon *vb, struct list_head *pages, unsigned long window_pfns)
{
	struct list_head place, *at;
	unsigned long walked = 0;
	bool found = false;

#ifdef NO_PAGES_LOCK
	if (pages == &vb->vb_dev_info.pages)
		return mark_held(vb, window_pfns);
#endif
	lock_list(vb);
	for (at = pages->next; at != pages; at = at->next) {
		const unsigned long pfn = page_to_balloon_pfn(list_entry(at, struct page, lru));

		if (pfn >= vb->start_pfn && pfn - vb->start_pfn < window_pfns) {
			const unsigned long bit = pfn - vb->start_pfn;

			set_bit(bit % PFNS_PER_BMAP, vb->page_bitmap[bit / PFNS_PER_BMAP]);
			vb->end_pfn = max(vb->end_pfn, pfn);
			found = true;
		}
		if (++walked % PAGES_PER_LOCK == 0) {
			list_add(&place, at);
			unlock_list(vb);
			cond_resched();
			lock_list(vb);
			at = place.prev;
			list_del(&place);
		}
	}
	unlock_list(vb);
	return found;
}

/*
 * Tells the host of the listed pages between min_pfn and max_pfn, one window after the other. As in the patch the
 * whole list is walked for each, old pages are named again, and a highest page that is the first of a window would
 * need one more window than there is: it is never named.
 */
static void set_page_bitmap(struct virtio_balloon *vb, struct list_head *pages, struct virtqueue *vq)
{
	const unsigned long window_pfns = PFNS_PER_BMAP * vb->nr_page_bmap;

	vb->min_pfn = round_down(vb->min_pfn, BITS_PER_LONG);
	vb->max_pfn = round_up(vb->max_pfn, BITS_PER_LONG);
	for (unsigned long pfn = vb->min_pfn; pfn < vb->max_pfn; pfn += window_pfns) {
		clear_page_bitmap(vb);
		vb->start_pfn = pfn;
		vb->end_pfn = pfn;
		if (mark_window(vb, pages, window_pfns))
			tell_host(vb, vq);
	}
	free_extended_page_bitmap(vb);
}

/* ---- bitmap to records ---- */

static inline void put_head(struct virtio_balloon *vb, unsigned long pfn, unsigned int page_shift, u64 bmap_len)
{
	const u64 head = pfn | (u64)page_shift << RECORD_PAGE_SHIFT_POS | bmap_len << RECORD_BMAP_LEN_POS;

	vb->resp_data[vb->resp_pos++] = cpu_to_le64(head);
}

/* The word of the bitmap with this index, whatever else is set in it. */
static inline void put_word(struct virtio_balloon *vb, const unsigned long *bitmap, unsigned long base_pfn,
			    unsigned long index)
{
	put_head(vb, base_pfn + index * BITS_PER_LONG, VIRTIO_BALLOON_PFN_SHIFT, sizeof(u64));
	vb->resp_data[vb->resp_pos++] = cpu_to_le64(bitmap[index]);
}

/* `pages` pages in a row, as descending powers of two. */
static inline void put_powers_of_two(struct virtio_balloon *vb, unsigned long pfn, unsigned long pages)
{
	while (pages) {
		const unsigned int order = ilog2(pages);

		put_head(vb, pfn, VIRTIO_BALLOON_PFN_SHIFT + order, 0);
		pfn += 1UL << order;
		pages -= 1UL << order;
	}
}

/*
 * Names the run of `nr_page` set bits at `pos`: the word it starts in, the word it ends in, then what lies between.
 * Returns how many bits from `pos` on need no further look: up to the end of the run's last word.
 */
static unsigned long do_set_resp_bitmap(struct virtio_balloon *vb, unsigned long *bitmap, unsigned long base_pfn,
					unsigned long pos, unsigned long nr_page)
{
	const unsigned long end = pos + nr_page;
	const unsigned long end_index = DIV_ROUND_UP(end, BITS_PER_LONG);
	unsigned long first_whole = pos / BITS_PER_LONG;
	unsigned long end_whole = end_index;

	if (pos % BITS_PER_LONG)
		put_word(vb, bitmap, base_pfn, first_whole++);
	if (end % BITS_PER_LONG && first_whole < end_index)
		put_word(vb, bitmap, base_pfn, --end_whole);
	put_powers_of_two(vb, base_pfn + first_whole * BITS_PER_LONG, (end_whole - first_whole) * BITS_PER_LONG);
	return end_index * BITS_PER_LONG - pos;
}

/* Names every page set in a bitmap of `len` bytes whose first bit is start_pfn. */
static void set_bulk_pages(struct virtio_balloon *vb, struct virtqueue *vq, unsigned long start_pfn,
			   unsigned long *bitmap, unsigned long len, bool busy_wait)
{
	const unsigned long end = len * BITS_PER_BYTE;
	unsigned long pos = 0;

	while (pos < end) {
		const unsigned long one = find_next_bit(bitmap, end, pos);

		if (vb->resp_pos + RESP_RESERVE > RESP_WORDS)
			send_resp_data(vb, vq, busy_wait);
		if (one >= end)
			return;
		pos = find_next_zero_bit(bitmap, end, one);
		pos = one + do_set_resp_bitmap(vb, bitmap, start_pfn, one, pos - one);
	}
}

/* What tell_host() does for a window of bitmaps: start_pfn to end_pfn, and the records of all of it sent. */
static inline void tell_window(struct virtio_balloon *vb, struct virtqueue *vq)
{
	const unsigned long pfns = round_up(vb->end_pfn - vb->start_pfn + 1, BITS_PER_LONG);

	for (unsigned long done = 0; done < pfns; done += PFNS_PER_BMAP)
		set_bulk_pages(vb, vq, vb->start_pfn + done, vb->page_bitmap[done / PFNS_PER_BMAP],
			       min(pfns - done, PFNS_PER_BMAP) / BITS_PER_BYTE, false);
	if (vb->resp_pos)
		send_resp_data(vb, vq, false);
}

#endif
