// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A virtio balloon driver that can name pages by bitmap: what the "speed up inflate/deflate" series of 2016 did, with
 * the same functions, for today's kernels. README.md says what it took over and what it mended.
 */
#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/oom.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_balloon.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat.h"

/* Since 2018 bit 3 means VIRTIO_BALLOON_F_FREE_PAGE_HINT; use this driver only with a device that means this. */
#define VIRTIO_BALLOON_F_PAGE_BITMAP 3

/* The interface counts in pages of 4 KiB, whatever the guest's page size is. */
#define VIRTIO_BALLOON_PAGES_PER_PAGE (PAGE_SIZE >> VIRTIO_BALLOON_PFN_SHIFT)
#define VIRTIO_BALLOON_ARRAY_PFNS_MAX 256
#define OUT_OF_MEMORY_PAUSE_MS 200

static unsigned int oom_pages = 256;
module_param(oom_pages, uint, 0600);
MODULE_PARM_DESC(oom_pages, "pages to give back when the guest is out of memory");

/* First of the two parts of a send, little endian. */
struct virtio_balloon_resp_hdr {
	u8 cmd;
	u8 flag;
	__le16 id;
	__le32 data_len;	/* bytes of the second part */
};

struct virtio_balloon {
	struct virtio_device *vdev;
	struct virtqueue *inflate_vq, *deflate_vq, *stats_vq;

	struct work_struct update_balloon_stats_work;
	struct work_struct update_balloon_size_work;

	/* Under stop_update_lock: no work item is queued once stop_update is set. */
	spinlock_t stop_update_lock;
	bool stop_update;

	/* Woken when the device has used a buffer. */
	wait_queue_head_t acked;

	/* Pages in the balloon, in units of 4 KiB. */
	unsigned int num_pages;

	struct virtio_balloon_resp_hdr *resp_hdr;
	/* Records not sent yet, and how many of its words they take. */
	__le64 *resp_data;
	unsigned long resp_pos;
	/* Bitmaps there are; between operations one. */
	unsigned long *page_bitmap[32];
	unsigned int nr_page_bmap;
	/* Lowest and highest page of this operation; the window being told, both ends included. */
	unsigned long min_pfn, max_pfn, start_pfn, end_pfn;

#ifdef NO_PAGES_LOCK
	/* The pages in the balloon by number, up to held_end; page_bitmap.h says why. */
	unsigned long *held, held_end;
#endif

	struct balloon_dev_info vb_dev_info;

	/* Serialises operations; guards everything from num_pages on except vb_dev_info. */
	struct mutex balloon_lock;

	/* Pages of this operation so far; without bitmaps, their numbers too. */
	unsigned int num_pfns;
	__virtio32 pfns[VIRTIO_BALLOON_ARRAY_PFNS_MAX];

	struct virtio_balloon_stat stats[VIRTIO_BALLOON_S_NR];

	struct notifier_block oom_nb;
};

static unsigned long page_to_balloon_pfn(struct page *page)
{
	return page_to_pfn(page) * VIRTIO_BALLOON_PAGES_PER_PAGE;
}

#include "held_pages.h"
#include "page_bitmap.h"

static_assert(ARRAY_SIZE(((struct virtio_balloon *)0)->page_bitmap) == BALLOON_BMAP_COUNT);
static_assert(sizeof(struct virtio_balloon_resp_hdr) == sizeof(u64));

static inline bool uses_bitmap(struct virtio_balloon *vb)
{
	return virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_PAGE_BITMAP);
}

/* ---- telling the host ---- */

static void balloon_ack(struct virtqueue *vq)
{
	struct virtio_balloon *vb = vq->vdev->priv;

	wake_up(&vb->acked);
}

/*
 * Queues a buffer on an empty queue. It must not sleep for memory: the lock is held that the OOM notifier waits
 * for. Without memory for a table of descriptors the ring's own are used.
 */
static bool queue_buffer(struct virtio_balloon *vb, struct virtqueue *vq, struct scatterlist *sg, unsigned int parts)
{
	const int error = virtqueue_add_outbuf(vq, sg, parts, vb, GFP_NOWAIT | __GFP_NOWARN);

	if (error) {
		dev_err_ratelimited(&vb->vdev->dev, "cannot queue on %s: error %d; the host does not learn of some pages\n",
				    vq->name, error);
		return false;
	}
	virtqueue_kick(vq);
	return true;
}

