// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"errors"
	"fmt"
	"strings"
)

// OpenReason tells why a clock could not be opened.
type OpenReason uint8

// The reasons. A missing device is a normal state of a machine.
const (
	OpenIO         OpenReason = iota // the system refused, for another reason
	OpenNoDevice                     // there is no device, and no sign of a VMClock in this machine
	OpenNoFile                       // no publisher has made a page there
	OpenNoDriver                     // the hypervisor offers a VMClock, but the kernel has no driver for it
	OpenPermission                   // it may not be read
	OpenWrongKind                    // it is neither a character device nor a plain file
	OpenNotAPage                     // what is there is not a page
	OpenBusy                         // no consistent copy of the page could be had in the time allowed
)

// OpenError tells why a clock could not be opened, and what to do. Where the system or the page is the cause, it wraps
// that: fs.ErrNotExist, fs.ErrPermission, a *NotAPageError or a *BusyError.
type OpenError struct {
	Path   string
	Reason OpenReason
	Err    error
	detail string // where the VMClock was seen; which kind it is; what was done
}

func (e *OpenError) Error() string {
	switch e.Reason {
	case OpenNoDevice:
		return e.Path + ": no such device, and this machine shows no VMClock in ACPI or its device tree: " +
			"ask the hypervisor's operator for one (`vmclock doctor` finds out more)"
	case OpenNoFile:
		return fmt.Sprintf("%[1]s: no such file: start its publisher (`vmclock serve --page %[1]s`), "+
			"or name the page of another", e.Path)
	case OpenNoDriver:
		return fmt.Sprintf("%s: no such device, although the hypervisor offers a VMClock (%s): "+
			"run `modprobe ptp_vmclock`, or a kernel built with CONFIG_PTP_1588_CLOCK_VMCLOCK (Linux 6.13 or later)",
			e.Path, e.detail)
	case OpenPermission:
		if isForDevices(e.Path) {
			return fmt.Sprintf("%[1]s: permission denied: the device may be readable by root only; a udev rule "+
				"`KERNEL==\"vmclock*\", MODE=\"0444\"` or `chmod a+r %[1]s` lets everyone read it", e.Path)
		}
		return fmt.Sprintf("%[1]s: permission denied: as its owner, let this user enter its folders (`chmod a+x`) "+
			"and read it (`chmod a+r %[1]s`)", e.Path)
	case OpenWrongKind:
		return fmt.Sprintf("%s: is a %s; a VMClock is a character device or a plain file", e.Path, e.detail)
	case OpenNotAPage, OpenBusy:
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s: cannot %s: %v", e.Path, e.detail, e.Err)
}

// Unwrap gives the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// isForDevices tells whether device nodes are at paths like this. What others have there is shared memory.
func isForDevices(path string) bool {
	return strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

// NotAPageError tells what is wrong with something that should be a page.
type NotAPageError struct {
	text string
}

func (e *NotAPageError) Error() string { return e.text }

// BusyError tells that the sequence count stayed odd, or kept changing, for as long as a reader was willing to wait.
type BusyError struct {
	SeqCount uint32 // the last count seen
}

func (e *BusyError) Error() string {
	if e.SeqCount&1 != 0 {
		return fmt.Sprintf("the page stayed in the middle of an update (sequence count %d is odd); "+
			"whoever publishes it may have died: restart the publisher, which repairs the page", e.SeqCount)
	}
	return fmt.Sprintf("the page changed faster than it could be read (sequence count is at %d); "+
		"its publisher updates it without a pause", e.SeqCount)
}

// NoTimeReason tells why a page gives no time.
type NoTimeReason uint8

// The reasons.
const (
	NoTimeSize       NoTimeReason = iota // the size ends before the fields of the time
	NoTimeCounter                        // the page is about another counter than this CPU's, or about none
	NoTimeStatus                         // the status is unknown, initializing or unreliable, or has no meaning
	NoTimePeriodZero                     // the period is zero
	NoTimeShift                          // the shift is 128 or more
	NoTimeType                           // the scale is smeared, which a page may not be, or has no meaning
	NoTimeOutOfRange                     // the time is beyond ±2^63 s of the epoch
)

// NoTimeError tells why a page that is in order gives no time. It may give one later.
type NoTimeError struct {
	Reason NoTimeReason
	// What the page states.
	Size        uint32
	CounterID   CounterID
	CPUCounter  CounterID // this CPU's
	ClockStatus ClockStatus
	Shift       uint8
	TimeType    TimeType
}

// noTime tells which of the conditions for a time does not hold.
func noTime(page *Snapshot, cpu CounterID) *NoTimeError {
	e := &NoTimeError{NoTimeOutOfRange, page.Size, page.CounterID, cpu, page.ClockStatus, page.PeriodShift, page.TimeType}
	switch {
	case page.Size < endTimeFrac:
		e.Reason = NoTimeSize
	case page.CounterID != cpu || cpu == CounterNone:
		e.Reason = NoTimeCounter
	case !page.ClockStatus.GivesTime():
		e.Reason = NoTimeStatus
	case page.PeriodFracSec == 0:
		e.Reason = NoTimePeriodZero
	case page.PeriodShift >= 128:
		e.Reason = NoTimeShift
	case page.TimeType > TimeMonotonic:
		e.Reason = NoTimeType
	}
	return e
}

func (e *NoTimeError) Error() string {
	return "the page gives no time: " + e.reason()
}

func (e *NoTimeError) reason() string {
	switch e.Reason {
	case NoTimeSize:
		return fmt.Sprintf("its size, %d bytes, ends before the time fields; the hypervisor offers events only", e.Size)
	case NoTimeCounter:
		if e.CounterID == CounterNone {
			return "it has no counter; the hypervisor offers events only, so far"
		}
		return fmt.Sprintf("it is about counter %s, this CPU has %s; use a hypervisor built for this machine",
			e.CounterID, e.CPUCounter)
	case NoTimeStatus:
		if e.ClockStatus == StatusInitializing {
			return "the clock's status is initializing; wait until the host has calibrated it"
		}
		return fmt.Sprintf("the clock's status is %s; wait, or ask whoever runs the host for a working clock",
			e.ClockStatus)
	case NoTimePeriodZero:
		return "the counter period is 0; the host has not calibrated it"
	case NoTimeShift:
		return fmt.Sprintf("the period's shift is %d, which must be below 128", e.Shift)
	case NoTimeType:
		return fmt.Sprintf("its time type is %s; only utc, tai and monotonic are allowed", e.TimeType)
	}
	return "its time lies beyond 2^63 seconds; the page is damaged"
}

// Loss tells how a page was lost while it was open.
type Loss uint8

// The ways to lose a page.
const (
	LossRemoved     Loss = iota // the file was removed
	LossReplaced                // another file is at its path
	LossCut                     // the file was cut short
	LossOverwritten             // what the file holds is not a page any more
	LossDevice                  // the driver has lost the device: it was unplugged, or its driver unbound (ENODEV)
)

// VanishedError tells that the page which a clock has open is not the published one any more: what happens to the
// machine from now on is not announced there, and its time is not to be used. Clock.Reopen opens the one that is.
type VanishedError struct {
	Path string // where the clock was opened, as an absolute path
	Loss Loss
	Len  int64 // LossCut: how many bytes are left
	Err  error // LossOverwritten: a *NotAPageError
}

func (e *VanishedError) Error() string {
	const again = "; then open the clock again"
	switch e.Loss {
	case LossRemoved:
		return e.Path + ": the page's file was removed while it was open: start its publisher again" + again
	case LossReplaced:
		return e.Path + ": the page's file was replaced by another while it was open: open the clock again"
	case LossCut:
		return fmt.Sprintf("%s: the page's file was cut to %d bytes while it was open: "+
			"remove it, and start its publisher again%s", e.Path, e.Len, again)
	case LossOverwritten:
		return fmt.Sprintf("%s: the page was overwritten while it was open (%v): "+
			"remove it, and start its publisher again%s", e.Path, e.Err, again)
	}
	return e.Path + ": the device was removed, or its driver unbound, while it was open: bind the driver again" + again
}

// Unwrap gives the cause, where there is one.
func (e *VanishedError) Unwrap() error { return e.Err }

// DisruptedError tells that the machine is not in the epoch any more in which something began: the counter was disrupted
// or the machine restored or cloned meanwhile.
type DisruptedError struct {
	Before, Now Epoch
}

func (e *DisruptedError) Error() string {
	return fmt.Sprintf("the machine was migrated, restored or cloned meanwhile (marker %#x, generation %#x; "+
		"before: %#x, %#x): begin anew",
		e.Now.DisruptionMarker, e.Now.Generation, e.Before.DisruptionMarker, e.Before.Generation)
}

// ErrNoBounds tells that two readings cannot be compared: the page of one states no error bounds, or their scales differ.
var ErrNoBounds = errors.New("the page states no maximum error, or is on another scale: " +
	"ask whoever runs the host for a clock with error bounds")
