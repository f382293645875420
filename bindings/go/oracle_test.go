// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/big"
	"math/rand"
	"testing"
	"time"
)

// The oracle computes with numbers that cannot overflow, in the words of docs/page-protocol.md.

func big64(word uint64) *big.Int { return new(big.Int).SetUint64(word) }

func power(exponent uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), exponent) }

// divide rounds down.
func divide(a, b *big.Int) *big.Int {
	quotient, _ := new(big.Int).DivMod(a, b, new(big.Int))
	return quotient
}

// divideUp rounds up.
func divideUp(a, b *big.Int) *big.Int {
	quotient := divide(new(big.Int).Neg(a), b)
	return quotient.Neg(quotient)
}

var billion = big.NewInt(nanosPerSec)

// clamped is the timestamp of so many nanoseconds, or the nearest within ±2^63 s.
func clamped(nanos *big.Int) Timestamp {
	seconds := divide(nanos, billion)
	switch {
	case seconds.IsInt64():
		rest := new(big.Int).Sub(nanos, new(big.Int).Mul(seconds, billion))
		return Timestamp{seconds.Int64(), int32(rest.Int64())}
	case nanos.Sign() < 0:
		return Timestamp{Seconds: math.MinInt64}
	}
	return Timestamp{math.MaxInt64, nanosPerSec - 1}
}

// oracleTime is the page's time in 2^-64 s, and its error in nanoseconds; nil where there is none.
func oracleTime(page *Snapshot, counter uint64) (raw, maxError *big.Int) {
	ticks := big.NewInt(int64(counter - page.CounterValue))
	elapsed := divide(new(big.Int).Mul(ticks, big64(page.PeriodFracSec)), power(uint(page.PeriodShift)))
	raw = new(big.Int).Add(new(big.Int).Lsh(big64(page.TimeSec), 64), big64(page.TimeFracSec))
	raw.Add(raw, elapsed)
	if raw.Cmp(power(127)) >= 0 {
		return nil, nil
	}
	if page.Flags&(FlagTimeMaxErrorValid|FlagPeriodMaxErrorValid) != FlagTimeMaxErrorValid|FlagPeriodMaxErrorValid ||
		page.Size < endTimeMax {
		return raw, nil
	}
	span := new(big.Int).Mul(ticks.Abs(ticks), big64(page.PeriodMaxErrorRate))
	span = divideUp(span, power(uint(page.PeriodShift)))
	maxError = divideUp(new(big.Int).Mul(span, billion), power(64))
	return raw, maxError.Add(maxError, big64(page.TimeMaxErrorNanos))
}

func checkAgainstOracle(t *testing.T, page Snapshot, counter uint64) (gaveTime bool) {
	t.Helper()
	allowed := page.Size >= endTimeFrac && page.CounterID == CounterX86TSC && page.ClockStatus.GivesTime() &&
		page.PeriodFracSec != 0 && page.PeriodShift < 128 && page.TimeType <= TimeMonotonic && page.TimeSec < 1<<63
	reading, err := page.At(counter, CounterX86TSC)
	var raw, maxError *big.Int
	if allowed {
		raw, maxError = oracleTime(&page, counter)
	}
	if (err == nil) != (raw != nil) {
		t.Fatalf("%+v at %d: %v", page, counter, err)
	}
	if err != nil {
		if err.Error() == "" {
			t.Fatal("no reason")
		}
		return false
	}
	scaled := new(big.Int).Mul(raw, billion)
	if found, want := reading.Timestamp(), clamped(divide(scaled, power(64))); found != want {
		t.Fatalf("%+v at %d: %v instead of %v", page, counter, found, want)
	}
	interval, ok := reading.Interval()
	if ok != (maxError != nil) {
		t.Fatalf("%+v at %d: bounds %v", page, counter, ok)
	}
	if ok {
		earliest := clamped(new(big.Int).Sub(divide(scaled, power(64)), maxError))
		latest := clamped(new(big.Int).Add(divideUp(scaled, power(64)), maxError))
		if want := (Interval{earliest, latest}); interval != want {
			t.Fatalf("%+v at %d: %v instead of %v", page, counter, interval, want)
		}
		e, fits := reading.MaxError()
		if fits != maxError.IsInt64() || fits && e.Nanoseconds() != maxError.Int64() {
			t.Fatalf("%+v at %d: ± %v instead of %v", page, counter, e, maxError)
		}
	}
	exerciseOracle(t, reading)
	return true
}

