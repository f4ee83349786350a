// SPDX-License-Identifier: GPL-2.0-or-later
/* The control socket: a command per line, a line of JSON in answer to each. */
#ifndef CONTROL_H
#define CONTROL_H

#include "disk.h"
#include "vhost.h"

#include <stdbool.h>
#include <stddef.h>

#define CONTROL_CLIENTS 8u
#define CONTROL_LINE_BYTES 256u

struct client {
	int connection; /* -1: free */
	size_t length;
	char line[CONTROL_LINE_BYTES];
};

struct control {
	struct vhost *vhost;
	struct disk *disk;
	bool is_ending; /* somebody has said `quit` */
	struct client clients[CONTROL_CLIENTS];
};

void control_init(struct control *control, struct vhost *vhost, struct disk *disk);

/* Takes in a client; one too many is turned away. */
void control_accept(struct control *control, int listener);

/* Reads what a client has sent and answers every whole line of it. */
void control_receive(struct control *control, struct client *client);

void control_close(struct control *control);

#endif
