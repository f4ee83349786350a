// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages of the vhost-user protocol. The frontend (QEMU) is trusted with the guest's memory, but not to be free of
 * mistakes: a message that makes no sense is logged and ends the connection, or fails where it may fail.
 */
#include "vhost.h"

#include "little.h"
#include "message.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONFIG_HEADER_BYTES 12u
#define CONFIG_MAX_BYTES 256u

#define FEATURE_PROTOCOL (UINT64_C(1) << 30)
#define FEATURE_VERSION_1 (UINT64_C(1) << 32)

#define PROTOCOL_MQ (UINT64_C(1) << 0)
#define PROTOCOL_REPLY_ACK (UINT64_C(1) << 3)
#define PROTOCOL_BACKEND_REQ (UINT64_C(1) << 5)
#define PROTOCOL_CONFIG (UINT64_C(1) << 9)
#define PROTOCOL_OFFERED (PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_BACKEND_REQ | PROTOCOL_CONFIG)

#define VRING_INDEX_MASK UINT64_C(0xff)
#define VRING_NO_DESCRIPTOR (UINT64_C(1) << 8)

#define BACKEND_CONFIG_CHANGE 2u

enum request {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	RESET_OWNER = 4,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	SET_VRING_ERR = 14,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	SET_BACKEND_REQ_FD = 21,
	GET_CONFIG = 24,
	SET_CONFIG = 25,
};

/* What became of a message: an answer with a body, success or failure; REPLY_ACK asks for the latter two. */
enum outcome {
	ANSWERED,
	DONE,
	FAILED,
	HOPELESS, /* the connection cannot go on */
};

void vhost_init(struct vhost *vhost, struct balloon *balloon)
{
	*vhost = (struct vhost){ .balloon = balloon, .connection = -1, .channel = -1 };
	for (int queue = 0; queue < QUEUES; queue++)
		ring_init(&vhost->rings[queue]);
}

static void replace_descriptor(int *place, int descriptor)
{
	if (*place >= 0)
		close(*place);
	*place = descriptor;
}

static void complain(struct vhost *vhost, const struct message *message, const char *why, uint64_t value)
{
	log_event(&vhost->balloon->log, "frontend",
		  "\"request\": %" PRIu32 ", \"why\": \"%s\", \"value\": %" PRIu64, message->request, why, value);
}

/* ---- connection ---- */

void vhost_connect(struct vhost *vhost, int connection)
{
	/* A frontend that sends half a message must not stop the backend for good. */
	const struct timeval patience = { .tv_sec = 2 };

	setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	vhost->connection = connection;
	log_event(&vhost->balloon->log, "connected", "\"buffers\": %" PRIu64, vhost->balloon->buffers);
}

static void stop_ring(struct ring *ring)
{
	ring->is_started = false;
	ring_unmap(ring);
	replace_descriptor(&ring->kick, -1);
}

/* What the driver means by bit 3 shows in the queues it sets up. */
static void note_queues(struct vhost *vhost)
{
	vhost->balloon->has_hint_queue = vhost->rings[QUEUE_HINT].is_started;
}

void vhost_disconnect(struct vhost *vhost)
{
	struct balloon *balloon = vhost->balloon;

	if (vhost->connection < 0)
		return;
	for (int queue = 0; queue < QUEUES; queue++) {
		stop_ring(&vhost->rings[queue]);
		replace_descriptor(&vhost->rings[queue].call, -1);
	}
	memory_clear(&vhost->memory);
	replace_descriptor(&vhost->channel, -1);
	replace_descriptor(&vhost->connection, -1);
	vhost_init(vhost, balloon);
	note_queues(vhost);
	balloon_forget_guest(balloon);
	log_event(&balloon->log, "disconnected", "\"buffers\": %" PRIu64, balloon->buffers);
}

static enum outcome answer(struct vhost *vhost, const struct message *message, uint32_t length)
{
	bool is_sent = message_send(vhost->connection, message->request, FLAG_REPLY, message->body, length);

	return is_sent ? ANSWERED : HOPELESS;
}

static enum outcome answer_u64(struct vhost *vhost, struct message *message, uint64_t value)
{
	store_le64(message->body, value);
	return answer(vhost, message, 8);
}

/* ---- features ---- */

static uint64_t offered_features(const struct vhost *vhost)
{
	const struct options *options = &vhost->balloon->options;
	uint64_t offered = FEATURE_VERSION_1 | FEATURE_PROTOCOL;

	if (options->page_bitmap || options->free_page_hint)
		offered |= FEATURE_BIT_3;
	if (options->deflate_on_oom)
		offered |= FEATURE_DEFLATE_ON_OOM;
	return offered;
}

