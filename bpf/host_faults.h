/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page faults of the traced process, in sums: what the memory costs that it takes back. Part of host.bpf.c, which has
 * is_traced.
 *
 * handle_mm_fault runs for faults of its own and for those that KVM has on behalf of the guest, in the thread of a vCPU. Other
 * processes leave after one comparison. Threads of one slot may be inside a fault at the same time: then one is not timed.
 */
#ifndef HOST_FAULTS_H
#define HOST_FAULTS_H

SHARED(struct bt_faults, faults);

/* include/linux/mm_types.h, enum vm_fault_reason: to be tried again, and the reasons why there is no page */
#define FAULT_RETRY 0x400
#define FAULT_ERRORS 0x873

static __always_inline struct bt_fault_slot *fault_slot_of(u64 id)
{
	struct bt_fault_slot *slot = &VALUE(struct bt_faults, faults)->slots[id % BT_SLOTS];

	ONE_REGISTER(slot);
	return slot;
}

/* handle_mm_fault(vma, address, flags, regs) */
static __always_inline int begin_fault(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_fault_slot *slot;

	if (!is_traced(id))
		return 0;
	slot = fault_slot_of(id);
	slot->id = id;
	slot->maps_huge = 0;
	slot->entry_ns = bpf_ktime_get_ns();
	return 0;
}

/* One that is to be tried again took time, and is no fault of its own. */
static __always_inline int end_fault(u32 result)
{
	u64 id = bpf_get_current_pid_tgid();
	struct bt_fault_slot *slot;
	u64 now_ns;

	if (!is_traced(id))
		return 0;
	now_ns = bpf_ktime_get_ns();
	slot = fault_slot_of(id);
	if (slot->id == id && slot->entry_ns) {
		ADD(slot->fault_ns, now_ns - slot->entry_ns);
		slot->entry_ns = 0;
		if (!(result & (FAULT_RETRY | FAULT_ERRORS)) && slot->maps_huge)
			ADD(slot->huge, 1);
	} else {
		ADD(slot->untimed, 1);
	}
	if (!(result & (FAULT_RETRY | FAULT_ERRORS)))
		ADD(slot->faults, 1);
	return 0;
}

/* The fault under way is answered by a huge page. */
static __always_inline int maps_huge_page(void)
{
	u64 id = bpf_get_current_pid_tgid();

	if (is_traced(id) && fault_slot_of(id)->id == id)
		fault_slot_of(id)->maps_huge = 1;
	return 0;
}

#define on_handle_mm_fault_entry(...) begin_fault()
#define on_handle_mm_fault_return(result) end_fault(result)
PROGRAMS(handle_mm_fault, 4, RESULT)

/* do_huge_pmd_anonymous_page(vmf), do_set_pmd(vmf, ...) for memory of files: 0 if one was mapped */
#define on_do_huge_pmd_anonymous_page_entry(...) 0
#define on_do_huge_pmd_anonymous_page_return(result) ((u32)(result) ? 0 : maps_huge_page())
PROGRAMS(do_huge_pmd_anonymous_page, 1, RESULT)

/* Its second argument became the third in some kernel, so that fentry does not tell where the result is. */
#define on_do_set_pmd_entry(...) 0
#define on_do_set_pmd_return(result) ((u32)(result) ? 0 : maps_huge_page())
PROGRAMS(do_set_pmd, 2, RESULT)

/* hugetlb_fault(mm, vma, address, flags) */
#define on_hugetlb_fault_entry(...) maps_huge_page()
ENTRY_PROGRAM(hugetlb_fault, 1)

#endif
