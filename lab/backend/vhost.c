// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages of the vhost-user protocol. The frontend (QEMU) is trusted with the guest's memory, but not to be free of
 * mistakes: a message that makes no sense is logged and ends the connection, or fails where it may fail.
 */
#include "vhost.h"

#include "little.h"
#include "message.h"
#include "vhost_rings.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONFIG_HEADER_BYTES 12u
#define CONFIG_MAX_BYTES 256u

#define FEATURE_VERSION_1 (UINT64_C(1) << 32)

#define PROTOCOL_MQ (UINT64_C(1) << 0)
#define PROTOCOL_REPLY_ACK (UINT64_C(1) << 3)
#define PROTOCOL_BACKEND_REQ (UINT64_C(1) << 5)
#define PROTOCOL_CONFIG (UINT64_C(1) << 9)
#define PROTOCOL_OFFERED (PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_BACKEND_REQ | PROTOCOL_CONFIG)

#define BACKEND_CONFIG_CHANGE 2u

void vhost_init(struct vhost *vhost, struct balloon *balloon)
{
	*vhost = (struct vhost){ .balloon = balloon, .connection = -1, .channel = -1 };
	for (int queue = 0; queue < QUEUES; queue++)
		ring_init(&vhost->rings[queue]);
}

void vhost_complain(struct vhost *vhost, const struct message *message, const char *why, uint64_t value)
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

void vhost_disconnect(struct vhost *vhost)
{
	struct balloon *balloon = vhost->balloon;

	if (vhost->connection < 0)
		return;
	for (int queue = 0; queue < QUEUES; queue++) {
		vhost_stop_ring(&vhost->rings[queue]);
		vhost_replace_descriptor(&vhost->rings[queue].call, -1);
	}
	memory_clear(&vhost->memory);
	vhost_replace_descriptor(&vhost->channel, -1);
	vhost_replace_descriptor(&vhost->connection, -1);
	vhost_init(vhost, balloon);
	vhost_note_queues(vhost);
	balloon_forget_guest(balloon);
	log_event(&balloon->log, "disconnected", "\"buffers\": %" PRIu64, balloon->buffers);
}

enum outcome vhost_answer(struct vhost *vhost, const struct message *message, uint32_t length)
{
	bool is_sent = message_send(vhost->connection, message->request, FLAG_REPLY, message->body, length);

	return is_sent ? ANSWERED : HOPELESS;
}

static enum outcome answer_u64(struct vhost *vhost, struct message *message, uint64_t value)
{
	store_le64(message->body, value);
	return vhost_answer(vhost, message, 8);
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

unsigned int vhost_queue_count(const struct vhost *vhost)
{
	return vhost->balloon->options.free_page_hint ? QUEUE_HINT + 1 : QUEUE_DEFLATE + 1;
}

static enum outcome set_features(struct vhost *vhost, const struct message *message)
{
	uint64_t features = load_le64(message->body);

	if (features & ~offered_features(vhost)) {
		vhost_complain(vhost, message, "feature that was not offered", features);
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
		vhost_complain(vhost, message, "protocol feature that was not offered", features);
		return FAILED;
	}
	vhost->protocol_features = features;
	return DONE;
}

/* ---- configuration ---- */

static enum outcome get_config(struct vhost *vhost, struct message *message)
{
	uint32_t offset = load_le32(message->body), length = load_le32(message->body + 4);

	if (length > CONFIG_MAX_BYTES || offset > CONFIG_MAX_BYTES) {
		vhost_complain(vhost, message, "no such part of the configuration", length);
		return vhost_answer(vhost, message, 0);
	}
	balloon_read_config(vhost->balloon, offset, length, message->body + CONFIG_HEADER_BYTES);
	return vhost_answer(vhost, message, CONFIG_HEADER_BYTES + length);
}

static enum outcome set_config(struct vhost *vhost, const struct message *message)
{
	uint32_t offset = load_le32(message->body), length = load_le32(message->body + 4);

	if (offset > CONFIG_MAX_BYTES || length > CONFIG_MAX_BYTES ||
	    message->length < CONFIG_HEADER_BYTES + length) {
		vhost_complain(vhost, message, "no such part of the configuration", length);
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
		vhost_complain(vhost, message, "message too short", message->length);
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
		return answer_u64(vhost, message, vhost_queue_count(vhost));
	case SET_OWNER:
	case RESET_OWNER: /* no meaning is left to it; rings stop by GET_VRING_BASE */
		return DONE;
	case SET_MEM_TABLE:
		return vhost_set_mem_table(vhost, message);
	case SET_VRING_NUM:
	case SET_VRING_BASE:
	case SET_VRING_ENABLE:
		return vhost_set_vring_number(vhost, message);
	case SET_VRING_ADDR:
		return vhost_set_vring_address(vhost, message);
	case GET_VRING_BASE:
		return vhost_get_vring_base(vhost, message);
	case SET_VRING_KICK:
	case SET_VRING_CALL:
	case SET_VRING_ERR:
		return vhost_set_vring_descriptor(vhost, message);
	case SET_BACKEND_REQ_FD:
		vhost_replace_descriptor(&vhost->channel, message_take_descriptor(message));
		return DONE;
	case GET_CONFIG:
		return get_config(vhost, message);
	case SET_CONFIG:
		return set_config(vhost, message);
	default:
		vhost_complain(vhost, message, "request not known", 0);
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
		vhost_complain(vhost, &message, why, message.length);
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
