// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build race

package vmclock

// raceDetector tells that atomic operations are calls of the race detector's code here. A fault in it is no panic that
// could be recovered from, but the end of the program; so plain files, which can be cut short, are not mapped. Nothing
// is lost: the detector ignores memory that Go did not allocate.
const raceDetector = true
