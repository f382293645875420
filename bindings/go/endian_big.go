// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build ppc64 || s390x || mips || mips64

package vmclock

import "math/bits"

func le32(word uint32) uint32 { return bits.ReverseBytes32(word) }

func le64(word uint64) uint64 { return bits.ReverseBytes64(word) }
