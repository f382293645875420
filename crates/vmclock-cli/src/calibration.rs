// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what the host's estimator knows to what a page can say.

use vmclock::{ClockStatus, LeapIndicator};
use vmclock_host::estimator::Estimate;
use vmclock_vmm::device::Calibration;

/// An estimate as a calibration of the counter that it is about. Of UTC an estimator knows nothing.
pub(crate) fn of(estimate: &Estimate, status: ClockStatus) -> Calibration {
    let Estimate {
        counter,
        time,
        period,
        time_max_error,
        time_estimated_error,
        period_max_error,
        period_estimated_error,
    } = *estimate;
    Calibration {
        counter,
        time,
        period,
        time_max_error,
        time_estimated_error,
        period_max_error,
        period_estimated_error,
        status,
        utc_minus_tai: None,
        leap_indicator: LeapIndicator::NONE,
    }
}
