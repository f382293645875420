// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last measurement of a source, which is its vote.

use serde::{Deserialize, Serialize};
use vmclock_core::sample::Sample;
use vmclock_core::time::Tai;

/// The last measurement of a source.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Vote {
    #[serde(with = "crate::plain")]
    pub(super) sample: Sample<Tai>,
    /// Maximum and estimated error of the sample's time, in nanoseconds.
    pub(super) max_error: f64,
    pub(super) estimated_error: f64,
    pub(super) synchronized: bool,
}
