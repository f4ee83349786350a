/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The programs of one system call: what it asks for, and where its arguments are for each way to attach. Part of
 * host.bpf.c, which has begin_call, start_clock, find_call and end_call.
 */
#ifndef HOST_CALLS_H
#define HOST_CALLS_H

/* include/uapi/asm-generic/mman-common.h, include/uapi/linux/falloc.h */
#define ADVICE_WILLNEED 3
#define ADVICE_DONTNEED 4
#define ADVICE_FREE 8
#define ADVICE_REMOVE 9
#define MODE_PUNCH_HOLE 2

static __always_inline u32 call_of_advice(u32 advice)
{
	if (advice == ADVICE_DONTNEED)
		return BT_MADVISE_DONTNEED;
	if (advice == ADVICE_REMOVE)
		return BT_MADVISE_REMOVE;
	if (advice == ADVICE_FREE)
		return BT_MADVISE_FREE;
	return advice == ADVICE_WILLNEED ? BT_MADVISE_WILLNEED : BT_MADVISE_OTHER;
}

/* What a system call asks for, from its arguments; the bytes of process_madvise only its result tells. */
#define CALL_madvise(start, length, advice, unused) call_of_advice(advice)
#define LENGTH_madvise(start, length, advice, unused) (length)
#define BYTES_madvise(length, result) (length)

#define CALL_process_madvise(pidfd, vector, count, advice) BT_PROCESS_MADVISE
#define LENGTH_process_madvise(pidfd, vector, count, advice) 0
#define BYTES_process_madvise(length, result) (result)

#define CALL_fallocate(fd, mode, offset, length) \
	((mode) & MODE_PUNCH_HOLE ? BT_FALLOCATE_PUNCH_HOLE : BT_FALLOCATE_OTHER)
#define LENGTH_fallocate(fd, mode, offset, length) (length)
#define BYTES_fallocate(length, result) (length)

/* The descriptor of the file that a call is about, and 1. */
#define FILE_madvise(start, length, advice, unused) 0
#define FILE_process_madvise(pidfd, vector, count, advice) 0
#define FILE_fallocate(fd, mode, offset, length) ((u32)(fd) + 1)

/* Where the memory is that a call names. */
#define ADDRESS_madvise(start, length, advice, unused) (start)
#define ADDRESS_process_madvise(pidfd, vector, count, advice) 0
#define ADDRESS_fallocate(fd, mode, offset, length) 0

#define IS_FALLOCATE_madvise 0
#define IS_FALLOCATE_process_madvise 0
#define IS_FALLOCATE_fallocate 1

/*
 * The arguments of a system call: members of the registers it was made with, which are its function's one argument. The
 * fourth is not where a function has it.
 */
#if defined(__aarch64__) || defined(bpf_target_arm64)
#define REGISTER(member) __builtin_offsetof(struct user_pt_regs, member)
#define ARGUMENTS(OF, from) \
	OF(from, REGISTER(regs[0])), OF(from, REGISTER(regs[1])), OF(from, REGISTER(regs[2])), OF(from, REGISTER(regs[3]))
#define FIRST_ARGUMENT REGISTER(regs[0])
#define ARGUMENTS_BYTES (4 * sizeof(u64))
#else
#define REGISTER(member) __builtin_offsetof(struct pt_regs, member)
#define ARGUMENTS(OF, from) \
	OF(from, REGISTER(di)), OF(from, REGISTER(si)), OF(from, REGISTER(dx)), OF(from, REGISTER(r10))
#define FIRST_ARGUMENT REGISTER(r10)
#define ARGUMENTS_BYTES (REGISTER(di) + sizeof(u64) - FIRST_ARGUMENT)
#endif
#define OF_ADDRESS(regs, offset) (*(u64 *)((regs) + (offset)))
#define OF_COPY(regs, offset) ((regs)[((offset) - FIRST_ARGUMENT) / sizeof(u64)])

/* Expands its arguments before they are counted, so that ARGUMENTS may stand for four of them. */
#define APPLY(macro, ...) macro(__VA_ARGS__)