static unsigned int queue_count(const struct vhost *vhost)
{
	return vhost->balloon->options.free_page_hint ? QUEUE_HINT + 1 : QUEUE_DEFLATE + 1;
}

static enum outcome set_features(struct vhost *vhost, const struct message *message)
{
	uint64_t features = load_le64(message->body);

	if (features & ~offered_features(vhost)) {
		complain(vhost, message, "feature that was not offered", features);
		return FAILED;
	}
	vhost->features = features;
	vhost->balloon->features = features & ~FEATURE_PROTOCOL;
	log_event(&vhost->balloon->log, "features", "\"features\": %" PRIu64 ", \"mode\": \"%s\"",
		  vhost->balloon->features, balloon_mode(vhost->balloon));
	return DONE;
}

static enum outcome set_protocol_features(struct vhost *vhost, const struct message *message)
{
	uint64_t features = load_le64(message->body);

	if (features & ~PROTOCOL_OFFERED) {
		complain(vhost, message, "protocol feature that was not offered", features);
		return FAILED;
	}
	vhost->protocol_features = features;
	return DONE;
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

static enum outcome set_mem_table(struct vhost *vhost, struct message *message)
{
	uint32_t count = load_le32(message->body);
	const char *why = NULL;

	if (count != message->descriptor_count || message->length != 8 + count * UINT64_C(32)) {
		complain(vhost, message, "regions and descriptors do not match", count);
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
		complain(vhost, message, why, vhost->memory.count);
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
	if (index < queue_count(vhost))
		return &vhost->rings[index];
	complain(vhost, message, "no such queue", index);
	return NULL;
}

static enum outcome set_vring_number(struct vhost *vhost, const struct message *message)
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
		complain(vhost, message, "queue is running", value);
		return FAILED;
	}
	if (message->request == SET_VRING_NUM)
		ring->size = value;
	else
		ring->next_avail = (uint16_t)value;
	return DONE;
}

static enum outcome set_vring_address(struct vhost *vhost, const struct message *message)
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

static enum outcome get_vring_base(struct vhost *vhost, struct message *message)
{
	struct ring *ring = message_ring(vhost, message, load_le32(message->body));

	if (!ring)
		return HOPELESS;
	stop_ring(ring);
	note_queues(vhost);
	log_event(&vhost->balloon->log, "ring-stopped", "\"queue\": \"%s\", \"next_avail\": %u",
		  queue_name((enum queue)(ring - vhost->rings)), ring->next_avail);
	store_le32(message->body + 4, ring->next_avail);
	return answer(vhost, message, 8);
}

static enum outcome set_vring_kick(struct vhost *vhost, struct ring *ring, int descriptor)
{
	replace_descriptor(&ring->kick, descriptor);
	ring->is_started = true;
	note_queues(vhost);
	/* Without protocol features there is no SET_VRING_ENABLE to wait for. */
	if (!(vhost->features & FEATURE_PROTOCOL))
		ring->is_enabled = true;
	ring->is_broken = false;
	map_ring(vhost, (enum queue)(ring - vhost->rings));
	return DONE;
}

static enum outcome set_vring_descriptor(struct vhost *vhost, struct message *message)
{
	uint64_t value = load_le64(message->body);
	struct ring *ring = message_ring(vhost, message, value & VRING_INDEX_MASK);
	bool wants_one = !(value & VRING_NO_DESCRIPTOR);
	int descriptor;

	if (!ring)
		return FAILED;
	if (wants_one != (message->descriptor_count == 1)) {
		complain(vhost, message, "descriptor missing or not announced", message->descriptor_count);
		return FAILED;
	}
	descriptor = message_take_descriptor(message);
	if (message->request == SET_VRING_KICK)
		return set_vring_kick(vhost, ring, descriptor);
	if (message->request == SET_VRING_CALL)
		replace_descriptor(&ring->call, descriptor);
	else if (descriptor >= 0)
		close(descriptor); /* SET_VRING_ERR: errors are in the log */
	return DONE;
}

/* ---- configuration ---- */

static enum outcome get_config(struct vhost *vhost, struct message *message)
{
	uint32_t offset = load_le32(message->body), length = load_le32(message->body + 4);

	if (length > CONFIG_MAX_BYTES || offset > CONFIG_MAX_BYTES) {
		complain(vhost, message, "no such part of the configuration", length);
		return answer(vhost, message, 0);
	}
	balloon_read_config(vhost->balloon, offset, length, message->body + CONFIG_HEADER_BYTES);
	return answer(vhost, message, CONFIG_HEADER_BYTES + length);
}

static enum outcome set_config(struct vhost *vhost, const struct message *message)
{
	uint32_t offset = load_le32(message->body), length = load_le32(message->body + 4);

