// SPDX-License-Identifier: MIT OR Apache-2.0

#include "textflag.h"

// func counterOrdered() uint64
//
// LFENCE waits until every earlier load has its value. RDTSC clears the upper halves of both registers.
TEXT ·counterOrdered(SB), NOSPLIT, $0-8
	LFENCE
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func counterUnordered() uint64
TEXT ·counterUnordered(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET
