// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit statuses, the same for every subcommand, and the one place where errors are printed.

use std::process::ExitCode;

use rustix::io::Errno;
use vmclock::{ReadError, Vanished};

use crate::output::{errors_as_json, print_error, ReaderGone};

/// Bad page, I/O error, a check that failed.
pub(crate) const FAILURE: u8 = 1;
/// The page is in order but gives no time, or it vanished while it was open (or `wait` was not satisfied in time).
pub(crate) const NO_TIME: u8 = 3;
/// The command line is wrong: clap's own status for that.
pub(crate) const USAGE: u8 = 2;
/// `watch` did what it should, but a command of `--exec` failed, or took too long.
pub(crate) const HOOK_FAILED: u8 = 4;

/// Prints an error with all its causes, and returns the exit status that it means.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    let status = status(error);
    print_error(text(error), status);
    status.into()
}

/// Ends where the command line is wrong, or asks for help or the version. The error is an object where JSON is asked
/// for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let asks_for_json =
        std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if asks_for_json && error.use_stderr() {
        errors_as_json();
        print_error(error.to_string().trim_end(), USAGE);
        return USAGE.into();
    }
    // Its own form, with colours where they can be seen.
    error.exit()
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
