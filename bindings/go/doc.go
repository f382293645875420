// SPDX-License-Identifier: MIT OR Apache-2.0

// Package vmclock gives the time inside a virtual machine, with its error bounds, and the machine's events, from a
// VMClock page: memory in which a hypervisor tells its guest how the CPU's counter relates to real time.
//
//	clock, err := vmclock.Open() // $VMCLOCK_PAGE; else /dev/vmclock0 or /run/vmclock/page
//	if err != nil {
//		return err
//	}
//	before, err := clock.Now()
//	if err != nil {
//		return err
//	}
//	commit()
//	after, err := clock.Now()
//	if err != nil {
//		return err
//	}
//	if before.CertainlyBefore(after) {
//		// Whatever the clocks of others show: this order is true.
//	}
//
// Clock.Now makes no system call, takes no lock and allocates nothing. Clock.IsCurrent tells, for some nanoseconds,
// whether the machine was migrated or restored; Events waits for it. Clock.Check tells whether the page is still
// published. Where the page gives no time, so does this package, with the reason (NoTimeError); where it states no error
// bounds, there are none.
//
// The package needs no cgo: the counter is read in assembly, and shared memory through sync/atomic only. It reads the
// clock on Linux, on amd64 and arm64; elsewhere it compiles, and Open fails. Its results are those of the Rust crate
// vmclock to the last bit.
package vmclock
