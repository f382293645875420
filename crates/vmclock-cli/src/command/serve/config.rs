// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a publisher does: from the command line and, where that is not enough, a file in TOML. `docs/serve.toml` has all keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure, Context};
use serde::Deserialize;
use vmclock_host::estimator::Settings;
use vmclock_host::source::chrony::Chrony;
use vmclock_host::source::kernel::{KernelSource, Trust};
use vmclock_host::source::page::PageSource;
use vmclock_host::source::ptp::{PtpClock, PtpError, PtpScale};
use vmclock_host::source::Source;

use crate::cli::{duration, LeapKind, Reference, ServeArgs};

use super::publisher::Report;

/// How often the sources are looked at where nothing says otherwise.
pub(in crate::command) const REFRESH: Duration = Duration::from_secs(1);
/// How much a counter's rate may change against a kernel's clock that is itself taken for the truth, which only its
/// daemon's steering changes, in parts per 10^12.
const DRIFT_HOST_CLOCK: u64 = 1_000_000;
const PARTS_PER_MILLION: f64 = 1e6;
/// More sources make a round no better, and longer.
const MOST_SOURCES: usize = 16;

/// What a publisher is to do.
pub(in crate::command) struct Plan {
    pub(in crate::command) page: PathBuf,
    pub(in crate::command) refresh: Duration,
    pub(in crate::command) sources: Vec<Box<dyn Source>>,
    pub(in crate::command) settings: Settings,
    pub(in crate::command) tai_offset: Option<i16>,
    pub(in crate::command) start_at: Option<jiff::Timestamp>,
    pub(in crate::command) leap: Option<LeapKind>,
    pub(in crate::command) record: Option<PathBuf>,
    /// What its user should know of it.
    pub(in crate::command) notes: Vec<Report>,
}

