// SPDX-License-Identifier: MIT OR Apache-2.0

// One round of each of Go's ways to read the time for each line on standard input: see ../src/child.rs.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	vmclock "github.com/vmclock/vmclock/bindings/go"
)

// calls in one round, as the others have them.
const calls = 5_000

// Where results go, so that they are put together in memory.
var (
	reading  vmclock.Reading
	interval vmclock.Interval
	now      time.Time
	current  bool
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(page string) error {
	clock, err := vmclock.OpenPath(page)
	if err != nil {
		return err
	}
	epoch, err := clock.Epoch()
	if err != nil {
		return err
	}
	peers := []struct {
		key, what string
		round     func() error
	}{
		{"go_read", "vmclock for Go, Read()", func() error {
			var err error
			for i := 0; i < calls && err == nil; i++ {
				err = clock.Read(&reading)
			}
			return err
		}},
		{"go_now", "vmclock for Go, Now()", func() error {
			var err error
			for i := 0; i < calls && err == nil; i++ {
				reading, err = clock.Now()
			}
			return err
		}},
		{"go_interval", "vmclock for Go, Read() and its interval", func() error {
			for i := 0; i < calls; i++ {
				if err := clock.Read(&reading); err != nil {
					return err
				}
				interval, _ = reading.Interval()
			}
			return nil
		}},
		{"go_is_current", "vmclock for Go, IsCurrent()", func() error {
			var err error
			for i := 0; i < calls && err == nil; i++ {
				current, err = clock.IsCurrent(epoch)
			}
			return err
		}},
		{"go_time", "Go's time.Now()", func() error {
			for i := 0; i < calls; i++ {
				now = time.Now()
			}
			return nil
		}},
	}
	var names [][2]string
	for _, peer := range peers {
		names = append(names, [2]string{peer.key, peer.what})
	}
	output := json.NewEncoder(os.Stdout)
	if err := output.Encode(names); err != nil {
		return err
	}
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		var costs []float64
		for _, peer := range peers {
			start := time.Now()
			if err := peer.round(); err != nil {
				return err
			}
			costs = append(costs, float64(time.Since(start).Nanoseconds())/calls)
		}
		if err := output.Encode(costs); err != nil {
			return err
		}
	}
	return nil
}
