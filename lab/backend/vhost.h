// SPDX-License-Identifier: GPL-2.0-or-later
/* The vhost-user protocol, the backend's side, for one frontend at a time. */
#ifndef VHOST_H
#define VHOST_H

#include "balloon.h"
#include "memory.h"
#include "ring.h"

#include <stdbool.h>

struct vhost {
	struct balloon *balloon;
	int connection; /* -1: no frontend */
	int channel; /* to the frontend: "the configuration has changed"; -1 when it wants none */
	uint64_t features; /* as acknowledged by the frontend, its own bit 30 too */
	uint64_t protocol_features;
	struct memory memory;
	struct ring rings[QUEUES];
};

void vhost_init(struct vhost *vhost, struct balloon *balloon);

/* A frontend has connected. */
void vhost_connect(struct vhost *vhost, int connection);

/* Unmaps and closes all that came from the frontend; nothing to do when there is none. */
void vhost_disconnect(struct vhost *vhost);

/* Handles one message; disconnects when the frontend is gone or talks nonsense. */
void vhost_receive(struct vhost *vhost);

/* Tells the driver that the target has moved, as far as there is one to tell. */
void vhost_config_changed(struct vhost *vhost);

/* Whether kicks of this queue are to be waited for. */
bool vhost_ring_runs(const struct vhost *vhost, enum queue queue);

/* Serves what waits in a queue, at most a ring's worth; whether there may be more. */
bool vhost_serve(struct vhost *vhost, enum queue queue);

#endif
