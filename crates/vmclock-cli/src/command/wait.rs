// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock wait`: until the clock is good enough.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use vmclock::{ReadError, Reading, VmClock};

use crate::cli::WaitArgs;
use crate::command::now::read;
use crate::exit;
use crate::output::{error, print, print_error, print_json, reading_json};

pub(crate) fn run(args: &WaitArgs) -> anyhow::Result<ExitCode> {
    let deadline = args.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    // Errors grow between refreshes and shrink with them, so each refresh is a chance.
    let mut events = VmClock::open_at(&args.page.page)?.events()?.with_refreshes(true);
    loop {
        let last = read(events.clock());
        if let Some(reading) = good_enough(&last, args.max_error) {
            if args.page.json {
                print_json(&reading_json(&reading))?;
            } else {
                print(&format!("{reading}\n"))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let wanted = error(args.max_error.as_nanos());
            let why = match &last {
                Ok(reading) => reading
                    .max_error_nanos()
                    .map_or_else(|| "the page states no bounds".into(), |now| format!("it is {}", error(now))),
                Err(reason) => exit::text(reason),
            };
            print_error(format_args!("not {wanted} within the timeout: {why}"), exit::NO_TIME);
            return Ok(ExitCode::from(exit::NO_TIME));
        }
        match events.wait(left) {
            // A page that cannot be read now may be repaired, or published again, in time.
            Ok(_) | Err(ReadError::Busy(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn good_enough(reading: &anyhow::Result<Reading>, wanted: Duration) -> Option<Reading> {
    let reading = reading.as_ref().ok()?;
    (reading.max_error_nanos()? <= wanted.as_nanos()).then_some(*reading)
}
