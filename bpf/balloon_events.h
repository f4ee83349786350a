/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the BPF programs hand to user space: the single source of truth for every byte of it.
 *
 * Plain C types of fixed width, explicit padding, no kernel header needed: a unit test compiles this
 * file with an ordinary C compiler and compares each offset with the mirror in balloontrace/format/guest_layout.py.
 * Times are nanoseconds of CLOCK_MONOTONIC (bpf_ktime_get_ns); pages are always 4 KiB units, as in
 * the virtio balloon's configuration space, whatever the kernel's PAGE_SIZE is.
 */
#ifndef BALLOON_EVENTS_H
#define BALLOON_EVENTS_H

typedef unsigned char bt_u8;
typedef unsigned short bt_u16;
typedef unsigned int bt_u32;
typedef int bt_s32;
typedef unsigned long long bt_u64;

/*
 * BT_TELL_HOST and the other traced functions, BT_HAS_* (which optional fields of a span were measured; the others
 * are zero and mean nothing), BT_INFLATE_QUEUE: their numbers come from balloontrace/format/vocabulary.py as
 * definitions, as offsets do. Compiled without them, each is an undeclared name.
 */
#define BT_FUNCTIONS 32 /* size of tables indexed by function */
#define BT_PARTS 5 /* of allocating: BT_PART_* */
#define BT_ORDERS 16 /* orders of blocks of pages that are told apart; the kernel has 11 to 14 */

/* What a call of report_free_page_func did, as far as its pages are known (BT_HAS_PAGES). */
struct bt_hint {
	bt_u32 command;        /* id under which it sent blocks; 0: it sent none */
	bt_u32 received;       /* id that the device had given last: 0 to stop, 1 for done */
	bt_u32 returned_pages; /* given back to the guest's allocator, 4 KiB units */
	bt_u32 held_blocks;    /* that the driver still has */
};

/* One completed call of a traced function in the guest. */
struct bt_span {
	bt_u64 start_ns;      /* at entry */
	bt_u64 duration_ns;   /* entry to return */
	bt_u32 tid;           /* thread, as the kernel's pid */
	bt_u16 cpu;           /* where it returned */
	bt_u16 function;      /* e.g. BT_TELL_HOST */
	bt_u16 device;        /* N of virtioN */
	bt_u16 queue;         /* virtqueue index, e.g. BT_INFLATE_QUEUE */
	bt_u32 pages;         /* pages this call moved or named, 4 KiB units */
	bt_s32 result;        /* return value */
	bt_u16 config_calls;  /* times the target was read from configuration space inside this call */
	bt_u16 flags;         /* BT_HAS_* */
	union {
		struct {
			bt_u32 target_pages; /* num_pages as the driver last read it inside this call */
			bt_u32 actual_pages; /* size of the balloon, which it writes to `actual` before it returns */
			bt_u64 config_ns;    /* from entry until the target had been read */
		};
		bt_u8 orders[BT_ORDERS];     /* virtballoon_free_page_report: blocks of each order */
		struct bt_hint hint;         /* report_free_page_func */
	};
	bt_u32 bytes;         /* of response data this call sent */
	union {
		bt_u16 passes;       /* set_page_bitmap: walks over the list of pages, one for each window */
		bt_u16 blocks;       /* virtballoon_free_page_report: of all orders */
	};
	bt_u16 bitmaps;       /* set_page_bitmap: bitmaps that make up a window, at least 1; 0: not measured */
	/*
	 * A send: from entry until the last interrupt for its queue inside it (BT_HAS_ACK). A work item: how
	 * long its thread, ready to run, waited for a processor meanwhile (BT_HAS_RUN_DELAY).
	 */
	bt_u64 wait_ns;
};

/* A piece of what one send carried, as it lay in the driver's memory; a send of more has several, in order. */
#define BT_PAYLOAD_BYTES 1024
#define BT_PAYLOAD_PIECES 32

struct bt_payload {
	bt_u64 start_ns;      /* of the span of the same thread that this was sent by */
	bt_u32 tid;
	bt_u32 total_bytes;   /* what the send carried in all, captured or not */
	bt_u32 offset_bytes;  /* of this piece in it */
	bt_u16 bytes;         /* in this piece */
	bt_u8 function;       /* BT_TELL_HOST: u32 page numbers; BT_SEND_RESP_DATA: records of the page-bitmap patch;
				 BT_VIRTBALLOON_FREE_PAGE_REPORT: struct bt_block */
	bt_u8 padding;
	bt_u8 data[BT_PAYLOAD_BYTES];
};

