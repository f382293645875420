// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build linux

package vmclock

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Whatever is at the path: no panic, no signal, no long wait, no made-up time, and an error that names what is wrong.

// limit is what a busy machine may add to a wait of 100 ms.
const limit = 10 * time.Second

func openError(t *testing.T, path string, options Options) *OpenError {
	t.Helper()
	started := time.Now()
	clock, err := options.OpenPath(path)
	var opening *OpenError
	if !errors.As(err, &opening) || clock != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if took := time.Since(started); took > limit {
		t.Fatalf("%s: took %v", path, took)
	}
	if !strings.Contains(err.Error(), path) {
		t.Fatalf("%v does not name %s", err, path)
	}
	return opening
}

func expectOpenError(t *testing.T, path string, options Options, reason OpenReason, words string) {
	t.Helper()
	if err := openError(t, path, options); err.Reason != reason || !strings.Contains(err.Error(), words) {
		t.Fatalf("reason %d: %v; not reason %d with %q", err.Reason, err, reason, words)
	}
}

func TestWhatIsTooShortIsNamedWithItsLength(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		whole := region(goodPage())
		for length := 0; length < structureLen; length++ {
			expectOpenError(t, pageFile(t, whole[:length]), options, OpenNotAPage, fmt.Sprintf("%d bytes", length))
		}
		exercise(t, open(t, pageFile(t, whole[:structureLen]), options))
	})
}

func TestWhatIsNotAPageIsNamedWithWhatItIs(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		zeros := make([]byte, 4096)
		expectOpenError(t, pageFile(t, zeros), options, OpenNotAPage, "magic is 0x00000000")
		ones := []byte(strings.Repeat("\xff", 4096))
		expectOpenError(t, pageFile(t, ones), options, OpenNotAPage, "magic is 0xffffffff")
		page := goodPage()
		page.Version = 2
		expectOpenError(t, pageFile(t, region(page)), options, OpenNotAPage, "version is 2")
		page = goodPage()
		page.Size = 15
		expectOpenError(t, pageFile(t, region(page)), options, OpenNotAPage, "size field is 15")
	})
}

func TestWhatIsNotAFileIsNamedWithItsKind(t *testing.T) {
	folder := t.TempDir()
	fifo := filepath.Join(folder, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(folder, "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	inEachWay(t, func(t *testing.T, options Options) {
		expectOpenError(t, folder, options, OpenWrongKind, "directory")
		expectOpenError(t, fifo, options, OpenWrongKind, "FIFO")
		expectOpenError(t, socket, options, OpenWrongKind, "socket")
		openError(t, "/dev/null", options)
		openError(t, "/dev/zero", options)
		missing := filepath.Join(folder, "missing")
		expectOpenError(t, missing, options, OpenNoFile, "vmclock serve")
		if !errors.Is(openError(t, missing, options), fs.ErrNotExist) {
			t.Fatal("a missing file is not fs.ErrNotExist")
		}
		if err := openError(t, "/dev/no-such-vmclock", options); !errors.Is(err, fs.ErrNotExist) ||
			err.Reason != OpenNoDevice && err.Reason != OpenNoDriver {
			t.Fatal(err)
		}
		expectOpenError(t, "/dev/shm/no-such-page", options, OpenNoFile, "")
	})
}

func TestAdviceWhereReadingIsNotPermittedFitsWhatIsThere(t *testing.T) {
	device := &OpenError{Path: "/dev/vmclock0", Reason: OpenPermission}
	file := &OpenError{Path: "/run/vmclock/page", Reason: OpenPermission}
	if !strings.Contains(device.Error(), "udev") || !strings.Contains(file.Error(), "chmod a+r /run/vmclock/page") {
		t.Fatal(device, file)
	}
}

func TestTheNamedPageComesFirstThenTheFirstThatExists(t *testing.T) {
	folder := t.TempDir()
	device, published := filepath.Join(folder, "device"), filepath.Join(folder, "published")
	expect := func(named, want string) {
		t.Helper()
		if found := choose(named, device, published); found != want {
			t.Fatalf("%s instead of %s", found, want)
		}
	}
	expect("", device) // the error is about the device
	write(t, published, nil)
	expect("", published)
	write(t, device, nil)
	expect("", device)
	expect("elsewhere", "elsewhere")
	page := pageFile(t, region(goodPage()))
	t.Setenv(PageVariable, page)
	clock, err := Open()
	if err != nil || clock.Path() != page {
		t.Fatal(err)
	}
	_ = clock.Close()
}

