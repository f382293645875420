// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PTP clock that the driver makes of the page, and whether it runs TAI or UTC.
//!
//! Linux 6.13 to 6.19 made it run UTC, 7.0 and later TAI, and vendors carry the change back: the release says nothing,
//! so the clock is read and compared.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;

use rustix::time::{clock_gettime, ClockId};
use vmclock::{Time, Timestamp};

use crate::finding::Finding;
use crate::kernel::Driver;
use crate::machine::Machine;
use crate::page::{LookedAt, Opened};
use crate::wording::length;

const CHECK: &str = "PTP clock";
const SECOND: i128 = 1_000_000_000;

/// TAI - UTC in seconds where nobody says it: the inverse of the offsets that a page may have.
const PLAUSIBLE_OFFSETS: RangeInclusive<i128> = 10..=60;

/// A PTP clock of a VMClock.
pub(crate) struct PtpClock {
    /// Like `ptp0`.
    pub(crate) name: String,
    clock_name: String,
    compared: io::Result<Compared>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClockScale {
    Tai,
    Utc,
}

/// How the clock compares with another.
struct Compared {
    with: &'static str,
    /// On which scale that makes it; `None` where it fits neither.
    scale: Option<ClockScale>,
    /// How far it is ahead of the other's UTC.
    ahead: i128,
}

impl PtpClock {
    pub(crate) fn scale(&self) -> Option<ClockScale> {
        self.compared.as_ref().ok()?.scale
    }
}

pub(crate) fn look(machine: &Machine, page: &LookedAt) -> Option<PtpClock> {
    let (name, clock_name) = clocks(machine).into_iter().find(|(_, clock_name)| clock_name.starts_with("vmclock"))?;
    let read = || (machine.ptp_nanos)(&File::open(machine.path(&format!("/dev/{name}")))?);
    let compared = read().map(|nanos| compare(nanos, page.opened.as_ref().ok()));
    Some(PtpClock { name, clock_name, compared })
}

/// All PTP clocks of the machine, with what they call themselves.
fn clocks(machine: &Machine) -> Vec<(String, String)> {
    let folder = "/sys/class/ptp";
    let named = |name: String| Some((name.clone(), machine.text(&format!("{folder}/{name}/clock_name"))?));
    machine.names(folder).into_iter().filter_map(named).collect()
}

/// Compares with the page first, which the clock is made of. A page that is not this clock's (a file of some
/// publisher's) may fit neither scale: then, as without a page, with the system's clock.
fn compare(ptp: i128, page: Option<&Opened>) -> Compared {
    let by_page = page.and_then(|page| {
        let now = page.clock.now().ok()?;
        let tai = now.tai().map(Time::floor_nanos);
        let utc = now.utc_timestamp().map(Timestamp::nanos);
        let scale = scale(ptp, utc, tai)?;
        Some(Compared { with: "the page", scale: Some(scale), ahead: ptp - utc.or(tai)? })
    });
    by_page.unwrap_or_else(|| {
        let now = clock_gettime(ClockId::Realtime);
        let realtime = i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec);
        Compared { with: "CLOCK_REALTIME", scale: scale(ptp, Some(realtime), None), ahead: ptp - realtime }
    })
}

/// On which of two scales `ptp` is, to within a second or so: the scales are tens of seconds apart.
fn scale(ptp: i128, utc: Option<i128>, tai: Option<i128>) -> Option<ClockScale> {
    let near = |reference: i128| (ptp - reference).abs() < 2 * SECOND;
    // By UTC alone: TAI is some tens of whole seconds ahead of it.
    let tai_by_utc = |utc: i128| {
        let whole = (ptp - utc + SECOND / 2).div_euclid(SECOND);
        tai.is_none() && PLAUSIBLE_OFFSETS.contains(&whole) && (ptp - utc - whole * SECOND).abs() < SECOND / 4
    };
    if utc.is_some_and(near) {
        Some(ClockScale::Utc)
    } else if tai.is_some_and(near) || utc.is_some_and(tai_by_utc) {
        Some(ClockScale::Tai)
    } else {
        None
    }
}

