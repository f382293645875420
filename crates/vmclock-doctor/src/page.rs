// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page: whether it can be opened and what can be had from it.

use std::fs;
use std::mem::offset_of;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use vmclock::{ClockStatus, CrossTimestamp, NoTime, OpenError, ReadError, Reading, Snapshot, TimeType, VmClock};
use vmclock_core::calibration::Calibration;

use crate::anomaly::{anomalies, About};
use crate::finding::{Finding, Verdict};
use crate::machine::Machine;
use crate::wording::length;

const CHECK: &str = "page";

/// `vmclock serve` refreshes a page in a file every minute at least: one that is older has lost its publisher.
const STALE: i128 = 90_000_000_000;

/// The page at a path, looked at once for all findings about it.
pub(crate) struct LookedAt {
    pub(crate) path: PathBuf,
    pub(crate) opened: Result<Opened, OpenError>,
}

/// A page that could be opened.
pub(crate) struct Opened {
    pub(crate) clock: VmClock,
    snapshot: Result<Snapshot, ReadError>,
    pub(crate) reading: Result<Reading, ReadError>,
    pub(crate) cross: Result<CrossTimestamp, ReadError>,
    /// Whether its device wakes those who wait for events.
    notifies: bool,
}

impl LookedAt {
    pub(crate) fn new(path: &Path) -> Self {
        let opened = VmClock::open_at(path).map(|clock| Opened {
            snapshot: clock.snapshot(),
            reading: clock.now(),
            cross: clock.cross_timestamp(),
            notifies: clock.events().is_ok_and(|events| events.is_notified()),
            clock,
        });
        Self { path: path.into(), opened }
    }

    /// Whether there is a device at the path, rather than a file that somebody publishes a page in.
    pub(crate) fn is_device(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|file| file.file_type().is_char_device())
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match &self.opened {
            Ok(Opened { reading: Ok(_), .. }) => Verdict::Time,
            Ok(Opened { snapshot: Ok(snapshot), .. }) if has_marker(snapshot) => Verdict::EventsOnly,
            _ => Verdict::Nothing,
        }
    }

    /// What can be said of the page; of one that cannot be opened just why.
    pub(crate) fn findings(&self, machine: &Machine) -> Vec<Finding> {
        let opened = match &self.opened {
            Ok(opened) => opened,
            Err(error) => return vec![self.not_opened(machine, error)],
        };
        let snapshot = match &opened.snapshot {
            Ok(snapshot) => snapshot,
            Err(error) => {
                return vec![Finding::problem(CHECK, format!("{}: {error}", self.path.display()))
                    .todo("run `vmclock doctor` again; if it stays so, restart the publisher")]
            }
        };
        vec![
            self.contents(opened, snapshot),
            time(self, opened, snapshot),
            bounds(opened, snapshot),
            generation(machine, snapshot),
            notification(self, opened),
        ]
    }

    fn not_opened(&self, machine: &Machine, error: &OpenError) -> Finding {
        let path = self.path.display();
        match error {
            OpenError::NoDevice { .. } | OpenError::NoDriver { .. } | OpenError::NoFile { .. } => {
                if machine.is_for_device_nodes(&self.path) {
                    Finding::missing(CHECK, format!("no {path}: see the device and its driver above"))
                } else {
                    Finding::missing(CHECK, format!("no {path}"))
                        .todo(format!("start its publisher: `vmclock serve --page {path}`"))
                }
            }
            OpenError::Permission { .. } if machine.is_for_device_nodes(&self.path) => {
                Finding::problem(CHECK, format!("{path}: you may not read it: see the device node above"))
            }
            OpenError::Permission { .. } => Finding::problem(CHECK, format!("{path}: you may not read it"))
                .todo(format!("as root: `chmod a+r {path}`, and see that its folder can be entered")),
            OpenError::WrongKind { kind, .. } => Finding::problem(CHECK, format!("{path} is a {kind}"))
                .todo("give the path of a VMClock device or of a file with a page in it"),
            OpenError::NotAPage { error, .. } => Finding::problem(CHECK, format!("{path}: {error}"))
                .todo("see whether it is the right path, and who writes to it"),
            OpenError::Busy { error, .. } => Finding::problem(CHECK, format!("{path}: {error}")),
            error => Finding::problem(CHECK, error.to_string()),
        }
    }

    fn contents(&self, opened: &Opened, snapshot: &Snapshot) -> Finding {
        let path = self.path.display();
        let way = if opened.clock.is_mapped() { "mapped" } else { "read by system calls, which is slow" };
        let found = format!(
            "{path}: {} bytes, counter {}, time type {}, status {}, {way}",
            snapshot.size, snapshot.counter_id, snapshot.time_type, snapshot.clock_status
        );
        let age = age(opened, snapshot);
        let found = match age {
            Some(age) if age > 0 => format!("{found}, refreshed {} ago", length(age.unsigned_abs())),
            _ => found,
        };
        let warnings = warnings(opened, snapshot);
        if !warnings.is_empty() {
            Finding::problem(CHECK, format!("{found}; warnings: {}", warnings.join("; ")))
                .todo("tell whoever publishes the page; `vmclock show` has every field")
        } else if !self.is_device() && age.is_some_and(|age| age > STALE) {
            Finding::problem(CHECK, format!("{found}: its publisher seems to be gone, and its error bounds grow"))
                .todo(format!("start it again: `vmclock serve --page {path}`"))
        } else {
            Finding::ok(CHECK, found)
        }
    }
}