static void send_resp_data(struct virtio_balloon *vb, struct virtqueue *vq, bool busy_wait)
{
	const unsigned int data_len = vb->resp_pos * sizeof(*vb->resp_data);
	struct scatterlist sg[2];
	unsigned int len;

	/* cmd, flag and id are 0 for pages, and stay it. */
	vb->resp_hdr->data_len = cpu_to_le32(data_len);
	sg_init_table(sg, ARRAY_SIZE(sg));
	sg_set_buf(&sg[0], vb->resp_hdr, sizeof(*vb->resp_hdr));
	sg_set_buf(&sg[1], vb->resp_data, data_len);
	if (queue_buffer(vb, vq, sg, ARRAY_SIZE(sg))) {
		if (busy_wait)
			while (!virtqueue_get_buf(vq, &len) && !virtqueue_is_broken(vq))
				cpu_relax();
		else
			wait_event(vb->acked, virtqueue_get_buf(vq, &len) || virtqueue_is_broken(vq));
	}
	vb->resp_pos = 0;
}

static void tell_host(struct virtio_balloon *vb, struct virtqueue *vq)
{
	struct scatterlist sg;
	unsigned int len;

	if (uses_bitmap(vb)) {
		tell_window(vb, vq);
		return;
	}
	sg_init_one(&sg, vb->pfns, sizeof(vb->pfns[0]) * vb->num_pfns);
	if (queue_buffer(vb, vq, &sg, 1))
		wait_event(vb->acked, virtqueue_get_buf(vq, &len) || virtqueue_is_broken(vq));
}

/* Writes the numbers of a guest page's 4 KiB pages. */
static void set_page_pfns(struct virtio_balloon *vb, __virtio32 pfns[], struct page *page)
{
	const unsigned long first = page_to_balloon_pfn(page);

	for (unsigned int i = 0; i < VIRTIO_BALLOON_PAGES_PER_PAGE; i++)
		pfns[i] = cpu_to_virtio32(vb->vdev, first + i);
}

/* ---- inflate and deflate ---- */

/* How many of `num` pages one pass can do; call with balloon_lock held. */
static size_t begin_pass(struct virtio_balloon *vb, size_t num, bool use_bmap)
{
	if (!use_bmap)
		return min(num, ARRAY_SIZE(vb->pfns));
	if (vb->nr_page_bmap == 1)
		extend_page_bitmap(vb);
	init_bmap_pfn_range(vb);
	return num;
}

/* Counts a page as part of this pass. */
static inline void note_page(struct virtio_balloon *vb, struct page *page, bool use_bmap)
{
	if (use_bmap)
		update_bmap_pfn_range(vb, page);
	else
		set_page_pfns(vb, vb->pfns + vb->num_pfns, page);
	vb->num_pfns += VIRTIO_BALLOON_PAGES_PER_PAGE;
}

static unsigned int fill_balloon(struct virtio_balloon *vb, size_t num)
{
	const bool use_bmap = uses_bitmap(vb);
	const bool managed = !virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	unsigned int allocated;

	mutex_lock(&vb->balloon_lock);
	num = begin_pass(vb, num, use_bmap);
	vb->num_pfns = 0;
	while (vb->num_pfns < num) {
		struct page *page = balloon_page_alloc();

		if (!page) {
			dev_info_ratelimited(&vb->vdev->dev, "out of memory after %u of %zu pages\n", vb->num_pfns, num);
			msleep(OUT_OF_MEMORY_PAUSE_MS);
			break;
		}
		balloon_page_enqueue(&vb->vb_dev_info, page);
		note_held(vb, page, true);
		note_page(vb, page, use_bmap);
		vb->num_pages += VIRTIO_BALLOON_PAGES_PER_PAGE;
		if (managed)
			count_managed(page, -1);
		if (use_bmap)
			cond_resched();
	}
	allocated = vb->num_pfns;
	if (!allocated)
		free_extended_page_bitmap(vb);
	else if (use_bmap)
		set_page_bitmap(vb, &vb->vb_dev_info.pages, vb->inflate_vq);
	else
		tell_host(vb, vb->inflate_vq);
	mutex_unlock(&vb->balloon_lock);
	return allocated;
}

static void release_pages_balloon(struct virtio_balloon *vb, struct list_head *pages)
{
	const bool managed = !virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	struct page *page, *next;

	list_for_each_entry_safe(page, next, pages, lru) {
		if (managed)
			count_managed(page, 1);
		list_del(&page->lru);
		put_page(page);
		cond_resched();
	}
}