pub(crate) fn finding(machine: &Machine, clock: Option<&PtpClock>, driver: &Driver, page: &LookedAt) -> Finding {
    let Some(PtpClock { name, clock_name, compared }) = clock else {
        return missing(machine, driver, page);
    };
    let named = format!("/dev/{name} ({clock_name})");
    match compared {
        Ok(Compared { with, scale: Some(scale), .. }) => {
            let scale = match scale {
                ClockScale::Tai => "TAI",
                ClockScale::Utc => "UTC",
            };
            Finding::ok(CHECK, format!("{named} runs {scale}, by comparison with {with}; it has no error bounds"))
        }
        Ok(Compared { with, scale: None, ahead }) => {
            let side = if *ahead < 0 { "behind" } else { "ahead of" };
            let length = length(ahead.unsigned_abs());
            Finding::problem(CHECK, format!("{named} runs neither TAI nor UTC: it is {length} {side} {with}")).todo(
                "find out which of the two is wrong (`vmclock now`, `date -u`) before anything follows this clock",
            )
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::missing(CHECK, format!("the kernel has {name} ({clock_name}), but there is no /dev/{name} here"))
                .todo(format!("in a container: start it with `--device /dev/{name}`; else mount devtmpfs on /dev"))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::problem(CHECK, format!("{named}: you may not read it, so its scale is not known"))
                .todo("run `vmclock doctor` as root; programs that read the page need no PTP clock")
        }
        Err(error) => Finding::problem(CHECK, format!("{named} cannot be read: {error}"))
            .todo("see whether the page gives time, below: the driver refuses while the page's status is unreliable"),
    }
}

/// Why there is none.
fn missing(machine: &Machine, driver: &Driver, page: &LookedAt) -> Finding {
    let others: Vec<_> = clocks(machine).into_iter().map(|(name, clock)| format!("/dev/{name} ({clock})")).collect();
    let others = if others.is_empty() { String::new() } else { format!("; there is {}", others.join(", ")) };
    let gives_time = page.is_device() && page.opened.as_ref().is_ok_and(|opened| opened.reading.is_ok());
    match driver {
        Driver::Bound { .. } if gives_time => Finding::missing(
            CHECK,
            format!("none: when the driver started, the page did not give both TAI and UTC{others}"),
        )
        .todo("now that the page gives time: `modprobe -r ptp_vmclock && modprobe ptp_vmclock`, or boot again"),
        Driver::Bound { .. } => {
            Finding::missing(CHECK, format!("none: the driver makes it of a page that gives both TAI and UTC{others}"))
        }
        _ => Finding::missing(CHECK, format!("none of a VMClock: the driver makes it{others}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTC: i128 = 1_800_000_000 * SECOND;

    #[test]
    fn the_scale_is_found_by_comparing() {
        let tai = UTC + 37 * SECOND;
        for late in [0, 900_000, 300_000_000] {
            assert_eq!(scale(tai + late, Some(UTC), Some(tai)), Some(ClockScale::Tai));
            assert_eq!(scale(UTC + late, Some(UTC), Some(tai)), Some(ClockScale::Utc));
        }
        assert_eq!(scale(tai, None, Some(tai)), Some(ClockScale::Tai));
        assert_eq!(scale(UTC, None, Some(tai)), None);
        assert_eq!(scale(UTC - 3600 * SECOND, Some(UTC), Some(tai)), None);
    }

    #[test]
    fn by_utc_alone_tai_is_whole_tens_of_seconds_ahead() {
        assert_eq!(scale(UTC + 37 * SECOND + 5_000, Some(UTC), None), Some(ClockScale::Tai));
        assert_eq!(scale(UTC + 37 * SECOND - 5_000, Some(UTC), None), Some(ClockScale::Tai));
        assert_eq!(scale(UTC + 37 * SECOND + SECOND / 2, Some(UTC), None), None);
        assert_eq!(scale(UTC - 37 * SECOND, Some(UTC), None), None);
        assert_eq!(scale(UTC + 90 * SECOND, Some(UTC), None), None);
    }
}
