// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"fmt"
	"syscall"
	"unsafe"
)

// The numbers of linux/time.h.
const (
	clockRealtime     = 0
	clockMonotonicRaw = 4
)

// CrossTimestamp is the page's time beside the system's clocks, all between two readings of the counter.
func (c *Clock) CrossTimestamp() (CrossTimestamp, error) {
	var x CrossTimestamp
	var err error
	if x.MonotonicRaw, err = narrowest(clockReader(clockMonotonicRaw)); err != nil {
		return CrossTimestamp{}, err
	}
	if x.Realtime, err = narrowest(clockReader(clockRealtime)); err != nil {
		return CrossTimestamp{}, err
	}
	if x.Page, err = c.Snapshot(); err != nil {
		return CrossTimestamp{}, err
	}
	if x.Reading, err = x.Page.At(x.Realtime.Middle(), cpuCounter); err != nil {
		return CrossTimestamp{}, err
	}
	return x, nil
}

// clockReader reads one of the system's clocks.
func clockReader(clock uintptr) func() (Timestamp, error) {
	return func() (Timestamp, error) {
		var now syscall.Timespec
		// The kernel writes to now, and keeps no pointer to it.
		_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&now)), 0)
		if errno != 0 {
			return Timestamp{}, fmt.Errorf("cannot read the system's clock %d: %w", clock, errno)
		}
		seconds, nanoseconds := now.Unix()
		return Timestamp{seconds, int32(nanoseconds)}, nil
	}
}
