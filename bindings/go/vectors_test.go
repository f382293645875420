// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

const vectorsPath = "../../crates/vmclock-core/tests/vectors/time-at-counter.json"

type vector struct {
	Name    string
	Page    string
	Counter uint64
	Expect  expectation
}

// expectation is what `vmclock eval --json` prints, too.
type expectation struct {
	Status              string
	DisruptionMarker    uint64  `json:"disruption_marker"`
	VMGenerationCounter *uint64 `json:"vm_generation_counter"`
	Time                *stamp
	Earliest            *stamp
	Latest              *stamp
	TAI                 *stamp
	UTC                 *utcStamp
	Exit                int
}

type stamp struct {
	Sec  int64
	Nsec int32
}

type utcStamp struct {
	Sec        int64
	Nsec       int32
	LeapSecond bool `json:"leap_second"`
}

func stampOf(t Timestamp, ok bool) *stamp {
	if !ok {
		return nil
	}
	return &stamp{t.Seconds, t.Nanoseconds}
}

// evaluate does what `vmclock eval` does.
func evaluate(page Snapshot, counter uint64) expectation {
	found := expectation{Status: page.ClockStatus.String(), DisruptionMarker: page.DisruptionMarker}
	if generation, ok := page.Generation(); ok {
		found.VMGenerationCounter = &generation
	}
	reading, err := page.At(counter, CounterX86TSC)
	if err != nil {
		found.Exit = 3
		return found
	}
	found.Time = stampOf(reading.Timestamp(), true)
	interval, ok := reading.Interval()
	found.Earliest, found.Latest = stampOf(interval.Earliest, ok), stampOf(interval.Latest, ok)
	found.TAI = stampOf(reading.TAI())
	if utc, ok := reading.UTC(); ok {
		found.UTC = &utcStamp{utc.Seconds, utc.Nanoseconds, utc.LeapSecond}
	}
	return found
}

// asJSON lets structures with pointers be compared.
func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile(vectorsPath)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

func regionOf(t testing.TB, page string) []byte {
	t.Helper()
	structure, err := hex.DecodeString(page)
	if err != nil {
		t.Fatal(err)
	}
	return append(structure, make([]byte, 4096-len(structure))...)
}

func TestEveryVectorIsMetExactly(t *testing.T) {
	vectors := readVectors(t)
	if len(vectors) != 115 {
		t.Fatalf("%d vectors, not 115", len(vectors))
	}
	for _, v := range vectors {
		page, err := ParseSnapshot(regionOf(t, v.Page))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if found, want := asJSON(t, evaluate(page, v.Counter)), asJSON(t, v.Expect); found != want {
			t.Errorf("%s:\n%s instead of\n%s", v.Name, found, want)
		}
	}
	t.Logf("%d vectors", len(vectors))
}
