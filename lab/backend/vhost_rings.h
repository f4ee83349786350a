// SPDX-License-Identifier: GPL-2.0-or-later
/* What vhost.c and vhost_rings.c share: requests, what becomes of them, and the rings. */
#ifndef VHOST_RINGS_H
#define VHOST_RINGS_H

#include "message.h"
#include "vhost.h"

#include <stdint.h>

/* A feature of the protocol, not of the device: the driver does not see it. */
#define FEATURE_PROTOCOL (UINT64_C(1) << 30)

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

/* In vhost.c. */
void vhost_complain(struct vhost *vhost, const struct message *message, const char *why, uint64_t value);
enum outcome vhost_answer(struct vhost *vhost, const struct message *message, uint32_t length);
unsigned int vhost_queue_count(const struct vhost *vhost);

/* In vhost_rings.c. */
void vhost_replace_descriptor(int *place, int descriptor);
void vhost_stop_ring(struct ring *ring);
void vhost_note_queues(struct vhost *vhost);
enum outcome vhost_set_mem_table(struct vhost *vhost, struct message *message);
enum outcome vhost_set_vring_number(struct vhost *vhost, const struct message *message);
enum outcome vhost_set_vring_address(struct vhost *vhost, const struct message *message);
enum outcome vhost_get_vring_base(struct vhost *vhost, struct message *message);
enum outcome vhost_set_vring_descriptor(struct vhost *vhost, struct message *message);

#endif