func exerciseOracle(t *testing.T, reading Reading) {
	t.Helper()
	stamp := reading.Timestamp()
	nanos := new(big.Int).Mul(big.NewInt(stamp.Seconds), billion)
	nanos.Add(nanos, big.NewInt(int64(stamp.Nanoseconds)))
	unix, fits := stamp.UnixNano()
	if fits != nanos.IsInt64() || fits && unix != nanos.Int64() {
		t.Fatalf("%v is %d, %v", stamp, unix, fits)
	}
	_ = reading.String()
	_ = reading.IsBefore(reading)
	if utc, ok := reading.UTC(); ok {
		if tai, ok := reading.TAI(); ok && tai.Seconds > math.MinInt64+100 && tai.Seconds < math.MaxInt64-100 {
			// At most the largest TAI-UTC and a leap second apart.
			if apart := tai.Seconds - utc.Seconds; apart < 9 || apart > 61 || tai.Nanoseconds != utc.Nanoseconds {
				t.Fatalf("TAI %v, UTC %v", tai, utc)
			}
		}
	}
}

// pageOf makes a page of random bytes that gives time more often than not.
func pageOf(random *rand.Rand) (Snapshot, uint64) {
	var bytes [structureLen]byte
	random.Read(bytes[:])
	page := decode(&bytes)
	page.Magic, page.Version, page.Size, page.SeqCount = magic, version, 4096, 0
	page.CounterID, page.TimeType = CounterX86TSC, TimeType(random.Intn(3))
	page.ClockStatus = ClockStatus(2 + random.Intn(2))
	page.PeriodShift = uint8(random.Intn(128))
	page.LeapIndicator = LeapIndicator(random.Intn(7))
	page.TAIOffsetSec = int16(random.Intn(130) - 65)
	counter := random.Uint64()
	if random.Intn(2) == 0 {
		page.TimeSec >>= 1 + random.Intn(40)
		counter = page.CounterValue + uint64(random.Int63n(1<<50)) - 1<<49
	}
	if random.Intn(8) == 0 {
		page.Size = uint32(random.Intn(structureLen + 1))
	}
	return page.clipped(), counter
}

func TestAgainstNumbersThatCannotOverflow(t *testing.T) {
	random := rand.New(rand.NewSource(2))
	gaveTime := 0
	for i := 0; i < 30_000; i++ {
		if page, counter := pageOf(random); checkAgainstOracle(t, page, counter) {
			gaveTime++
		}
	}
	if gaveTime < 10_000 {
		t.Fatalf("only %d of the pages gave time: the test tests nothing", gaveTime)
	}
}

func FuzzPage(f *testing.F) {
	for _, v := range readVectors(f) {
		page, err := hex.DecodeString(v.Page)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(page, v.Counter)
	}
	f.Fuzz(func(t *testing.T, bytes []byte, counter uint64) {
		page, err := ParseSnapshot(bytes)
		if err != nil {
			return
		}
		checkAgainstOracle(t, page, counter)
		// Any two pages may be compared.
		reversed := make([]byte, len(bytes))
		for i, b := range bytes {
			reversed[len(bytes)-1-i] = b
		}
		if len(bytes) >= minRegionLen {
			copy(reversed, bytes[:minRegionLen])
			binary.LittleEndian.PutUint32(reversed[12:], 2)
		}
		if other, err := ParseSnapshot(reversed); err == nil {
			changes := Changes{page, other}
			for _, kind := range changes.Kinds() {
				_ = changes.Describe(kind)
			}
		}
	})
}

