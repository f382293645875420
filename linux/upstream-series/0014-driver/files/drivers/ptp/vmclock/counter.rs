// SPDX-License-Identifier: GPL-2.0
//! The CPU's counter: how it is read, and what the page calls it.

use core::arch::asm;

use crate::abi::CounterId;

/// The page's name for this CPU's counter.
#[cfg(CONFIG_X86)]
pub(crate) const ID: CounterId = CounterId::X86_TSC;
/// The page's name for this CPU's counter.
#[cfg(CONFIG_ARM64)]
pub(crate) const ID: CounterId = CounterId::ARM_CNTVCT;

/// The counter, read after every earlier load has its value: a timestamp taken with it is not older
/// than what was read before it.
#[cfg(CONFIG_X86)]
#[inline]
pub(crate) fn read_ordered() -> u64 {
    let (low, high): (u64, u64);
    // Without `nomem`, so that the compiler moves no access to shared memory across it.
    //
    // SAFETY: Every x86-64 CPU has both; they change nothing but these registers, whose upper halves
    // RDTSC clears.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            out("rax") low,
            out("rdx") high,
            options(nostack, preserves_flags),
        )
    };
    high << 32 | low
}

/// The counter, read after every earlier load has its value: a timestamp taken with it is not older
/// than what was read before it.
#[cfg(CONFIG_ARM64)]
#[inline]
pub(crate) fn read_ordered() -> u64 {
    let counter;
    // Without `nomem`, so that the compiler moves no access to shared memory across it.
    //
    // SAFETY: ISB and the read of CNTVCT_EL0 change no state.
    unsafe {
        asm!(
            "isb",
            "mrs {}, cntvct_el0",
            out(reg) counter,
            options(nostack, preserves_flags),
        )
    };
    counter
}