/*
 * A block of free pages in a report. Pages are told by where their struct page lies, counted from a place that is the same
 * throughout a recording: an address of the kernel's would tell more than which pages are the same.
 */
struct bt_block {
	bt_u64 first_page;    /* in pages of the kernel's size */
	bt_u32 bytes;
	bt_u32 padding;
};

/* Sums since the programs were attached, per function. Read by mapping, never by event. */
struct bt_function_counters {
	bt_u64 entries;            /* entry program ran */
	bt_u64 returns;            /* return program ran */
	bt_u64 unmatched_returns;  /* return without a known entry */
	bt_u64 lost;               /* calls whose span found no room in the ring buffer */
	bt_u64 no_state;           /* entries not followed: no room in the table of threads */
	bt_u64 overwritten;        /* entries that found the previous call of the same thread unreturned */
	bt_u64 duration_ns;        /* over returned calls */
	bt_u64 pages;              /* over returned calls, 4 KiB units */
	bt_u64 summed;             /* returned calls of or inside migrations, without a span each; counted above too */
	bt_u64 summed_ns;          /* over those */
	bt_u64 summed_pages;       /* over those, 4 KiB units: sent, or of migrations moved */
};

/* Where a device stands, as the driver last said. Indexed by virtio index modulo BT_DEVICES. */
struct bt_device_state {
	bt_u32 target_pages;
	bt_u32 actual_pages;
	bt_u64 operations;    /* times actual reached a target it had been away from */
	bt_u64 changed_ns;    /* when target or actual was last written here */
	bt_u32 moving;        /* 1 while actual is away from the target */
	bt_u32 padding;
};

#define BT_DEVICES 8

struct bt_counters {
	struct bt_function_counters functions[BT_FUNCTIONS];
	struct bt_device_state devices[BT_DEVICES];
};

/* Bucket i counts calls of 2^i to 2^(i+1)-1 ns, the first one those of 0 too, the last one all longer ones. */
#define BT_BUCKETS 32

/* Where the work item of a device stands. Indexed as bt_device_state. */
struct bt_live_device {
	bt_u64 entered_ns;    /* the work item under way began, and has read its target; 0: none is under way */
	bt_u64 left_ns;       /* the last one that moved pages ended away from its target; 0: at its target */
	bt_u32 target_pages;  /* as last read, by the work item under way too */
	bt_u16 inflates;      /* that last one did, else it deflated */
	bt_u16 is_short;      /* it got fewer pages than it asked for */
};

/*
 * What is kept where no spans are: sums by stage over the work items that moved pages or tried to, as a report has
 * them, and how long calls took. Read by mapping.
 */
struct bt_live {
	bt_u64 items;
	bt_u64 item_ns;
	bt_u64 allocate_ns;         /* of item_ns: a */
	bt_u64 build_ns;            /* of item_ns: set_page_bitmap less its sends */
	bt_u64 send_ns;             /* of item_ns: b+c+d */
	bt_u64 requeue_ns;          /* between work items on the way to one target */
	bt_u64 sends;               /* of all threads */
	bt_u64 inflated_pages;      /* of sends whose queue and pages are known */
	bt_u64 deflated_pages;      /* the same */
	bt_u64 unknown_sends;       /* sends of which they are not */
	bt_u64 failed_allocations;  /* work items that got fewer pages than they asked for */
	bt_u64 run_delay_ns;        /* of item_ns: ready to run, and waiting for a processor */
	bt_u64 run_delay_items;     /* items of which that is known */
	bt_u64 woken_ns;            /* of sends: from the interrupt that answered to their return */
	bt_u64 woken_sends;         /* sends of which that is known */
	bt_u64 oom_pages;           /* of deflated_pages: given back as the guest was out of memory */
	bt_u64 superseded;          /* operations that another one in the other direction ended */
	struct bt_live_device devices[BT_DEVICES];
	bt_u64 buckets[BT_FUNCTIONS][BT_BUCKETS];
};

#endif