static unsigned int leak_balloon(struct virtio_balloon *vb, size_t num)
{
	const bool use_bmap = uses_bitmap(vb);
	unsigned int freed;
	LIST_HEAD(pages);

	mutex_lock(&vb->balloon_lock);
	num = begin_pass(vb, min(num, (size_t)vb->num_pages), use_bmap);
	vb->num_pfns = 0;
	while (vb->num_pfns < num) {
		struct page *page = balloon_page_dequeue(&vb->vb_dev_info);

		if (!page)
			break;
		note_held(vb, page, false);
		note_page(vb, page, use_bmap);
		list_add(&page->lru, &pages);
		vb->num_pages -= VIRTIO_BALLOON_PAGES_PER_PAGE;
		if (use_bmap)
			cond_resched();
	}
	freed = vb->num_pfns;
	/* The host hears of it before the pages are used, whether it insists (MUST_TELL_HOST) or not. */
	if (!freed)
		free_extended_page_bitmap(vb);
	else if (use_bmap)
		set_page_bitmap(vb, &pages, vb->deflate_vq);
	else
		tell_host(vb, vb->deflate_vq);
	release_pages_balloon(vb, &pages);
	mutex_unlock(&vb->balloon_lock);
	return freed;
}

static s64 towards_target(struct virtio_balloon *vb)
{
	u32 target;

	virtio_cread_le(vb->vdev, struct virtio_balloon_config, num_pages, &target);
	return (s64)target - vb->num_pages;
}

static void update_balloon_size(struct virtio_balloon *vb)
{
	u32 actual = vb->num_pages;

	virtio_cwrite_le(vb->vdev, struct virtio_balloon_config, actual, &actual);
}

static void update_balloon_size_func(struct work_struct *work)
{
	struct virtio_balloon *vb = container_of(work, struct virtio_balloon, update_balloon_size_work);
	s64 diff = towards_target(vb);

	if (!diff)
		return;
	if (diff > 0)
		diff -= fill_balloon(vb, diff);
	else
		diff += leak_balloon(vb, -diff);
	update_balloon_size(vb);
	if (diff)
		queue_work(system_freezable_wq, work);
}

static void virtballoon_changed(struct virtio_device *vdev)
{
	struct virtio_balloon *vb = vdev->priv;
	unsigned long flags;

	spin_lock_irqsave(&vb->stop_update_lock, flags);
	if (!vb->stop_update)
		queue_work(system_freezable_wq, &vb->update_balloon_size_work);
	spin_unlock_irqrestore(&vb->stop_update_lock, flags);
}

static int virtio_balloon_oom_notify(struct notifier_block *nb, unsigned long unused, void *parm)
{
	struct virtio_balloon *vb = container_of(nb, struct virtio_balloon, oom_nb);
	unsigned long *freed = parm;

	*freed += leak_balloon(vb, oom_pages) / VIRTIO_BALLOON_PAGES_PER_PAGE;
	update_balloon_size(vb);
	return NOTIFY_OK;
}

/* ---- statistics ---- */

static unsigned int collect_stats(struct virtio_balloon *vb)
{
	unsigned long events[NR_VM_EVENT_ITEMS];
	struct sysinfo info;

	all_vm_events(events);
	si_meminfo(&info);
	const struct {
		u16 tag;
		u64 value;
	} stats[] = {
		{ VIRTIO_BALLOON_S_SWAP_IN, (u64)events[PSWPIN] << PAGE_SHIFT },
		{ VIRTIO_BALLOON_S_SWAP_OUT, (u64)events[PSWPOUT] << PAGE_SHIFT },
		{ VIRTIO_BALLOON_S_MAJFLT, events[PGMAJFAULT] },
		{ VIRTIO_BALLOON_S_MINFLT, events[PGFAULT] },
		{ VIRTIO_BALLOON_S_MEMFREE, (u64)info.freeram << PAGE_SHIFT },
		{ VIRTIO_BALLOON_S_MEMTOT, (u64)info.totalram << PAGE_SHIFT },
		{ VIRTIO_BALLOON_S_AVAIL, (u64)si_mem_available() << PAGE_SHIFT },
	};
	for (size_t i = 0; i < ARRAY_SIZE(stats); i++) {
		vb->stats[i].tag = cpu_to_virtio16(vb->vdev, stats[i].tag);
		vb->stats[i].val = cpu_to_virtio64(vb->vdev, stats[i].value);
	}
	return ARRAY_SIZE(stats);
}

/* The buffer stays with the device until it wants newer numbers. */
static void queue_stats(struct virtio_balloon *vb)
{
	struct scatterlist sg;

	sg_init_one(&sg, vb->stats, collect_stats(vb) * sizeof(vb->stats[0]));
	queue_buffer(vb, vb->stats_vq, &sg, 1);
}

