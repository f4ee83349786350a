/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What compiles and loads these programs: bcc on the machine itself, or clang beforehand and libbpf there (PREBUILT).
 *
 * What bcc is told by -D before it compiles is an immediate of instructions in a prebuilt object, by the same name, set before
 * it is loaded. The verifier knows its value, and drops the branches not taken.
 */
#ifndef BALLOON_ENGINE_H
#define BALLOON_ENGINE_H

#ifdef PREBUILT
#include "balloon_prebuilt.h"
#else
#include <uapi/linux/ptrace.h>

/*
 * bcc has no word for the address of a map's value, nor for a map inside a macro. The source names a map by its place
 * among all, and balloontrace/trace/engines/bcc_child.py puts its descriptor there.
 */
#define PSEUDO_MAP_FD 1
#define PSEUDO_MAP_VALUE 2
#define MAP(name) ((void *)bpf_pseudo_fd(PSEUDO_MAP_FD, name##_PLACE))

/* One value that user space maps too, reached by its address: a look-up would take 15 instructions more. */
#define SHARED(type, name) BPF_F_TABLE("array", int, type, name, 1, BPF_F_MMAPABLE)
#define VALUE(type, name) ((type *)bpf_pseudo_fd(PSEUDO_MAP_VALUE, name##_PLACE))
#define RING(name, pages) BPF_RINGBUF_OUTPUT(name, pages)

#define HASH(name, key, type, size) BPF_HASH(name, key, type, size)
#define HASH_LOOKUP(name, key) bpf_map_lookup_elem_(bpf_pseudo_fd(PSEUDO_MAP_FD, name##_PLACE), key)
#define HASH_UPDATE(name, key, value) bpf_map_update_elem_(bpf_pseudo_fd(PSEUDO_MAP_FD, name##_PLACE), key, value, BPF_ANY)
#define HASH_DELETE(name, key) bpf_map_delete_elem_(bpf_pseudo_fd(PSEUDO_MAP_FD, name##_PLACE), key)

#define MAY_BE(constant) (constant)

/* bcc goes by the name of the function. */
#define PROGRAM(section) int
#endif

#endif
