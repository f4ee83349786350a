/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages are in the balloon, on kernels where its list can be walked, and on those where it cannot. */
#ifndef LAB_DRIVER_HELD_PAGES_H
#define LAB_DRIVER_HELD_PAGES_H

#ifdef NO_PAGES_LOCK
/*
 * Compaction takes pages from the balloon's list, and puts them back, under a lock that mm keeps to itself. So the
 * list cannot be walked; the driver keeps a bitmap of the pages instead, under balloon_lock.
 */
static bool alloc_held(struct virtio_balloon *vb)
{
	vb->held_end = end_of_memory_pfn();
	vb->held = kvcalloc(BITS_TO_LONGS(vb->held_end), sizeof(*vb->held), GFP_KERNEL);
	return vb->held;
}

static void free_held(struct virtio_balloon *vb)
{
	kvfree(vb->held);
}

static inline void note_held(struct virtio_balloon *vb, struct page *page, bool held)
{
	const unsigned long pfn = page_to_balloon_pfn(page);

	if (pfn < vb->held_end)
		assign_bit(pfn, vb->held, held);
}

static inline void lock_list(struct virtio_balloon *vb) {}
static inline void unlock_list(struct virtio_balloon *vb) {}
#else
static inline bool alloc_held(struct virtio_balloon *vb) { return true; }
static inline void free_held(struct virtio_balloon *vb) {}
static inline void note_held(struct virtio_balloon *vb, struct page *page, bool held) {}

static inline void lock_list(struct virtio_balloon *vb)
{
	spin_lock_irq(&vb->vb_dev_info.pages_lock);
}

static inline void unlock_list(struct virtio_balloon *vb)
{
	spin_unlock_irq(&vb->vb_dev_info.pages_lock);
}
#endif

#endif
