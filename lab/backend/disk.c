// SPDX-License-Identifier: GPL-2.0-or-later
#include "disk.h"

#include <fcntl.h>

bool disk_open(struct disk *disk, const char *path)
{
	disk->file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return disk->file >= 0;
}

bool disk_discard(struct disk *disk, uint64_t calls, uint64_t bytes)
{
	for (uint64_t i = 0; i < calls; i++) {
		if (fallocate(disk->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(i * bytes), (off_t)bytes))
			return false;
		disk->discards++;
		disk->discarded_bytes += bytes;
	}
	return true;
}
