// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// Where a clock is looked for if no path is given, in this order: the path in the environment variable PageVariable,
// where that is set and not empty, and nothing else; the first VMClock of Linux; the page of a publisher in this machine.
const (
	PageVariable = "VMCLOCK_PAGE"
	DevicePath   = "/dev/vmclock0"
	PagePath     = "/run/vmclock/page"
)

// defaultMaxWait is that of Linux's driver.
const defaultMaxWait = 100 * time.Millisecond

// Options are ways to open a clock. The zero value has the defaults.
type Options struct {
	// MaxWait is how long a reading waits for an update in progress before it fails with a *BusyError: 100 ms where this
	// is 0, not at all where it is negative.
	MaxWait time.Duration
	// NoMapFiles has plain files read by system calls. Otherwise they are mapped, and a reading is guarded against the
	// file being cut short under the mapping, at the price of some nanoseconds. Devices cannot shrink.
	NoMapFiles bool
	// NoMap has everything read by system calls.
	NoMap bool
}

func (o Options) maxWait() time.Duration {
	switch {
	case o.MaxWait == 0:
		return defaultMaxWait
	case o.MaxWait < 0:
		return 0
	}
	return o.MaxWait
}

// Open opens the default clock: see PageVariable. The error is an *OpenError.
func Open() (*Clock, error) {
	return Options{}.Open()
}

// OpenPath opens the clock at path: a VMClock device, or a plain file with a page in it. The error is an *OpenError.
func OpenPath(path string) (*Clock, error) {
	return Options{}.OpenPath(path)
}

// Open opens the default clock: see PageVariable. The error is an *OpenError.
func (o Options) Open() (*Clock, error) {
	if path := os.Getenv(PageVariable); path != "" {
		return o.OpenPath(path)
	}
	return o.openFirst(DevicePath, PagePath)
}

// openFirst opens the first path at which there is something. Where there is nothing, the error is about the first.
func (o Options) openFirst(first string, others ...string) (*Clock, error) {
	clock, err := o.OpenPath(first)
	for _, path := range others {
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		next, nextErr := o.OpenPath(path)
		if nextErr == nil || !errors.Is(nextErr, fs.ErrNotExist) {
			clock, err = next, nextErr
		}
	}
	return clock, err
}
