// SPDX-License-Identifier: GPL-2.0-or-later
/* Framing: a header of three u32, a body, and descriptors that come with the header. */
#include "message.h"

#include "little.h"

#include <sys/socket.h>
#include <unistd.h>

#define HEADER_BYTES 12u
#define FLAG_VERSION 1u
#define FLAG_VERSION_MASK 3u

static void collect_descriptors(struct message *message, struct msghdr *header)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part; part = CMSG_NXTHDR(header, part)) {
		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		message->descriptor_count = (unsigned int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(message->descriptors, CMSG_DATA(part), message->descriptor_count * sizeof(int));
	}
}

static bool read_header(int connection, struct message *message)
{
	uint8_t bytes[HEADER_BYTES] = { 0 };
	union {
		struct cmsghdr aligned;
		char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
	} control;
	struct iovec part = { bytes, sizeof(bytes) };
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
	};
	ssize_t received = recvmsg(connection, &header, MSG_CMSG_CLOEXEC | MSG_WAITALL);

	if (received < 0)
		return false;
	collect_descriptors(message, &header);
	message->request = load_le32(bytes);
	message->flags = load_le32(bytes + 4);
	message->length = load_le32(bytes + 8);
	return received == sizeof(bytes);
}

bool message_read(int socket, struct message *message, const char **why)
{
	*why = NULL;
	*message = (struct message){ .descriptor_count = 0 };
	if (!read_header(socket, message))
		return false;
	if ((message->flags & (FLAG_VERSION_MASK | FLAG_REPLY)) != FLAG_VERSION)
		*why = "not a request of version 1";
	else if (message->length > BODY_MAX_BYTES)
		*why = "message too long";
	if (*why)
		return false;
	return !message->length ||
	       recv(socket, message->body, message->length, MSG_WAITALL) == (ssize_t)message->length;
}

bool message_send(int socket, uint32_t request, uint32_t flags, const uint8_t *body, uint32_t length)
{
	uint8_t bytes[HEADER_BYTES + BODY_MAX_BYTES];
	size_t total = HEADER_BYTES + length;

	store_le32(bytes, request);
	store_le32(bytes + 4, FLAG_VERSION | flags);
	store_le32(bytes + 8, length);
	if (length)
		memcpy(bytes + HEADER_BYTES, body, length);
	return send(socket, bytes, total, MSG_NOSIGNAL) == (ssize_t)total;
}

int message_take_descriptor(struct message *message)
{
	int descriptor = message->descriptor_count ? message->descriptors[0] : -1;

	message->descriptors[0] = -1;
	return descriptor;
}

void message_close_descriptors(struct message *message)
{
	for (unsigned int i = 0; i < message->descriptor_count; i++)
		if (message->descriptors[i] >= 0)
			close(message->descriptors[i]);
}
