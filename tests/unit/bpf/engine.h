/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In place of bpf/balloon_engine.h: what the BPF programs need, for the logic of their functions in a process of
 * its own. Time and thread are what a test says; a map is a variable.
 */
#ifndef BALLOON_ENGINE_H
#define BALLOON_ENGINE_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

struct pt_regs {
	u64 ax, bx, cx, dx, si, di, bp, sp, r8, r9, r10, ip, orig_ax, cs;
};

#define __always_inline inline __attribute__((always_inline, unused))
#define PROGRAM(section) int
#define MAY_BE(constant) (constant)

#define SHARED(type, name) static type name
#define VALUE(type, name) (&name)

/* A hash with room for all that a test puts there. */
#define HASH(name, key, type, size)                                   \
	static struct { key of; type value; } name##_rows[size];          \
	static u32 name##_used;                                           \
	static type *name##_lookup(const key *of)                         \
	{                                                                 \
		for (u32 row = 0; row < name##_used; row++)               \
			if (name##_rows[row].of == *of)                   \
				return &name##_rows[row].value;           \
		return 0;                                                 \
	}                                                                 \
	static int name##_update(const key *of, const type *value)        \
	{                                                                 \
		if (!name##_lookup(of))                                   \
			name##_rows[name##_used++].of = *of;              \
		*name##_lookup(of) = *value;                              \
		return 0;                                                 \
	}                                                                 \
	static void name##_delete(const key *of)                          \
	{                                                                 \
		for (u32 row = 0; row < name##_used; row++)               \
			if (name##_rows[row].of == *of)                   \
				name##_rows[row] = name##_rows[--name##_used]; \
	}

#define HASH_LOOKUP(name, key) name##_lookup(key)
#define HASH_UPDATE(name, key, value) name##_update(key, value)
#define HASH_DELETE(name, key) name##_delete(key)

static u64 now_ns = 1000;
static u64 thread_id;

static u64 bpf_ktime_get_ns(void) { return now_ns; }
static u64 bpf_get_current_pid_tgid(void) { return thread_id; }
static u32 bpf_get_smp_processor_id(void) { return 0; }

static int bpf_probe_read_kernel(void *to, u32 bytes, const void *from)
{
	memcpy(to, from, bytes);
	return 0;
}

#endif
