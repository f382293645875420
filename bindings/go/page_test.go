// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build linux

package vmclock

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"
)

// encode is the opposite of decode.
func (s *Snapshot) encode() []byte {
	w := s.words()
	bytes := make([]byte, 0, structureLen)
	for _, half := range []uint32{w.magic, w.size, w.identity, w.seq} {
		bytes = binary.LittleEndian.AppendUint32(bytes, half)
	}
	for _, word := range []uint64{
		w.marker, w.flags, w.state, w.counter, w.period, w.periodEst, w.periodMax,
		w.sec, w.frac, w.timeEst, w.timeMax, w.generation,
	} {
		bytes = binary.LittleEndian.AppendUint64(bytes, word)
	}
	return bytes
}

// goodPage gives time: TAI, from this CPU's counter, at 1 GHz.
func goodPage() Snapshot {
	return Snapshot{
		Magic: magic, Size: 4096, Version: version, CounterID: cpuCounter, TimeType: TimeTAI,
		DisruptionMarker: 0x1111_2222_3333_4444,
		Flags: FlagTAIOffsetValid | FlagPeriodMaxErrorValid | FlagTimeMaxErrorValid |
			FlagVMGenCounterPresent,
		ClockStatus:         StatusSynchronized,
		TAIOffsetSec:        -37,
		CounterValue:        counterOrdered(),
		PeriodShift:         29,
		PeriodFracSec:       0x8970_5f41_36b4_a597, // 2^93 / 10^9
		PeriodMaxErrorRate:  0x8970_5f41_36b4_a597 / 1_000_000,
		TimeSec:             2_000_000_000,
		TimeMaxErrorNanos:   0x0102_0304,
		VMGenerationCounter: 0x5555_6666_7777_8888,
	}
}

func region(page Snapshot) []byte {
	return append(page.encode(), make([]byte, 4096-structureLen)...)
}

// pageFile is a file with these bytes, alone in a folder.
func pageFile(t testing.TB, bytes []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "page")
	write(t, path, bytes)
	return path
}

func write(t testing.TB, path string, bytes []byte) {
	t.Helper()
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts a new file at the path, as a publisher makes it: complete before it has its name.
func replace(t testing.TB, path string, page Snapshot) {
	t.Helper()
	write(t, path+".new", region(page))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string, options Options) *Clock {
	t.Helper()
	clock, err := options.OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = clock.Close() })
	return clock
}

// ways are mapped, and through system calls.
func ways() map[string]Options {
	return map[string]Options{"mapped": {}, "read": {NoMap: true}}
}

// inEachWay runs a test in all of the ways.
func inEachWay(t *testing.T, test func(t *testing.T, options Options)) {
	for name, options := range ways() {
		options := options
		t.Run(name, func(t *testing.T) { test(t, options) })
	}
}

// writer is the writer's side of a page in a file.
type writer struct {
	page     *sharedPage
	contents Snapshot
}

func newWriter(t testing.TB, path string) *writer {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	memory, err := syscall.Mmap(int(file.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(memory) })
	w := &writer{page: (*sharedPage)(unsafe.Pointer(&memory[0]))}
	var words words
	w.page.load(&words)
	w.contents = words.decode()
	return w
}

// update publishes changed contents under the sequence count.
func (w *writer) update(change func(page *Snapshot)) {
	change(&w.contents)
	words := w.contents.words()
	atomic.StoreUint32(&w.page.seq, le32(w.contents.SeqCount|1))
	atomic.StoreUint32(&w.page.magic, le32(words.magic))
	atomic.StoreUint32(&w.page.size, le32(words.size))
	atomic.StoreUint32(&w.page.identity, le32(words.identity))
	for i, word := range []uint64{
		words.marker, words.flags, words.state, words.counter, words.period, words.periodEst, words.periodMax,
		words.sec, words.frac, words.timeEst, words.timeMax, words.generation,
	} {
		atomic.StoreUint64(&w.page.words[i], le64(word))
	}
	w.contents.SeqCount = (w.contents.SeqCount | 1) + 1
	atomic.StoreUint32(&w.page.seq, le32(w.contents.SeqCount))
}

func (w *writer) setSeq(seq uint32) {
	atomic.StoreUint32(&w.page.seq, le32(seq))
}

// exercise calls everything that a clock has: nothing may panic or hang.
func exercise(t *testing.T, clock *Clock) {
	t.Helper()
	for _, now := range []func() (Reading, error){clock.Now, clock.NowUnordered} {
		reading, err := now()
		if err != nil {
			if reading != (Reading{}) {
				t.Fatalf("%v, and a reading: %v", err, reading)
			}
			continue
		}
		exerciseReading(reading)
		if !reading.Status().GivesTime() {
			t.Fatalf("a time of status %v", reading.Status())
		}
		snapshot, err := clock.Snapshot()
		if err != nil {
			continue
		}
		if again, err := snapshot.At(reading.Counter(), cpuCounter); err == nil && again != reading &&
			snapshot.Epoch() == reading.Epoch() && snapshot.SeqCount == 0 {
			t.Fatalf("the fast way gave %v %+v, the other %v %+v", reading, reading, again, again)
		}
	}
	epoch, err := clock.Epoch()
	if err == nil {
		if current, err := clock.IsCurrent(epoch); err == nil && !current {
			t.Fatalf("%+v is not current on a page at rest", epoch)
		}
	}
	_ = clock.Check()
}

func exerciseReading(reading Reading) {
	_ = reading.String()
	_, _ = reading.Interval()
	_, _ = reading.TAIInterval()
	_, _ = reading.Time()
	_ = reading.IsBefore(reading)
	_, _ = reading.Timestamp().UnixNano()
	if utc, ok := reading.UTC(); ok {
		_ = utc.String()
	}
}
