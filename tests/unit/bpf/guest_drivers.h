/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The drivers' structures, with members by their names; a test gives the offsets of all of them. */
#include <stddef.h>

struct virtio_device {
	unsigned int index;
};

struct virtqueue {
	unsigned int index;
	struct virtio_device *vdev;
};

struct virtio_balloon {
	struct virtio_device *vdev;
	unsigned int num_pages, num_pfns, pfns[256], resp_pos, nr_page_bmap;
	void *resp_data;
	unsigned long min_pfn, max_pfn;
	char update_balloon_size_work[32], update_balloon_stats_work[32], oom_nb[32], vb_dev_info[32];
	char pr_dev_info[32], report_free_page_work[32];
	unsigned int cmd_id_active, cmd_id_received_cache;
	unsigned long num_free_page_blocks;
	char shrinker[32];
};

struct sched_info {
	unsigned long pcount;
	unsigned long long run_delay;
};

struct task_struct {
	long state;
	struct sched_info sched_info;
};

static struct task_struct current_task;

static void *bpf_get_current_task_btf(void) { return &current_task; }

struct shrinker {
	void *private_data;
};

struct scatterlist {
	unsigned long page_link;
	unsigned int offset, length;
	unsigned long dma_address, dma_length;
	char end[];
};

struct page {
	char members[64];
	char end[];
};
