/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs between kernels, compilers and ways to attach, each behind one name.
 *
 * Offsets of kernel structures come from the running kernel's BTF as -D<STRUCT>_<MEMBER>=<bytes>, one for each of
 * KNOWN_MEMBERS in balloontrace/system/kernel.py. One that is unknown is NO_OFFSET, and what would be read through it
 * is then not measured.
 */
#ifndef BALLOON_COMPAT_H
#define BALLOON_COMPAT_H

#define NO_OFFSET (-1)

/*
 * Ways to hook a function, chosen per function with -DKIND_<function>=<kind>:
 *   fentry   programs fentry_<function> and fexit_<function>: typed arguments, and the result after them
 *   kprobe   programs kprobe_<function> and kretprobe_<function>: registers
 *   both     all four, for functions of one name of which fentry reaches only the first
 *   raw_tracepoint  program raw_<function>, with the arguments of a tracepoint
 *   absent   none
 * A prebuilt object has programs of every kind, and those not attached are not loaded.
 * Measured in an instruction-counted guest (6.12, x86-64) an empty entry and return pair costs 308
 * instructions with fentry/fexit, 892 with kprobe/kretprobe.
 *
 * PROGRAMS(function, arity, RESULT) makes them, thin entry points over on_<function>_entry(arguments) and
 * on_<function>_return(result).
 */
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#ifdef PREBUILT
#define PROGRAMS(function, arity, result) \
	PROGRAMS_fentry(function, arity, result) \
	PROGRAMS_kprobe(function, arity, result)
#define ENTRY_PROGRAM(function, arity) ENTRY_fentry(function, arity) ENTRY_kprobe(function, arity)
#else
#define PROGRAMS(function, arity, result) CONCAT(PROGRAMS_, KIND_##function)(function, arity, result)
#define ENTRY_PROGRAM(function, arity) CONCAT(ENTRY_, KIND_##function)(function, arity)
#endif

#define PROGRAMS_absent(function, arity, result)
#define ENTRY_absent(function, arity)

#define ENTRY_fentry(function, arity) \
	PROGRAM("fentry") fentry_##function(u64 *ctx) { return on_##function##_entry(FENTRY_ARGS_##arity); }
#define PROGRAMS_fentry(function, arity, result) \
	ENTRY_fentry(function, arity) \
	PROGRAM("fexit") fexit_##function(u64 *ctx) { return on_##function##_return(FEXIT_##result(arity)); }

#define ENTRY_raw_tracepoint(function, arity) \
	PROGRAM("raw_tracepoint") raw_##function(u64 *ctx) { return on_##function##_entry(FENTRY_ARGS_##arity); }

#define ENTRY_kprobe(function, arity) \
	PROGRAM("kprobe") kprobe_##function(struct pt_regs *ctx) { return on_##function##_entry(KPROBE_ARGS_##arity); }
#define PROGRAMS_kprobe(function, arity, result) \
	ENTRY_kprobe(function, arity) \
	PROGRAM("kretprobe") kretprobe_##function(struct pt_regs *ctx) { return on_##function##_return(KRETPROBE_##result); }

#define FENTRY_ARGS_1 ctx[0]
#define FENTRY_ARGS_2 ctx[0], ctx[1]
#define FENTRY_ARGS_3 ctx[0], ctx[1], ctx[2]
#define FENTRY_ARGS_4 ctx[0], ctx[1], ctx[2], ctx[3]
/* For those who follow arguments: whether these keep their types. */
#define FENTRY_ARGS_1_TYPED FENTRY_ARGS_1, 1
#define FENTRY_ARGS_2_TYPED FENTRY_ARGS_2, 1
#define FENTRY_ARGS_3_TYPED FENTRY_ARGS_3, 1
#define KPROBE_ARGS_1_TYPED KPROBE_ARGS_1, 0
#define KPROBE_ARGS_2_TYPED KPROBE_ARGS_2, 0
#define KPROBE_ARGS_3_TYPED KPROBE_ARGS_3, 0
#define FEXIT_RESULT(arity) ctx[arity]
#define FEXIT_NO_RESULT(arity) 0
#define KPROBE_ARGS_1 PT_REGS_PARM1(ctx)
#define KPROBE_ARGS_2 PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx)
#define KPROBE_ARGS_3 PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx)
#define KPROBE_ARGS_4 PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx)
#define KRETPROBE_RESULT PT_REGS_RC(ctx)
#define KRETPROBE_NO_RESULT 0

/* Adds to a sum that programs on other CPUs add to as well. */
#define ADD(sum, value) __sync_fetch_and_add(&(sum), value)

/* Which of 32 doublings `value` has reached: five comparisons, and no loop. */
#define LOG2_OF_2(value, low) ((value) >> ((low) + 1) ? (low) + 1 : (low))
#define LOG2_OF_4(value, low) ((value) >> ((low) + 2) ? LOG2_OF_2(value, (low) + 2) : LOG2_OF_2(value, low))
#define LOG2_OF_8(value, low) ((value) >> ((low) + 4) ? LOG2_OF_4(value, (low) + 4) : LOG2_OF_4(value, low))
#define LOG2_OF_16(value, low) ((value) >> ((low) + 8) ? LOG2_OF_8(value, (low) + 8) : LOG2_OF_8(value, low))
#define LOG2_OF_32(value) ((value) >> 16 ? LOG2_OF_16(value, 16) : LOG2_OF_16(value, 0))

/* Puts what is at an address of the kernel into `value`; leaves it alone when that cannot be read. */
#ifdef TYPED_READS
/*
 * Lockdown in confidentiality mode takes bpf_probe_read_kernel away, and leaves pointers that have a type. READ_TYPE
 * is that of any structure that begins with 8 bytes of numbers. A bad address reads as 0.
 */
#define READ_KERNEL(value, address) (value) = *(typeof(value) *)bpf_rdonly_cast((void *)(address), READ_TYPE)
#else
#define READ_KERNEL(value, address) bpf_probe_read_kernel(&(value), sizeof(value), (void *)(address))
#endif

/* A u32 member at `offset` of the structure at `base`; 0 when the offset is unknown or the read fails. */
static __always_inline u32 read_u32(u64 base, long long offset)
{
	u32 value = 0;

	if (offset != NO_OFFSET)
		READ_KERNEL(value, base + offset);
	return value;
}

/*
 * A u32 member at a known offset of what an argument points to. An fentry argument keeps its type, so the kernel lets it
 * be followed like any pointer: one instruction instead of a helper call of 89.
 */
static __always_inline u32 read_argument_u32(int typed, u64 base, long long offset)
{
	return typed ? *(u32 *)(base + offset) : read_u32(base, offset);
}

static __always_inline u64 read_pointer(u64 base, long long offset)
{
	u64 value = 0;

	if (offset != NO_OFFSET)
		READ_KERNEL(value, base + offset);
	return value;
}

#endif
