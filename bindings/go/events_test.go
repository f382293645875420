// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build linux

package vmclock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"time"
)

// await is the next notice.
func await(t *testing.T, events *Events) *Notice {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	notice, err := events.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return notice
}

// nothing expects that there is nothing to report.
func nothing(t *testing.T, events *Events) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if notice, err := events.Wait(ctx); notice != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("%+v, %v", notice, err)
	}
}

func watch(t *testing.T, clock *Clock) *Events {
	t.Helper()
	events, err := clock.Events()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = events.Close() })
	events.Interval = time.Millisecond
	return events
}

func expectKinds(t *testing.T, notice *Notice, kinds ...EventKind) {
	t.Helper()
	if found := notice.Kinds(); !reflect.DeepEqual(found, kinds) {
		t.Fatalf("%v, not %v", found, kinds)
	}
	for _, kind := range kinds {
		if notice.Describe(kind) == "" || !notice.Has(kind) {
			t.Fatalf("%v says nothing", kind)
		}
	}
}

func TestWhatHappensIsReportedOnce(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		path := pageFile(t, region(goodPage()))
		writer := newWriter(t, path)
		events := watch(t, open(t, path, options))
		nothing(t, events)
		writer.update(func(page *Snapshot) { page.TimeSec++ })
		nothing(t, events) // a refresh is no event
		for _, c := range []struct {
			change func(page *Snapshot)
			kinds  []EventKind
		}{
			{func(page *Snapshot) { page.DisruptionMarker++ }, []EventKind{Disrupted}},
			{func(page *Snapshot) { page.VMGenerationCounter++ }, []EventKind{Restored}},
			{func(page *Snapshot) {
				page.DisruptionMarker++
				page.VMGenerationCounter++
				page.Flags |= FlagDisruptionSoon
			}, []EventKind{Disrupted, Restored, MaintenanceSoon}},
			{func(page *Snapshot) { page.Flags |= FlagDisruptionImminent }, []EventKind{MaintenanceImminent}},
			{func(page *Snapshot) {
				page.Flags &^= FlagDisruptionImminent | FlagDisruptionSoon
			}, []EventKind{MaintenanceCleared}},
			{func(page *Snapshot) { page.ClockStatus = StatusUnreliable }, []EventKind{StatusChanged}},
			{func(page *Snapshot) { page.CounterID = CounterNone }, []EventKind{CounterChanged}},
			{func(page *Snapshot) { page.TAIOffsetSec, page.LeapIndicator = -38, LeapPostPositive },
				[]EventKind{TimeScaleChanged}},
			// A generation that was not there before is none that changed.
			{func(page *Snapshot) { page.Flags &^= FlagVMGenCounterPresent }, nil},
		} {
			writer.update(c.change)
			if c.kinds == nil {
				nothing(t, events)
				continue
			}
			expectKinds(t, await(t, events), c.kinds...)
			nothing(t, events)
		}
		events.Refreshes = true
		writer.update(func(page *Snapshot) { page.TimeSec++ })
		expectKinds(t, await(t, events), Refreshed)
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	events := watch(t, open(t, pageFile(t, region(goodPage())), Options{}))
	events.Interval = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := events.Wait(ctx)
		ended <- err
	}()
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	case <-time.After(limit):
		t.Fatal("still waiting")
	}
}

var losses = map[Loss]func(t *testing.T, path string){
	LossRemoved: func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	},
	LossReplaced: func(t *testing.T, path string) { replace(t, path, goodPage()) },
	LossCut: func(t *testing.T, path string) {
		if err := os.Truncate(path, 100); err != nil {
			t.Fatal(err)
		}
	},
	LossOverwritten: func(t *testing.T, path string) {
		bytes := make([]byte, 4096)
		for i := range bytes {
			bytes[i] = 'x'
		}
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt(bytes, 0); err != nil {
			t.Fatal(err)
		}
	},
}

func TestAClockSaysHowItsPageWasLost(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		for loss, lose := range losses {
			path := pageFile(t, region(goodPage()))
			clock := open(t, path, options)
			if err := clock.Check(); err != nil {
				t.Fatal(err)
			}
			lose(t, path)
			var vanished *VanishedError
			if err := clock.Check(); !errors.As(err, &vanished) || vanished.Loss != loss || vanished.Path != path {
				t.Fatalf("%v: %v", loss, err)
			}
		}
	})
}

