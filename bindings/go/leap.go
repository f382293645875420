// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import "math"

// A page's TAI offset and leap indicator hold at its reference time. A reading may be later than that, on the other side
// of a leap second that the page only announces: utcRule takes it across.
type utcRule struct {
	toLinear   int64 // from the page's scale to POSIX seconds before the leap second, and as if there were none
	toUTCAfter int64 // from the page's scale to POSIX seconds after the leap second
	// changesAt is the first linear second that is not an ordinary one before the leap: 23:59:60, or the one after
	// 23:59:58.
	changesAt int64
	inserted  bool  // whether there is a leap second near, and it is inserted
	near      bool  // whether there is a leap second near
	month     int64 // the first linear second of the month that it is before, if it were none
}

// utcRuleOf is false where UTC cannot be known: on a monotonic scale, on TAI without a valid offset, or with a leap
// indicator that has no meaning (also "positive" far from a month's end).
func utcRuleOf(page *Snapshot) (utcRule, bool) {
	var offset int64
	switch page.TimeType {
	case TimeUTC:
	case TimeTAI:
		tai, ok := page.TAIOffset()
		if !ok {
			return utcRule{}, false
		}
		offset = -int64(tai)
	default:
		return utcRule{}, false
	}
	if page.TimeSec>>63 != 0 {
		return utcRule{}, false
	}
	// At most 60 s below zero: it does not overflow.
	reference := int64(page.TimeSec) + offset
	switch page.LeapIndicator {
	case LeapNone:
		return utcRule{toLinear: offset, toUTCAfter: offset, changesAt: math.MinInt64}, true
	case LeapPrePositive:
		next := nextMonth(reference)
		return utcRule{offset, offset - 1, next, true, true, next}, true
	case LeapPreNegative:
		next := nextMonth(reference)
		return utcRule{offset, offset + 1, next - 1, false, true, next}, true
	// The offset is already the new one. Times before the month began are not taken back across the leap second.
	case LeapPostPositive:
		return utcRule{offset + 1, offset, math.MinInt64, true, true, thisMonth(reference)}, true
	case LeapPostNegative:
		return utcRule{offset - 1, offset, math.MinInt64, false, true, thisMonth(reference)}, true
	case LeapPositive:
		// Inside 23:59:60. By the old offset the reference shows 00:00:00, by the new one 23:59:59.
		this, next := thisMonth(reference), nextMonth(reference)
		if reference == this {
			return utcRule{offset, offset - 1, this, true, true, this}, true
		}
		if reference != math.MaxInt64 && reference+1 == next {
			return utcRule{offset + 1, offset, next, true, true, next}, true
		}
	}
	return utcRule{}, false
}

// utc is false beyond ±2^63 s.
func (r *utcRule) utc(t instant) (UTC, bool) {
	linear, ok := t.plusSeconds(r.toLinear)
	if !ok {
		return UTC{}, false
	}
	if r.inserted && linear.sec == r.changesAt {
		before, ok := linear.plusSeconds(-1)
		return UTC{before.floor(), true}, ok
	}
	if linear.sec < r.changesAt {
		return UTC{linear.floor(), false}, true
	}
	after, ok := t.plusSeconds(r.toUTCAfter)
	return UTC{after.floor(), false}, ok
}

const (
	day         = 86_400
	daysPerEra  = 146_097 // 400 years
	marchOfZero = 719_468 // days from 0000-03-01 to 1970-01-01
)

// thisMonth is 00:00:00 on the first day of the UTC month of a POSIX second.
func thisMonth(seconds int64) int64 {
	year, month := civil(divFloor(seconds, day))
	return days(year, month) * day
}

// nextMonth is 00:00:00 on the first day of the month after.
func nextMonth(seconds int64) int64 {
	year, month := civil(divFloor(seconds, day))
	if month == 12 {
		return days(year+1, 1) * day
	}
	return days(year, month+1) * day
}

// civil is year and month of a day since 1970-01-01, in the proleptic Gregorian calendar. (The package time wraps around
// for the seconds that a hostile page may have.) Years begin in March here, so that the leap day is their last.
func civil(dayNumber int64) (year, month int64) {
	dayNumber += marchOfZero
	era := divFloor(dayNumber, daysPerEra)
	d := dayNumber - era*daysPerEra
	// 1460 days: four years without the leap day at their end; 36524: a century; 146096: the last day of the era.
	year = (d - d/1_460 + d/36_524 - d/146_096) / 365
	d -= daysBefore(year)
	// From March on, each five months have 153 days.
	month = (d*5 + 2) / 153
	if month < 10 {
		return era*400 + year, month + 3
	}
	return era*400 + year + 1, month - 9
}

// days is the day since 1970-01-01 on which a month begins.
func days(year, month int64) int64 {
	if month > 2 {
		month -= 3
	} else {
		year--
		month += 9
	}
	era := divFloor(year, 400)
	return era*daysPerEra + daysBefore(year-era*400) + (month*153+2)/5 - marchOfZero
}

// daysBefore is how many days there are in the first years (March to February) of an era.
func daysBefore(years int64) int64 {
	return years*365 + years/4 - years/100
}

func divFloor(a, b int64) int64 {
	quotient := a / b
	if a%b < 0 {
		quotient--
	}
	return quotient
}
