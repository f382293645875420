// SPDX-License-Identifier: MIT OR Apache-2.0
//! ClockBound's client without its daemon: a shared-memory segment as the daemon would write it.
//!
//! Layout version 3, the client's default (`/var/run/clockbound/shm1`), as `ShmHeader` and `ClockErrorBoundV3` have it
//! in the sources of clock-bound 3.0.0-rc.0 (`src/shm/shm_header.rs`, `src/shm.rs`): native byte order, no packing.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{bail, ensure, Context};
use clock_bound::{Client, ClockStatus};
use vmclock::{Snapshot, Time};
use vmclock_core::time::Utc;

/// The bytes of a whole segment.
const LEN: usize = HEADER_LEN + 88;
const HEADER_LEN: usize = 16;

/// Writes a segment that says the same as `page`: the same clock, the same marker, and bounds that grow at the same
/// rate.
pub(crate) fn write_segment(path: &Path, page: &Snapshot) -> anyhow::Result<()> {
    /// Seconds for which the daemon lets its numbers be used.
    const VALID: u64 = 1_000;
    /// Minimum and current layout version.
    const VERSION: u16 = 3 << 8 | 3;
    /// Of updates: even and not zero.
    const GENERATION: u16 = 2;
    /// The daemon's default (`DEFAULT_MAX_DISPERSION_PPB`), which counts beside the period's own error.
    const MAX_DRIFT_PPB: u32 = 15_000;
    const SYNCHRONIZED: i32 = 1;
    const DISRUPTION_SUPPORT: u8 = 1;
    /// The period's relative error of 1 ppm in 2^-(64 + shift), with the shift that the daemon would choose.
    const PERIOD_ERROR: (u64, u8) = (9_671_406_556_917_033_397, 19);

    let time = Time::<Utc>::from_parts(i64::try_from(page.time_sec)?, page.time_frac_sec);
    let (seconds, nanos) = (page.time_sec, u64::from(time.subsec_nanos()));
    let mut bytes = Vec::with_capacity(LEN);
    let mut put = |field: &[u8]| bytes.extend_from_slice(field);
    // ShmHeader
    put(&0x414d_5a4e_u32.to_ne_bytes()); // magic
    put(&0x4342_0200_u32.to_ne_bytes());
    put(&u32::try_from(LEN)?.to_ne_bytes());
    put(&VERSION.to_ne_bytes());
    put(&GENERATION.to_ne_bytes());
    // ClockErrorBoundV3
    put(&page.counter_value.to_ne_bytes()); // as_of_tsc
    put(&seconds.to_ne_bytes()); // as_of
    put(&nanos.to_ne_bytes());
    put(&(seconds + VALID).to_ne_bytes()); // void_after
    put(&nanos.to_ne_bytes());
    put(&page.counter_period_frac_sec.to_ne_bytes());
    put(&PERIOD_ERROR.0.to_ne_bytes());
    put(&page.time_maxerror_nanosec.to_ne_bytes()); // bound_nsec
    put(&page.disruption_marker.to_ne_bytes());
    put(&MAX_DRIFT_PPB.to_ne_bytes());
    put(&SYNCHRONIZED.to_ne_bytes());
    put(&[DISRUPTION_SUPPORT, page.counter_period_shift, PERIOD_ERROR.1, 0, 0, 0, 0, 0]);
    ensure!(bytes.len() == LEN, "the segment has {} bytes, not {LEN}", bytes.len());
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Opens its client on the segment and the VMClock page.
pub(crate) fn open(segment: &Path, page: &Path) -> anyhow::Result<Client> {
    let path = |path: &Path| path.to_str().map(str::to_owned).context("the temporary folder's name is not UTF-8");
    Client::new_with_paths(&path(segment)?, &path(page)?).map_err(|error| anyhow::anyhow!("ClockBound: {error:?}"))
}

/// Whether its reading is one: synchronised, with bounds, near the kernel's time.
pub(crate) fn check(client: &mut Client) -> anyhow::Result<()> {
    let window = client.now().map_err(|error| anyhow::anyhow!("ClockBound: {error:?}"))?;
    if window.clock_status != ClockStatus::Synchronized {
        bail!("ClockBound says that it is {:?}", window.clock_status);
    }
    ensure!(window.earliest < window.latest, "ClockBound gives no bounds");
    let earliest = Duration::new(u64::try_from(window.earliest.tv_sec())?, u32::try_from(window.earliest.tv_nsec())?);
    super::near_the_kernels(SystemTime::UNIX_EPOCH + earliest)
}
