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
// It is a value: copies are independent of the page. The time of the zero Reading is not known.
type Reading struct {
	time    instant
	err     errorNanos
	counter uint64
	// Of the page, undecoded.
	marker, generation, refSec uint64
	// The page's word with status, smearing hint, TAI offset and leap indicator; the padding and the shift in it are
	// replaced by the bits below. Zero where there is no reading.
	state uint64
}

// What a reading keeps in its state in place of the page's padding: the time type, and which fields are present.
const (
	stateTimeType      = 0xff
	stateHasTAIOffset  = 1 << 8
	stateHasGeneration = 1 << 9
	stateOfPage        = 0x00ff_ffff_ffff_0000
)

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
	shift := uint8(w.state >> 56)
	timeType := TimeType(w.identity >> 24)
	if w.size < endTimeFrac || CounterID(w.identity>>16) != cpu || cpu == CounterNone ||
		!ClockStatus(w.state>>16).GivesTime() || w.period == 0 || shift >= 128 || timeType > TimeMonotonic ||
		w.sec>>63 != 0 {
		return false
	}
	// The nearer direction of a wrapping counter.
	ticks := counter - w.counter
	var sec, frac uint64
	if int64(ticks) >= 0 {
		high, low := mulShift(ticks, w.period, shift)
		var carry uint64
		frac, carry = bits.Add64(w.frac, low, 0)
		// Both have 63 bits.
		sec = w.sec + high + carry
		if sec>>63 != 0 {
			return false
		}
	} else {
		// Rounded down too: away from zero.
		ticks = -ticks
		high, low := mulShiftCeil(ticks, w.period, shift)
		var borrow uint64
		frac, borrow = bits.Sub64(w.frac, low, 0)
		sec = w.sec - high - borrow
	}
	r.err = unknownError
	const bothMax = FlagTimeMaxErrorValid | FlagPeriodMaxErrorValid
	if Flags(w.flags)&bothMax == bothMax && w.size >= endTimeMax {
		r.err = w.maxError(ticks, shift)
	}
	state := w.state&stateOfPage | uint64(timeType)
	if Flags(w.flags)&FlagTAIOffsetValid != 0 {
		state |= stateHasTAIOffset
	}
	if Flags(w.flags)&FlagVMGenCounterPresent != 0 && w.size >= endGeneration {
		state |= stateHasGeneration
	}
	r.time = instant{int64(sec), frac}
	r.counter, r.marker, r.generation, r.refSec, r.state = counter, w.marker, w.generation, w.sec, state
	return true
}

// maxError is the maximum error so many ticks from the reference.
func (w *words) maxError(ticks uint64, shift uint8) errorNanos {
	high, low := mulShiftCeil(ticks, w.periodMax, shift)
	nanos, rest := bits.Mul64(low, nanosPerSec)
	if rest != 0 {
		nanos++ // a part of a second has fewer than 2^30: no overflow
	}
	high, whole := bits.Mul64(high, nanosPerSec)
	sum, carry1 := bits.Add64(whole, nanos, 0)
	sum, carry2 := bits.Add64(sum, w.timeMax, 0)
	return errorNanos{high + carry1 + carry2, sum}
}

// page is the part of the page that the reading keeps; all else is zero.
func (r *Reading) page() Snapshot {
	w := words{
		size: structureLen, identity: uint32(r.TimeType()) << 24, marker: r.marker, state: r.state & stateOfPage,
		sec: r.refSec, generation: r.generation,
	}
	if r.state&stateHasTAIOffset != 0 {
		w.flags |= uint64(FlagTAIOffsetValid)
	}
	if r.state&stateHasGeneration != 0 {
		w.flags |= uint64(FlagVMGenCounterPresent)
	}
	return w.decode()
}

// Timestamp is the time on the page's own scale, which TimeType names, rounded down.
func (r Reading) Timestamp() Timestamp {
	return r.time.floor()
}

// TimeType is the scale of Timestamp.
func (r Reading) TimeType() TimeType {
	return TimeType(r.state & stateTimeType)
}

// MaxError is the maximum error, rounded up; false where the page states none, or one of more than 292 years.
func (r Reading) MaxError() (time.Duration, bool) {
	if r.err.high != 0 || r.err.low > math.MaxInt64 {
		return 0, false
	}
	return time.Duration(r.err.low), true
}

// Interval is [earliest, latest] on the page's own scale; false where the page states no maximum error.
func (r Reading) Interval() (Interval, bool) {
	if !r.err.known() {
		return Interval{}, false
	}
	return around(r.time, r.err), true
}

// TAI is the time in TAI, rounded down; false on a monotonic page, and on a UTC page without a valid offset.
func (r Reading) TAI() (Timestamp, bool) {
	t, ok := r.tai()
	return t.floor(), ok
}

// TAIInterval is [earliest, latest] in TAI; false also where TAI is.
func (r Reading) TAIInterval() (Interval, bool) {
	t, ok := r.tai()
	if !ok || !r.err.known() {
		return Interval{}, false
	}
	return around(t, r.err), true
}

func (r *Reading) tai() (instant, bool) {
	switch r.TimeType() {
	case TimeTAI:
		return r.time, true
	case TimeUTC:
		page := r.page()
		if offset, ok := page.TAIOffset(); ok {
			return r.time.plusSeconds(int64(offset))
		}
	}
	return instant{}, false
}

// UTC is the time in UTC, rounded down, also across a leap second that the page announces; false on a monotonic page, and
// on a TAI page without a valid offset.
func (r Reading) UTC() (UTC, bool) {
	page := r.page()
	rule, ok := utcRuleOf(&page)
	if !ok {
		return UTC{}, false
	}
	return rule.utc(r.time)
}

// Time is UTC as a time.Time; false where UTC is. During a leap second it repeats the second before: UTC tells the two
// apart.
func (r Reading) Time() (time.Time, bool) {
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
func (r Reading) IsBefore(other Reading) Certainty {
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
func (r Reading) CertainlyBefore(other Reading) bool {
	return r.IsBefore(other) == Yes
}

// Status is synchronized or free-running: the others give no time.
func (r Reading) Status() ClockStatus {
	return ClockStatus(r.state >> 16)
}

// SmearingHint tells how the page would like the clock to be smeared.
func (r Reading) SmearingHint() SmearingHint {
	return SmearingHint(r.state >> 24)
}

// Epoch is marker and generation, to compare with those of other readings.
func (r Reading) Epoch() Epoch {
	if r.state&stateHasGeneration == 0 {
		return Epoch{DisruptionMarker: r.marker}
	}
	return Epoch{r.marker, r.generation, true}
}

// Counter is the value of the CPU's counter at this reading.
func (r Reading) Counter() uint64 {
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
