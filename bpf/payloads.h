/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What sends and page reports carry, copied out of the driver's memory. Part of guest.bpf.c. */
#ifndef PAYLOADS_H
#define PAYLOADS_H

#ifdef CAPTURES
/* Room for a piece of a payload, 0 and counted when there is none. */
static __always_inline struct bt_payload *reserve_piece(struct bt_counters *sum)
{
	struct bt_payload *piece;

	ADD(sum->functions[BT_PAYLOAD].entries, 1);
	piece = bpf_ringbuf_reserve(MAP(payloads), sizeof(*piece), 0);
	if (!piece)
		ADD(sum->functions[BT_PAYLOAD].lost, 1);
	return piece;
}

/* All that a piece has besides its data. */
static __always_inline void describe_piece(struct bt_payload *piece, struct thread_state *thread, int function,
					   u64 total_bytes, u64 offset_bytes, u64 bytes)
{
	piece->start_ns = thread->entry_ns[function];
	piece->tid = thread->tid;
	piece->total_bytes = total_bytes;
	piece->offset_bytes = offset_bytes;
	piece->bytes = bytes;
	piece->function = function;
	piece->padding = 0;
}
#endif

/*
 * What a send copied out of the driver's memory, in pieces of one size. `total_bytes` is the driver's word; whatever
 * it says, no more than BT_PAYLOAD_PIECES are read. All of it has 64 bits: of fewer LLVM 14 makes code in which the
 * verifier sees a length that may be negative.
 */
static __always_inline void capture(struct thread_state *thread, int function, u64 from, u64 total_bytes)
{
#ifdef CAPTURES
	struct bt_counters *sum = sums();

	if (!CAPTURES || !sum || !from || is_summed(thread, function, 0))
		return;
	for (int i = 0; i < BT_PAYLOAD_PIECES; i++) {
		u64 offset_bytes = i * BT_PAYLOAD_BYTES;
		struct bt_payload *piece;
		u64 bytes;

		if (offset_bytes >= total_bytes)
			break;
		piece = reserve_piece(sum);
		if (!piece)
			continue;
		bytes = total_bytes - offset_bytes;
		if (bytes > BT_PAYLOAD_BYTES)
			bytes = BT_PAYLOAD_BYTES;
		describe_piece(piece, thread, function, total_bytes, offset_bytes, bytes);
		if (bpf_probe_read_kernel(piece->data, bytes, (void *)(from + offset_bytes)))
			piece->bytes = 0;
		bpf_ringbuf_submit(piece, BPF_RB_NO_WAKEUP);
	}
#endif
}

#endif
