// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's inline functions and macros as functions that Rust can call. There is nothing else here.
 */
#include <linux/acpi.h>
#include <linux/device.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <linux/suspend.h>

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

#ifdef CONFIG_ACPI
int vmclock_rust_acpi_install(struct device *dev, vmclock_rust_acpi_handler handler, void *context, void **handle)
{
	*handle = ACPI_HANDLE(dev);
	if (!*handle)
		return -ENXIO;
	if (ACPI_FAILURE(acpi_install_notify_handler(*handle, ACPI_DEVICE_NOTIFY, handler, context)))
		return -ENODEV;
	return 0;
}

void vmclock_rust_acpi_remove(void *handle, vmclock_rust_acpi_handler handler)
{
	acpi_remove_notify_handler(handle, ACPI_DEVICE_NOTIFY, handler);
}
#else
int vmclock_rust_acpi_install(struct device *dev, vmclock_rust_acpi_handler handler, void *context, void **handle)
{
	return -ENXIO;
}

void vmclock_rust_acpi_remove(void *handle, vmclock_rust_acpi_handler handler)
{
}
#endif

int vmclock_rust_register_pm_notifier(struct notifier_block *block)
{
	return register_pm_notifier(block);
}

void vmclock_rust_unregister_pm_notifier(struct notifier_block *block)
{
	unregister_pm_notifier(block);
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