impl Plan {
    /// What the command line says, and the file that it names.
    pub(in crate::command) fn of(args: &ServeArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => Some(Config::read(path)?),
            None => None,
        };
        let plan = Self {
            start_at: args.start_at,
            leap: args.leap,
            record: args.record.clone(),
            ..Self::simple(&args.page, args.reference.unwrap_or(Reference::Kernel), args.refresh, args.tai_offset)?
        };
        match file {
            Some(config) => config.applied_to(plan, args),
            None => Ok(plan),
        }
    }

    /// The kernel's clock and nothing else.
    pub(in crate::command) fn simple(
        page: &Path,
        reference: Reference,
        refresh: Option<Duration>,
        tai_offset: Option<i16>,
    ) -> anyhow::Result<Self> {
        let refresh = refresh.unwrap_or(REFRESH);
        ensure!(
            (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&refresh),
            "--refresh {refresh:?}: must be between 1ms and 60s"
        );
        let (trust, settings, notes) = match reference {
            Reference::Kernel => (Trust::Kernel, Settings::default(), Vec::new()),
            Reference::HostClock => {
                let text = "this machine's clock is taken for the truth: bounds cover only what publishing adds";
                let settings = Settings {
                    drift: DRIFT_HOST_CLOCK,
                    least_drift: DRIFT_HOST_CLOCK,
                    // Whatever the truth does is true at once.
                    probation: 0,
                    ..Settings::default()
                };
                (Trust::HostClock, settings, vec![Report::new("reference", text.into())])
            }
        };
        Ok(Self {
            page: page.into(),
            refresh,
            sources: vec![Box::new(KernelSource::new(trust))],
            settings,
            tai_offset,
            start_at: None,
            leap: None,
            record: None,
            notes,
        })
    }
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    refresh: Option<String>,
    tai_offset: Option<i16>,
    #[serde(default)]
    source: Vec<SourceConfig>,
    #[serde(default)]
    estimator: EstimatorConfig,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum SourceConfig {
    Kernel {},
    HostClock {},
    Ptp { path: PathBuf, scale: Scale, max_error: Option<String>, max_error_file: Option<PathBuf> },
    Vmclock { path: PathBuf },
    Chrony { address: Option<String> },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scale {
    Tai,
    Utc,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EstimatorConfig {
    drift_ppm: Option<f64>,
    least_drift_ppm: Option<f64>,
    nominal_error_ppm: Option<f64>,
    holdover: Option<String>,
    probation: Option<String>,
    monotonic: Option<bool>,
}

impl Config {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
        toml::from_str(&text).with_context(|| format!("{name}: is not in order; docs/serve.toml has all keys"))
    }

    /// What is said on the command line comes first.
    fn applied_to(self, mut plan: Plan, args: &ServeArgs) -> anyhow::Result<Plan> {
        if let (None, Some(refresh)) = (args.refresh, &self.refresh) {
            plan.refresh = time("refresh", refresh)?;
            ensure!(
                (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&plan.refresh),
                "refresh = {refresh:?}: must be between 1ms and 60s"
            );
        }
        if let Some(offset) = self.tai_offset {
            ensure!((-60..=-10).contains(&offset), "tai_offset = {offset}: UTC - TAI is between -60 and -10 s");
            plan.tai_offset = plan.tai_offset.or(Some(offset));
        }
        if !self.source.is_empty() {
            ensure!(self.source.len() <= MOST_SOURCES, "[[source]]: more than {MOST_SOURCES} of them");
            let is_truth = |source: &SourceConfig| matches!(source, SourceConfig::HostClock {});
            ensure!(
                self.source.len() == 1 || !self.source.iter().any(is_truth),
                "[[source]] kind = \"host-clock\": is the truth by definition, and so cannot be one of several"
            );
            if is_truth(&self.source[0]) {
                plan = Plan {
                    start_at: plan.start_at,
                    leap: plan.leap,
                    record: plan.record,
                    ..Plan::simple(&plan.page, Reference::HostClock, Some(plan.refresh), plan.tai_offset)?
                };
            }
            plan.sources = self.source.iter().map(SourceConfig::open).collect::<anyhow::Result<_>>()?;
        }
        self.estimator.apply_to(&mut plan.settings)?;
        Ok(plan)
    }
}

impl SourceConfig {
    fn open(&self) -> anyhow::Result<Box<dyn Source>> {
        Ok(match self {
            Self::Kernel {} => Box::new(KernelSource::new(Trust::Kernel)),
            Self::HostClock {} => Box::new(KernelSource::new(Trust::HostClock)),
            Self::Ptp { path, scale, max_error, max_error_file } => {
                let error = match (max_error, max_error_file) {
                    (Some(error), None) => PtpError::Stated(nanos("max_error", error)?),
                    (None, Some(file)) => PtpError::File(file.clone()),
                    _ => bail!(
                        "[[source]] {}: say how far off it may be, with either max_error or max_error_file",
                        path.display()
                    ),
                };
                let scale = match scale {
                    Scale::Tai => PtpScale::Tai,
                    Scale::Utc => PtpScale::Utc,
                };
                Box::new(PtpClock::open(path, scale, error)?)
            }
            Self::Vmclock { path } => Box::new(PageSource::open(path)?),
            Self::Chrony { address } => {
                let address = address.as_deref().map(|address| {
                    address.parse().with_context(|| format!("address = {address:?}: is no address like 127.0.0.1:323"))
                });
                Box::new(Chrony::new(address.transpose()?))
            }
        })
    }
}

impl EstimatorConfig {
    fn apply_to(&self, settings: &mut Settings) -> anyhow::Result<()> {
        let ppm = |key: &str, value: Option<f64>, default: u64| -> anyhow::Result<u64> {
            let Some(value) = value else { return Ok(default) };
            ensure!((0.000_001..=1000.0).contains(&value), "{key} = {value}: must be between 0.000001 and 1000");
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // in range
            Ok((value * PARTS_PER_MILLION) as u64)
        };
        settings.drift = ppm("drift_ppm", self.drift_ppm, settings.drift)?;
        settings.least_drift = ppm("least_drift_ppm", self.least_drift_ppm, settings.least_drift.min(settings.drift))?;
        ensure!(
            settings.least_drift <= settings.drift,
            "least_drift_ppm: is more than drift_ppm; it is what a measured drift is at least"
        );
        settings.nominal_error = ppm("nominal_error_ppm", self.nominal_error_ppm, settings.nominal_error)?;
        if let Some(holdover) = &self.holdover {
            settings.holdover = nanos("holdover", holdover)?;
        }
        if let Some(probation) = &self.probation {
            settings.probation = nanos("probation", probation)?;
        }
        settings.monotonic = self.monotonic.unwrap_or(settings.monotonic);
        Ok(())
    }
}

fn time(key: &str, text: &str) -> anyhow::Result<Duration> {
    duration(text).map_err(|error| anyhow::anyhow!("{key}: {error}"))
}

fn nanos(key: &str, text: &str) -> anyhow::Result<u64> {
    u64::try_from(time(key, text)?.as_nanos()).with_context(|| format!("{key} = {text:?}: is too long"))
}
