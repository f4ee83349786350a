/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Spans of the guest: written to the ring where there is one. Part of guest.bpf.c. */
#ifndef GUEST_SPANS_H
#define GUEST_SPANS_H

/* Room for a span, 0 and counted when there is none. */
static __always_inline struct bt_span *reserve_span(struct bt_counters *sum, int function)
{
	struct bt_span *span = bpf_ringbuf_reserve(MAP(spans), sizeof(*span), 0);

	if (!span)
		ADD(sum->functions[function].lost, 1);
	return span;
}

/* Writes a span; `flags` says which of the optional fields the caller measured, beside device and size. */
static __always_inline void emit(struct bt_counters *sum, struct thread_state *thread, int function, u64 now_ns,
				 u32 pages, int result, u16 flags)
{
	struct bt_span *span = reserve_span(sum, function);

	if (!span)
		return;
	span->start_ns = thread->entry_ns[function];
	span->duration_ns = now_ns - thread->entry_ns[function];
	span->tid = thread->tid;
	span->cpu = bpf_get_smp_processor_id();
	span->function = function;
	span->flags = flags | (thread->flags & (BT_HAS_DEVICE | BT_HAS_ACTUAL));
	span->device = thread->device;
	span->queue = thread->queue;
	span->pages = pages;
	span->result = result;
	span->config_calls = thread->config_calls;
	span->bytes = thread->bytes;
	if (function == BT_VIRTBALLOON_FREE_PAGE_REPORT || function == BT_REPORT_FREE_PAGE_FUNC) {
		__builtin_memcpy(span->orders, thread->orders, BT_ORDERS);
		span->blocks = thread->blocks;
	} else {
		span->target_pages = thread->target_pages;
		span->actual_pages = thread->actual_pages;
		span->config_ns = thread->config_ns;
		span->passes = thread->passes;
	}
	span->wait_ns = flags & (BT_HAS_ACK | BT_HAS_RUN_DELAY) ? thread->wait_ns : 0;
	span->bitmaps = function == BT_SET_PAGE_BITMAP ? thread->bitmaps : 0;
	bpf_ringbuf_submit(span, BPF_RB_NO_WAKEUP);
}

/* An interrupt has no state and no duration. */
static __always_inline void emit_interrupt(struct bt_counters *sum, int function, u64 vdev)
{
	struct bt_span *span = reserve_span(sum, function);

	if (!span)
		return;
	__builtin_memset(span, 0, sizeof(*span));
	span->start_ns = bpf_ktime_get_ns();
	span->tid = bpf_get_current_pid_tgid();
	span->cpu = bpf_get_smp_processor_id();
	span->function = function;
	if (vdev && VIRTIO_DEVICE_INDEX != NO_OFFSET) {
		span->device = read_u32(vdev, VIRTIO_DEVICE_INDEX);
		span->flags = BT_HAS_DEVICE;
	}
	bpf_ringbuf_submit(span, BPF_RB_NO_WAKEUP);
}

/* User space drains the ring once it is a quarter full; where it is fuller, user space does not keep up. */
static __always_inline int is_filling(void)
{
	return bpf_ringbuf_query(MAP(spans), BPF_RB_AVAIL_DATA) > bpf_ringbuf_query(MAP(spans), BPF_RB_RING_SIZE) / 2;
}

static __always_inline void live_item_begins(struct thread_state *thread) {}
static __always_inline void live_send_begins(struct thread_state *thread) {}
static __always_inline void live_target_read(struct thread_state *thread) {}

#endif