static void update_balloon_stats_func(struct work_struct *work)
{
	struct virtio_balloon *vb = container_of(work, struct virtio_balloon, update_balloon_stats_work);
	unsigned int len;

	if (virtqueue_get_buf(vb->stats_vq, &len))
		queue_stats(vb);
}

static void stats_request(struct virtqueue *vq)
{
	struct virtio_balloon *vb = vq->vdev->priv;

	spin_lock(&vb->stop_update_lock);
	if (!vb->stop_update)
		queue_work(system_freezable_wq, &vb->update_balloon_stats_work);
	spin_unlock(&vb->stop_update_lock);
}

/* ---- compaction ---- */

#ifdef BALLOON_PAGES_MIGRATE
static void tell_host_one_page(struct virtio_balloon *vb, struct virtqueue *vq, struct page *page)
{
	put_head(vb, page_to_balloon_pfn(page), VIRTIO_BALLOON_PFN_SHIFT, 0);
	send_resp_data(vb, vq, false);
}

static inline void tell_host_of_migration(struct virtio_balloon *vb, struct virtqueue *vq, struct page *page)
{
	if (uses_bitmap(vb)) {
		tell_host_one_page(vb, vq, page);
		return;
	}
	vb->num_pfns = VIRTIO_BALLOON_PAGES_PER_PAGE;
	set_page_pfns(vb, vb->pfns, page);
	tell_host(vb, vq);
}

/*
 * Compaction wants `page`, which it has isolated, replaced by `newpage` in the balloon. While an operation runs it
 * is told to come again: waiting here for one that waits for memory would never end.
 */
static int virtballoon_migratepage(struct balloon_dev_info *vb_dev_info, struct page *newpage, struct page *page,
				   enum migrate_mode mode)
{
	struct virtio_balloon *vb = container_of(vb_dev_info, struct virtio_balloon, vb_dev_info);

	if (!mutex_trylock(&vb->balloon_lock))
		return -EAGAIN;
	/* A page in the balloon is not counted as its zone's: moving between zones changes both counts. */
	if (!virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM) && page_zone(page) != page_zone(newpage)) {
		count_managed(page, 1);
		count_managed(newpage, -1);
	}

	replace_balloon_page(vb_dev_info, newpage);
	note_held(vb, newpage, true);
	tell_host_of_migration(vb, vb->inflate_vq, newpage);

	note_held(vb, page, false);
	tell_host_of_migration(vb, vb->deflate_vq, page);
	drop_balloon_page(vb_dev_info, page);

	mutex_unlock(&vb->balloon_lock);
	return 0;
}
#endif

/* ---- coming and going ---- */

static int init_vqs(struct virtio_balloon *vb)
{
	static const struct balloon_queue QUEUES[MAX_BALLOON_QUEUES] = {
		{ "inflate", balloon_ack },
		{ "deflate", balloon_ack },
		{ "stats", stats_request },
	};
	const bool has_stats = virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_STATS_VQ);
	struct virtqueue *found[MAX_BALLOON_QUEUES] = {};
	const int error = find_balloon_queues(vb->vdev, has_stats ? 3 : 2, found, QUEUES);

	if (error)
		return error;
	vb->inflate_vq = found[0];
	vb->deflate_vq = found[1];
	vb->stats_vq = found[2];
	if (has_stats)
		queue_stats(vb);
	return 0;
}

static void free_response(struct virtio_balloon *vb)
{
	free_extended_page_bitmap(vb);
	kfree(vb->page_bitmap[0]);
	kfree(vb->resp_data);
	kfree(vb->resp_hdr);
	free_held(vb);
}

/* What naming pages by bitmap needs at all times; free_response() frees it, whatever there is of it. */
static int alloc_response(struct virtio_balloon *vb)
{
	vb->resp_hdr = kzalloc(sizeof(*vb->resp_hdr), GFP_KERNEL);
	vb->resp_data = kmalloc(BALLOON_BMAP_SIZE, GFP_KERNEL);
	vb->page_bitmap[0] = kmalloc(BALLOON_BMAP_SIZE, GFP_KERNEL);
	vb->nr_page_bmap = 1;
	return vb->resp_hdr && vb->resp_data && vb->page_bitmap[0] && alloc_held(vb) ? 0 : -ENOMEM;
}