/* fentry: the arguments are still there on return, so that the entry only looks at the clock. */
#define CALL_PROGRAMS_fentry(name) \
	PROGRAM("fentry") fentry_##name(u64 *ctx) { return start_clock(begin_call()); } \
	PROGRAM("fexit") fexit_##name(u64 *ctx) \
	{ \
		u64 now_ns; \
		struct bt_thread *thread = find_call(&now_ns); \
		struct bt_call_sums *sums; \
\
		if (!thread) \
			return 0; \
		if (!is_open(&thread->batch)) \
			thread->batch.address = APPLY(ADDRESS_##name, ARGUMENTS(OF_ADDRESS, ctx[0])); \
		sums = end_call(thread, now_ns, APPLY(CALL_##name, ARGUMENTS(OF_ADDRESS, ctx[0]))); \
		if (IS_FALLOCATE_##name) \
			thread->batch.file = APPLY(FILE_##name, ARGUMENTS(OF_ADDRESS, ctx[0])); \
		return add_result(thread, sums, BYTES_##name(APPLY(LENGTH_##name, ARGUMENTS(OF_ADDRESS, ctx[0])), ctx[1]), \
				  ctx[1], IS_FALLOCATE_##name); \
	}

/* Without arguments on return, the entry keeps what they tell. */
#define CALL_RETURN(name, result) \
	u64 now_ns; \
	struct bt_thread *thread = find_call(&now_ns); \
	long returned = (result); \
\
	if (!thread) \
		return 0; \
	return add_result(thread, end_call(thread, now_ns, thread->call), BYTES_##name(thread->length, returned), \
			  returned, IS_FALLOCATE_##name);

#define CALL_PROGRAMS_kprobe(name) \
	PROGRAM("kprobe") kprobe_##name(struct pt_regs *ctx) \
	{ \
		u64 regs[ARGUMENTS_BYTES / sizeof(u64)]; \
		struct bt_thread *thread = begin_call(); \
\
		if (thread) { \
			bpf_probe_read_kernel(regs, sizeof(regs), (void *)PT_REGS_PARM1(ctx) + FIRST_ARGUMENT); \
			thread->call = APPLY(CALL_##name, ARGUMENTS(OF_COPY, regs)); \
			thread->length = APPLY(LENGTH_##name, ARGUMENTS(OF_COPY, regs)); \
			if (!is_open(&thread->batch)) \
				thread->batch.address = APPLY(ADDRESS_##name, ARGUMENTS(OF_COPY, regs)); \
			if (IS_FALLOCATE_##name) \
				thread->batch.file = APPLY(FILE_##name, ARGUMENTS(OF_COPY, regs)); \
		} \
		return start_clock(thread); \
	} \
	PROGRAM("kretprobe") kretprobe_##name(struct pt_regs *ctx) { CALL_RETURN(name, PT_REGS_RC(ctx)) }

/* struct syscall_tp_t and its exit of kernel/trace/trace_syscalls.c: 8 bytes of no use here, the number, what follows. */
#define CALL_PROGRAMS_tracepoint(name) \
	PROGRAM("tracepoint") enter_##name(u64 *ctx) \
	{ \
		struct bt_thread *thread = begin_call(); \
\
		if (thread) { \
			thread->call = CALL_##name(ctx[2], ctx[3], ctx[4], ctx[5]); \
			thread->length = LENGTH_##name(ctx[2], ctx[3], ctx[4], ctx[5]); \
			if (!is_open(&thread->batch)) \
				thread->batch.address = ADDRESS_##name(ctx[2], ctx[3], ctx[4], ctx[5]); \
			if (IS_FALLOCATE_##name) \
				thread->batch.file = FILE_##name(ctx[2], ctx[3], ctx[4], ctx[5]); \
		} \
		return start_clock(thread); \
	} \
	PROGRAM("tracepoint") exit_##name(u64 *ctx) { CALL_RETURN(name, ctx[2]) }

#define CALL_PROGRAMS_absent(name)
#ifdef PREBUILT
#define CALL_PROGRAMS(name) CALL_PROGRAMS_fentry(name) CALL_PROGRAMS_kprobe(name) CALL_PROGRAMS_tracepoint(name)
#else
#define CALL_PROGRAMS(name) CONCAT(CALL_PROGRAMS_, KIND_##name)(name)
#endif

#endif
