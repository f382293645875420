// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's inline functions and macros as functions that Rust can call. There is nothing else here.
 */
#include <linux/acpi.h>
#include <linux/device.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/preempt.h>

#include "helpers.h"

#if defined(CONFIG_X86) && defined(CONFIG_KVM_GUEST)
#include <asm/pvclock.h>
#include <asm/kvmclock.h>
#endif

int vmclock_rust_io_remap_pfn_range(struct vm_area_struct *vma, unsigned long address, unsigned long pfn,
				    unsigned long size)
{
	return io_remap_pfn_range(vma, address, pfn, size, vma->vm_page_prot);
}

void *vmclock_rust_acpi_handle(struct device *dev)
{
	return ACPI_HANDLE(dev);
}

void vmclock_rust_init_delayed_work(struct delayed_work *work, work_func_t function)
{
	INIT_DELAYED_WORK(work, function);
}

static DEFINE_IDA(indices);

int vmclock_rust_index_get(void)
{
	return ida_alloc(&indices, GFP_KERNEL);
}

void vmclock_rust_index_put(unsigned int index)
{
	ida_free(&indices, index);
}

int vmclock_rust_kvm_clock(u64 tsc, u64 *cycles)
{
#if defined(CONFIG_X86) && defined(CONFIG_KVM_GUEST)
	struct pvclock_vcpu_time_info *info;
	unsigned int version;
	bool young;

	/* The copy is per CPU: stay on this one. */
	preempt_disable_notrace();
	info = this_cpu_pvti();
	if (!info) {
		preempt_enable_notrace();
		return -ENODEV;
	}
	do {
		version = pvclock_read_begin(info);
		/* Their difference is an unsigned one in what follows. */
		young = (s64)(tsc - info->tsc_timestamp) < 0;
		*cycles = __pvclock_read_cycles(info, tsc);
	} while (pvclock_read_retry(info, version));
	preempt_enable_notrace();
	return young ? -EAGAIN : 0;
#else
	return -ENODEV;
#endif
}
