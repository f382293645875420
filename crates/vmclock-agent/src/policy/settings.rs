// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a policy goes by.

use std::time::Duration;

use serde::Deserialize;

/// What becomes of a workload that is held when time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    /// It goes on, and may see a wrong time.
    Thaw,
    /// It stays frozen.
    #[default]
    Hold,
}

/// What a policy goes by. `docs/agent.toml` names them as the configuration does.
///
/// ```
/// use vmclock_agent::policy::Settings;
/// let settings = Settings { step_threshold: 1_000_000, ..Settings::default() };
/// assert!(settings.max_step > settings.step_threshold);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a setting of its own
pub struct Settings {
    /// The clock is stepped where it is certainly off by more than this, and slewed otherwise; in nanoseconds. A
    /// workload that is held has its clock stepped in any case.
    pub step_threshold: i128,
    /// The clock is never stepped by more, in nanoseconds: a page that lies can do no more.
    pub max_step: i128,
    /// Whether `max_step` is ignored.
    pub trust_any: bool,
    /// Whether the clock may be set back before a time that had certainly passed.
    pub allow_backwards: bool,
    /// Whether the clock is stepped also when the agent starts, and when a page without time has one again.
    pub set_at_start: bool,
    /// Whether it is stepped at any time: somebody keeps it on the source.
    pub always: bool,
    /// How long a disruption or restore may take until it is given up, and what is held is dealt with.
    pub hold_timeout: Duration,
    /// What becomes of a workload that is held then.
    pub on_timeout: OnTimeout,
    /// How long a workload is held where neither disruption nor restore comes. That is the machine's own time, in which
    /// it runs.
    pub quiesce_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        const SECOND: i128 = 1_000_000_000;
        Self {
            step_threshold: 10_000_000,
            max_step: 366 * 86_400 * SECOND,
            trust_any: false,
            allow_backwards: false,
            set_at_start: true,
            always: false,
            hold_timeout: Duration::from_secs(60),
            on_timeout: OnTimeout::Hold,
            quiesce_timeout: Duration::from_secs(60),
        }
    }
}
