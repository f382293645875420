// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Reading is the time at one counter value, with its error bounds and the rest of the page at that moment.
//
// It is a value: copies are independent of the page. The zero Reading is of no page, and its time means nothing.
type Reading struct {
	// Nothing is computed yet: to copy words while the CPU waits for its counter costs next to nothing.
	//
	// The counter, which is stored last, comes first, and the words are odd in number: compilers copy the first by itself
	// and the others by twos, which the CPU can only forward to the copy once they have left its store buffer.
	counter uint64
	// The page's reference: the counter then, and the time.
	refCounter, refSec, refFrac uint64
	// Of the page, undecoded.
	period, periodMax, timeMax, marker, generation uint64
	// The page's word with status, smearing hint, TAI offset, leap indicator and shift; the time type is in place of the
	// padding in it.
	state uint64
	// The page's, without those of fields that it is too short for.
	flags Flags
}

const (
	stateTimeType = 0xff
	statePadding  = 0xffff
)

const flagsMaxError = FlagTimeMaxErrorValid | FlagPeriodMaxErrorValid

// At is the time that the page gives at a value of its counter, on a CPU whose counter is cpu. The error is a
// *NoTimeError.
func (s Snapshot) At(counter uint64, cpu CounterID) (Reading, error) {
	w := s.words()
	var r Reading
	if !r.set(&w, counter, cpu) {
		return Reading{}, noTime(&s, cpu)
	}
	return r, nil
}

// set makes the reading at a counter value; false where there is no time.
func (r *Reading) set(w *words, counter uint64, cpu CounterID) bool {
	timeType := TimeType(w.identity >> 24)
	if w.size < endTimeFrac || CounterID(w.identity>>16) != cpu || cpu == CounterNone ||
		!ClockStatus(w.state>>16).GivesTime() || w.period == 0 || w.state>>56 >= 128 || timeType > TimeMonotonic ||
		w.sec>>63 != 0 {
		return false
	}
	r.counter, r.refCounter, r.refSec, r.refFrac = counter, w.counter, w.sec, w.frac
	r.period, r.periodMax, r.timeMax, r.marker, r.generation = w.period, w.periodMax, w.timeMax, w.marker, w.generation
	r.state = w.state&^statePadding | uint64(timeType)
	r.flags = Flags(w.flags)
	if w.size < endTimeMax {
		r.flags &^= flagsMaxError
	}
	if w.size < endGeneration {
		r.flags &^= FlagVMGenCounterPresent
	}
	_, inRange := r.time()
	return inRange
}

// ticks is how many there are between the reference and the counter, in the nearer direction of a wrapping counter.
func (r *Reading) ticks() (number uint64, earlier bool) {
	number = r.counter - r.refCounter
	if int64(number) < 0 {
		return -number, true
	}
	return number, false
}

// time is the time on the page's own scale; false beyond 2^63 s, which no reading is that a caller gets.
func (r *Reading) time() (instant, bool) {
	ticks, earlier := r.ticks()
	shift := uint8(r.state >> 56)
	if earlier {
		// Rounded down too: away from zero.
		high, low := mulShiftCeil(ticks, r.period, shift)
		frac, borrow := bits.Sub64(r.refFrac, low, 0)
		return instant{int64(r.refSec - high - borrow), frac}, true
	}
	high, low := mulShift(ticks, r.period, shift)
	frac, carry := bits.Add64(r.refFrac, low, 0)
	// Both have 63 bits.
	sec := int64(r.refSec + high + carry)
	return instant{sec, frac}, sec >= 0
}

// instant is the time on the page's own scale.
func (r *Reading) instant() instant {
	t, _ := r.time()
	return t
}

// maxError is the maximum error; false where the page states none.
func (r *Reading) maxError() (errorNanos, bool) {
	if r.flags&flagsMaxError != flagsMaxError {
		return errorNanos{}, false
	}
	ticks, _ := r.ticks()
	high, low := mulShiftCeil(ticks, r.periodMax, uint8(r.state>>56))
	nanos, rest := bits.Mul64(low, nanosPerSec)
	if rest != 0 {
		nanos++ // a part of a second has fewer than 2^30: no overflow
	}
	high, whole := bits.Mul64(high, nanosPerSec)
	sum, carry1 := bits.Add64(whole, nanos, 0)
	sum, carry2 := bits.Add64(sum, r.timeMax, 0)
	return errorNanos{high + carry1 + carry2, sum}, true
}

// page is the part of the page that TAI and UTC take; all else is zero.
func (r *Reading) page() Snapshot {
	w := words{
		size: structureLen, identity: uint32(r.TimeType()) << 24, state: r.state &^ statePadding, sec: r.refSec,
		flags: uint64(r.flags & FlagTAIOffsetValid),
	}
	return w.decode()
}