func TestEventsContinueWithThePageThatReturns(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		for loss, lose := range losses {
			path := pageFile(t, region(goodPage()))
			clock := open(t, path, options)
			events := watch(t, clock)
			nothing(t, events)
			lose(t, path)
			if notice := await(t, events); notice.Kind != Vanished || notice.Vanished.Loss != loss {
				t.Fatalf("%v: %+v", loss, notice)
			}
			// A new publisher: another marker and generation, although no page changed.
			page := goodPage()
			page.DisruptionMarker, page.VMGenerationCounter = 2, 3
			replace(t, path, page)
			notice := await(t, events)
			for notice.Kind == Changed { // what was written to the old one
				notice = await(t, events)
			}
			if notice.Kind != Returned {
				t.Fatalf("%+v", notice)
			}
			expectKinds(t, notice, Disrupted, Restored)
			// Its events, and its time.
			newWriter(t, path).update(func(page *Snapshot) { page.DisruptionMarker = 4 })
			expectKinds(t, await(t, events), Disrupted)
			reading, err := events.Clock().Now()
			if err != nil || reading.Epoch().DisruptionMarker != 4 {
				t.Fatal(reading, err)
			}
			if events.Clock().IsMapped() != clock.IsMapped() || clock.Check() == nil {
				t.Fatal("not opened with the same options, or the old clock has the new page")
			}
		}
	})
}

func TestWhatIsNotAPageYetIsWaitedFor(t *testing.T) {
	path := pageFile(t, region(goodPage()))
	events := watch(t, open(t, path, Options{}))
	losses[LossRemoved](t, path)
	await(t, events)
	nothing(t, events)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	nothing(t, events)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, make([]byte, 4096))
	nothing(t, events)
	write(t, path, region(goodPage()))
	if notice := await(t, events); notice.Kind != Returned || len(notice.Kinds()) != 0 {
		t.Fatalf("%+v", notice)
	}
}

func TestARemovedPageInTheMiddleOfAnUpdateIsNotWaitedFor(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		options.MaxWait = 24 * time.Hour
		path := pageFile(t, region(goodPage()))
		writer := newWriter(t, path)
		events := watch(t, open(t, path, options))
		losses[LossRemoved](t, path)
		await(t, events)
		// Its publisher is killed; this update never ends.
		writer.setSeq(9)
		nothing(t, events)
		replace(t, path, goodPage())
		if notice := await(t, events); notice.Kind != Returned {
			t.Fatalf("%+v", notice)
		}
	})
}

func TestARelativePathIsThatOfWhenItWasOpened(t *testing.T) {
	path := pageFile(t, region(goodPage()))
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(here, path)
	if err != nil {
		t.Fatal(err)
	}
	clock := open(t, relative, Options{})
	if err := os.Chdir("/"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Chdir(here) }()
	if err := clock.Check(); err != nil || !filepath.IsAbs(clock.Path()) {
		t.Fatal(clock.Path(), err)
	}
}

// A pipe stands for a device that notifies: both are readable after something happened, and hang up at the end.
func TestAWakerWakesOnceEachTimeItIsArmed(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	waker, err := newWaker(reader)
	if err != nil {
		t.Fatal(err)
	}
	defer waker.close()
	woken := func() wakeUp {
		t.Helper()
		if err := waker.arm(); err != nil {
			t.Fatal(err)
		}
		select {
		case why := <-waker.woken:
			return why
		case <-time.After(limit):
			t.Fatal("not woken")
		}
		return 0
	}
	if _, err := writer.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	// As long as it is not read, it is readable.
	for i := 0; i < 3; i++ {
		if why := woken(); why != wokenByUpdate {
			t.Fatal(why)
		}
	}
	if len(waker.woken) != 0 {
		t.Fatal("woken without being armed")
	}
	if _, err := reader.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := waker.arm(); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	<-waker.woken
	_ = writer.Close()
	if _, err := reader.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if why := woken(); why != wokenByHangUp {
		t.Fatal(why)
	}
}

func TestAFileCannotWake(t *testing.T) {
	file, err := os.Open(pageFile(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := newWaker(file); err != syscall.EPERM {
		t.Fatal(err)
	}
}
