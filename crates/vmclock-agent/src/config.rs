// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration, a file in TOML. `docs/agent.toml` has all keys with their defaults.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use vmclock_core::tai::TaiOffset;

use crate::duration::deserialize as duration;
use crate::policy::{OnTimeout, Settings};

/// Where the configuration is, if nothing else is named.
pub const DEFAULT_PATH: &str = "/etc/vmclock/agent.toml";

/// What the agent does.
///
/// ```
/// use vmclock_agent::config::Config;
/// let config = Config::parse("[clock]\nstep_threshold = \"1ms\"")?;
/// assert_eq!(config.policy().step_threshold, 1_000_000);
/// assert!(Config::parse("[clock]\nstep = 3").unwrap_err().to_string().contains("line 2"));
/// # Ok::<(), vmclock_agent::config::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// The page.
    pub page: PageConfig,
    /// Who vouches for the time.
    pub time: TimeConfig,
    /// The system clock.
    pub clock: ClockConfig,
    /// Hooks.
    pub hooks: HooksConfig,
    /// Holding the workload.
    pub hold: HoldConfig,
    /// Feeding time daemons.
    pub feed: FeedConfig,
    /// Who is told.
    pub tell: TellConfig,
    /// Where the agent listens.
    pub control: ControlConfig,
    /// What the agent keeps.
    pub state: StateConfig,
}

/// `[page]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PageConfig {
    /// The device or file; the library's search order where none is named.
    pub path: Option<PathBuf>,
    /// How often a page that does not notify is polled.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self { path: None, interval: Duration::from_secs(1) }
    }
}

/// Who vouches for the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSource {
    /// The page where it states UTC and bounds, otherwise the hypervisor's PTP clock, otherwise chronyd.
    #[default]
    Auto,
    /// The page, or nobody.
    Page,
    /// The PTP clock, or nobody.
    Ptp,
    /// chronyd, or nobody.
    Chronyd,
}

/// The scale of a PTP clock, which its device does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// UTC, as hypervisors have it.
    #[default]
    Utc,
    /// TAI, as PTP has it.
    Tai,
}

/// `[time]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TimeConfig {
    /// Who.
    pub source: TimeSource,
    /// The PTP clock's device; where none is named, the hypervisor's (`KVM virtual PTP`, `hyperv`).
    pub ptp: Option<PathBuf>,
    /// Its scale.
    pub ptp_scale: Scale,
    /// TAI-UTC in seconds, for a PTP clock on TAI; where it is not stated, as the kernel knows it.
    pub tai_offset: Option<i16>,
    /// The PTP clock's maximum error: its device does not state one.
    #[serde(deserialize_with = "duration")]
    pub ptp_max_error: Duration,
    /// chronyd's command socket; where none is named, that of `feed`, or the usual one where it exists.
    pub chronyd: Option<PathBuf>,
}

impl Default for TimeConfig {
    fn default() -> Self {
        Self {
            source: TimeSource::default(),
            ptp: None,
            ptp_scale: Scale::default(),
            tai_offset: None,
            ptp_max_error: Duration::from_millis(100),
            chronyd: None,
        }
    }
}

/// Whose time is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// A time that is not further off than `max_step`.
    #[default]
    Bounded,
    /// Any time.
    Any,
}

/// `[clock]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ClockConfig {
    /// The clock is stepped where it is certainly off by more.
    #[serde(deserialize_with = "duration")]
    pub step_threshold: Duration,
    /// It is never stepped by more.
    #[serde(deserialize_with = "duration")]
    pub max_step: Duration,
    /// Whether `max_step` counts.
    pub trust: Trust,
    /// Whether it may be set back before a time that had certainly passed.
    pub allow_backwards: bool,
    /// Whether it is set when the agent starts, too.
    pub set_at_start: bool,
    /// Whether it is kept on the page all the time.
    pub discipline: bool,
    /// How often it is compared then.
    #[serde(deserialize_with = "duration")]
    pub discipline_interval: Duration,
}

