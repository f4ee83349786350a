/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The target, as work items read it, and the progress they write. Part of guest.bpf.c. */
#ifndef CONFIG_SPACE_H
#define CONFIG_SPACE_H

/*
 * vdev->config->get(vdev, offset, buffer, length) and ->set(...): function pointers, so always symbols
 * (vp_get on PCI, vm_get on virtio-mmio). Other virtio devices use them too; only what a work item does
 * itself is followed. struct virtio_balloon_config starts with num_pages, then actual, both 32 bits.
 */
#define CONFIG_NUM_PAGES 0
#define CONFIG_ACTUAL 4

/* A test for the caller's own branch: a pointer chosen by it would become arithmetic that the verifier forbids. */
static __always_inline int in_work_item(struct thread_state *thread)
{
	return thread->open & (1 << BT_UPDATE_BALLOON_SIZE_FUNC);
}

/* The target is known: a work item reads it before anything else. */
static __always_inline void target_read(struct thread_state *thread, u64 buffer)
{
	thread->target_pages = read_u32(buffer, 0);
	thread->config_ns = bpf_ktime_get_ns() - thread->entry_ns[BT_UPDATE_BALLOON_SIZE_FUNC];
	thread->config_calls++;
	thread->flags |= BT_HAS_TARGET | BT_HAS_CONFIG;
	live_target_read(thread);
}

static __always_inline void count_config_get(int by_kprobe)
{
	struct bt_counters *sum = sums();

	if (!sum)
		return;
	if (by_kprobe)
		ADD(sum->functions[BT_CONFIG_GET].entries, 1);
	else
		ADD(sum->functions[BT_CONFIG_GET].returns, 1);
}

static __always_inline int is_target(u64 offset, u64 length)
{
	return (u32)offset == CONFIG_NUM_PAGES && (u32)length == sizeof(u32);
}

/* On return fentry still shows the arguments, so that one program does. */
#define CONFIG_GET_fentry \
	PROGRAM("fexit") fexit_config_get(u64 *ctx) { return on_config_get(ctx[1], ctx[2], ctx[3]); }
#define CONFIG_GET_kprobe PROGRAMS_kprobe(config_get, 4, NO_RESULT)
#define CONFIG_GET_both CONFIG_GET_fentry CONFIG_GET_kprobe
#define CONFIG_GET_absent

static __always_inline int on_config_get(u64 offset, u64 buffer, u64 length)
{
	struct thread_state *thread = find_thread();

	count_config_get(0);
	if (thread && in_work_item(thread) && is_target(offset, length))
		target_read(thread, buffer);
	return 0;
}

static __always_inline int on_config_get_entry(u64 vdev, u64 offset, u64 buffer, u64 length)
{
	struct thread_state *thread = find_thread();

	count_config_get(1);
	if (thread && in_work_item(thread))
		thread->config_buffer = is_target(offset, length) ? buffer : 0;
	return 0;
}

static __always_inline int on_config_get_return(u64 result)
{
	struct thread_state *thread = find_thread();

	if (!thread || !in_work_item(thread))
		return 0;
	if (thread->config_buffer)
		target_read(thread, thread->config_buffer);
	thread->config_buffer = 0;
	return 0;
}

/* Attached only where the driver's own num_pages cannot be read. */
static __always_inline int on_config_set_entry(u64 vdev, u64 offset, u64 buffer, u64 length)
{
	struct thread_state *thread = find_thread();
	struct bt_counters *sum = sums();

	if (sum)
		ADD(sum->functions[BT_CONFIG_SET].entries, 1);
	if (!thread || !in_work_item(thread) || (u32)offset != CONFIG_ACTUAL || (u32)length != sizeof(u32))
		return 0;
	thread->actual_pages = read_u32(buffer, 0);
	thread->flags |= BT_HAS_ACTUAL;
	return 0;
}

#endif
