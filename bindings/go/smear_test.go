// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"math/big"
	"math/rand"
	"testing"
)

// The first second of 2017, before which one was inserted (and, for tests, deleted).
const newYear = 1_483_228_800

// leapPage gives times from its reference on, one for each tick of 2^-32 s: UTC half a minute before the year's end, or
// half a minute after it began.
func leapPage(indicator LeapIndicator, reference uint64) Snapshot {
	return Snapshot{
		Magic: magic, Size: 4096, Version: version, CounterID: CounterX86TSC, TimeType: TimeUTC,
		ClockStatus: StatusSynchronized, LeapIndicator: indicator, PeriodFracSec: 1 << 63, PeriodShift: 31,
		TimeSec: reference,
	}
}

// oracleSmear is smeared UTC, in the words of the two definitions, at so many 2^-32 s after the year's end, counted as if
// there were no leap second.
func oracleSmear(after int64, inserted, noonLinear bool) Timestamp {
	start, length := big.NewInt(newYear-999), int64(1_000)
	leap := int64(1)
	switch {
	case noonLinear && inserted:
		start, length = big.NewInt(newYear-43_200), 86_401
	case noonLinear:
		start, length, leap = big.NewInt(newYear-43_200), 86_399, -1
	case !inserted:
		start, leap = big.NewInt(newYear-1_001), -1
	}
	linear := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(newYear), 32), big.NewInt(after))
	into := new(big.Int).Sub(linear, new(big.Int).Lsh(start, 32))
	// In 2^-32/length s.
	smeared := new(big.Int).Mul(linear, big.NewInt(length))
	end := new(big.Int).Lsh(big.NewInt(length), 32)
	switch {
	case into.Sign() < 0:
	case into.Cmp(end) >= 0:
		smeared.Sub(smeared, new(big.Int).Mul(big.NewInt(leap), end))
	default:
		smeared.Sub(smeared, new(big.Int).Mul(big.NewInt(leap), into))
	}
	nanos := divide(smeared.Mul(smeared, billion), new(big.Int).Lsh(big.NewInt(length), 32))
	return clamped(nanos)
}

func TestSmearedUTCIsAsDefined(t *testing.T) {
	random := rand.New(rand.NewSource(5))
	for i := 0; i < 20_000; i++ {
		// Up to a day and a half from the year's end; half of them near the last thousand seconds.
		after := random.Int63n(3*86_400<<32) - 3*86_400<<31
		if i%2 == 0 {
			after = random.Int63n(3_000<<32) - 2_000<<32
		}
		for _, c := range []struct {
			indicator LeapIndicator
			inserted  bool
			reference int64 // as UTC counts it, from the year's end
			linear    int64 // and as if there were no leap second
		}{
			{LeapPrePositive, true, -30, -30},
			{LeapPreNegative, false, -30, -30},
			{LeapPostPositive, true, 30, 31},
			{LeapPostNegative, false, 30, 29},
		} {
			page := leapPage(c.indicator, uint64(newYear+c.reference))
			reading, err := page.At(uint64(after-c.linear<<32), CounterX86TSC)
			if err != nil {
				t.Fatal(err)
			}
			for _, smearing := range []SmearingHint{SmearingNoonLinear, SmearingUTCSLS} {
				want := oracleSmear(after, c.inserted, smearing == SmearingNoonLinear)
				found, ok := reading.SmearedUTC(smearing)
				// The exact share is rounded down before it is subtracted: up to 2^-64 s later, or earlier.
				if apart := found.Sub(want); !ok || apart < -1 || apart > 1 {
					t.Fatalf("%v, %v, %d/2^32 s: %v instead of %v", c.indicator, smearing, after, found, want)
				}
			}
		}
	}
}

func TestHalfWayThroughASmearIsHalfASecond(t *testing.T) {
	page := leapPage(LeapPrePositive, newYear-30)
	reading, err := page.At(30<<32, CounterX86TSC)
	if err != nil {
		t.Fatal(err)
	}
	// As in the documentation of the Rust crate.
	if smeared, ok := reading.SmearedUTC(SmearingNoonLinear); !ok || smeared != (Timestamp{newYear - 1, 500_005_786}) {
		t.Fatal(smeared, ok)
	}
	if smeared, ok := reading.SmearedUTC(SmearingUTCSLS); !ok || smeared != (Timestamp{newYear - 1, 1_000_000}) {
		t.Fatal(smeared, ok)
	}
}

func TestWhereThereIsNothingToSmear(t *testing.T) {
	page := leapPage(LeapNone, newYear)
	reading, err := page.At(7<<32, CounterX86TSC)
	if err != nil {
		t.Fatal(err)
	}
	if smeared, ok := reading.SmearedUTC(SmearingUTCSLS); !ok || smeared.Seconds != newYear+7 {
		t.Fatal(smeared, ok)
	}
	for _, smearing := range []SmearingHint{SmearingStrict, 3, 255} {
		if smeared, ok := reading.SmearedUTC(smearing); ok {
			t.Fatal(smearing, smeared)
		}
	}
	page.TimeType = TimeMonotonic
	if reading, err = page.At(7<<32, CounterX86TSC); err != nil {
		t.Fatal(err)
	}
	if smeared, ok := reading.SmearedUTC(SmearingUTCSLS); ok {
		t.Fatal(smeared)
	}
}
