/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the host's BPF program hands to user space: batches and sums. Rules as in balloon_events.h: plain C
 * types, explicit padding, no kernel header; mirrored in balloontrace/format/host_layout.py, compared by a test.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC (bpf_ktime_get_ns).
 */
#ifndef BALLOON_BATCHES_H
#define BALLOON_BATCHES_H

#include "balloon_events.h"

/*
 * BT_MADVISE_DONTNEED and the other kinds of calls, BT_KICK_SEEN and what else is known of how a batch was
 * delimited: definitions from balloontrace/format/vocabulary.py, as in balloon_events.h.
 */
#define BT_CALLS 8 /* size of tables indexed by kind of call */

/* One buffer served: the calls a thread made between a kick and the completion that follows them. */
struct bt_batch {
	bt_u64 kick_ns;            /* the thread had learnt of the kick; 0: not seen */
	bt_u64 first_call_ns;      /* entry of the first call */
	bt_u64 last_return_ns;     /* return of the last call */
	bt_u64 done_ns;            /* about to write the completion; 0: not seen */
	bt_u64 calls_ns;           /* inside the calls, summed */
	bt_u64 madvise_bytes;      /* lengths of madvise, bytes advised by process_madvise; failed calls count 0 */
	bt_u64 fallocate_bytes;    /* by fallocate; VMMs that call both call both for the same memory */
	bt_u32 calls[BT_CALLS];    /* failed ones too, indexed by kind */
	bt_u32 tid;                /* thread, as the kernel's pid */
	bt_u32 errors;             /* calls that failed */
	bt_u32 thp_splits;         /* huge page mappings split inside the calls */
	bt_u16 last_errno;         /* of the last call that failed */
	bt_u16 flags;              /* how it was delimited, e.g. BT_KICK_SEEN */
	bt_u32 kicked_by;          /* a number for the eventfd that was read, from 1; 0: none that is known */
	bt_u32 file;               /* descriptor of the last fallocate, and 1; 0: there was none */
	bt_u64 address;            /* that the first madvise named; 0: the first call was none */
};

/*
 * The same buffer where calls are not traced but sampled: as large, and what both know is in the same place. A sample is
 * taken of a thread each time that it has been on a processor for a while; `samples` of them while it served the buffer.
 */
struct bt_sampled_batch {
	bt_u64 kick_ns;
	bt_u64 first_call_ns;      /* of the first sample inside a call; 0: there is none */
	bt_u64 last_return_ns;     /* of the last one */
	bt_u64 done_ns;
	bt_u64 samples;            /* all, inside calls and outside */
	bt_u64 idle_ns;            /* the thread had completed the buffer before; 0: none that is known */
	bt_u64 discarded_bytes;    /* taken from the guest, as KVM was told; 0 unless that is counted */
	bt_u32 samples_in[BT_CALLS]; /* of them inside calls, indexed by kind */
	bt_u32 tid;
	bt_u32 place;              /* of the eventfd in the table below */
	bt_u32 thp_splits;         /* huge page mappings split while it was served */
	bt_u16 splitting;          /* what KVM is told of next is the split of a huge page */
	bt_u16 flags;
	bt_u32 kicked_by;
	bt_u32 discards;           /* ranges taken from the guest; 0 unless that is counted */
	bt_u64 address;            /* of the madvise that the first sample inside a call was in; 0: it was in another call */
};

/* Sums since the programs were attached, of one kind of call. Calls that returned: the sum of the buckets. */
struct bt_call_sums {
	bt_u64 bytes;              /* of calls that did not fail */
	bt_u64 duration_ns;
	bt_u32 errors;
	bt_u32 no_bytes;           /* calls that did not fail and named no memory */
	bt_u32 freed_nothing;      /* calls that did not fail and by which no page became free; 0 unless COUNT_FREED */
	bt_u32 reserved;           /* padding, 0 */
	bt_u64 freed_bytes;        /* that became free inside the calls, failed ones too; 0 unless COUNT_FREED */
	bt_u32 buckets[BT_BUCKETS];
};

/*
 * A slot for the threads of equal number modulo BT_SLOTS: what is under way, and sums. A VMM's threads have
 * numbers close together, so that two rarely meet.
 */