	if (offset > CONFIG_MAX_BYTES || length > CONFIG_MAX_BYTES ||
	    message->length < CONFIG_HEADER_BYTES + length) {
		complain(vhost, message, "no such part of the configuration", length);
		return FAILED;
	}
	balloon_write_config(vhost->balloon, offset, length, message->body + CONFIG_HEADER_BYTES);
	return DONE;
}

void vhost_config_changed(struct vhost *vhost)
{
	if (vhost->channel >= 0 && !message_send(vhost->channel, BACKEND_CONFIG_CHANGE, 0, NULL, 0))
		log_event(&vhost->balloon->log, "channel-lost", "\"errno\": %d", errno);
}

/* ---- dispatch ---- */

static uint32_t expected_length(uint32_t request)
{
	switch (request) {
	case SET_FEATURES:
	case SET_PROTOCOL_FEATURES:
	case SET_MEM_TABLE:
	case SET_VRING_NUM:
	case SET_VRING_BASE:
	case GET_VRING_BASE:
	case SET_VRING_KICK:
	case SET_VRING_CALL:
	case SET_VRING_ERR:
	case SET_VRING_ENABLE:
		return 8;
	case SET_VRING_ADDR:
		return 40;
	case GET_CONFIG:
	case SET_CONFIG:
		return CONFIG_HEADER_BYTES;
	default:
		return 0;
	}
}

static enum outcome handle(struct vhost *vhost, struct message *message)
{
	if (message->length < expected_length(message->request)) {
		complain(vhost, message, "message too short", message->length);
		return HOPELESS;
	}
	switch (message->request) {
	case GET_FEATURES:
		return answer_u64(vhost, message, offered_features(vhost));
	case SET_FEATURES:
		return set_features(vhost, message);
	case GET_PROTOCOL_FEATURES:
		return answer_u64(vhost, message, PROTOCOL_OFFERED);
	case SET_PROTOCOL_FEATURES:
		return set_protocol_features(vhost, message);
	case GET_QUEUE_NUM:
		return answer_u64(vhost, message, queue_count(vhost));
	case SET_OWNER:
	case RESET_OWNER: /* no meaning is left to it; rings stop by GET_VRING_BASE */
		return DONE;
	case SET_MEM_TABLE:
		return set_mem_table(vhost, message);
	case SET_VRING_NUM:
	case SET_VRING_BASE:
	case SET_VRING_ENABLE:
		return set_vring_number(vhost, message);
	case SET_VRING_ADDR:
		return set_vring_address(vhost, message);
	case GET_VRING_BASE:
		return get_vring_base(vhost, message);
	case SET_VRING_KICK:
	case SET_VRING_CALL:
	case SET_VRING_ERR:
		return set_vring_descriptor(vhost, message);
	case SET_BACKEND_REQ_FD:
		replace_descriptor(&vhost->channel, message_take_descriptor(message));
		return DONE;
	case GET_CONFIG:
		return get_config(vhost, message);
	case SET_CONFIG:
		return set_config(vhost, message);
	default:
		complain(vhost, message, "request not known", 0);
		return FAILED;
	}
}

/* Whether the connection can go on. */
static bool acknowledge(struct vhost *vhost, struct message *message, enum outcome outcome)
{
	bool wants_reply = (vhost->protocol_features & PROTOCOL_REPLY_ACK) && (message->flags & FLAG_NEED_REPLY);

	if (outcome == ANSWERED)
		return true;
	if (outcome == HOPELESS)
		return false;
	return !wants_reply || answer_u64(vhost, message, outcome == FAILED) == ANSWERED;
}

void vhost_receive(struct vhost *vhost)
{
	struct message message;
	const char *why;
	bool goes_on = message_read(vhost->connection, &message, &why);

	if (why)
		complain(vhost, &message, why, message.length);
	goes_on = goes_on && acknowledge(vhost, &message, handle(vhost, &message));
	message_close_descriptors(&message);
	if (!goes_on)
		vhost_disconnect(vhost);
}

/* ---- queues ---- */

bool vhost_ring_runs(const struct vhost *vhost, enum queue queue)
{
	const struct ring *ring = &vhost->rings[queue];

	return ring->is_started && ring->is_enabled && ring->desc && !ring->is_broken;
}

bool vhost_serve(struct vhost *vhost, enum queue queue)
{
	struct ring *ring = &vhost->rings[queue];

	for (unsigned int served = 0; served < ring->size; served++)
		if (!vhost_ring_runs(vhost, queue) || !balloon_serve(vhost->balloon, queue, ring, &vhost->memory))
			return false;
	return true;
}