/// How long ago the page's reference time was, in nanoseconds. A device may rightly never refresh it.
fn age(opened: &Opened, snapshot: &Snapshot) -> Option<i128> {
    let calibration = Calibration::from_snapshot(snapshot, opened.clock.counter_id()).ok()?;
    let reading = opened.reading.as_ref().ok()?;
    Some(reading.time().since(calibration.reference_time())?.floor_nanos())
}

/// The anomalies of a page, without what has a finding of its own: that it gives no time, or no bounds.
fn warnings(opened: &Opened, snapshot: &Snapshot) -> Vec<String> {
    let has_finding = |about| match about {
        About::Time => matches!(&opened.reading, Err(ReadError::NoTime(_))),
        About::Bounds => true,
        About::Contents => false,
    };
    let besides = anomalies(snapshot).into_iter().filter(|anomaly| !has_finding(anomaly.about));
    besides.map(|anomaly| anomaly.to_string()).collect()
}

/// Whether the disruption marker lies inside the page's size.
fn has_marker(snapshot: &Snapshot) -> bool {
    snapshot.size as usize >= offset_of!(Snapshot, flags)
}

fn time(page: &LookedAt, opened: &Opened, snapshot: &Snapshot) -> Finding {
    const CHECK: &str = "time";
    let to_set_offset = "whoever publishes the page should state TAI-UTC (`vmclock serve --tai-offset 37`)";
    match &opened.reading {
        Ok(reading) => match (snapshot.time_type, reading.tai(), reading.utc()) {
            (TimeType::MONOTONIC, ..) => {
                Finding::ok(CHECK, format!("{reading}: good for lengths of time, not for TAI or UTC"))
            }
            (_, Some(_), Some(_)) => {
                let offset = snapshot.tai_offset().map_or_else(String::new, |offset| format!(", TAI-UTC = {offset}"));
                Finding::ok(CHECK, format!("{reading}{offset}"))
            }
            // Most programs want UTC, and have it here.
            (_, None, Some(_)) => Finding::ok(CHECK, format!("{reading}: no TAI, as the page has no valid TAI-UTC"))
                .todo(format!("where TAI, or Linux's PTP clock in a guest, is wanted: {to_set_offset}")),
            _ => Finding::problem(CHECK, format!("{reading}: no UTC, as the page has no valid TAI-UTC"))
                .todo(to_set_offset),
        },
        Err(ReadError::NoTime(reason)) => {
            Finding::missing(CHECK, reason.to_string()).maybe_todo(to_get_time(page, *reason))
        }
        Err(error) => Finding::problem(CHECK, error.to_string()),
    }
}

/// The next step where a page gives no time; the reason itself has it where it is short.
fn to_get_time(page: &LookedAt, reason: NoTime) -> Option<String> {
    let path = page.path.display();
    match reason {
        NoTime::FieldsOutsideSize { .. } | NoTime::Counter { .. } if page.is_device() => {
            Some("ask whoever runs the host for time on the page; events are to be had: `vmclock watch`".into())
        }
        NoTime::Status(ClockStatus::INITIALIZING) => Some(format!("`vmclock wait --page {path} --max-error 1s`")),
        NoTime::Status(ClockStatus::UNRELIABLE) if !page.is_device() => {
            Some(format!("its publisher has stopped, or lost its clock: `vmclock serve --page {path}`"))
        }
        _ => None,
    }
}

fn bounds(opened: &Opened, snapshot: &Snapshot) -> Finding {
    const CHECK: &str = "bounds";
    match &opened.reading {
        Ok(reading) => match reading.max_error_nanos() {
            Some(nanos) => Finding::ok(CHECK, format!("true time is within ± {}", length(nanos))),
            None => {
                Finding::missing(CHECK, "the page does not say how far off it may be: readings have no error bounds")
                    .todo("ask whoever publishes the page for the maximum errors of both time and period")
            }
        },
        Err(_) if snapshot.time_maxerror().is_some() && snapshot.period_maxerror().is_some() => {
            Finding::ok(CHECK, "stated, for when there is time")
        }
        Err(_) => Finding::missing(CHECK, "none without time"),
    }
}

fn generation(machine: &Machine, snapshot: &Snapshot) -> Finding {
    const CHECK: &str = "generation";
    let vmgenid = if machine.names("/sys/bus/acpi/devices").iter().any(|name| name.starts_with("VMGENCTR")) {
        "; the kernel itself has another generation device (VMGENCTR)"
    } else {
        ""
    };
    match (snapshot.generation(), has_marker(snapshot)) {
        (Some(generation), _) => Finding::ok(
            CHECK,
            format!("{generation:#018x}, marker {:#018x}: restores and clones can be seen", snapshot.disruption_marker),
        ),
        (None, true) => Finding::missing(
            CHECK,
            format!(
                "none, only the marker {:#018x}: a restore looks like any disruption{vmgenid}",
                snapshot.disruption_marker
            ),
        )
        .todo("where it matters, ask whoever runs the host for a VMClock with vm_generation_counter"),
        (None, false) => Finding::missing(CHECK, format!("neither generation nor marker: no events{vmgenid}")),
    }
}

fn notification(page: &LookedAt, opened: &Opened) -> Finding {
    const CHECK: &str = "notification";
    if opened.notifies {
        Finding::ok(CHECK, "the device wakes those who wait for events")
    } else if page.is_device() {
        Finding::missing(CHECK, "the device does not notify: those who wait for events look every 10 ms")
    } else {
        Finding::missing(CHECK, "a plain file cannot notify: those who wait for events look every 10 ms")
    }
}
