// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build linux

package vmclock

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// commandVariable names the built command `vmclock`, which publishes pages and evaluates them.
const commandVariable = "VMCLOCK_COMMAND"

func command(t *testing.T) string {
	t.Helper()
	path := os.Getenv(commandVariable)
	if path == "" {
		t.Skipf("%s does not name the command `vmclock`", commandVariable)
	}
	return path
}

// run runs the command, whose exit status must be 0 or the other one.
func run(t *testing.T, other int, arguments ...string) []byte {
	t.Helper()
	output, err := exec.Command(command(t), arguments...).Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == other) {
		t.Fatalf("vmclock %v: %v", arguments, err)
	}
	return output
}

// serve publishes this machine's clock until the test ends.
func serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "page")
	publisher := exec.Command(command(t), "serve", "--page", path, "--reference", "host-clock", "--tai-offset", "37")
	publisher.Stderr = os.Stderr
	if err := publisher.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = publisher.Process.Signal(syscall.SIGTERM)
		_ = publisher.Wait()
	})
	for started := time.Now(); ; time.Sleep(time.Millisecond) {
		clock, err := OpenPath(path)
		if err == nil {
			_, err = clock.Now()
			_ = clock.Close()
		}
		if err == nil {
			return path
		}
		if time.Since(started) > limit {
			t.Fatal(err)
		}
	}
}

func TestALivePageGivesThisMachinesTime(t *testing.T) {
	clock := open(t, serve(t), Options{})
	for i := 0; i < 1_000; i++ {
		before := time.Now().UnixNano()
		reading, err := clock.Now()
		after := time.Now().UnixNano()
		if err != nil {
			t.Fatal(err)
		}
		interval, ok := reading.TAIInterval()
		earliest, _ := interval.Earliest.UnixNano()
		latest, _ := interval.Latest.UnixNano()
		const tai = 37 * nanosPerSec
		if !ok || latest-tai < before || earliest-tai > after {
			t.Fatalf("%v (%v) was not between %d and %d", reading, interval, before, after)
		}
	}
}

func TestWhatALivePublisherIsToldIsReported(t *testing.T) {
	path := serve(t)
	clock := open(t, path, Options{})
	events := watch(t, clock)
	known, err := clock.Epoch()
	if err != nil {
		t.Fatal(err)
	}
	until := func(kind EventKind) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		for {
			notice, err := events.Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if notice.Has(kind) {
				return
			}
		}
	}
	run(t, 0, "signal", "migrate", "--page", path)
	until(Disrupted)
	if current, err := clock.IsCurrent(known); err != nil || current {
		t.Fatal(current, err)
	}
	run(t, 0, "signal", "snapshot", "--page", path)
	until(Restored)
	run(t, 0, "signal", "soon", "--page", path)
	until(MaintenanceSoon)
}

func TestTheCommandGivesTheSame(t *testing.T) {
	random := rand.New(rand.NewSource(5))
	path := filepath.Join(t.TempDir(), "page")
	gaveTime := 0
	for i := 0; i < 100; i++ {
		page, counter := pageOf(random)
		if page.Size < minRegionLen {
			continue
		}
		write(t, path, region(page))
		output := run(t, 3, "eval", "--page", path, "--counter", strconv.FormatUint(counter, 10),
			"--cpu-counter", "x86-tsc", "--json")
		// Where there is no time, the exit status says so.
		want := expectation{Exit: 3}
		if err := json.Unmarshal(output, &want); err != nil {
			t.Fatalf("%q: %v", output, err)
		}
		if want.Time != nil {
			want.Exit = 0
			gaveTime++
		}
		if found, want := asJSON(t, evaluate(page, counter)), asJSON(t, want); found != want {
			t.Fatalf("%+v at %d:\n%s\nthe command: %s", page, counter, found, want)
		}
	}
	if gaveTime < 20 {
		t.Fatalf("only %d of the pages gave time: the test tests nothing", gaveTime)
	}
}
