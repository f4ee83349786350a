// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages of the vhost-user protocol that are about the guest's memory and the rings in it.
 */
#include "vhost_rings.h"

#include "little.h"
#include "message.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#define VRING_INDEX_MASK UINT64_C(0xff)
#define VRING_NO_DESCRIPTOR (UINT64_C(1) << 8)

void vhost_replace_descriptor(int *place, int descriptor)
{
	if (*place >= 0)
		close(*place);
	*place = descriptor;
}

void vhost_stop_ring(struct ring *ring)
{
	ring->is_started = false;
	ring_unmap(ring);
	vhost_replace_descriptor(&ring->kick, -1);
}

/* What the driver means by bit 3 shows in the queues it sets up. */
void vhost_note_queues(struct vhost *vhost)
{
	vhost->balloon->has_hint_queue = vhost->rings[QUEUE_HINT].is_started;
}

/* ---- memory ---- */

/* Rings are found anew in new memory; one that is not there any more stops. */
static void map_ring(struct vhost *vhost, enum queue queue)
{
	struct ring *ring = &vhost->rings[queue];
	bool was_broken = ring->is_broken;
	const char *why = ring_map(ring, &vhost->memory);

	ring->is_broken |= was_broken;
	if (why)
		log_event(&vhost->balloon->log, "ring-lost", "\"queue\": \"%s\", \"why\": \"%s\"", queue_name(queue),
			  why);
}

enum outcome vhost_set_mem_table(struct vhost *vhost, struct message *message)
{
	uint32_t count = load_le32(message->body);
	const char *why = NULL;

	if (count != message->descriptor_count || message->length != 8 + count * UINT64_C(32)) {
		vhost_complain(vhost, message, "regions and descriptors do not match", count);
		return FAILED;
	}
	memory_clear(&vhost->memory);
	for (uint32_t i = 0; i < count && !why; i++) {
		const uint8_t *bytes = message->body + 8 + i * 32;
		struct region_request request = {
			.guest_start = load_le64(bytes),
			.bytes = load_le64(bytes + 8),
			.user_start = load_le64(bytes + 16),
			.mmap_offset = load_le64(bytes + 24),
		};

		why = memory_add(&vhost->memory, &request, message->descriptors[i]);
	}
	if (why) {
		vhost_complain(vhost, message, why, vhost->memory.count);
		memory_clear(&vhost->memory);
	}
	for (int queue = 0; queue < QUEUES; queue++)
		if (vhost->rings[queue].is_started)
			map_ring(vhost, queue);
	if (!hold_cover(&vhost->balloon->hold, &vhost->memory))
		log_event(&vhost->balloon->log, "not-held", "\"errno\": %d", errno);
	log_event(&vhost->balloon->log, "memory", "\"regions\": %u", vhost->memory.count);
	return why ? FAILED : DONE;
}

/* ---- rings ---- */

/* The ring that a message is about; NULL when there is no such queue. */
static struct ring *message_ring(struct vhost *vhost, const struct message *message, uint64_t index)
{
	if (index < vhost_queue_count(vhost))
		return &vhost->rings[index];
	vhost_complain(vhost, message, "no such queue", index);
	return NULL;
}

enum outcome vhost_set_vring_number(struct vhost *vhost, const struct message *message)
{
	struct ring *ring = message_ring(vhost, message, load_le32(message->body));
	uint32_t value = load_le32(message->body + 4);

	if (!ring)
		return FAILED;
	if (message->request == SET_VRING_ENABLE) {
		ring->is_enabled = value;
		return DONE;
	}
	if (ring->is_started) {
		vhost_complain(vhost, message, "queue is running", value);
		return FAILED;
	}
	if (message->request == SET_VRING_NUM)
		ring->size = value;
	else
		ring->next_avail = (uint16_t)value;
	return DONE;
}

enum outcome vhost_set_vring_address(struct vhost *vhost, const struct message *message)
{
	struct ring *ring = message_ring(vhost, message, load_le32(message->body));

	if (!ring)
		return FAILED;
	ring->desc_user = load_le64(message->body + 8);
	ring->used_user = load_le64(message->body + 16);
	ring->avail_user = load_le64(message->body + 24);
	if (ring->is_started)
		map_ring(vhost, (enum queue)(ring - vhost->rings));
	return DONE;
}

enum outcome vhost_get_vring_base(struct vhost *vhost, struct message *message)
{
	struct ring *ring = message_ring(vhost, message, load_le32(message->body));

	if (!ring)
		return HOPELESS;
	vhost_stop_ring(ring);
	vhost_note_queues(vhost);
	log_event(&vhost->balloon->log, "ring-stopped", "\"queue\": \"%s\", \"next_avail\": %u",
		  queue_name((enum queue)(ring - vhost->rings)), ring->next_avail);
	store_le32(message->body + 4, ring->next_avail);
	return vhost_answer(vhost, message, 8);
}

static enum outcome set_vring_kick(struct vhost *vhost, struct ring *ring, int descriptor)
{
	vhost_replace_descriptor(&ring->kick, descriptor);
	ring->is_started = true;
	vhost_note_queues(vhost);
	/* Without protocol features there is no SET_VRING_ENABLE to wait for. */
	if (!(vhost->features & FEATURE_PROTOCOL))
		ring->is_enabled = true;
	ring->is_broken = false;
	map_ring(vhost, (enum queue)(ring - vhost->rings));
	return DONE;
}

enum outcome vhost_set_vring_descriptor(struct vhost *vhost, struct message *message)
{
	uint64_t value = load_le64(message->body);
	struct ring *ring = message_ring(vhost, message, value & VRING_INDEX_MASK);
	bool wants_one = !(value & VRING_NO_DESCRIPTOR);
	int descriptor;

	if (!ring)
		return FAILED;
	if (wants_one != (message->descriptor_count == 1)) {
		vhost_complain(vhost, message, "descriptor missing or not announced", message->descriptor_count);
		return FAILED;
	}
	descriptor = message_take_descriptor(message);
	if (message->request == SET_VRING_KICK)
		return set_vring_kick(vhost, ring, descriptor);
	if (message->request == SET_VRING_CALL)
		vhost_replace_descriptor(&ring->call, descriptor);
	else if (descriptor >= 0)
		close(descriptor); /* SET_VRING_ERR: errors are in the log */
	return DONE;
}
