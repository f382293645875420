// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build linux

package vmclock

import (
	"errors"
	"testing"
	"time"
)

// aheadPage is a page on which true UTC is as the system's clock shows it, but for so many seconds.
func aheadPage(t *testing.T, seconds int64, maxError time.Duration) Snapshot {
	t.Helper()
	realtime, err := narrowest(clockReader(clockRealtime))
	if err != nil {
		t.Fatal(err)
	}
	page := goodPage()
	page.TimeType, page.CounterValue = TimeUTC, realtime.Middle()
	page.TimeSec = uint64(realtime.Time.Seconds - seconds)
	// The period of the page is not the counter's: a bound that grows as fast as the time holds all the same.
	page.PeriodMaxErrorRate, page.TimeMaxErrorNanos = page.PeriodFracSec, uint64(maxError)
	return page
}

func TestACrossTimestampComparesTheSystemsClock(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		const ahead = 5
		clock := open(t, pageFile(t, region(aheadPage(t, ahead, time.Second))), options)
		cross, err := clock.CrossTimestamp()
		if err != nil {
			t.Fatal(err)
		}
		low, high, ok := cross.RealtimeAhead()
		if !ok || low > ahead*time.Second || high < ahead*time.Second || high-low < 2*time.Second {
			t.Fatal(low, high, ok)
		}
		for _, sample := range []Sample{cross.Realtime, cross.MonotonicRaw} {
			if middle := sample.Middle(); sample.Before >= sample.After || middle < sample.Before ||
				middle > sample.After || sample.Time.Nanoseconds < 0 {
				t.Fatalf("%+v", sample)
			}
		}
		if cross.MonotonicRaw.After > cross.Realtime.Before || cross.Reading.Counter() != cross.Realtime.Middle() {
			t.Fatalf("%+v", cross)
		}
	})
}

func TestWithoutBoundsOrUTCNothingIsSaidOfTheSystemsClock(t *testing.T) {
	for _, change := range []func(page *Snapshot){
		func(page *Snapshot) { page.Flags &^= FlagTimeMaxErrorValid },
		func(page *Snapshot) { page.TimeType = TimeMonotonic },
		func(page *Snapshot) { page.TimeMaxErrorNanos = 1 << 63 },
		func(page *Snapshot) { page.TimeSec = 1 << 61 },
	} {
		page := aheadPage(t, 0, time.Second)
		change(&page)
		cross, err := open(t, pageFile(t, region(page)), Options{}).CrossTimestamp()
		if err != nil {
			t.Fatal(err)
		}
		if low, high, ok := cross.RealtimeAhead(); ok {
			t.Fatal(low, high)
		}
	}
	page := goodPage()
	page.ClockStatus = StatusUnreliable
	_, err := open(t, pageFile(t, region(page)), Options{}).CrossTimestamp()
	var noTime *NoTimeError
	if !errors.As(err, &noTime) {
		t.Fatal(err)
	}
}
