/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One small function per kernel difference; Kbuild finds out which this kernel is. */
#ifndef LAB_DRIVER_COMPAT_H
#define LAB_DRIVER_COMPAT_H

#include <linux/balloon_compaction.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

struct balloon_queue {
	const char *name;
	vq_callback_t *callback;
};

#define MAX_BALLOON_QUEUES 3

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