struct bt_thread {
	bt_u64 id;                 /* process and thread at work here, the former in the upper half */
	bt_u64 entry_ns;           /* of the call it is inside; 0: inside none */
	bt_u64 length;             /* bytes that call names, unless its return tells */
	bt_u32 call;               /* e.g. BT_MADVISE_DONTNEED */
	bt_u32 in_run;             /* inside KVM_RUN */
	union {
		struct bt_batch batch; /* under way once first_call_ns is not 0 */
		struct bt_sampled_batch sampled;
	};
	bt_u64 batches;            /* finished */
	bt_u64 lost;               /* finished, and no room in the ring buffer */
	bt_u64 unmatched_returns;  /* calls that ended without a known beginning */
	bt_u64 overwritten;        /* calls that began inside another one: its return was missed */
	bt_u64 no_state;           /* calls not followed: another thread was at work in this slot */
	bt_u64 thp_splits;         /* huge page mappings split, inside calls or not */
	bt_u64 freed_bytes;        /* by the call under way */
	bt_u64 let_go;             /* single pages that lost their last mapping or their file in it, and are not free yet */
	bt_u64 idle_ns;            /* its last completion; 0 unless calls are sampled */
	struct bt_call_sums sums[BT_CALLS];
};

#define BT_SLOTS 256

struct bt_threads {
	struct bt_thread slots[BT_SLOTS];
};

/*
 * An eventfd that threads have read, known by the address of its file: it kicks one queue of a device. Where calls are
 * sampled, whether that is a balloon's shows when a sample is inside a call; until then no more than some buffers kicked by
 * it are handed over, as they may be a disk's.
 */
#define BT_KICK_TIMES 32
#define BT_PROVEN 0xffffffff

struct bt_eventfd {
	bt_u64 file;               /* 0: this place is free */
	bt_u32 number;
	bt_u32 left;               /* buffers to hand over yet; BT_PROVEN: all */
	bt_u32 tid;                /* that read it last */
	bt_u32 kicks;
	bt_u64 kick_ns[BT_KICK_TIMES]; /* of the last ones, each at its number modulo the size */
};

/* Of all that a process has open; each is in one of BT_EVENTFD_WAYS neighbours. */
#ifdef ALL_PROCESSES
#define BT_EVENTFDS 32
#else
#define BT_EVENTFDS 256
#endif
#define BT_EVENTFD_WAYS 4

struct bt_eventfds {
	struct bt_eventfd at[BT_EVENTFDS];
	bt_u32 last_number;
	bt_u32 reserved;           /* padding, 0 */
};

/* A range of the process's addresses that is its guest's memory, in the kernel's pages. */
struct bt_memory_slot {
	bt_u64 address;
	bt_u64 pages;
	bt_u64 guest_page;
};

#define BT_MEMORY_SLOTS 128

struct bt_memory_slots {
	bt_u64 asked_by;           /* process and thread that want to know; 0: they do */
	bt_u32 count;              /* of all; those beyond the table took the place of others */
	bt_u32 left_out;           /* whether there are more than were counted */
	struct bt_memory_slot at[BT_MEMORY_SLOTS];
};

/* Page faults of the traced process since the programs were attached, by slot as above. */
struct bt_fault_slot {
	bt_u64 id;                 /* process and thread inside a fault, or the last that was */
	bt_u64 entry_ns;           /* of that fault; 0: it has ended */
	bt_u64 faults;             /* after which the page was there */
	bt_u64 fault_ns;           /* inside those, and inside others that failed or were to be tried again */
	bt_u64 huge;               /* of the faults, those answered by a huge page */
	bt_u64 untimed;            /* faults without a time: another thread of this slot was inside one */
	bt_u32 maps_huge;          /* whether the fault under way is one of `huge` */
	bt_u32 reserved;           /* padding, 0 */
};

struct bt_faults {
	struct bt_fault_slot slots[BT_SLOTS];
};

/* What is kept where no batches are, by slot as above: sums over those of which kick and completion were seen. */
struct bt_live_batches {
	bt_u64 delimited;
	bt_u64 served_ns;          /* from kick to completion */
	bt_u64 calls_ns;           /* of that, inside the calls */
	bt_u64 longest_ns;         /* from kick to completion, since the beginning */
};

struct bt_live_slots {
	struct bt_live_batches slots[BT_SLOTS];
};

/* ---- of many processes at once: each has all of the above for itself, with fewer slots ---- */

#define BT_PROCESS_SLOTS 32

struct bt_process {
	bt_u64 calls;              /* of all its threads */
	bt_u32 number;             /* the recorder's for it, from 1: never given twice */
	bt_u32 reserved;           /* padding, 0 */
	struct bt_eventfds eventfds;
	struct bt_live_batches live[BT_PROCESS_SLOTS];
	struct bt_thread slots[BT_PROCESS_SLOTS];
};

/* A batch of one of them. */
struct bt_process_batch {
	struct bt_batch batch;
	bt_u32 process;            /* its number */
	bt_u32 reserved;           /* padding, 0 */
};

/* Which processes are traced, and where each has its own; one of BT_TRACED_WAYS neighbours. */
#define BT_TRACED 4096
#define BT_TRACED_WAYS 4

struct bt_traced_process {
	bt_u32 pid;                /* 0: none */
	bt_u32 place;
};

struct bt_traced_processes {
	struct bt_traced_process at[BT_TRACED];
};

#endif
