// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit statuses, the same for every subcommand, and the one place where errors are printed.

use std::process::ExitCode;

use rustix::io::Errno;
use vmclock::{ReadError, Vanished};

use crate::output::{print_error, ReaderGone};

/// Bad page, I/O error, a check that failed.
pub(crate) const FAILURE: u8 = 1;
/// The page is in order but gives no time, or it vanished while it was open (or `wait` was not satisfied in time).
pub(crate) const NO_TIME: u8 = 3;

/// Prints an error with all its causes, and returns the exit status that it means.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    print_error(format_args!("{}", text(error)));
    status(error).into()
}

/// An error with all its causes, but those whose text an outer one has already.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The exit status that an error means.
pub(crate) fn status(error: &anyhow::Error) -> u8 {
    let lost_device = Errno::NODEV.raw_os_error();
    let gives_no_time = error.chain().any(|cause| match cause.downcast_ref() {
        Some(ReadError::NoTime(_) | ReadError::Vanished { .. }) => true,
        Some(ReadError::Io { errno }) => *errno == lost_device,
        _ => cause.is::<Vanished>(),
    });
    if gives_no_time {
        NO_TIME
    } else {
        FAILURE
    }
}