// Timestamp is the time on the page's own scale, which TimeType names, rounded down.
func (r *Reading) Timestamp() Timestamp {
	return r.instant().floor()
}

// TimeType is the scale of Timestamp.
func (r *Reading) TimeType() TimeType {
	return TimeType(r.state & stateTimeType)
}

// MaxError is the maximum error, rounded up; false where the page states none, or one of more than 292 years.
func (r *Reading) MaxError() (time.Duration, bool) {
	e, known := r.maxError()
	if !known || e.high != 0 || e.low > math.MaxInt64 {
		return 0, false
	}
	return time.Duration(e.low), true
}

// Interval is [earliest, latest] on the page's own scale; false where the page states no maximum error.
func (r *Reading) Interval() (Interval, bool) {
	e, known := r.maxError()
	if !known {
		return Interval{}, false
	}
	return around(r.instant(), e), true
}

// TAI is the time in TAI, rounded down; false on a monotonic page, and on a UTC page without a valid offset.
func (r *Reading) TAI() (Timestamp, bool) {
	t, ok := r.tai()
	return t.floor(), ok
}

// TAIInterval is [earliest, latest] in TAI; false also where TAI is.
func (r *Reading) TAIInterval() (Interval, bool) {
	t, ok := r.tai()
	e, known := r.maxError()
	if !ok || !known {
		return Interval{}, false
	}
	return around(t, e), true
}

func (r *Reading) tai() (instant, bool) {
	switch r.TimeType() {
	case TimeTAI:
		return r.instant(), true
	case TimeUTC:
		page := r.page()
		if offset, ok := page.TAIOffset(); ok {
			return r.instant().plusSeconds(int64(offset))
		}
	}
	return instant{}, false
}

// UTC is the time in UTC, rounded down, also across a leap second that the page announces; false on a monotonic page, and
// on a TAI page without a valid offset.
func (r *Reading) UTC() (UTC, bool) {
	page := r.page()
	rule, ok := utcRuleOf(&page)
	if !ok {
		return UTC{}, false
	}
	return rule.utc(r.instant())
}

// Time is UTC as a time.Time; false where UTC is. During a leap second it repeats the second before: UTC tells the two
// apart.
func (r *Reading) Time() (time.Time, bool) {
	utc, ok := r.UTC()
	if !ok {
		return time.Time{}, false
	}
	return utc.Time(), true
}

// IsBefore tells whether this reading was taken before other, by true time.
//
// Both must have error bounds. Readings of different pages are compared in TAI, and so are readings on either side of a
// restore or a migration: true time is compared, not the counter.
func (r *Reading) IsBefore(other Reading) Certainty {
	ours, theirs, ok := r.comparable(&other)
	if !ok {
		return CannotTell
	}
	return ours.IsBefore(theirs)
}

// comparable is the intervals of two readings on one scale.
func (r *Reading) comparable(other *Reading) (ours, theirs Interval, ok bool) {
	ours, ok = r.TAIInterval()
	theirs, also := other.TAIInterval()
	if ok && also {
		return ours, theirs, true
	}
	ours, ok = r.Interval()
	theirs, also = other.Interval()
	sameScale := r.TimeType() == other.TimeType() && uint8(r.state>>48) == uint8(other.state>>48)
	return ours, theirs, ok && also && sameScale
}

// CertainlyBefore tells whether this reading was certainly taken before other, by true time. False is no answer: it may
// have been.
func (r *Reading) CertainlyBefore(other Reading) bool {
	return r.IsBefore(other) == Yes
}

// Status is synchronized or free-running: the others give no time.
func (r *Reading) Status() ClockStatus {
	return ClockStatus(r.state >> 16)
}

// SmearingHint tells how the page would like the clock to be smeared.
func (r *Reading) SmearingHint() SmearingHint {
	return SmearingHint(r.state >> 24)
}

// Epoch is marker and generation, to compare with those of other readings.
func (r *Reading) Epoch() Epoch {
	if r.flags&FlagVMGenCounterPresent == 0 {
		return Epoch{DisruptionMarker: r.marker}
	}
	return Epoch{r.marker, r.generation, true}
}

// Counter is the value of the CPU's counter at this reading.
func (r *Reading) Counter() uint64 {
	return r.counter
}

// String gives UTC, or else the time on the page's own scale, and the maximum error.
func (r Reading) String() string {
	text := fmt.Sprintf("%s %s", r.TimeType(), r.Timestamp())
	if utc, ok := r.UTC(); ok {
		text = utc.String()
	}
	if e, ok := r.MaxError(); ok {
		return fmt.Sprintf("%s ± %d ns %s", text, e.Nanoseconds(), r.Status())
	}
	return fmt.Sprintf("%s (no error bounds) %s", text, r.Status())
}