func TestRandomBytesAreHarmless(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	gaveTime := 0
	for round := 0; round < 600; round++ {
		bytes := make([]byte, 4096)
		random.Read(bytes)
		// A third is all random; a third has a header; a third is a page with a random field or two.
		if round%3 != 0 {
			copy(bytes, region(goodPage())[:16])
		}
		if round%3 == 2 {
			bytes = region(goodPage())
			for i := 0; i <= random.Intn(2); i++ {
				at := 8 * (2 + random.Intn(12))
				random.Read(bytes[at : at+8])
			}
		}
		path := pageFile(t, bytes)
		for _, options := range ways() {
			options.MaxWait = -1
			clock, err := options.OpenPath(path)
			if err != nil {
				if !strings.Contains(err.Error(), "page") {
					t.Fatal(err)
				}
				continue
			}
			exercise(t, clock)
			if _, err := clock.Now(); err == nil {
				gaveTime++
			}
			_ = clock.Close()
		}
	}
	if gaveTime < 50 {
		t.Fatalf("only %d of the pages gave time: the test tests nothing", gaveTime)
	}
}

func TestEveryFieldAtItsExtremes(t *testing.T) {
	cases := 0
	path := pageFile(t, region(goodPage()))
	for offset := 0; offset < structureLen; offset++ {
		if offset >= 0x0c && offset < 0x10 {
			continue
		}
		for _, value := range []byte{0x00, 0x01, 0x7f, 0x80, 0xff} {
			bytes := region(goodPage())
			// The whole rest of the field's word: that reaches all extremes of all widths.
			for i := offset; i < (offset/8+1)*8; i++ {
				bytes[i] = value
			}
			copy(bytes[0x0c:], []byte{0, 0, 0, 0})
			write(t, path, bytes)
			for _, options := range ways() {
				if clock, err := options.OpenPath(path); err == nil {
					exercise(t, clock)
					_ = clock.Close()
				}
				cases++
			}
		}
	}
	t.Logf("%d pages with a field at an extreme", cases)
}

func TestAPageThatStaysOddIsBusyAndThenRecovers(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		page := goodPage()
		page.SeqCount = 7
		started := time.Now()
		err := openError(t, pageFile(t, region(page)), options)
		var busy *BusyError
		if err.Reason != OpenBusy || !errors.As(err, &busy) || busy.SeqCount != 7 || !strings.Contains(err.Error(), "odd") {
			t.Fatal(err)
		}
		if time.Since(started) < defaultMaxWait {
			t.Fatal("gave up before the wait was over")
		}
		path := pageFile(t, region(goodPage()))
		writer := newWriter(t, path)
		clock := open(t, path, options)
		writer.setSeq(9)
		if _, err := clock.Now(); !errors.As(err, &busy) || busy.SeqCount != 9 {
			t.Fatal(err)
		}
		if _, err := clock.Epoch(); !errors.As(err, &busy) {
			t.Fatal(err)
		}
		if _, err := clock.IsCurrent(Epoch{}); !errors.As(err, &busy) {
			t.Fatal(err)
		}
		writer.setSeq(10)
		if _, err := clock.Now(); err != nil {
			t.Fatal("the writer finished: ", err)
		}
	})
}

func TestAPageThatNeverStopsChangingCostsABoundedWait(t *testing.T) {
	path := pageFile(t, region(goodPage()))
	writer := newWriter(t, path)
	var stop atomic.Bool
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		for !stop.Load() {
			writer.update(func(page *Snapshot) { page.TimeEstErrorNanos++ })
		}
	}()
	inEachWay(t, func(t *testing.T, options Options) {
		for i := 0; i < 20; i++ {
			started := time.Now()
			clock, err := options.OpenPath(path)
			var busy *BusyError
			if err != nil && !errors.As(err, &busy) {
				t.Fatal(err)
			}
			if err == nil {
				exercise(t, clock)
				_ = clock.Close()
			}
			if took := time.Since(started); took > limit {
				t.Fatalf("took %v", took)
			}
		}
	})
	stop.Store(true)
	done.Wait()
}

// checkCut: after the file was cut, a clock that had it open must not give a time that the page never gave.
func checkCut(t *testing.T, clock *Clock, length int64) {
	t.Helper()
	for i := 0; i < 3; i++ {
		var vanished *VanishedError
		isCut := func(err error) bool {
			return errors.As(err, &vanished) && vanished.Loss == LossCut && vanished.Len == length
		}
		// From 0x68 on only the generation, or parts of it, is lost: where that part is not zero, all is there.
		if reading, err := clock.Now(); err == nil && length < 0x68 || err != nil && !isCut(err) {
			t.Fatalf("%d bytes: %v, %v", length, reading, err)
		}
		if page, err := clock.Snapshot(); !isCut(err) {
			t.Fatalf("%d bytes: %+v, %v", length, page, err)
		}
		if epoch, err := clock.Epoch(); !isCut(err) {
			t.Fatalf("%d bytes: %+v, %v", length, epoch, err)
		}
		if current, err := clock.IsCurrent(Epoch{DisruptionMarker: goodPage().DisruptionMarker}); !isCut(err) {
			t.Fatalf("%d bytes: %v, %v", length, current, err)
		}
		if err := clock.Check(); !isCut(err) {
			t.Fatalf("%d bytes: %v", length, err)
		}
	}
}

