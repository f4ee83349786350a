// SPDX-License-Identifier: GPL-2.0-or-later
/* Little-endian numbers at any address: everything a guest or a frontend sends is read through these. */
#ifndef LITTLE_H
#define LITTLE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t load_le32(const void *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return le32toh(value);
}

static inline uint64_t load_le64(const void *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return le64toh(value);
}

static inline void store_le32(void *bytes, uint32_t value)
{
	value = htole32(value);
	memcpy(bytes, &value, sizeof(value));
}

static inline void store_le64(void *bytes, uint64_t value)
{
	value = htole64(value);
	memcpy(bytes, &value, sizeof(value));
}

#endif
