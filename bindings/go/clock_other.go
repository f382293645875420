// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build !linux

package vmclock

import (
	"context"
	"errors"
	"time"
)

// Only Linux has VMClocks. Elsewhere programs that use one compile, and Open tells them that there is none.

var errNotLinux = errors.New("only Linux has VMClocks")

// Clock is a clock of a virtual machine. There is none on this system.
type Clock struct{}

// OpenPath fails on this system.
func (o Options) OpenPath(path string) (*Clock, error) {
	return nil, &OpenError{path, OpenIO, errNotLinux, "open it"}
}

// Now fails on this system.
func (c *Clock) Now() (Reading, error) { return Reading{}, errNotLinux }

// Read fails on this system.
func (c *Clock) Read(r *Reading) error { return errNotLinux }

// NowUnordered fails on this system.
func (c *Clock) NowUnordered() (Reading, error) { return Reading{}, errNotLinux }

// Epoch fails on this system.
func (c *Clock) Epoch() (Epoch, error) { return Epoch{}, errNotLinux }

// IsCurrent fails on this system.
func (c *Clock) IsCurrent(known Epoch) (bool, error) { return false, errNotLinux }

// Snapshot fails on this system.
func (c *Clock) Snapshot() (Snapshot, error) { return Snapshot{}, errNotLinux }

// CrossTimestamp fails on this system.
func (c *Clock) CrossTimestamp() (CrossTimestamp, error) { return CrossTimestamp{}, errNotLinux }

// Check fails on this system.
func (c *Clock) Check() error { return errNotLinux }

// Reopen fails on this system.
func (c *Clock) Reopen() (*Clock, error) { return nil, errNotLinux }

// Close does nothing on this system.
func (c *Clock) Close() error { return nil }

// Path is empty on this system.
func (c *Clock) Path() string { return "" }

// IsMapped is false on this system.
func (c *Clock) IsMapped() bool { return false }

// Events fails on this system.
func (c *Clock) Events() (*Events, error) { return nil, errNotLinux }

// Events waits for something to happen to a machine. There is nothing to wait for on this system.
type Events struct {
	Interval  time.Duration
	Refreshes bool
}

// Wait fails on this system.
func (e *Events) Wait(ctx context.Context) (*Notice, error) { return nil, errNotLinux }

// Clock is nil on this system.
func (e *Events) Clock() *Clock { return nil }

// Notified is false on this system.
func (e *Events) Notified() bool { return false }

// Close does nothing on this system.
func (e *Events) Close() error { return nil }
