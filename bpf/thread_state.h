/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What guest.bpf.c keeps of a thread between a call's entry and its return. */
#ifndef THREAD_STATE_H
#define THREAD_STATE_H

/* VIRTIO_BALLOON_ARRAY_PFNS_MAX in the driver: page numbers in its array, and all that one work item moves by it. */
#define ITEM_PAGES 256

/* The driver takes its target up to whole pages of its kernel (towards_target), each UNIT_PAGES of 4 KiB. */
#define GOAL_PAGES(target) (((target) + UNIT_PAGES - 1) & ~(UNIT_PAGES - 1))

#ifndef SPAN_RING_PAGES
/* Of the work item under way, as far as it went; its own sends only, none by compaction or out of memory. */
struct item_state {
	u64 body_ns;          /* in fill_balloon or leak_balloon */
	u64 send_ns;
	u64 bitmap_ns;        /* in set_page_bitmap */
	u64 bitmap_send_ns;   /* of send_ns, inside that */
	u64 sent_ns;          /* the last of these returned; 0: there was none */
	u32 pages;
	u8 sends;             /* whether there were any; the flags below say the same */
	u8 bodies;
	u8 bitmaps;
	u8 unknown;           /* sends of unknown pages */
	u8 inflates;          /* sends on the queue for that */
	u8 windowed;          /* the tell_host under way has send_resp_data inside, and is no send itself */
	u16 padding;
};
#endif

struct thread_state {
	u32 tid;
	u32 open;             /* bit f: inside function f */
	u64 entry_ns[BT_FUNCTIONS];
	u64 work;             /* the work item `device` was read for */
	u64 balloon;          /* struct virtio_balloon of that work item, 0 when unknown */
	u64 config_buffer;    /* where a config read will put its value */
	u64 config_ns;
	u64 wait_ns;          /* of the call that returns */
	u64 run_delay_ns;     /* of the thread, when its work item began */
	u32 config_calls;
	u32 target_pages;
	u32 actual_pages;
	u32 pages;            /* of the send in flight */
	u32 bytes;            /* of that send */
	u16 queue;            /* of that send */
	u16 device;
	u16 passes;           /* of the set_page_bitmap in flight */
	u16 bitmaps;          /* of that call */
	u16 flags;            /* of the device, target and actual: BT_HAS_* */
	u16 send_flags;       /* of the send in flight */
	u16 summed;           /* whether the migration in flight is summed up, with its sends */
	u16 blocks;           /* of the page report in flight */
	union {
		u8 orders[BT_ORDERS]; /* of those blocks, how many of each order */
		struct bt_hint hint;  /* of the report_free_page_func in flight */
	};
	u64 vq;               /* struct virtqueue of the send in flight, 0 when unknown */
	u64 hint_balloon;     /* the struct virtio_balloon of that, 0 when unknown */
	u32 hint_pages;       /* what it had when that began, see page_hinting.h */
	u32 padding;
	/* What the work item under way does while it allocates, see allocation.h. */
	u64 part_ns[BT_PARTS];
	u32 part_count[BT_PARTS];
	u8 in_part;           /* the part under way, plus 1; 0: none */
	u8 parts_kept;        /* whether allocating is over */
	u8 was_preempted;     /* the switch at off_ns, or else the thread went to sleep */
	u8 more_padding;
	u64 part_since_ns;
	u64 off_ns;           /* off the processor since, in no part; 0: on it */
	u64 lock;             /* of the part BT_PART_LOCK */
#ifndef SPAN_RING_PAGES
	struct item_state item;
#endif
};

/* Threads in a work item by their struct task_struct: sched_switch tells of no thread by number. */
#define BT_WATCHED 256 /* a power of two */

struct watched_task {
	u64 task; /* 0: none */
	u32 tid;
	u32 padding;
};

#endif
