// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit statuses, the same for every subcommand, and the one place where errors are printed.

use std::io;
use std::process::ExitCode;

use vmclock::ReadError;

/// Bad page, I/O error, a check that failed.
pub(crate) const FAILURE: u8 = 1;
/// The page is in order but gives no time (or `wait` was not satisfied in time).
pub(crate) const NO_TIME: u8 = 3;

/// Prints an error with all its causes, and says which exit status it means.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever reads our output has had enough, as in `vmclock watch | head -1`. That is no failure.
    let broken_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(broken_pipe)) {
        return ExitCode::SUCCESS;
    }
    eprintln!("vmclock: {error:#}");
    let no_time = |cause: &ReadError| matches!(cause, ReadError::NoTime(_));
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(no_time)) {
        NO_TIME.into()
    } else {
        FAILURE.into()
    }
}
