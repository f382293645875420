// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The CPU's counter: how it is read, and what the page calls it.
//!
//! ```
//! use vmclock_core::{abi::CounterId, counter};
//! let (first, second) = (counter::read_ordered(), counter::read_ordered());
//! assert!(counter::ID == CounterId::NONE || second > first);
//! ```
#![allow(unsafe_code)]

use crate::abi::CounterId;

/// The page's name for this CPU's counter; `NONE` on architectures for which there is no VMClock.
pub const ID: CounterId = imp::ID;

/// The counter, read after every earlier load has its value: a timestamp taken with it is not older than what was
/// read before it.
#[inline]
pub fn read_ordered() -> u64 {
    imp::read_ordered()
}

/// The counter, read whenever the CPU finds the time, which may be some tens of nanoseconds off in either direction.
#[inline]
pub fn read_unordered() -> u64 {
    imp::read_unordered()
}

/// RDTSCP, the x86 instruction that is another way to an ordered reading. Nothing here uses it; it is for comparing
/// what readings cost. A value of this type is the proof that the CPU has it.
///
/// ```
/// use vmclock_core::counter::{read_ordered, Rdtscp};
/// if let Some(rdtscp) = Rdtscp::detect() {
///     let before = read_ordered();
///     assert!(rdtscp.read() >= before);
/// }
/// ```
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Rdtscp(());

impl Rdtscp {
    /// `None` where the CPU does not have it.
    pub fn detect() -> Option<Self> {
        imp::has_rdtscp().then_some(Self(()))
    }

    /// The counter, read after every earlier instruction was executed.
    #[inline]
    pub fn read(self) -> u64 {
        imp::rdtscp()
    }
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use core::arch::asm;
    use core::arch::x86_64::{__cpuid, __rdtscp, _rdtsc};

    use crate::abi::CounterId;

    pub(super) const ID: CounterId = CounterId::X86_TSC;

    #[inline]
    pub(super) fn read_ordered() -> u64 {
        let (low, high): (u64, u64);
        // LFENCE rather than RDTSCP: it is in every x86-64 CPU, RDTSCP is not; and it is no slower. Written out, as its
        // intrinsic is a function call in a kernel, which is compiled without SSE2. Without `nomem`, so that the
        // compiler moves no access to shared memory across it. SAFETY: every x86-64 CPU has both; they change nothing
        // but these registers, whose upper halves RDTSC clears.
        unsafe { asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nostack, preserves_flags)) };
        high << 32 | low
    }

    #[inline]
    pub(super) fn read_unordered() -> u64 {
        // SAFETY: RDTSC reads a register. Were it forbidden (CR4.TSD), the CPU would stop the program, not misread.
        unsafe { _rdtsc() }
    }

    pub(super) fn has_rdtscp() -> bool {
        const EXTENDED: u32 = 0x8000_0000;
        const FEATURES: u32 = 0x8000_0001;
        #[allow(unused_unsafe)] // newer compilers call it safe
        // SAFETY: every x86-64 CPU has CPUID, which only reads.
        let leaf = |leaf| unsafe { __cpuid(leaf) };
        leaf(EXTENDED).eax >= FEATURES && leaf(FEATURES).edx & 1 << 27 != 0
    }

    /// Only for CPUs that have it, as the caller knows.
    #[inline]
    pub(super) fn rdtscp() -> u64 {
        let mut cpu = 0;
        // SAFETY: `Rdtscp` exists only where `has_rdtscp` said yes; the pointer is to a number of ours.
        unsafe { __rdtscp(&raw mut cpu) }
    }
}

#[cfg(target_arch = "aarch64")]
mod imp {
    use core::arch::asm;

    use crate::abi::CounterId;

    pub(super) const ID: CounterId = CounterId::ARM_CNTVCT;

    #[inline]
    pub(super) fn read_ordered() -> u64 {
        let counter;
        // SAFETY: ISB and the read of CNTVCT_EL0 change no state. Without `nomem`, so that the compiler moves no
        // access to shared memory across it.
        unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) counter, options(nostack, preserves_flags)) };
        counter
    }

    #[inline]
    pub(super) fn read_unordered() -> u64 {
        let counter;
        // SAFETY: as above; unordered may also move, hence `nomem`.
        unsafe { asm!("mrs {}, cntvct_el0", out(reg) counter, options(nomem, nostack, preserves_flags)) };
        counter
    }

    pub(super) fn has_rdtscp() -> bool {
        false
    }

    pub(super) fn rdtscp() -> u64 {
        0
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod imp {
    use crate::abi::CounterId;

    pub(super) const ID: CounterId = CounterId::NONE;

    pub(super) fn read_ordered() -> u64 {
        0
    }

    pub(super) fn read_unordered() -> u64 {
        0
    }

    pub(super) fn has_rdtscp() -> bool {
        false
    }

    pub(super) fn rdtscp() -> u64 {
        0
    }
}
