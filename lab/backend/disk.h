// SPDX-License-Identifier: GPL-2.0-or-later
/* A disk image beside the balloon: what a tracer of discards must not take for a balloon's. */
#ifndef DISK_H
#define DISK_H

#include <stdbool.h>
#include <stdint.h>

struct disk {
	int file; /* -1: there is none */
	uint64_t discards; /* holes made */
	uint64_t discarded_bytes;
};

/* Opens a file that is there or makes it; false, with errno, when it cannot. */
bool disk_open(struct disk *disk, const char *path);

/* Makes holes of so many bytes each from the start of the file on; false, with errno, when one fails. */
bool disk_discard(struct disk *disk, uint64_t calls, uint64_t bytes);

#endif