func TestAFileCutShortUnderTheMappingGivesNoWrongTime(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		for length := int64(0); length < structureLen; length++ {
			path := pageFile(t, region(goodPage()))
			clock := open(t, path, options)
			before, err := clock.Now()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, length); err != nil {
				t.Fatal(err)
			}
			checkCut(t, clock, length)
			// Repaired by its owner: there is the page again, whole.
			write(t, path, region(goodPage()))
			if after, err := clock.Now(); err != nil || after.Epoch() != before.Epoch() {
				t.Fatal(after, err)
			}
		}
	})
}

func TestAFaultElsewhereIsNotTakenForALostPage(t *testing.T) {
	path := pageFile(t, region(goodPage()))
	clock := open(t, path, Options{})
	defer func() {
		if cause := recover(); cause != "a panic of somebody else" {
			t.Fatal(cause)
		}
	}()
	func() {
		defer func() { clock.mapped().lost(false, recover()) }()
		panic("a panic of somebody else")
	}()
}

func TestReadersSurviveTheFileGoingAway(t *testing.T) {
	path := pageFile(t, region(goodPage()))
	clock := open(t, path, Options{})
	events, err := clock.Events()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	var stop atomic.Bool
	var readers sync.WaitGroup
	for i := 0; i < 2; i++ {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for !stop.Load() {
				reading, err := clock.Now()
				if err != nil {
					continue
				}
				e, ok := reading.MaxError()
				if reading.Epoch() != (Epoch{0x1111_2222_3333_4444, 0x5555_6666_7777_8888, true}) || !ok || e < 0x0102_0304 {
					t.Errorf("%v", reading)
					return
				}
			}
		}()
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	notice := await(t, events)
	stop.Store(true)
	readers.Wait()
	if notice.Kind != Vanished || notice.Vanished.Loss != LossCut || notice.Vanished.Len != 0 {
		t.Fatalf("%+v", notice)
	}
}

func TestAPageForAnotherCPUAndAPageWithoutTimeGiveNone(t *testing.T) {
	other := CounterArmCNTVCT
	if cpuCounter == other {
		other = CounterX86TSC
	}
	changes := []struct {
		change func(page *Snapshot)
		reason NoTimeReason
		words  string
	}{
		{func(page *Snapshot) { page.CounterID = other }, NoTimeCounter, "counter"},
		{func(page *Snapshot) { page.CounterID = CounterNone }, NoTimeCounter, "no counter"},
		{func(page *Snapshot) { page.ClockStatus = StatusUnknown }, NoTimeStatus, "unknown"},
		{func(page *Snapshot) { page.ClockStatus = StatusInitializing }, NoTimeStatus, "initializing"},
		{func(page *Snapshot) { page.ClockStatus = 200 }, NoTimeStatus, "200"},
		{func(page *Snapshot) { page.PeriodFracSec = 0 }, NoTimePeriodZero, "period is 0"},
		{func(page *Snapshot) { page.PeriodShift = 128 }, NoTimeShift, "128"},
		{func(page *Snapshot) { page.TimeType = TimeInvalidSmeared }, NoTimeType, "smeared"},
		{func(page *Snapshot) { page.Size = 0x50 }, NoTimeSize, "80 bytes"},
		{func(page *Snapshot) { page.TimeSec = 1 << 63 }, NoTimeOutOfRange, "2^63"},
	}
	inEachWay(t, func(t *testing.T, options Options) {
		for _, c := range changes {
			page := goodPage()
			c.change(&page)
			clock := open(t, pageFile(t, region(page)), options)
			_, err := clock.Now()
			var noTime *NoTimeError
			if !errors.As(err, &noTime) || noTime.Reason != c.reason || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("%v: not %q", err, c.words)
			}
			if _, err := clock.Epoch(); err != nil {
				t.Fatal("marker and generation all the same: ", err)
			}
		}
	})
	page := goodPage()
	page.LeapIndicator = 77
	reading, err := open(t, pageFile(t, region(page)), Options{}).Now()
	if err != nil {
		t.Fatal(err)
	}
	_, hasUTC := reading.UTC()
	_, hasTAI := reading.TAI()
	if hasUTC || !hasTAI {
		t.Fatal("TAI needs no leap indicator, UTC does")
	}
}

func TestAClosedClockSaysSo(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		clock := open(t, pageFile(t, region(goodPage())), options)
		if err := clock.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := clock.Now(); !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		if _, err := clock.IsCurrent(Epoch{}); !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
	})
}
