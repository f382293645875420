// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"os"
	"time"
)

// Where a clock is looked for if no path is given: see DefaultPage.
const (
	PageVariable  = "VMCLOCK_PAGE"      // the environment variable that names a page
	DevicePath    = "/dev/vmclock0"     // where Linux puts the first VMClock
	PublishedPath = "/run/vmclock/page" // where a publisher on this machine puts the page that is meant for everyone
)

// defaultMaxWait is that of Linux's driver.
const defaultMaxWait = 100 * time.Millisecond

// Options are ways to open a clock. The zero value has the defaults.
type Options struct {
	// MaxWait is how long a reading waits for an update in progress before it fails with a *BusyError: 100 ms where this
	// is 0, not at all where it is negative.
	MaxWait time.Duration
	// NoMapFiles has plain files read by system calls. Otherwise they are mapped, and a reading is guarded against the
	// file being cut short under the mapping, at the price of some nanoseconds. Devices cannot shrink. With the race
	// detector (go test -race), plain files are never mapped: it could not be guarded there.
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

// DefaultPage is the page that is meant where none is named: the value of the environment variable PageVariable, if it is
// set and not empty; otherwise the first of DevicePath and PublishedPath that exists, readable or not; otherwise
// DevicePath.
//
// The variable is ignored in a program that has other rights than its user (set-user-ID or set-group-ID).
func DefaultPage() string {
	named := ""
	if os.Getuid() == os.Geteuid() && os.Getgid() == os.Getegid() {
		named = os.Getenv(PageVariable)
	}
	return choose(named, DevicePath, PublishedPath)
}

// choose is the named page, or the first that exists, or the first.
func choose(named string, places ...string) string {
	if named != "" {
		return named
	}
	for _, place := range places {
		if _, err := os.Lstat(place); err == nil {
			return place
		}
	}
	return places[0]
}

// Open opens the default clock: see DefaultPage. The error is an *OpenError.
func Open() (*Clock, error) {
	return Options{}.OpenPath(DefaultPage())
}

// OpenPath opens the clock at path: a VMClock device, or a plain file with a page in it. The error is an *OpenError.
func OpenPath(path string) (*Clock, error) {
	return Options{}.OpenPath(path)
}
