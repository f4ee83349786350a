/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the driver does besides work items: pages given back when the guest runs out of memory, pages moved by compaction,
 * everything given back when the machine sleeps or the driver goes, and statistics. Part of guest.bpf.c. No program of an
 * inflate or deflate does anything for it.
 */
#ifndef OTHER_WORK_H
#define OTHER_WORK_H

/* The return of what may come in between: the queue noted last is that of its sends, not that of a call around it. */
static __always_inline int leave_aside(int function, u64 result)
{
	struct thread_state *thread = find_thread();

	leave(function, thread, 0, result, BT_HAS_RESULT);
	if (thread)
		thread->send_flags = 0;
	return 0;
}

/* virtio_balloon_oom_notify(notifier, unused, freed): the out-of-memory path of any thread. */
static __always_inline int on_virtio_balloon_oom_notify_entry(u64 notifier, u64 unused, u64 freed)
{
	struct thread_state *thread = enter(BT_VIRTIO_BALLOON_OOM_NOTIFY);

	if (thread && VIRTIO_BALLOON_OOM_NB != NO_OFFSET)
		set_device_of_balloon(thread, notifier - VIRTIO_BALLOON_OOM_NB);
	return 0;
}

static __always_inline int on_virtio_balloon_oom_notify_return(u64 result)
{
	return leave_aside(BT_VIRTIO_BALLOON_OOM_NOTIFY, result);
}

/* virtballoon_migratepage(vb_dev_info, newpage, page, mode): compaction moves one ballooned page. */
static __always_inline int on_virtballoon_migratepage_entry(u64 info, u64 newpage, u64 page, u64 mode)
{
	struct thread_state *thread = enter(BT_VIRTBALLOON_MIGRATEPAGE);

	if (thread)
		thread->summed = is_filling();
	if (thread && VIRTIO_BALLOON_VB_DEV_INFO != NO_OFFSET)
		set_device_of_balloon(thread, info - VIRTIO_BALLOON_VB_DEV_INFO);
	return 0;
}

static __always_inline int on_virtballoon_migratepage_return(u64 result)
{
	return leave_aside(BT_VIRTBALLOON_MIGRATEPAGE, result);
}

/*
 * virtballoon_freeze(vdev), virtballoon_restore(vdev) and virtballoon_remove(vdev). What leaves the balloon does so by calls
 * of leak_balloon inside.
 */
static __always_inline int enter_with_device(int function, u64 vdev)
{
	struct thread_state *thread = enter(function);

	if (thread)
		set_device(thread, vdev);
	return 0;
}

static __always_inline int on_virtballoon_freeze_entry(u64 vdev)
{
	return enter_with_device(BT_VIRTBALLOON_FREEZE, vdev);
}

static __always_inline int on_virtballoon_freeze_return(u64 result)
{
	return leave_aside(BT_VIRTBALLOON_FREEZE, result);
}

static __always_inline int on_virtballoon_restore_entry(u64 vdev)
{
	return enter_with_device(BT_VIRTBALLOON_RESTORE, vdev);
}

static __always_inline int on_virtballoon_restore_return(u64 result)
{
	return leave_aside(BT_VIRTBALLOON_RESTORE, result);
}

static __always_inline int on_virtballoon_remove_entry(u64 vdev)
{
	return enter_with_device(BT_VIRTBALLOON_REMOVE, vdev);
}

static __always_inline int on_virtballoon_remove_return(u64 result)
{
	leave(BT_VIRTBALLOON_REMOVE, find_thread(), 0, 0, 0);
	return 0;
}

/* stats_request(vq): an interrupt; the host has given the buffer of statistics back, and wants new ones. */
static __always_inline int on_stats_request_entry(u64 vq)
{
	return note_interrupt(BT_STATS_REQUEST, read_pointer(vq, VIRTQUEUE_VDEV));
}

/* update_balloon_stats_func(work): collects statistics and queues them; it does not wait for the host. */
static __always_inline int on_update_balloon_stats_func_entry(u64 work)
{
	struct thread_state *thread = enter(BT_UPDATE_BALLOON_STATS_FUNC);

	if (thread && VIRTIO_BALLOON_UPDATE_BALLOON_STATS_WORK != NO_OFFSET)
		set_device_of_balloon(thread, work - VIRTIO_BALLOON_UPDATE_BALLOON_STATS_WORK);
	return 0;
}

static __always_inline int on_update_balloon_stats_func_return(u64 result)
{
	leave(BT_UPDATE_BALLOON_STATS_FUNC, find_thread(), 0, 0, 0);
	return 0;
}

#endif
