// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the system's clock agrees with the page.

use vmclock::{CrossTimestamp, ReadError};

use crate::daemon::Daemon;
use crate::finding::Finding;
use crate::page::LookedAt;
use crate::wording::length;

const CHECK: &str = "system clock";
const SECOND: i128 = 1_000_000_000;

/// What a clock that somebody steers stays within, over a poor network too.
const STEERED: i128 = SECOND / 10;

/// The page's offset field, UTC less TAI, where it has none.
const USUAL_OFFSET: i128 = -37;

/// `CLOCK_REALTIME` relative to the page's UTC.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    /// Nanoseconds that it is ahead.
    ahead: i128,
    /// By how much that may be wrong; `None` where the page has no bounds.
    uncertainty: Option<i128>,
    /// UTC less TAI in seconds, as the page has it.
    offset: i128,
}

pub(crate) fn finding(page: &LookedAt, daemon: Option<&Daemon>) -> Finding {
    let path = page.path.display();
    let step = daemon.map_or_else(
        || format!("`date -u -s \"@$(vmclock now --page {path} --json | jq .utc.sec)\"`, and run chrony or the like"),
        |daemon| format!("`{}`", daemon.step),
    );
    match &page.opened {
        Err(_) => Finding::unknown(CHECK, "no page to compare CLOCK_REALTIME with"),
        Ok(opened) => match &opened.cross {
            Ok(cross) => match comparison(cross) {
                Some(comparison) => agreement(comparison, &step),
                None => Finding::unknown(CHECK, "the page gives no UTC to compare CLOCK_REALTIME with"),
            },
            Err(ReadError::NoTime(_)) => {
                Finding::unknown(CHECK, "the page gives no time to compare CLOCK_REALTIME with")
            }
            Err(error) => {
                Finding::unknown(CHECK, format!("CLOCK_REALTIME could not be compared with the page: {error}"))
            }
        },
    }
}

fn comparison(cross: &CrossTimestamp) -> Option<Comparison> {
    let offset = cross.page.tai_offset().map_or(USUAL_OFFSET, |offset| offset.page_field().into());
    if let Some((low, high)) = cross.realtime_ahead_nanos() {
        return Some(Comparison { ahead: (low + high).div_euclid(2), uncertainty: Some((high - low) / 2), offset });
    }
    let utc = cross.reading.utc_timestamp()?;
    Some(Comparison { ahead: cross.realtime.time.floor_nanos() - utc.nanos(), uncertainty: None, offset })
}

/// Judges the difference; `step` is what sets the system's clock.
fn agreement(Comparison { ahead, uncertainty, offset }: Comparison, step: &str) -> Finding {
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let within = uncertainty.map_or_else(
        || "the page has no bounds".into(),
        |uncertainty| format!("± {}", length(uncertainty.unsigned_abs())),
    );
    let found = format!("CLOCK_REALTIME is {} {side} the page's UTC ({within})", length(ahead.unsigned_abs()));
    let slack = uncertainty.unwrap_or_default();
    let off_by = |seconds: i128| (ahead - seconds * SECOND).abs() <= slack + SECOND;

    if ahead.abs() <= slack {
        Finding::ok(CHECK, format!("CLOCK_REALTIME agrees with the page ({}{within})", sign(ahead)))
    } else if ahead.abs() <= slack + STEERED {
        Finding::ok(CHECK, found)
    } else if off_by(-offset) {
        Finding::problem(CHECK, format!("{found}: it is on the other scale, TAI")).todo(format!(
            "find what sets it by a TAI clock (a `refclock PHC` line without `tai`?), mend that, then {step}"
        ))
    } else if off_by(offset) {
        Finding::problem(CHECK, format!("{found}: what the page gives as UTC is on the other scale, TAI"))
            .todo("tell whoever publishes the page that its time_type or tai_offset_sec is wrong; compare with `date -u` elsewhere")
    } else if ahead < 0 {
        Finding::problem(
            CHECK,
            format!("{found}: the machine was paused, or restored from a snapshot, and nobody stepped the clock"),
        )
        .todo(step)
    } else {
        Finding::problem(CHECK, found)
            .todo(format!("find out which is right (`date -u` on another machine); if the page is: {step}"))
    }
}

fn sign(ahead: i128) -> String {
    format!("{}{} ", if ahead < 0 { '-' } else { '+' }, length(ahead.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::State;

    fn judge(ahead: i128, uncertainty: impl Into<Option<i128>>) -> Finding {
        agreement(Comparison { ahead, uncertainty: uncertainty.into(), offset: -37 }, "`chronyc makestep`")
    }

    #[test]
    fn a_clock_within_the_uncertainty_agrees() {
        let finding = judge(-1_200, 3_000);
        assert_eq!(finding.state, State::Ok);
        assert_eq!(finding.found, "CLOCK_REALTIME agrees with the page (-1200 ns ± 3000 ns)");
        assert_eq!(finding.todo, None);
    }

    #[test]
    fn a_clock_a_little_off_is_in_order_and_the_figure_told() {
        let finding = judge(20_000_000, 3_000);
        assert_eq!(finding.state, State::Ok);
        assert_eq!(finding.found, "CLOCK_REALTIME is 20.0 ms ahead of the page's UTC (± 3000 ns)");
        assert_eq!(judge(20_000_000, None).state, State::Ok);
    }

    #[test]
    fn thirty_seven_seconds_are_the_other_scale_either_way() {
        let ahead = judge(37 * SECOND + 1_000, 3_000);
        assert_eq!(ahead.state, State::Problem);
        assert!(ahead.found.ends_with("(± 3000 ns): it is on the other scale, TAI"), "{}", ahead.found);
        let behind = judge(-37 * SECOND - 400_000_000, None);
        assert_eq!(behind.state, State::Problem);
        assert!(behind.found.contains("page gives as UTC is on the other scale"), "{}", behind.found);
    }

    #[test]
    fn a_clock_far_behind_was_not_stepped_after_a_restore() {
        let finding = judge(-3 * 86_400 * SECOND, 3_000);
        assert_eq!(finding.state, State::Problem);
        assert!(finding.found.starts_with("CLOCK_REALTIME is 3 d 0 h behind"), "{}", finding.found);
        assert!(finding.found.contains("restored from a snapshot"));
        assert_eq!(finding.todo.as_deref(), Some("`chronyc makestep`"));
    }

    #[test]
    fn a_clock_far_ahead_may_be_the_right_one() {
        let finding = judge(3_600 * SECOND, 3_000);
        assert_eq!(finding.state, State::Problem);
        assert!(finding.todo.unwrap().starts_with("find out which is right"));
    }
}