impl Default for ClockConfig {
    fn default() -> Self {
        let settings = Settings::default();
        let nanos = |nanos: i128| Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Self {
            step_threshold: nanos(settings.step_threshold),
            max_step: nanos(settings.max_step),
            trust: Trust::default(),
            allow_backwards: settings.allow_backwards,
            set_at_start: settings.set_at_start,
            discipline: false,
            discipline_interval: Duration::from_secs(1),
        }
    }
}

/// `[hooks]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HooksConfig {
    /// Where they are.
    pub folder: PathBuf,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self { folder: "/etc/vmclock/agent.d".into() }
    }
}

/// `[hold]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HoldConfig {
    /// The cgroups (version 2) of the workload, below `/sys/fs/cgroup` or by absolute paths.
    pub cgroups: Vec<PathBuf>,
    /// How long a disruption or restore may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// What becomes of a workload that is held then.
    pub on_timeout: OnTimeout,
    /// How long it is held where no disruption or restore comes.
    #[serde(deserialize_with = "duration")]
    pub quiesce_timeout: Duration,
}

impl Default for HoldConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            cgroups: Vec::new(),
            timeout: settings.hold_timeout,
            on_timeout: settings.on_timeout,
            quiesce_timeout: settings.quiesce_timeout,
        }
    }
}

/// `[feed]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FeedConfig {
    /// chronyd's socket, of its `refclock SOCK`.
    pub chrony: Option<PathBuf>,
    /// ntpd-rs's socket, of its source with `mode = "sock"`.
    pub ntpd_rs: Option<PathBuf>,
    /// `ClockBound`'s shared memory, as a rule `/var/run/clockbound/shm0`.
    pub clockbound: Option<PathBuf>,
    /// The one that `ClockBound` 3 reads, as a rule `/var/run/clockbound/shm1`: what the page says, without the system's
    /// clock. There has to be a page.
    pub clockbound3: Option<PathBuf>,
    /// How far `CLOCK_REALTIME` may drift from UTC between measurements, in parts per million: what `clockbound` states to
    /// its clients. 500 is the most that a clock can be adjusted by; less where it is known to be kept better.
    pub max_drift_ppm: u32,
    /// chronyd's command socket, as a rule `/run/chrony/chronyd.sock`: after each event chronyd is told to forget what
    /// it measured.
    pub chronyd: Option<PathBuf>,
    /// Samples for daemons are right within this, which their configuration has to say too; worse ones are withheld.
    #[serde(deserialize_with = "duration")]
    pub max_error: Duration,
    /// How often they are fed.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            chrony: None,
            ntpd_rs: None,
            clockbound: None,
            clockbound3: None,
            max_drift_ppm: 500,
            chronyd: None,
            max_error: Duration::from_micros(100),
            interval: Duration::from_secs(1),
        }
    }
}

/// `[tell]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TellConfig {
    /// Where `READY=1` and so on are sent, beside systemd: `vsock:CID:PORT`, or a virtio-serial port's path.
    pub to: Vec<String>,
}

/// `[control]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ControlConfig {
    /// The socket.
    pub socket: PathBuf,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { socket: "/run/vmclock/agent.sock".into() }
    }
}

/// `[state]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct StateConfig {
    /// The file. It has to be gone after a boot: the epoch of the boot before means nothing.
    pub path: PathBuf,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self { path: "/run/vmclock/agent.state".into() }
    }
}

