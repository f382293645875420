// SPDX-License-Identifier: GPL-2.0
//! The PTP clock: the page's time, in TAI.

use kernel::bindings;
use kernel::ffi::c_long;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use vmclock_core::abi::{CounterId, Snapshot, TimeType, Words, MAGIC, VERSION};
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;
use vmclock_core::leap;
use vmclock_core::time::{Tai, Time};

use crate::clock::{patiently, Clock};
use crate::upstream::bindings::vmclock_rust_kvm_clock;
use crate::upstream::ptp::{PtpClock, SystemTimestamps};
use crate::upstream::timekeeping::{
    snapshot, CounterId as SystemCounterId, CrossTimestamp, SystemClock, SystemCounter,
};

/// What the system calls the counter that the page is about.
#[cfg(CONFIG_X86)]
const COUNTER: SystemCounterId = bindings::clocksource_ids_CSID_X86_TSC;
#[cfg(CONFIG_ARM64)]
const COUNTER: SystemCounterId = bindings::clocksource_ids_CSID_ARM_ARCH_COUNTER;
/// There is none elsewhere, and no PTP clock.
#[cfg(not(any(CONFIG_X86, CONFIG_ARM64)))]
const COUNTER: SystemCounterId = bindings::clocksource_ids_CSID_GENERIC;
/// What KVM makes of it.
const KVM_CLOCK: SystemCounterId = bindings::clocksource_ids_CSID_X86_KVM_CLK;

/// How often the KVM clock may change its parameters just while it is read: hardly ever once.
const KVM_ATTEMPTS: u32 = 10;

/// The page as a PTP clock.
pub(crate) struct VmClock {
    clock: Arc<Clock>,
    /// What the system's clock is made of, as far as it was needed.
    system: Atomic<u32>,
}

impl VmClock {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        Self { clock, system: Atomic::new(COUNTER) }
    }

    /// Whether a page has what a PTP clock needs. Its status may still forbid to read it.
    pub(crate) fn can_be_of(page: &Snapshot) -> bool {
        let is_ours = counter::ID != CounterId::NONE && page.counter_id == counter::ID;
        let gives_tai = match page.time_type {
            TimeType::TAI => true,
            TimeType::UTC => page.tai_offset().is_some(),
            _ => false,
        };
        is_ours && gives_tai && page.has_time_fields()
    }

    /// The time in TAI, and the counter that it was at. `capture` reads the counter, between the two
    /// loads of the sequence count. `EAGAIN` while an update is in progress.
    #[inline]
    fn read(&self, capture: impl FnMut() -> u64) -> Result<(Time<Tai>, u64)> {
        // The hypervisor should state that on the page; but it may not know.
        #[cfg(CONFIG_X86)]
        // SAFETY: it only reads a variable of the kernel.
        if unsafe { bindings::check_tsc_unstable() } != 0 {
            return Err(EINVAL);
        }
        let page = self.clock.page();
        let (words, counter) = page.try_some_words_with::<{ Words::OF_TIME }, _>(capture).ok_or(EAGAIN)?;
        let page = self.clock.region().clipped(words.decode());
        // Any other fault gives no time anyway.
        if page.magic != MAGIC || page.version != VERSION {
            return Err(EINVAL);
        }
        let calibration = Calibration::from_snapshot(&page, counter::ID).map_err(|_| EINVAL)?;
        let time = calibration.time_at(counter).map_err(|_| EINVAL)?;
        Ok((leap::tai(&page, time).ok_or(EINVAL)?, counter))
    }

    /// The time in nanoseconds, and the counter in the units of what the system's clock is made of.
    fn capture(&self) -> Result<(i64, SystemCounter)> {
        let mut attempts = KVM_ATTEMPTS;
        loop {
            let (tai, counter) = self.read(counter::read_ordered)?;
            // Beyond the year 2262 the kernel's own time ends.
            let nanos = i64::try_from(tai.floor_nanos()).map_err(|_| ERANGE)?;
            let mut system = SystemCounter { cycles: counter, cs_id: COUNTER, use_nsecs: false };
            if self.system.load(Relaxed) != KVM_CLOCK {
                return Ok((nanos, system));
            }
            system.cs_id = KVM_CLOCK;
            attempts -= 1;
            // SAFETY: the place is ours.
            match kernel::error::to_result(unsafe { vmclock_rust_kvm_clock(counter, &mut system.cycles) }) {
                // Its parameters are younger than the counter's reading.
                Err(error) if error == EAGAIN && attempts > 0 => {}
                result => return result.map(|()| (nanos, system)),
            }
        }
    }
}

impl PtpClock for VmClock {
    #[inline]
    fn time(&self, mut system: Option<&mut SystemTimestamps>) -> Result<bindings::timespec64> {
        let (tai, _) = patiently!(self.read(|| match &mut system {
            Some(system) => between(system),
            None => counter::read_ordered(),
        }))?;
        Ok(bindings::timespec64 { tv_sec: tai.seconds(), tv_nsec: tai.subsec_nanos() as c_long })
    }

    fn cross_timestamp(&self, stamp: &mut CrossTimestamp) -> Result {
        match patiently!(stamp.fill(|| self.capture())) {
            Err(error) if error == ENODEV => {}
            result => return result,
        }
        // The system's clock may be made of the KVM clock, which we can make of the counter.
        let system = snapshot(SystemClock::REALTIME).cs_id;
        if system != COUNTER && system != KVM_CLOCK {
            return Err(ENODEV);
        }
        self.system.store(system, Relaxed);
        patiently!(stamp.fill(|| self.capture()))
    }
}

/// The counter, with the system's time before and after. Where the system's clock is made of the same counter, all
/// three are of one reading of it.
fn between(system: &mut SystemTimestamps) -> u64 {
    let first = system.take_first();
    let same = if first.cs_id == COUNTER {
        Some(first.cycles)
    } else {
        (first.hw_csid == COUNTER && first.hw_cycles != 0).then_some(first.hw_cycles)
    };
    if let Some(counter) = same {
        system.second_is_first();
        return counter;
    }
    let counter = counter::read_ordered();
    system.take_second();
    counter
}
