// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Page faults of the traced process, of two of its threads that share a slot, and of a process that is not traced. Prints
 * faults, their time, those by huge pages and those without a time.
 */
#include "host.bpf.c"

enum { VCPU = 1000, SAME_SLOT = VCPU + BT_SLOTS, OTHER_PROCESS = TGID + 1, RETRY = 0x400, SIGNALLED = 2, MAJOR = 4 };

static void begin(u64 process, u32 tid)
{
	thread_id = process << 32 | tid;
	now_ns += 100;
	on_handle_mm_fault_entry(0, 0, 0, 0);
}

static void end(u64 process, u32 tid, u32 result)
{
	thread_id = process << 32 | tid;
	now_ns += 7;
	on_handle_mm_fault_return(result);
}

static void fault(u64 process, u32 result)
{
	begin(process, VCPU);
	end(process, VCPU, result);
}

int main(void)
{
	struct bt_fault_slot *slot = &faults.slots[VCPU % BT_SLOTS];

	target = TGID;
	fault(TGID, 0);
	fault(TGID, MAJOR);
	fault(TGID, RETRY);
	fault(TGID, SIGNALLED);
	fault(OTHER_PROCESS, 0);
	begin(TGID, VCPU);
	on_do_huge_pmd_anonymous_page_return(0);
	end(TGID, VCPU, 0);
	begin(TGID, VCPU);
	on_do_huge_pmd_anonymous_page_return(0x800);
	on_do_set_pmd_return(0x800);
	end(TGID, VCPU, 0);
	/* A huge page that has to be tried again is none yet. */
	begin(TGID, VCPU);
	on_hugetlb_fault_entry(0);
	end(TGID, VCPU, RETRY);
	begin(TGID, VCPU);
	on_hugetlb_fault_entry(0);
	end(TGID, VCPU, 0);
	begin(TGID, VCPU);
	begin(TGID, SAME_SLOT);
	end(TGID, VCPU, 0);
	end(TGID, SAME_SLOT, 0);
	printf("%llu %llu %llu %llu\n", (unsigned long long)slot->faults, (unsigned long long)slot->fault_ns,
	       (unsigned long long)slot->huge, (unsigned long long)slot->untimed);
	return 0;
}
