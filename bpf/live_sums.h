/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In place of spans: what they would tell, summed up by stage for `top`. Its rules are those of
 * balloontrace/analysis/work_items.py. Part of guest.bpf.c, which has the map behind live_sums().
 */
#ifndef LIVE_SUMS_H
#define LIVE_SUMS_H

/* Whether what this thread does now is done for its work item: compaction and out of memory may come in between. */
static __always_inline int is_of_item(struct thread_state *thread)
{
	return thread->open & (1 << BT_UPDATE_BALLOON_SIZE_FUNC) &&
	       !(thread->open & (1 << BT_VIRTIO_BALLOON_OOM_NOTIFY | 1 << BT_VIRTBALLOON_MIGRATEPAGE));
}

/* Pages that a send, or a set_page_bitmap with all its sends, tells the host of. */
static __always_inline void count_pages(struct bt_live *sum, struct thread_state *thread, u32 pages, u16 flags)
{
	if (thread->open & 1 << BT_VIRTBALLOON_MIGRATEPAGE)
		return; /* one in and one out */
	if ((flags & (BT_HAS_PAGES | BT_HAS_QUEUE)) != (BT_HAS_PAGES | BT_HAS_QUEUE) ||
	    thread->queue > BT_DEFLATE_QUEUE) {
		ADD(sum->unknown_sends, 1);
		thread->item.unknown = 1;
		return;
	}
	if (thread->queue == BT_INFLATE_QUEUE)
		ADD(sum->inflated_pages, pages);
	else
		ADD(sum->deflated_pages, pages);
	if (thread->open & 1 << BT_VIRTIO_BALLOON_OOM_NOTIFY)
		ADD(sum->oom_pages, pages);
	if (is_of_item(thread)) {
		thread->item.pages += pages;
		thread->item.inflates = thread->queue == BT_INFLATE_QUEUE;
	}
}

static __always_inline void end_send(struct bt_live *sum, struct thread_state *thread, u64 now_ns, u64 duration_ns,
				     u16 flags)
{
	ADD(sum->sends, 1);
	if (flags & BT_HAS_ACK) {
		ADD(sum->woken_ns, duration_ns - thread->wait_ns);
		ADD(sum->woken_sends, 1);
	}
	if (!is_of_item(thread))
		return;
	thread->item.sends = 1;
	thread->item.send_ns += duration_ns;
	thread->item.sent_ns = now_ns;
	if (thread->open & 1 << BT_SET_PAGE_BITMAP)
		thread->item.bitmap_send_ns += duration_ns;
}

/* One send of page numbers is as much as a work item moves, but by bitmaps it moves all there is to move. */
static __always_inline int is_short(struct thread_state *thread, u16 flags)
{
	struct item_state *item = &thread->item;

	if (!(flags & BT_HAS_TARGET) || !(flags & BT_HAS_ACTUAL) || item->unknown)
		return 0;
	return GOAL_PAGES(thread->target_pages) > thread->actual_pages && (item->bitmaps || item->pages < ITEM_PAGES);
}

/* Stages as balloontrace/analysis/work_items.py has them. */
static __always_inline void end_item(struct bt_live *sum, struct thread_state *thread, u64 now_ns, u64 duration_ns,
				     u16 flags)
{
	struct bt_live_device *device = &sum->devices[thread->device % BT_DEVICES];
	struct item_state *item = &thread->item;
	u16 both = BT_HAS_TARGET | BT_HAS_ACTUAL;
	int away = (flags & both) == both && GOAL_PAGES(thread->target_pages) != thread->actual_pages;
	u64 config_ns = flags & BT_HAS_CONFIG ? thread->config_ns : 0;
	u64 build_ns = item->sends ? item->bitmap_ns - item->bitmap_send_ns : 0;
	u64 body_ns = item->body_ns;
	u16 inflates = item->sends ? item->inflates : GOAL_PAGES(thread->target_pages) > thread->actual_pages;

	device->entered_ns = 0;
	if (!item->sends && !item->bodies && !away) {
		device->left_ns = 0; /* at its target: what follows is rest */
		device->is_short = 0;
		return;
	}
	if (!item->bodies) {
		body_ns = duration_ns;
		if (item->sent_ns && item->inflates)
			body_ns = item->sent_ns - thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
		body_ns -= config_ns;
	}
	ADD(sum->items, 1);
	ADD(sum->item_ns, duration_ns);
	ADD(sum->allocate_ns, body_ns - item->send_ns - build_ns);
	ADD(sum->build_ns, build_ns);
	ADD(sum->send_ns, item->send_ns);
	if (device->left_ns) {
		ADD(sum->requeue_ns, thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC] - device->left_ns);
		if (device->inflates != inflates)
			ADD(sum->superseded, 1);
	}
	device->left_ns = away ? now_ns : 0;
	device->inflates = inflates;
	device->is_short = is_short(thread, flags);
	if (device->is_short)
		ADD(sum->failed_allocations, 1);
	if (flags & BT_HAS_RUN_DELAY) {
		ADD(sum->run_delay_ns, thread->wait_ns);
		ADD(sum->run_delay_items, 1);
	}
}

/* Adds a call to the sums; arguments as for a span. */
static __always_inline void emit(struct bt_counters *unused, struct thread_state *thread, int function, u64 now_ns,
				 u32 pages, int result, u16 flags)
{
	u64 duration_ns = now_ns - thread->entry_ns[function];
	struct bt_live *sum = live_sums();

	if (!sum)
		return;
	ADD(sum->buckets[function][LOG2_OF_32(duration_ns) & (BT_BUCKETS - 1)], 1);
	switch (function) {
	case BT_UPDATE_BALLOON_SIZE_FUNC:
		end_item(sum, thread, now_ns, duration_ns, flags);
		break;
	case BT_FILL_BALLOON:
	case BT_LEAK_BALLOON:
		if (is_of_item(thread)) {
			thread->item.bodies = 1;
			thread->item.body_ns += duration_ns;
		}
		break;
	case BT_TELL_HOST:
		if (thread->item.windowed)
			break;
		end_send(sum, thread, now_ns, duration_ns, flags);
		if (!(thread->open & 1 << BT_SET_PAGE_BITMAP))
			count_pages(sum, thread, pages, flags);
		break;
	case BT_SEND_RESP_DATA:
		thread->item.windowed = 1;
		end_send(sum, thread, now_ns, duration_ns, flags);
		if (!(thread->open & 1 << BT_SET_PAGE_BITMAP))
			count_pages(sum, thread, 0, 0);
		break;
	case BT_SET_PAGE_BITMAP:
		count_pages(sum, thread, pages, flags);
		if (is_of_item(thread)) {
			thread->item.bitmaps = 1;
			thread->item.bitmap_ns += duration_ns;
			thread->item.sent_ns = now_ns;
		}
		break;
	}
}

static __always_inline void emit_interrupt(struct bt_counters *unused, int function, u64 vdev) {}

static __always_inline void live_item_begins(struct thread_state *thread)
{
	__builtin_memset(&thread->item, 0, sizeof(thread->item));
}

static __always_inline void live_send_begins(struct thread_state *thread)
{
	thread->item.windowed = 0;
}

/* The work item under way has read its target. */
static __always_inline void live_target_read(struct thread_state *thread)
{
	struct bt_live *sum = live_sums();
	struct bt_live_device *device;

	if (!sum)
		return;
	device = &sum->devices[thread->device % BT_DEVICES];
	device->target_pages = thread->target_pages;
	device->entered_ns = thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
}

#endif
