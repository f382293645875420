// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import "math/bits"

// SmearedUTC is UTC smeared in one of the ways that a page can hint at, rounded down: the number of SmearingNoonLinear or
// SmearingUTCSLS. A page itself is never smeared, and a smeared clock is UTC except near a leap second, where it takes
// some seconds a little longer or shorter than SI seconds, so that no second repeats and none is missing. To smear as the
// page would like it, give it the reading's SmearingHint.
//
// False where UTC is, and for SmearingStrict and numbers without a meaning.
func (r *Reading) SmearedUTC(smearing SmearingHint) (Timestamp, bool) {
	if smearing != SmearingNoonLinear && smearing != SmearingUTCSLS {
		return Timestamp{}, false
	}
	page := r.page()
	rule, ok := utcRuleOf(&page)
	if !ok {
		return Timestamp{}, false
	}
	smeared, ok := rule.smear(r.instant(), smearing)
	return smeared.floor(), ok
}

// smear is false beyond ±2^63 s.
func (r *utcRule) smear(t instant, smearing SmearingHint) (instant, bool) {
	linear, ok := t.plusSeconds(r.toLinear)
	if !ok || !r.near {
		return linear, ok // without a leap second, before is as after
	}
	start, length := r.stretch(smearing)
	into := instant{linear.sec - start, linear.frac}
	switch {
	case (linear.sec^start)&(linear.sec^into.sec) < 0:
		return instant{}, false
	case into.sec < 0:
		return linear, true
	case into.sec >= length:
		return t.plusSeconds(r.toUTCAfter)
	}
	// Over the whole stretch the clock gains or loses one second, so this share of one by now.
	share, _ := bits.Div64(uint64(into.sec), into.frac, uint64(length))
	if r.inserted {
		frac, borrow := bits.Sub64(into.frac, share, 0)
		into = instant{into.sec - int64(borrow), frac}
	} else {
		frac, carry := bits.Add64(into.frac, share, 0)
		into = instant{into.sec + int64(carry), frac}
	}
	return into.plusSeconds(start)
}

// stretch is the seconds that are stretched or squeezed: the first, in linear UTC, and how many SI seconds they last.
func (r *utcRule) stretch(smearing SmearingHint) (start, length int64) {
	const halfDay = day / 2
	switch {
	case smearing == SmearingNoonLinear && r.inserted:
		return r.month - halfDay, day + 1
	case smearing == SmearingNoonLinear:
		return r.month - halfDay, day - 1
	// The leap second is one of the last thousand, or would have been one of a thousand and one.
	case r.inserted:
		return r.month - 999, 1_000
	}
	return r.month - 1_001, 1_000
}
