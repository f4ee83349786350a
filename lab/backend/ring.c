// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A split virtqueue. What the guest can write is read exactly once and checked before it is used; layout and
 * memory ordering as in the VIRTIO specification 1.2, section 2.7.
 */
#include "ring.h"

#include "decode.h"

#include <endian.h>
#include <string.h>
#include <unistd.h>

#define DESC_BYTES 16u
#define USED_ENTRY_BYTES 8u
#define DESC_F_NEXT 1u
#define DESC_F_WRITE 2u
#define DESC_F_INDIRECT 4u
#define AVAIL_F_NO_INTERRUPT 1u

_Static_assert(sizeof(((struct chain *)0)->bytes) == 8 + PAYLOAD_MAX_BYTES, "a chain holds header and payload");

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

void ring_init(struct ring *ring)
{
	*ring = (struct ring){ .kick = -1, .call = -1 };
}

static void *map_part(const struct memory *memory, uint64_t user, uint64_t bytes, uintptr_t alignment)
{
	void *part = memory_user(memory, user, bytes);

	return (uintptr_t)part % alignment ? NULL : part;
}

const char *ring_map(struct ring *ring, const struct memory *memory)
{
	uint64_t size = ring->size;

	if (!size || size > RING_MAX || (size & (size - 1)))
		return "ring size is not a power of two up to 32768";
	ring->desc = map_part(memory, ring->desc_user, DESC_BYTES * size, 16);
	ring->avail = map_part(memory, ring->avail_user, 4 + 2 * size, 2);
	ring->used = map_part(memory, ring->used_user, 4 + USED_ENTRY_BYTES * size, 4);
	if (ring->desc && ring->avail && ring->used) {
		ring->next_used = le16toh(__atomic_load_n((uint16_t *)(ring->used + 2), __ATOMIC_RELAXED));
		ring->is_broken = false;
		return NULL;
	}
	ring_unmap(ring);
	return "ring outside memory or not aligned";
}

void ring_unmap(struct ring *ring)
{
	ring->desc = ring->avail = ring->used = NULL;
}

static uint16_t read_avail(const struct ring *ring, size_t offset, int order)
{
	const uint16_t *field = (const uint16_t *)(ring->avail + offset);

	return le16toh(order == __ATOMIC_ACQUIRE ? __atomic_load_n(field, __ATOMIC_ACQUIRE) :
						   __atomic_load_n(field, __ATOMIC_RELAXED));
}

static struct descriptor read_descriptor(const struct ring *ring, uint16_t index)
{
	const uint8_t *bytes = ring->desc + DESC_BYTES * (size_t)index;

	return (struct descriptor){
		.address = le64toh(__atomic_load_n((const uint64_t *)bytes, __ATOMIC_RELAXED)),
		.length = le32toh(__atomic_load_n((const uint32_t *)(bytes + 8), __ATOMIC_RELAXED)),
		.flags = le16toh(__atomic_load_n((const uint16_t *)(bytes + 12), __ATOMIC_RELAXED)),
		.next = le16toh(__atomic_load_n((const uint16_t *)(bytes + 14), __ATOMIC_RELAXED)),
	};
}

static void refuse(struct chain *chain, const char *why, uint64_t value)
{
	chain->refusal = why;
	chain->refused_value = value;
	chain->length = 0;
}

static bool take(struct chain *chain, const struct memory *memory, const struct descriptor *descriptor)
{
	const void *host = memory_guest(memory, descriptor->address, descriptor->length);

	if (descriptor->flags & DESC_F_INDIRECT)
		refuse(chain, "indirect descriptor, which was not offered", descriptor->flags);
	else if (descriptor->flags & DESC_F_WRITE)
		refuse(chain, "descriptor to be written", descriptor->flags);
	else if (!descriptor->length)
		refuse(chain, "empty descriptor", 0);
	else if (!host)
		refuse(chain, "descriptor outside memory", descriptor->address);
	else if (descriptor->length > sizeof(chain->bytes) - chain->length)
		refuse(chain, "buffer too long", chain->length + (uint64_t)descriptor->length);
	if (chain->refusal)
		return false;
	memcpy(chain->bytes + chain->length, host, descriptor->length);
	chain->length += descriptor->length;
	return true;
}

static void collect(const struct ring *ring, const struct memory *memory, struct chain *chain)
{
	uint16_t index = chain->head;

	for (unsigned int links = 0; links < ring->size; links++) {
		struct descriptor descriptor = read_descriptor(ring, index);

		if (!take(chain, memory, &descriptor) || !(descriptor.flags & DESC_F_NEXT))
			return;
		if (descriptor.next >= ring->size) {
			refuse(chain, "descriptor index outside the ring", descriptor.next);
			return;
		}
		index = descriptor.next;
	}
	refuse(chain, "descriptors form a loop", chain->head);
}

bool ring_pop(struct ring *ring, const struct memory *memory, struct chain *chain)
{
	uint16_t waiting = (uint16_t)(read_avail(ring, 2, __ATOMIC_ACQUIRE) - ring->next_avail);

	if (!waiting)
		return false;
	chain->refusal = NULL;
	chain->length = 0;
	chain->has_head = false;
	if (waiting > ring->size) {
		ring->is_broken = true;
		refuse(chain, "available index ran away; queue stopped", waiting);
		return true;
	}
	chain->head = read_avail(ring, 4 + 2 * (size_t)(ring->next_avail & (ring->size - 1)), __ATOMIC_RELAXED);
	ring->next_avail++;
	chain->has_head = chain->head < ring->size;
	if (chain->has_head)
		collect(ring, memory, chain);
	else
		refuse(chain, "head outside the ring", chain->head);
	return true;
}

void ring_push(struct ring *ring, uint16_t head)
{
	uint8_t *entry = ring->used + 4 + USED_ENTRY_BYTES * (size_t)(ring->next_used & (ring->size - 1));
	const uint64_t one = 1;

	__atomic_store_n((uint32_t *)entry, htole32(head), __ATOMIC_RELAXED);
	__atomic_store_n((uint32_t *)(entry + 4), 0, __ATOMIC_RELAXED);
	ring->next_used++;
	__atomic_store_n((uint16_t *)(ring->used + 2), htole16(ring->next_used), __ATOMIC_RELEASE);
	/* The guest must see the buffer before we look whether it wants to hear of it. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (ring->call >= 0 && !(read_avail(ring, 0, __ATOMIC_RELAXED) & AVAIL_F_NO_INTERRUPT))
		/* It fails when the counter is full, and then the guest has interrupts enough to come. */
		(void)!write(ring->call, &one, sizeof(one));
}
