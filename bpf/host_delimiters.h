/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What delimits batches: how a thread learns of a kick, and how it completes a buffer. Part of host.bpf.c, which has
 * find_thread, take_slot and finish_batch.
 */
#ifndef HOST_DELIMITERS_H
#define HOST_DELIMITERS_H

/* include/uapi/linux/kvm.h: _IO(0xAE, 0x80), and three that send an interrupt to the guest */
#define IOCTL_RUN 0xae80
#define IOCTL_IRQ_LINE 0x4008ae61
#define IOCTL_IRQ_LINE_STATUS 0xc008ae67
#define IOCTL_SIGNAL_MSI 0x4020aea5

/* This thread has learnt that a buffer may be waiting. */
static __always_inline int kicked(struct bt_thread *thread, u32 flags)
{
	if (is_open(&thread->batch))
		finish_batch(thread);
	else if (SAMPLED)
		__builtin_memset(&thread->batch, 0, sizeof(thread->batch));
	thread->batch.kick_ns = bpf_ktime_get_ns();
	thread->batch.flags = flags;
	thread->batch.kicked_by = 0;
	return 0;
}

#include "host_eventfds.h"

/* This thread is about to tell the guest that its buffer was used; without a call before that, it is none of ours. */
static __always_inline int completing(struct bt_thread *thread, u32 flags, int typed)
{
	if (typed) /* by fentry: the kernel allows kprobes no timer */
		stop_sampling(thread);
	if (SAMPLED ? !may_be_of_balloon(thread) : !is_open(&thread->batch))
		return 0;
	thread->batch.done_ns = bpf_ktime_get_ns();
	thread->batch.flags |= flags;
	if (SAMPLED) {
		thread->sampled.tid = thread->id;
		thread->sampled.idle_ns = thread->idle_ns;
		thread->idle_ns = thread->batch.done_ns;
	}
	finish_batch(thread);
	return 0;
}

/* The slot of this thread, taken if nobody is at work there. */
static __always_inline struct bt_thread *claim_thread(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_thread *thread = slot_of(id);

	if (HAS_NO_SLOT(thread))
		return 0;
	if (thread->id == id)
		return thread;
	/* Only a call takes a slot from a thread that serves a buffer, or has seen the kick of one. */
	if (!is_traced(id) || is_open(&thread->batch) ||
	    (thread->batch.kick_ns && !(thread->batch.flags & BT_KICK_VCPU)))
		return 0;
	return take_slot(thread, id);
}

/* eventfd_read(iocb, to): the counter's 8 bytes, or an error when nothing was written to it. */
static __always_inline struct bt_thread *on_eventfd_read_return(u64 result)
{
	struct bt_thread *thread;

	if (result != sizeof(u64))
		return 0;
	thread = claim_thread();
	if (thread)
		kicked(thread, BT_KICK_SEEN);
	return thread;
}

/* eventfd_write(file, buffer, count, position) */
static __always_inline int on_eventfd_write_entry(u64 file, int typed)
{
	struct bt_thread *thread = find_thread();

	return thread ? completing(thread, BT_DONE_SEEN, typed) : 0;
}

/* kvm_vcpu_ioctl(file, ioctl, argument): KVM_RUN returns 0 when the guest wants something of the VMM. */
static __always_inline int left_guest(void)
{
	struct bt_thread *thread = claim_thread();

	return thread ? kicked(thread, BT_KICK_SEEN | BT_KICK_VCPU) : 0;
}

static __always_inline int on_kvm_vcpu_ioctl_entry(u64 file, u64 ioctl)
{
	struct bt_thread *thread = claim_thread();

	if (thread)
		thread->in_run = (u32)ioctl == IOCTL_RUN;
	return 0;
}

static __always_inline int on_kvm_vcpu_ioctl_return(u64 result)
{
	struct bt_thread *thread = find_thread();

	if (!thread || !thread->in_run)
		return 0;
	thread->in_run = 0;
	return result ? 0 : left_guest();
}

#include "host_memory_slots.h"

/* kvm_vm_ioctl(file, ioctl, argument) */
static __always_inline int on_kvm_vm_ioctl_entry(u64 file, u64 ioctl)
{
	struct bt_thread *thread;

	if ((u32)ioctl == IOCTL_CHECK_EXTENSION)
		return copy_memory_slots(file);
	thread = find_thread();
	if (!thread)
		return 0;
	switch ((u32)ioctl) {
	case IOCTL_SIGNAL_MSI:
	case IOCTL_IRQ_LINE:
	case IOCTL_IRQ_LINE_STATUS:
		return completing(thread, BT_DONE_SEEN | BT_DONE_IOCTL, 0);
	}
	return 0;
}

#if SAMPLED
/* kvm_send_userspace_msi(kvm, msi), of an ioctl that was seen before */
static __always_inline int on_kvm_send_userspace_msi_entry(u64 kvm, int typed)
{
	struct bt_thread *thread = find_thread();

	if (thread && typed)
		stop_sampling(thread);
	return 0;
}
#endif

/* Only the return of these is of interest; fentry shows the arguments then too. */
#define EVENTFD_READ_fentry \
	PROGRAM("fexit") fexit_eventfd_read(u64 *ctx) \
	{ \
		struct bt_thread *thread = on_eventfd_read_return(ctx[2]); \
\
		if (thread) { \
			kicked_by(thread, *(u64 *)ctx[0]); \
			start_sampling(thread); \
		} \
		return 0; \
	}
#define EVENTFD_READ_kprobe \
	PROGRAM("kretprobe") kretprobe_eventfd_read(struct pt_regs *ctx) { on_eventfd_read_return(PT_REGS_RC(ctx)); return 0; }
#define EVENTFD_READ_absent

#define KVM_VCPU_IOCTL_fentry \
	PROGRAM("fexit") fexit_kvm_vcpu_ioctl(u64 *ctx) { return (u32)ctx[1] == IOCTL_RUN && !ctx[3] ? left_guest() : 0; }
#define KVM_VCPU_IOCTL_kprobe PROGRAMS_kprobe(kvm_vcpu_ioctl, 2, RESULT)
#define KVM_VCPU_IOCTL_absent

#ifdef PREBUILT
EVENTFD_READ_fentry
EVENTFD_READ_kprobe
#else
CONCAT(EVENTFD_READ_, KIND_eventfd_read)
#endif
ENTRY_PROGRAM(eventfd_write, 1_TYPED)
#ifdef PREBUILT
KVM_VCPU_IOCTL_fentry
KVM_VCPU_IOCTL_kprobe
#else
CONCAT(KVM_VCPU_IOCTL_, KIND_kvm_vcpu_ioctl)
#endif
ENTRY_PROGRAM(kvm_vm_ioctl, 2)
#if SAMPLED
ENTRY_PROGRAM(hrtimer_interrupt, 1)
ENTRY_PROGRAM(kvm_send_userspace_msi, 1_TYPED)
ENTRY_raw_tracepoint(kvm_unmap_hva_range, 2)
#endif

#endif
