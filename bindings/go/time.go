// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

const nanosPerSec = 1_000_000_000

// Timestamp is an instant in whole nanoseconds, on the scale that the function names which gives it. Of numbers beyond
// ±2^63 s it is the nearest within.
type Timestamp struct {
	Seconds     int64 // since the scale's epoch, rounded down
	Nanoseconds int32 // of the second: 0 to 999999999
}

// UnixNano is the number of nanoseconds since the scale's epoch; false where that does not fit, which is before 1677 and
// after 2262.
func (t Timestamp) UnixNano() (int64, bool) {
	high, low := bits.Mul64(uint64(t.Seconds)^1<<63, nanosPerSec)
	low, carry := bits.Add64(low, uint64(t.Nanoseconds), 0)
	high += carry
	// Without the bias of 2^63 s, which are 10^9 / 2 * 2^64 ns.
	high -= nanosPerSec / 2
	return int64(low), int64(high) == int64(low)>>63
}

// Compare is -1 where t is before other, 0 where they are the same, and 1 where t is after other. Both must be on one
// scale.
func (t Timestamp) Compare(other Timestamp) int {
	switch {
	case t.Seconds < other.Seconds || t.Seconds == other.Seconds && t.Nanoseconds < other.Nanoseconds:
		return -1
	case t == other:
		return 0
	}
	return 1
}

// Sub is the time from other to t. What does not fit is the nearest that does, as with time.Time.Sub.
func (t Timestamp) Sub(other Timestamp) time.Duration {
	return time.Unix(t.Seconds, int64(t.Nanoseconds)).Sub(time.Unix(other.Seconds, int64(other.Nanoseconds)))
}

// String gives the seconds with nine decimals.
func (t Timestamp) String() string {
	if t.Seconds >= 0 || t.Nanoseconds == 0 {
		return fmt.Sprintf("%d.%09d", t.Seconds, t.Nanoseconds)
	}
	// The magnitude, which is less than that of the seconds: -1 s and 999999999 ns are -0.000000001.
	return fmt.Sprintf("-%d.%09d", -(t.Seconds + 1), nanosPerSec-t.Nanoseconds)
}

// UTC is an instant in UTC. POSIX has no number of its own for 23:59:60: a flag tells it from 23:59:59.
type UTC struct {
	Timestamp
	LeapSecond bool // whether this is inside 23:59:60, during which the number of 23:59:59 is repeated
}

// Time is the POSIX time: what the system's clock would show were it right. During a leap second it repeats the second
// before.
func (u UTC) Time() time.Time {
	return time.Unix(u.Seconds, int64(u.Nanoseconds)).UTC()
}

// String gives UTC as RFC 3339 has it, with nine decimals; a leap second is 23:59:60.
func (u UTC) String() string {
	if u.LeapSecond {
		return fmt.Sprintf("%s:60.%09dZ", u.Time().Format("2006-01-02T15:04"), u.Nanoseconds)
	}
	return u.Time().Format("2006-01-02T15:04:05.000000000Z")
}

// Interval contains true time. Both ends are on one scale.
type Interval struct {
	Earliest Timestamp // true time is not before this
	Latest   Timestamp // true time is not after this
}

// Contains tells whether t may be the true time.
func (i Interval) Contains(t Timestamp) bool {
	return i.Earliest.Compare(t) <= 0 && t.Compare(i.Latest) <= 0
}

// Width is the time from the earliest to the latest instant; at most 292 years, as a time.Duration is.
func (i Interval) Width() time.Duration {
	return i.Latest.Sub(i.Earliest)
}

// IsBefore tells whether the true time of i is before the true time of other. Both must be on one scale.
func (i Interval) IsBefore(other Interval) Certainty {
	switch {
	case i.Latest.Compare(other.Earliest) < 0:
		return Yes
	case i.Earliest.Compare(other.Latest) >= 0:
		return No
	}
	return CannotTell
}

// CertainlyBefore tells whether the true time of i is certainly before the true time of other.
func (i Interval) CertainlyBefore(other Interval) bool {
	return i.IsBefore(other) == Yes
}

// Certainty is the answer to a question about uncertain times.
type Certainty uint8

// The answers.
const (
	CannotTell Certainty = iota // the intervals overlap, or are not known
	Yes                         // it is so
	No                          // it is not so
)

func (c Certainty) String() string {
	switch c {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "cannot tell"
}

// instant is a time in 2^-64 s since the epoch of some scale.
type instant struct {
	sec  int64
	frac uint64
}

// plusSeconds is false beyond ±2^63 s.
func (t instant) plusSeconds(seconds int64) (instant, bool) {
	sum := t.sec + seconds
	overflows := (t.sec^sum)&(seconds^sum) < 0
	return instant{sum, t.frac}, !overflows
}

// floor rounds down to nanoseconds.
func (t instant) floor() Timestamp {
	nanos, _ := bits.Mul64(t.frac, nanosPerSec)
	return Timestamp{t.sec, int32(nanos)}
}

// errorNanos is a maximum error in ± nanoseconds. It has fewer than 94 bits.
type errorNanos struct {
	high, low uint64
}

// around is everything within an error of t, rounded outwards.
func around(t instant, e errorNanos) Interval {
	nanos, rest := bits.Mul64(t.frac, nanosPerSec)
	// The quotient has 64 bits, as the error has fewer than 94.
	errSec, errNanos := bits.Div64(e.high, e.low, nanosPerSec)
	// Biased, so that the carry tells when ±2^63 s are exceeded.
	biased := uint64(t.sec) ^ 1<<63

	low := int64(nanos) - int64(errNanos)
	borrow := uint64(low) >> 63
	low += int64(borrow) * nanosPerSec
	sec, exceeded := bits.Sub64(biased, errSec, borrow)
	earliest := Timestamp{int64(sec ^ 1<<63), int32(low)}
	if exceeded != 0 {
		earliest = Timestamp{Seconds: math.MinInt64}
	}

	high := nanos + errNanos
	if rest != 0 {
		high++
	}
	var carry uint64
	// Each is less than a second, so that one may be carried, but not two.
	if high >= nanosPerSec {
		high -= nanosPerSec
		carry = 1
	}
	sec, exceeded = bits.Add64(biased, errSec, carry)
	latest := Timestamp{int64(sec ^ 1<<63), int32(high)}
	if exceeded != 0 {
		latest = Timestamp{math.MaxInt64, nanosPerSec - 1}
	}
	return Interval{earliest, latest}
}

// mulShift is floor(a * b / 2^shift) for a shift below 128.
func mulShift(a, b uint64, shift uint8) (high, low uint64) {
	high, low = bits.Mul64(a, b)
	return shiftRight(high, low, shift)
}

// mulShiftCeil is ceil(a * b / 2^shift) for a shift below 128 and a at most 2^63, so that nothing is carried out of 128
// bits.
func mulShiftCeil(a, b uint64, shift uint8) (high, low uint64) {
	high, low = bits.Mul64(a, b)
	ones := uint64(1)<<(shift&63) - 1
	var carry uint64
	if shift < 64 {
		low, carry = bits.Add64(low, ones, 0)
		high += carry
	} else {
		low, carry = bits.Add64(low, math.MaxUint64, 0)
		high, _ = bits.Add64(high, ones, carry)
	}
	return shiftRight(high, low, shift)
}

// shiftRight is high:low >> shift for a shift below 128.
func shiftRight(high, low uint64, shift uint8) (uint64, uint64) {
	within := shift & 63
	if shift < 64 {
		return high >> within, high<<1<<(63^within) | low>>within
	}
	return 0, high >> within
}
