/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One small function per kernel difference; Kbuild finds out which this kernel is. */
#ifndef LAB_DRIVER_COMPAT_H
#define LAB_DRIVER_COMPAT_H

#ifdef HAVE_BALLOON_H
#include <linux/balloon.h>
#else
#include <linux/balloon_compaction.h>
#endif
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

struct balloon_queue {
	const char *name;
	vq_callback_t *callback;
};

#define MAX_BALLOON_QUEUES 3

#if defined(CONFIG_BALLOON_COMPACTION) || defined(CONFIG_BALLOON_MIGRATION)
#define BALLOON_PAGES_MIGRATE
#endif

/* Finds `count` queues. Before "virtio: rework find_vqs" (6.11) names and callbacks were two arrays. */
static int find_balloon_queues(struct virtio_device *vdev, unsigned int count, struct virtqueue **found,
			       const struct balloon_queue *wanted)
{
#ifdef HAVE_VIRTQUEUE_INFO
	struct virtqueue_info queues[MAX_BALLOON_QUEUES] = {};

	for (unsigned int i = 0; i < count; i++) {
		queues[i].name = wanted[i].name;
		queues[i].callback = wanted[i].callback;
	}
	return virtio_find_vqs(vdev, count, found, queues, NULL);
#else
	vq_callback_t *callbacks[MAX_BALLOON_QUEUES] = {};
	const char *names[MAX_BALLOON_QUEUES] = {};

	for (unsigned int i = 0; i < count; i++) {
		names[i] = wanted[i].name;
		callbacks[i] = wanted[i].callback;
	}
	return virtio_find_vqs(vdev, count, found, callbacks, names, NULL);
#endif
}

/* Whether pages in the balloon are to be missing from what the guest has: where mm sees to that, it is told so. */
static inline void set_managed(struct balloon_dev_info *info, bool managed)
{
#ifdef MM_COUNTS_MANAGED_PAGES
	info->adjust_managed_page_count = managed;
#endif
}

static inline void count_managed(struct page *page, long pages)
{
#ifndef MM_COUNTS_MANAGED_PAGES
	adjust_managed_page_count(page, pages);
#endif
}

#ifndef NO_PAGES_LOCK
/*
 * Takes from an isolated page what made it a balloon's. The older function would also unlink a page that is not
 * isolated; ours always is.
 */
static inline void forget_balloon_page(struct page *page)
{
#ifdef HAVE_BALLOON_PAGE_FINALIZE
	balloon_page_finalize(page);
#else
	balloon_page_delete(page);
#endif
}

/* Puts an isolated page's successor into the balloon. */
static void replace_balloon_page(struct balloon_dev_info *info, struct page *newpage)
{
	unsigned long flags;

	get_page(newpage);
	spin_lock_irqsave(&info->pages_lock, flags);
	balloon_page_insert(info, newpage);
	info->isolated_pages--;
	__count_vm_event(BALLOON_MIGRATE);
	spin_unlock_irqrestore(&info->pages_lock, flags);
}

static void drop_balloon_page(struct balloon_dev_info *info, struct page *page)
{
	unsigned long flags;

	spin_lock_irqsave(&info->pages_lock, flags);
	forget_balloon_page(page);
	spin_unlock_irqrestore(&info->pages_lock, flags);
	put_page(page);
}
#else
/* mm does both once virtballoon_migratepage() has returned. */
static inline void replace_balloon_page(struct balloon_dev_info *info, struct page *newpage) {}
static inline void drop_balloon_page(struct balloon_dev_info *info, struct page *page) {}
#endif

/* One more than the highest page frame; what the patch series asked get_max_pfn() for never reached mainline. */
static inline unsigned long end_of_memory_pfn(void)
{
	unsigned long end = 0;
	int node;

	for_each_online_node(node)
		end = max(end, node_end_pfn(node));
	return end;
}

#endif
