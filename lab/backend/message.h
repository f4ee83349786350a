// SPDX-License-Identifier: GPL-2.0-or-later
/* One message of the vhost-user protocol: how it comes over a socket and goes back, whatever it says. */
#ifndef MESSAGE_H
#define MESSAGE_H

#include "memory.h"

#include <stdbool.h>
#include <stdint.h>

#define BODY_MAX_BYTES 1024u
#define DESCRIPTORS_MAX MEMORY_REGIONS

#define FLAG_REPLY 4u
#define FLAG_NEED_REPLY 8u

struct message {
	uint32_t request;
	uint32_t flags;
	uint32_t length;
	uint8_t body[BODY_MAX_BYTES];
	int descriptors[DESCRIPTORS_MAX]; /* -1 once somebody has taken it */
	unsigned int descriptor_count;
};

/*
 * Reads a request; true when it is whole. When it is not, `why` says what was wrong with it, NULL that the other side
 * is gone. Descriptors that came are in the message in any case, and are the caller's to close.
 */
bool message_read(int socket, struct message *message, const char **why);

/* False when it cannot be sent, which also is so when the other side does not read. */
bool message_send(int socket, uint32_t request, uint32_t flags, const uint8_t *body, uint32_t length);

/* The first descriptor, from now on the caller's; -1 when there is none. */
int message_take_descriptor(struct message *message);

void message_close_descriptors(struct message *message);

#endif
