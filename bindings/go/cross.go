// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import "time"

// CrossTimestamp is the page's time beside the system's clocks, taken within a microsecond or two.
type CrossTimestamp struct {
	Page Snapshot
	// Reading is the page's time at the middle of Realtime's sample.
	Reading Reading
	// Realtime is CLOCK_REALTIME: what the system believes UTC to be, as POSIX counts it.
	Realtime Sample
	// MonotonicRaw is CLOCK_MONOTONIC_RAW: the kernel's own count of the counter, never disciplined.
	MonotonicRaw Sample
}

// Sample is a clock read between two readings of the counter.
type Sample struct {
	Before uint64    // the counter before the clock was read
	After  uint64    // the counter after it
	Time   Timestamp // what the clock showed
}

// Middle is the counter half way between.
func (s Sample) Middle() uint64 {
	return s.Before + (s.After-s.Before)/2
}

// RealtimeAhead is between how much and how much CLOCK_REALTIME is ahead of true UTC (negative: behind), counting in the
// page's error bounds and the width of the sample. False where the page gives no UTC or no bounds, and where they are
// more than 146 years apart.
func (x *CrossTimestamp) RealtimeAhead() (low, high time.Duration, ok bool) {
	const largest = 1 << 62
	utc, known := x.Reading.UTC()
	maxError, bounded := x.Reading.MaxError()
	before, errBefore := x.Page.At(x.Realtime.Before, cpuCounter)
	after, errAfter := x.Page.At(x.Realtime.After, cpuCounter)
	if !known || !bounded || errBefore != nil || errAfter != nil {
		return 0, 0, false
	}
	ahead, width := x.Realtime.Time.Sub(utc.Timestamp), after.Timestamp().Sub(before.Timestamp())
	if ahead <= -largest || ahead >= largest || maxError >= largest/2 || width < 0 || width >= largest/2 {
		return 0, 0, false
	}
	// Half the width on either side, and some nanoseconds for the roundings.
	uncertainty := maxError + (width+2)/2 + 2
	return ahead - uncertainty, ahead + uncertainty, true
}

// samples is how many are taken, for the narrowest of them: the others were interrupted.
const samples = 8

// narrowest is the narrowest of some samples of a clock.
func narrowest(read func() (Timestamp, error)) (best Sample, err error) {
	for i := 0; i < samples; i++ {
		sample := Sample{Before: counterOrdered()}
		if sample.Time, err = read(); err != nil {
			return Sample{}, err
		}
		sample.After = counterOrdered()
		if i == 0 || sample.After-sample.Before < best.After-best.Before {
			best = sample
		}
	}
	return best, nil
}
