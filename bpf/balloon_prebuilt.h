/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For clang and libbpf, what bcc has of its own: types, registers, helpers of the kernel, maps.
 *
 * No header of a kernel is needed, so that an object can be compiled for any machine on any.
 */
#ifndef BALLOON_PREBUILT_H
#define BALLOON_PREBUILT_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define __always_inline inline __attribute__((always_inline, unused))
#define SEC(name) __attribute__((section(name), used))
#define PROGRAM(section) SEC(section) int

/* Nothing is known yet when it is compiled. */
#define MAY_BE(constant) 1

/* A number given before the object is loaded: its mark is an immediate, which balloontrace/trace/engines/constants.py knows. */
#define CONSTANT(mark) ({ \
	long long number_; \
	__asm__("%0 = %1 ll" : "=r"(number_) : "i"(mark)); \
	number_; \
})

/* arch/x86/include/asm/ptrace.h; arch/arm64/include/uapi/asm/ptrace.h, which struct pt_regs begins with */
#ifdef __aarch64__
struct user_pt_regs {
	u64 regs[31], sp, pc, pstate;
};
#define pt_regs user_pt_regs
#define PT_REGS_PARM1(ctx) ((ctx)->regs[0])
#define PT_REGS_PARM2(ctx) ((ctx)->regs[1])
#define PT_REGS_PARM3(ctx) ((ctx)->regs[2])
#define PT_REGS_PARM4(ctx) ((ctx)->regs[3])
#define PT_REGS_RC(ctx) ((ctx)->regs[0])
#else
struct pt_regs {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define PT_REGS_PARM1(ctx) ((ctx)->di)
#define PT_REGS_PARM2(ctx) ((ctx)->si)
#define PT_REGS_PARM3(ctx) ((ctx)->dx)
#define PT_REGS_PARM4(ctx) ((ctx)->cx)
#define PT_REGS_RC(ctx) ((ctx)->ax)
#endif

/* include/uapi/linux/bpf.h */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_F_MMAPABLE 1024
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_ANY 0
#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_AVAIL_DATA 0
#define BPF_RB_RING_SIZE 1
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static u64 (*bpf_get_current_task)(void) = (void *)35;
static long (*bpf_probe_read_kernel)(void *to, u32 bytes, const void *from) = (void *)113;
extern void *bpf_rdonly_cast(const void *address, u32 type) SEC(".ksyms");
static void *(*bpf_ringbuf_reserve)(void *ring, u64 bytes, u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *record, u64 flags) = (void *)132;
static u64 (*bpf_ringbuf_query)(void *ring, u64 flags) = (void *)134;
#define CLOCK_MONOTONIC 1 /* include/uapi/linux/time.h */
static void *(*bpf_this_cpu_ptr)(const void *variable) = (void *)154;
static u32 (*bpf_get_prandom_u32)(void) = (void *)7;
static void *(*bpf_get_current_task_btf)(void) = (void *)158;
struct bpf_timer {
	u64 : 64;
	u64 : 64;
} __attribute__((aligned(8)));
static long (*bpf_timer_init)(struct bpf_timer *timer, void *map, u64 clock) = (void *)169;
static long (*bpf_timer_set_callback)(struct bpf_timer *timer, void *function) = (void *)170;
static long (*bpf_timer_start)(struct bpf_timer *timer, u64 after_ns, u64 flags) = (void *)171;
static void *(*bpf_task_pt_regs)(void *task) = (void *)175;

#define MAP(name) ((void *)&name)

/* A variable of a section of its own is an array of one value that can be mapped. */
#define SHARED(type, name) type name SEC(".bss." #name)
/* Were its address known not to be 0, clang would test what was compared for it instead, which the verifier cannot follow. */
#define VALUE(type, name) ({ \
	type *value_ = &name; \
	__asm__("" : "+r"(value_)); \
	value_; \
})

/* How large it is, is set before it is loaded. */
#define RING(name, pages) \
	struct { \
		int(*type)[BPF_MAP_TYPE_RINGBUF]; \
		int(*max_entries)[4096]; \
	} name SEC(".maps")

/* Values by number, that user space maps too; how many is set before it is loaded. */
#define TABLE(value_type, name) \
	struct { \
		int(*type)[BPF_MAP_TYPE_ARRAY]; \
		int(*max_entries)[1]; \
		int(*map_flags)[BPF_F_MMAPABLE]; \
		u32 *key; \
		value_type *value; \
	} name SEC(".maps")
#define TABLE_LOOKUP(name, key) bpf_map_lookup_elem(&name, key)

/* A variable of the kernel that each processor has one of. */
#define KERNEL_VARIABLE(type, name) extern type name __attribute__((section(".ksyms")))

/* Values by number, with a timer in each. */
#define TIMERS(value_type, name, size) \
	struct { \
		int(*type)[BPF_MAP_TYPE_ARRAY]; \
		int(*max_entries)[size]; \
		u32 *key; \
		value_type *value; \
	} name SEC(".maps")

#define HASH(name, key_type, value_type, size) \
	struct { \
		int(*type)[BPF_MAP_TYPE_HASH]; \
		int(*max_entries)[size]; \
		key_type *key; \
		value_type *value; \
	} name SEC(".maps")
#define HASH_LOOKUP(name, key) bpf_map_lookup_elem(&name, key)
#define HASH_UPDATE(name, key, value) bpf_map_update_elem(&name, key, value, BPF_ANY)
#define HASH_DELETE(name, key) bpf_map_delete_elem(&name, key)

char LICENSE[] SEC("license") = "GPL";

#endif