// The fast way of a reading gives what the other gives, or leaves it to that.
func TestTheFastWayAndTheOtherAgree(t *testing.T) {
	if cpuCounter == CounterNone {
		t.Skip("no VMClock is about this CPU's counter")
	}
	random := rand.New(rand.NewSource(3))
	fast := 0
	for i := 0; i < 30_000; i++ {
		page, _ := pageOf(random)
		page.CounterID = cpuCounter
		page.CounterValue = counterOrdered() - uint64(random.Int63())>>random.Intn(63)
		w := page.words()
		shared := &sharedPage{
			magic: le32(w.magic), size: le32(w.size), identity: le32(w.identity), seq: le32(w.seq),
			words: [12]uint64{
				le64(w.marker), le64(w.flags), le64(w.state), le64(w.counter), le64(w.period), le64(w.periodEst),
				le64(w.periodMax), le64(w.sec), le64(w.frac), le64(w.timeEst), le64(w.timeMax), le64(w.generation),
			},
		}
		var reading Reading
		if !shared.read(&reading, i%2 == 0, i%4 < 2) {
			continue
		}
		fast++
		if other, err := page.At(reading.Counter(), cpuCounter); err != nil || other != reading {
			t.Fatalf("%+v:\n%+v\n%+v, %v", page, reading, other, err)
		}
		if reading.Epoch() != page.Epoch() || reading.Status() != page.ClockStatus ||
			reading.TimeType() != page.TimeType || reading.SmearingHint() != page.SmearingHint {
			t.Fatalf("%+v is not of %+v", reading, page)
		}
	}
	if fast < 5_000 {
		t.Fatalf("only %d readings went the fast way: the test tests nothing", fast)
	}
}

func TestMonthsBeginOnTheirFirstDay(t *testing.T) {
	random := rand.New(rand.NewSource(4))
	for i := 0; i < 100_000; i++ {
		// The years -5800 to 9700: the package time agrees.
		seconds := random.Int63n(1<<38+1<<37) - 1<<37
		now := time.Unix(seconds, 0).UTC()
		this := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
		next := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		if thisMonth(seconds) != this.Unix() || nextMonth(seconds) != next.Unix() {
			t.Fatalf("%v", now)
		}
	}
	for _, seconds := range []int64{math.MinInt64, math.MaxInt64} {
		_, _ = thisMonth(seconds), nextMonth(seconds)
	}
}

func TestALeapSecondIsSixty(t *testing.T) {
	// Half a minute before the end of 2016, whose last second was 23:59:60.
	page := Snapshot{
		Magic: magic, Size: 4096, Version: version, CounterID: CounterX86TSC, TimeType: TimeTAI,
		Flags: FlagTAIOffsetValid, ClockStatus: StatusSynchronized, TAIOffsetSec: -36,
		LeapIndicator: LeapPrePositive, PeriodFracSec: 1 << 63, TimeSec: 1_483_228_770 + 36,
	}
	for ticks, want := range map[uint64]string{
		59: "2016-12-31T23:59:59.500000000Z",
		60: "2016-12-31T23:59:60.000000000Z",
		61: "2016-12-31T23:59:60.500000000Z",
		62: "2017-01-01T00:00:00.000000000Z",
	} {
		reading, err := page.At(ticks, CounterX86TSC)
		if err != nil {
			t.Fatal(err)
		}
		utc, ok := reading.UTC()
		if !ok || utc.String() != want || utc.LeapSecond != (ticks == 60 || ticks == 61) {
			t.Errorf("%v instead of %s", utc, want)
		}
	}
}

func TestTimestampsPrint(t *testing.T) {
	for want, stamp := range map[string]Timestamp{
		"1.000000005":  {1, 5},
		"-0.000000001": {-1, 999_999_999},
		"-1.000000000": {-1, 0},
		"-1.500000000": {-2, 500_000_000},
	} {
		if stamp.String() != want {
			t.Errorf("%v instead of %s", stamp, want)
		}
	}
}

func TestIntervalsThatOverlapAreNotOrdered(t *testing.T) {
	at := func(earliest, latest int64) Interval {
		return Interval{Timestamp{Seconds: earliest}, Timestamp{Seconds: latest}}
	}
	for _, c := range []struct {
		first, second Interval
		want          Certainty
	}{
		{at(10, 20), at(21, 30), Yes},
		{at(10, 20), at(20, 30), CannotTell},
		{at(10, 20), at(15, 30), CannotTell},
		{at(21, 30), at(10, 20), No},
		{at(20, 30), at(10, 20), No},
	} {
		if found := c.first.IsBefore(c.second); found != c.want || c.first.CertainlyBefore(c.second) != (c.want == Yes) {
			t.Errorf("%v before %v: %v", c.first, c.second, found)
		}
	}
}
