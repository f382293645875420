// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build amd64 || arm64

package vmclock

// counterOrdered reads the CPU's counter after every earlier load has its value: a time taken with it is not older than
// what was read before it.
func counterOrdered() uint64

// counterUnordered reads the CPU's counter whenever the CPU finds the time, some tens of nanoseconds off in either
// direction.
func counterUnordered() uint64
