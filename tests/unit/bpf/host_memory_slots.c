// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A VM with four memory slots, three of them in one chain of KVM's table, in the first set of links or the second, as the
 * argument says. Asked by another thread, by an ioctl of another kind, and rightly. Prints how many slots were copied after
 * each, then the slots.
 */
#include <stddef.h>
#include <stdlib.h>
#include "balloon_events.h"
#define BATCH_RING_PAGES 1
#define RING(name, pages) static int name
#define MAP(name) (&name)
#define BPF_RB_NO_WAKEUP 1
static void *bpf_ringbuf_reserve(void *ring, u64 bytes, u64 flags) { return 0; }
static void bpf_ringbuf_submit(void *record, u64 flags) {}

struct link { struct link *next, **pprev; };
struct file { u64 operations; void *private_data; };
struct kvm { u64 lock; void *memslots[2]; };
struct kvm_memslots { u64 generation; struct link *id_hash[128]; int node_idx; };
struct kvm_memory_slot { u64 tree[4]; struct link id_node[2]; u64 base_gfn, npages, userspace_addr; };

#undef FILE_PRIVATE_DATA
#define FILE_PRIVATE_DATA offsetof(struct file, private_data)
#undef KVM_MEMSLOTS
#define KVM_MEMSLOTS offsetof(struct kvm, memslots)
#undef KVM_MEMSLOTS_ID_HASH
#define KVM_MEMSLOTS_ID_HASH offsetof(struct kvm_memslots, id_hash)
#undef KVM_MEMSLOTS_NODE_IDX
#define KVM_MEMSLOTS_NODE_IDX offsetof(struct kvm_memslots, node_idx)
#undef KVM_MEMORY_SLOT_ID_NODE
#define KVM_MEMORY_SLOT_ID_NODE offsetof(struct kvm_memory_slot, id_node)
#undef KVM_MEMORY_SLOT_USERSPACE_ADDR
#define KVM_MEMORY_SLOT_USERSPACE_ADDR offsetof(struct kvm_memory_slot, userspace_addr)
#undef KVM_MEMORY_SLOT_NPAGES
#define KVM_MEMORY_SLOT_NPAGES offsetof(struct kvm_memory_slot, npages)
#undef KVM_MEMORY_SLOT_BASE_GFN
#define KVM_MEMORY_SLOT_BASE_GFN offsetof(struct kvm_memory_slot, base_gfn)
#include "host.bpf.c"

static struct kvm_memory_slot slots[4];
static struct kvm_memslots sets[2];
static const int buckets[] = {0, 127, 127, 127};

int main(int count, char **words)
{
	struct kvm kvm = {.memslots = {&sets[0], &sets[1]}};
	struct file file = {.private_data = &kvm};

	sets[0].node_idx = atoi(words[1]);
	for (int i = 0; i < 4; i++) {
		struct link *link = &slots[i].id_node[sets[0].node_idx];

		slots[i].userspace_addr = 100 + i;
		slots[i].npages = 10 + i;
		slots[i].base_gfn = i;
		link->next = sets[0].id_hash[buckets[i]];
		sets[0].id_hash[buckets[i]] = link;
	}
	thread_id = 7;
	memory_slots.asked_by = 8;
	on_kvm_vm_ioctl_entry((u64)&file, IOCTL_CHECK_EXTENSION);
	printf("%u ", memory_slots.count);
	thread_id = 8;
	on_kvm_vm_ioctl_entry((u64)&file, IOCTL_SIGNAL_MSI);
	printf("%u ", memory_slots.count);
	on_kvm_vm_ioctl_entry((u64)&file, IOCTL_CHECK_EXTENSION);
	printf("%u %lu %u ", memory_slots.count, memory_slots.asked_by, memory_slots.left_out);
	for (u32 i = 0; i < memory_slots.count; i++)
		printf("%lu %lu %lu ", memory_slots.at[i].address, memory_slots.at[i].pages, memory_slots.at[i].guest_page);
	return 0;
}
