// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build !amd64 && !arm64

package vmclock

// cpuCounter tells that there is no VMClock for this CPU's counter: pages give events, but no time.
const cpuCounter = CounterNone

func counterOrdered() uint64 { return 0 }

func counterUnordered() uint64 { return 0 }
