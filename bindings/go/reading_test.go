// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build linux

package vmclock

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAReadingIsOfOnePage(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		path := pageFile(t, region(goodPage()))
		writer := newWriter(t, path)
		clock := open(t, path, options)
		var stop atomic.Bool
		var done sync.WaitGroup
		done.Add(1)
		go func() {
			defer done.Done()
			for n := uint64(1); !stop.Load(); n++ {
				writer.update(func(page *Snapshot) {
					page.DisruptionMarker, page.VMGenerationCounter, page.TimeSec = n, n^0xff, 2_000_000_000+n
				})
				time.Sleep(time.Microsecond)
			}
		}()
		good := 0
		for started := time.Now(); good < 20_000 && time.Since(started) < limit; {
			reading, err := clock.Now()
			var busy *BusyError
			if errors.As(err, &busy) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			epoch := reading.Epoch()
			n := epoch.DisruptionMarker
			if n == goodPage().DisruptionMarker {
				continue
			}
			if epoch.Generation != n^0xff || reading.refSec != 2_000_000_000+n {
				t.Fatalf("of two pages: %+v", reading)
			}
			good++
		}
		stop.Store(true)
		done.Wait()
		if good < 100 {
			t.Fatalf("only %d readings: the test tests nothing", good)
		}
	})
}

func TestReadingsOfTwoThatWaitForOneAnotherAreInOrder(t *testing.T) {
	clock := open(t, pageFile(t, region(goodPage())), Options{})
	var turn atomic.Int32
	var last Reading
	var done sync.WaitGroup
	for me := int32(0); me < 2; me++ {
		done.Add(1)
		go func(me int32) {
			defer done.Done()
			for i := 0; i < 1_000; i++ {
				for turn.Load() != me {
					time.Sleep(0)
				}
				reading, err := clock.Now()
				if err != nil || reading.Timestamp().Compare(last.Timestamp()) < 0 {
					t.Errorf("%v after %v: %v", reading, last, err)
				}
				last = reading
				turn.Store(1 - me)
			}
		}(me)
	}
	done.Wait()
}

func TestANewEpochIsNotCurrent(t *testing.T) {
	inEachWay(t, func(t *testing.T, options Options) {
		path := pageFile(t, region(goodPage()))
		writer := newWriter(t, path)
		clock := open(t, path, options)
		known, err := clock.Epoch()
		if err != nil {
			t.Fatal(err)
		}
		expect := func(want bool) {
			t.Helper()
			if current, err := clock.IsCurrent(known); err != nil || current != want {
				t.Fatal(current, err)
			}
		}
		expect(true)
		writer.update(func(page *Snapshot) { page.TimeSec++ })
		expect(true)
		writer.update(func(page *Snapshot) { page.DisruptionMarker++ })
		expect(false)
		writer.update(func(page *Snapshot) { page.DisruptionMarker--; page.VMGenerationCounter++ })
		expect(false)
		writer.update(func(page *Snapshot) { page.VMGenerationCounter--; page.Flags &^= FlagVMGenCounterPresent })
		expect(false)
		if known, err = clock.Epoch(); err != nil || known.HasGeneration {
			t.Fatal(known, err)
		}
		expect(true)
	})
}

func TestAReadingTakesNothingFromTheHeap(t *testing.T) {
	clock := open(t, pageFile(t, region(goodPage())), Options{})
	if clock.IsMapped() == raceDetector {
		t.Fatal("a file is mapped unless the race detector watches")
	}
	known, err := clock.Epoch()
	if err != nil {
		t.Fatal(err)
	}
	allocations := testing.AllocsPerRun(100, func() {
		reading, err := clock.Now()
		_, ok := reading.TAIInterval()
		current, currentErr := clock.IsCurrent(known)
		if err != nil || !ok || currentErr != nil || !current {
			t.Fatal(err, currentErr)
		}
	})
	if allocations != 0 && clock.IsMapped() {
		t.Fatalf("%v allocations", allocations)
	}
}

func TestCommitWaitEndsWhenTrueTimeIsCertainlyLater(t *testing.T) {
	page := goodPage()
	page.TimeMaxErrorNanos = 500_000
	path := pageFile(t, region(page))
	writer := newWriter(t, path)
	clock := open(t, path, Options{})
	now := func() Reading {
		t.Helper()
		reading, err := clock.Now()
		if err != nil {
			t.Fatal(err)
		}
		return reading
	}
	before := now()
	after, err := clock.WaitUntilAfter(context.Background(), before)
	if err != nil || !before.CertainlyBefore(after) {
		t.Fatal(after, err)
	}

	writer.update(func(page *Snapshot) { page.TimeMaxErrorNanos = 1 << 60 })
	ctx, cancel := context.WithCancel(context.Background())
	awaited := now()
	ended := make(chan error)
	wait := func() {
		_, err := clock.WaitUntilAfter(ctx, awaited)
		ended <- err
	}
	go wait()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	ctx = context.Background()
	go wait()
	writer.update(func(page *Snapshot) { page.DisruptionMarker++ })
	var disrupted *DisruptedError
	if err := <-ended; !errors.As(err, &disrupted) || disrupted.Before != awaited.Epoch() {
		t.Fatal(err)
	}
	writer.update(func(page *Snapshot) { page.Flags &^= FlagTimeMaxErrorValid })
	if _, err := clock.WaitUntilAfter(ctx, now()); err != ErrNoBounds {
		t.Fatal(err)
	}
}
