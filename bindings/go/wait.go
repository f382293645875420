// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"context"
	"runtime"
	"time"
)

const (
	// spinFor is how much of the wait is not slept: a sleep may end this late.
	spinFor = 200 * time.Microsecond
	// longestSleep bounds how late it is noticed that the page vanished or the machine was disrupted.
	longestSleep = 10 * time.Millisecond
)

// WaitUntilAfter waits until true time is certainly after that of r, and returns a reading that is ("commit-wait"):
// whoever reads a clock from then on, on whichever machine, and whose bounds hold, gets a later time. It sleeps, then
// spins for the last part; the wait takes about the sum of both error bounds.
//
// It gives up when the context is done; when the machine is in another epoch than that of r (*DisruptedError); when the
// page vanishes; where the two cannot be compared (ErrNoBounds); and where there is no time (see Now).
func (c *Clock) WaitUntilAfter(ctx context.Context, r Reading) (Reading, error) {
	epoch := r.Epoch()
	for {
		now, err := c.Now()
		if err != nil {
			// A disrupted clock as a rule gives no time for a while: then that is the reason.
			if present, epochErr := c.Epoch(); epochErr == nil && present != epoch {
				err = &DisruptedError{epoch, present}
			}
			return Reading{}, err
		}
		if present := now.Epoch(); present != epoch {
			return Reading{}, &DisruptedError{epoch, present}
		}
		awaited, present, ok := r.comparable(&now)
		if !ok {
			return Reading{}, ErrNoBounds
		}
		if awaited.CertainlyBefore(present) {
			return now, nil
		}
		if err := ctx.Err(); err != nil {
			return Reading{}, err
		}
		rest := awaited.Latest.Sub(present.Earliest) - spinFor
		if rest <= 0 {
			runtime.Gosched()
			continue
		}
		if rest > longestSleep {
			rest = longestSleep
		}
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Reading{}, ctx.Err()
		case <-timer.C:
		}
		if err := c.Check(); err != nil {
			return Reading{}, err
		}
	}
}
