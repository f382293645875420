// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask restarts`: publishers that are restarted all the time while their pages are read. It is a test of the
//! command, `crates/vmclock-cli/tests/restarts.rs`, with other numbers.

use anyhow::Result;

use crate::project::Project;

/// Restart publishers, half of the time by SIGKILL, while others read their pages: no reading may be outside of the clock's
/// own time, and no marker may change.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often.
    #[arg(long, default_value_t = 200)]
    restarts: usize,

    /// How many publishers, each with a page.
    #[arg(long, default_value_t = 100)]
    pages: usize,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    project
        .cargo("test")
        .args(["--release", "--package", "vmclock-cli", "--test", "restarts", "--", "--nocapture", "--exact"])
        .args(["whoever_reads_while_publishers_are_restarted_sees_the_same_clock"])
        .env("VMCLOCK_RESTARTS", options.restarts.to_string())
        .env("VMCLOCK_PAGES", options.pages.to_string())
        .run()
}
