// SPDX-License-Identifier: MIT OR Apache-2.0

#include "textflag.h"

// func counterOrdered() uint64
//
// DMB ISHLD (9) and ISB: the counter is read after every earlier load has its value.
TEXT ·counterOrdered(SB), NOSPLIT, $0-8
	DMB  $9
	ISB  $15
	MRS  CNTVCT_EL0, R0
	MOVD R0, ret+0(FP)
	RET

// func counterUnordered() uint64
TEXT ·counterUnordered(SB), NOSPLIT, $0-8
	MRS  CNTVCT_EL0, R0
	MOVD R0, ret+0(FP)
	RET
