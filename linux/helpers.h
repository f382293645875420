/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the driver needs of the kernel beyond the `kernel` crate and its bindings. bindgen reads this file.
 */
#ifndef VMCLOCK_RUST_HELPERS_H
#define VMCLOCK_RUST_HELPERS_H

#include <linux/mm_types.h>
#include <linux/notifier.h>
#include <linux/ptp_clock_kernel.h>

/* io_remap_pfn_range() is a macro or inline on all architectures. */
int vmclock_rust_io_remap_pfn_range(struct vm_area_struct *vma, unsigned long address, unsigned long pfn,
				    unsigned long size);

/*
 * ACPI's notifications of what concerns the device itself: there are neither functions nor handles without CONFIG_ACPI.
 * -ENXIO where the device is not from ACPI.
 */
typedef void (*vmclock_rust_acpi_handler)(void *handle, u32 value, void *context);
int vmclock_rust_acpi_install(struct device *dev, vmclock_rust_acpi_handler handler, void *context, void **handle);
void vmclock_rust_acpi_remove(void *handle, vmclock_rust_acpi_handler handler);

/* Inline functions that do nothing without CONFIG_PM_SLEEP. */
int vmclock_rust_register_pm_notifier(struct notifier_block *block);
void vmclock_rust_unregister_pm_notifier(struct notifier_block *block);

/* The numbers of clocks: an ida can be made by a macro only. */
int vmclock_rust_index_get(void);
void vmclock_rust_index_put(unsigned int index);

/*
 * The value of the KVM clock when the TSC was @tsc, by this CPU's copy of its parameters. -EAGAIN where these are younger than that,
 * -ENODEV where the kernel has no KVM clock.
 */
int vmclock_rust_kvm_clock(u64 tsc, u64 *cycles);

#endif
