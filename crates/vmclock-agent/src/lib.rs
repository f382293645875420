// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest agent: the right time in the system clock, from the first moment after a restore.
//!
//! | module | what it is |
//! |---|---|
//! | [`agent`] | the loop that does it all |
//! | [`config`], [`duration`] | the configuration |
//! | [`watch`] | what tells that something happened: the page, or `VMGenID` |
//! | [`source`] | who vouches for the time: the page, or the hypervisor's PTP clock |
//! | [`clock`] | the system clock, as something to set |
//! | [`feed`] | time for daemons, and for programs that ask for error bounds |
//! | [`measure`] | how far `CLOCK_REALTIME` is from UTC, with bounds, and who vouches for it |
//! | [`hook`], [`runner`] | hooks, and the process that runs them |
//! | [`cgroup`] | the workload, frozen and thawed |
//! | [`discipline`] | keeping the clock on the page |
//! | [`policy`] | all decisions, a function of what happens |
//! | [`report`] | what people are told |
//! | [`tell`] | what systemd and the host are told |
//! | [`control`] | the agent's socket |
//! | [`status`], [`log`] | how the agent is |
//! | [`state`] | what an agent leaves to the next one |
//!
//! The binary `vmclock-agent` runs all of it; each module is of use by itself.
#![deny(unsafe_code)]

pub mod agent;
pub mod cgroup;
pub mod clock;
pub mod config;
pub mod control;
pub mod discipline;
pub mod duration;
pub mod feed;
pub mod hook;
pub mod log;
pub mod measure;
pub mod policy;
pub mod report;
pub mod runner;
pub mod source;
pub mod state;
pub mod status;
mod sys;
pub mod tell;
pub mod watch;

/// Lets this thread run before all that is not real-time, as what is right after a restore depends on it: a machine that
/// is restored has much to do at once. It takes `CAP_SYS_NICE`; what it starts from here on runs as usual.
///
/// ```no_run
/// if let Err(error) = vmclock_agent::run_before_others() {
///     println!("a busy machine may be late: {error}");
/// }
/// ```
pub fn run_before_others() -> std::io::Result<()> {
    sys::run_before_others()
}
