/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the driver needs of the kernel beyond the `kernel` crate and its bindings. bindgen reads this file.
 */
#ifndef VMCLOCK_RUST_HELPERS_H
#define VMCLOCK_RUST_HELPERS_H

#include <linux/mm_types.h>
#include <linux/ptp_clock_kernel.h>
#include <linux/workqueue.h>

/* io_remap_pfn_range() is a macro or inline on all architectures. */
int vmclock_rust_io_remap_pfn_range(struct vm_area_struct *vma, unsigned long address, unsigned long pfn,
				    unsigned long size);

/* ACPI_HANDLE() is a macro; NULL where the device is not from ACPI. */
void *vmclock_rust_acpi_handle(struct device *dev);

/* INIT_DELAYED_WORK() is a macro. */
void vmclock_rust_init_delayed_work(struct delayed_work *work, work_func_t function);

/* The numbers of clocks: an ida can be made by a macro only. */
int vmclock_rust_index_get(void);
void vmclock_rust_index_put(unsigned int index);

/*
 * The value of the KVM clock when the TSC was @tsc, by this CPU's copy of its parameters. -EAGAIN where these are younger than that,
 * -ENODEV where the kernel has no KVM clock.
 */
int vmclock_rust_kvm_clock(u64 tsc, u64 *cycles);

#endif