static void init_balloon(struct virtio_balloon *vb, struct virtio_device *vdev)
{
	vb->vdev = vdev;
	INIT_WORK(&vb->update_balloon_stats_work, update_balloon_stats_func);
	INIT_WORK(&vb->update_balloon_size_work, update_balloon_size_func);
	spin_lock_init(&vb->stop_update_lock);
	mutex_init(&vb->balloon_lock);
	init_waitqueue_head(&vb->acked);
	balloon_devinfo_init(&vb->vb_dev_info);
	set_managed(&vb->vb_dev_info, !virtio_has_feature(vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM));
#ifdef BALLOON_PAGES_MIGRATE
	vb->vb_dev_info.migratepage = virtballoon_migratepage;
#endif
	vb->oom_nb.notifier_call = virtio_balloon_oom_notify;
	/* Late among the notifiers: what others can give back costs less. */
	vb->oom_nb.priority = 80;
	vdev->priv = vb;
}

static int virtballoon_probe(struct virtio_device *vdev)
{
	struct virtio_balloon *vb;
	int error;

	if (!vdev->config->get)
		return -EINVAL;
	vb = kzalloc(sizeof(*vb), GFP_KERNEL);
	if (!vb)
		return -ENOMEM;
	init_balloon(vb, vdev);
	if (uses_bitmap(vb)) {
		error = alloc_response(vb);
		if (error)
			goto free;
	}
	error = init_vqs(vb);
	if (error)
		goto free;
	if (virtio_has_feature(vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM)) {
		error = register_oom_notifier(&vb->oom_nb);
		if (error)
			goto delete_queues;
	}
	virtio_device_ready(vdev);
	if (towards_target(vb))
		virtballoon_changed(vdev);
	return 0;

delete_queues:
	vdev->config->del_vqs(vdev);
free:
	free_response(vb);
	kfree(vb);
	return error;
}

/* Empties the balloon and leaves the device as if no driver had been there. */
static void remove_common(struct virtio_balloon *vb)
{
	while (vb->num_pages)
		leak_balloon(vb, vb->num_pages);
	update_balloon_size(vb);
	virtio_reset_device(vb->vdev);
	vb->vdev->config->del_vqs(vb->vdev);
}

static void virtballoon_remove(struct virtio_device *vdev)
{
	struct virtio_balloon *vb = vdev->priv;

	if (virtio_has_feature(vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM))
		unregister_oom_notifier(&vb->oom_nb);
	spin_lock_irq(&vb->stop_update_lock);
	vb->stop_update = true;
	spin_unlock_irq(&vb->stop_update_lock);
	cancel_work_sync(&vb->update_balloon_size_work);
	cancel_work_sync(&vb->update_balloon_stats_work);
	remove_common(vb);
	free_response(vb);
	kfree(vb);
}

#ifdef CONFIG_PM_SLEEP
/* Work items are frozen already. */
static int virtballoon_freeze(struct virtio_device *vdev)
{
	remove_common(vdev->priv);
	return 0;
}

static int virtballoon_restore(struct virtio_device *vdev)
{
	struct virtio_balloon *vb = vdev->priv;
	const int error = init_vqs(vb);

	if (error)
		return error;
	virtio_device_ready(vdev);
	if (towards_target(vb))
		virtballoon_changed(vdev);
	update_balloon_size(vb);
	return 0;
}
#endif

/* Before features are agreed on, so that the device hears which of them are refused. */
static int virtballoon_validate(struct virtio_device *vdev)
{
	/* Numbers of physical pages are what the device is about: no translation between it and the driver. */
	__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);
	/* A bit stands for 4 KiB and for a guest page. */
	if (PAGE_SHIFT != VIRTIO_BALLOON_PFN_SHIFT || BITS_PER_LONG != 64)
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_PAGE_BITMAP);
	return 0;
}

static const struct virtio_device_id id_table[] = {
	{ VIRTIO_ID_BALLOON, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

static const unsigned int features[] = {
	VIRTIO_BALLOON_F_MUST_TELL_HOST,
	VIRTIO_BALLOON_F_STATS_VQ,
	VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
	VIRTIO_BALLOON_F_PAGE_BITMAP,
};

static struct virtio_driver virtio_balloon_driver = {
	.feature_table = features,
	.feature_table_size = ARRAY_SIZE(features),
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.id_table = id_table,
	.validate = virtballoon_validate,
	.probe = virtballoon_probe,
	.remove = virtballoon_remove,
	.config_changed = virtballoon_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = virtballoon_freeze,
	.restore = virtballoon_restore,
#endif
};

module_virtio_driver(virtio_balloon_driver);
MODULE_DEVICE_TABLE(virtio, id_table);
MODULE_DESCRIPTION("Virtio balloon driver that names pages by bitmap (for the balloontrace lab)");
MODULE_LICENSE("GPL");