/// What is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file that is named, or the [default one](DEFAULT_PATH), which may be missing.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(ConfigError(format!("{}: cannot be read: {error}", file.display()))),
        };
        Self::parse(&text).map_err(|error| ConfigError(format!("{}: {error}", file.display())))
    }

    /// The configuration in a text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        // It names the line and shows it with the key.
        let config: Self =
            toml::from_str(text).map_err(|error| ConfigError(error.to_string().trim_end().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let within = |key: &str, value: Duration, low: Duration, high: Duration| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(ConfigError(format!("{key} = {value:?}: must be between {low:?} and {high:?}")))
        };
        let (millisecond, second) = (Duration::from_millis(1), Duration::from_secs(1));
        let (hour, day) = (3_600 * second, 86_400 * second);
        within("page.interval", self.page.interval, millisecond, hour)?;
        within("time.ptp_max_error", self.time.ptp_max_error, Duration::ZERO, hour)?;
        if let Some(offset) = self.time.tai_offset.filter(|offset| TaiOffset::from_seconds(*offset).is_none()) {
            return Err(ConfigError(format!("time.tai_offset = {offset}: is out of range; since 2017 it is 37")));
        }
        within("clock.step_threshold", self.clock.step_threshold, Duration::ZERO, second)?;
        within("clock.discipline_interval", self.clock.discipline_interval, 10 * millisecond, 64 * second)?;
        within("hold.timeout", self.hold.timeout, millisecond, day)?;
        within("hold.quiesce_timeout", self.hold.quiesce_timeout, millisecond, 30 * day)?;
        within("feed.interval", self.feed.interval, 10 * millisecond, hour)?;
        match self.feed.max_drift_ppm {
            1..=100_000 => Ok(()),
            drift => Err(ConfigError(format!("feed.max_drift_ppm = {drift}: must be between 1 and 100000"))),
        }
    }

    /// What the policy goes by.
    pub fn policy(&self) -> Settings {
        let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        Settings {
            step_threshold: nanos(self.clock.step_threshold),
            max_step: nanos(self.clock.max_step),
            trust_any: self.clock.trust == Trust::Any,
            allow_backwards: self.clock.allow_backwards,
            set_at_start: self.clock.set_at_start,
            always: false,
            hold_timeout: self.hold.timeout,
            on_timeout: self.hold.on_timeout,
            quiesce_timeout: self.hold.quiesce_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = Config::parse("").expect("in order");
        assert_eq!(config.policy(), Settings::default());
        assert_eq!(config.feed.interval, Duration::from_secs(1));
    }

    #[test]
    fn the_documented_file_has_all_keys_with_their_defaults() {
        let text = include_str!("../../../docs/agent.toml");
        assert_eq!(Config::parse(text).expect("in order"), Config::default());
        // With what is commented out, too, there is no unknown key, and each key of the program is there.
        let all = text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let all = all.filter(|line| line.starts_with('[') || line.contains(" = ")).collect::<Vec<_>>().join("\n");
        let config = Config::parse(&all).expect("in order");
        assert!(
            config.page.path.is_some()
                && config.time.ptp.is_some()
                && config.time.tai_offset == Some(37)
                && config.time.chronyd.is_some()
                && config.feed.chronyd.is_some()
        );
        assert!(config.feed.chrony.is_some() && config.feed.ntpd_rs.is_some() && config.feed.clockbound.is_some());
    }

    #[test]
    fn errors_name_line_key_and_value() {
        for (text, words) in [
            ("[clock]\nstep_threshold = \"ten\"", vec!["line 2", "step_threshold", "ten"]),
            ("[clock]\nstep_treshold = \"10ms\"", vec!["line 2", "step_treshold", "step_threshold"]),
            ("[hold]\non_timeout = \"pray\"", vec!["line 2", "pray", "thaw", "hold"]),
            ("[page]\ninterval = \"0s\"", vec!["page.interval", "1ms"]),
            ("[page", vec!["line 1"]),
            ("[feed]\nmax_drift_ppm = 1000000", vec!["feed.max_drift_ppm", "1000000", "100000"]),
            ("[time]\nsource = 3", vec!["line 2", "source"]),
        ] {
            let error = Config::parse(text).expect_err(text).to_string();
            for word in words {
                assert!(error.contains(word), "{error} has no {word}");
            }
        }
        let error = Config::load(Some(Path::new("/no/agent.toml"))).expect_err("missing").to_string();
        assert!(error.contains("/no/agent.toml"), "{error}");
    }
}
