/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which memory of a VMM is its guest's: KVM's memory slots, copied when the recorder asks. Part of host.bpf.c.
 *
 * The recorder borrows the descriptor of the VM and makes an ioctl that KVM refuses to any process but the VM's own; so the
 * program runs when it is wanted, and KVM does nothing. Slots are in a table by their number since Linux 5.17.
 */
#ifndef HOST_MEMORY_SLOTS_H
#define HOST_MEMORY_SLOTS_H

SHARED(struct bt_memory_slots, memory_slots);

/* include/uapi/linux/kvm.h: _IO(0xAE, 0x03) */
#define IOCTL_CHECK_EXTENSION 0xae03
/* include/linux/kvm_host.h, struct kvm_memslots: DECLARE_HASHTABLE(id_hash, 7). A VM has few slots, so chains are short. */
#define ID_BUCKETS 128
#define MOST_IN_BUCKET 8
#define HASH_NODE_BYTES 16

static __always_inline void copy_slot(struct bt_memory_slots *known, u64 slot)
{
	struct bt_memory_slot *copy = &known->at[known->count++ & (BT_MEMORY_SLOTS - 1)];

	copy->address = read_pointer(slot, KVM_MEMORY_SLOT_USERSPACE_ADDR);
	copy->pages = read_pointer(slot, KVM_MEMORY_SLOT_NPAGES);
	copy->guest_page = read_pointer(slot, KVM_MEMORY_SLOT_BASE_GFN);
}

/* kvm_vm_ioctl(file, ioctl, argument), for whoever asked. */
static __always_inline int copy_memory_slots(u64 file)
{
	struct bt_memory_slots *known = VALUE(struct bt_memory_slots, memory_slots);
	u64 slots, node, id_node = KVM_MEMORY_SLOT_ID_NODE;
	u32 bucket, depth;

	if (known->asked_by != bpf_get_current_pid_tgid())
		return 0;
	slots = read_pointer(read_pointer(file, FILE_PRIVATE_DATA), KVM_MEMSLOTS);
	if (read_u32(slots, KVM_MEMSLOTS_NODE_IDX) & 1)
		id_node += HASH_NODE_BYTES;
#pragma clang loop unroll(disable)
	for (bucket = 0; bucket < ID_BUCKETS; bucket++) {
		node = read_pointer(slots + bucket * sizeof(node), KVM_MEMSLOTS_ID_HASH);
#pragma clang loop unroll(disable)
		for (depth = 0; depth < MOST_IN_BUCKET; depth++) {
			if (!node)
				break;
			copy_slot(known, node - id_node);
			node = read_pointer(node, 0);
		}
		if (node)
			known->left_out = 1;
	}
	known->asked_by = 0;
	return 0;
}

#endif
