// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a publisher does: from the command line and, where that is not enough, a file in TOML. `docs/serve.toml` has
//! all keys.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure, Context};
use serde::Deserialize;
use vmclock::{Time, Utc};
use vmclock_core::tai::TaiOffset;
use vmclock_host::estimator::Settings;
use vmclock_host::publisher::Plan;
use vmclock_host::source::background::Background;
use vmclock_host::source::chrony::Chrony;
use vmclock_host::source::kernel::{KernelSource, Trust};
use vmclock_host::source::page::PageSource;
use vmclock_host::source::ptp::{Ptp4l, PtpClock, PtpError, PtpScale, HOLDOVER};
use vmclock_host::source::{Immediate, Measure, Source};

#[cfg(feature = "qemu")]
use crate::cli::QemuArgs;
use crate::cli::{duration, Reference, ServeArgs};

/// How often the sources are polled where nothing says otherwise.
pub(in crate::command) const REFRESH: Duration = Duration::from_secs(1);
const PARTS_PER_MILLION: f64 = 1e6;
/// More sources make a round no better, and longer.
const MOST_SOURCES: usize = 16;
/// The least frequency wander that is assumed where it is measured: 1 ppm, in parts per 10^12.
const LEAST_WANDER: u64 = 1_000_000;

/// What a publisher does, and how often.
pub(in crate::command) struct Configuration {
    pub(in crate::command) plan: Plan,
    pub(in crate::command) refresh: Duration,
    /// Whether this machine's clock is assumed exact.
    pub(in crate::command) is_exact: bool,
}

impl Configuration {
    /// What the command line says, and the file that it names.
    pub(in crate::command) fn of(args: &ServeArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => Some(Config::read(path)?),
            None => None,
        };
        let reference = args.reference.unwrap_or(Reference::Kernel);
        let mut configuration = Self::simple(reference, args.refresh.unwrap_or(REFRESH), args.tai_offset)?;
        if let Some(config) = file {
            config.apply_to(&mut configuration, args.refresh)?;
        }
        let plan = &mut configuration.plan;
        if let Some(start) = args.start_at {
            plan.start_at = Some(Time::<Utc>::from_nanos(start.as_nanosecond()).context("--start-at: out of range")?);
        }
        plan.leap = args.leap.and_then(Into::into);
        if let Some(path) = &args.record {
            let file = File::create_new(path)
                .with_context(|| format!("{}: cannot make a new file for the trace", path.display()))?;
            plan.trace = Some(Box::new(file));
        }
        Ok(configuration)
    }

    /// The same for the page of one guest.
    #[cfg(feature = "qemu")]
    pub(in crate::command) fn of_guest(args: &QemuArgs) -> anyhow::Result<Self> {
        let reference = args.reference.unwrap_or(Reference::Kernel);
        let mut configuration = Self::simple(reference, args.refresh.unwrap_or(REFRESH), args.tai_offset)?;
        if let Some(path) = &args.config {
            Config::read(path)?.apply_to(&mut configuration, args.refresh)?;
        }
        Ok(configuration)
    }

    /// The kernel's clock and nothing else.
    pub(in crate::command) fn simple(
        reference: Reference,
        refresh: Duration,
        tai_offset: Option<TaiOffset>,
    ) -> anyhow::Result<Self> {
        let is_exact = reference == Reference::HostClock;
        let kind = if is_exact { SourceConfig::HostClock {} } else { SourceConfig::Kernel {} };
        let mut plan = Plan::default();
        (plan.sources, plan.tai_offset) = (vec![kind.open()?], tai_offset);
        if is_exact {
            // What an exact clock shows is right at once.
            plan.settings.probation = 0;
        }
        Ok(Self { plan, refresh: checked("--refresh", refresh)?, is_exact })
    }
}

pub(in crate::command) fn checked(key: &str, refresh: Duration) -> anyhow::Result<Duration> {
    ensure!(
        (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&refresh),
        "{key} {refresh:?}: must be between 1ms and 60s"
    );
    Ok(refresh)
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
    Ptp(PtpConfig),
    Vmclock { path: PathBuf },
    Chrony { address: Option<String> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PtpConfig {
    path: PathBuf,
    scale: Scale,
    max_error: Option<String>,
    max_error_file: Option<PathBuf>,
    ptp4l: Option<PathBuf>,
    ptp4l_domain: Option<u8>,
    holdover_ppm: Option<f64>,
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
    drift: Option<Drift>,
    drift_ppm: Option<f64>,
    least_drift_ppm: Option<f64>,
    nominal_error_ppm: Option<f64>,
    // The name that it had before; what it is called then is the state, not the delay.
    #[serde(alias = "holdover")]
    source_timeout: Option<String>,
    probation: Option<String>,
    monotonic: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Drift {
    Configured,
    Measured,
}

impl Config {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
        toml::from_str(&text).with_context(|| format!("{name}: is not in order; docs/serve.toml has all keys"))
    }

    /// What the command line says comes first.
    fn apply_to(self, configuration: &mut Configuration, refresh: Option<Duration>) -> anyhow::Result<()> {
        if let (None, Some(refresh)) = (refresh, &self.refresh) {
            configuration.refresh = checked("refresh", time("refresh", refresh)?)?;
        }
        if let Some(offset) = self.tai_offset {
            let offset = TaiOffset::from_page_field(offset)
                .with_context(|| format!("tai_offset = {offset}: TAI-UTC is between 10 and 60 s"))?;
            configuration.plan.tai_offset = configuration.plan.tai_offset.or(Some(offset));
        }
        if !self.source.is_empty() {
            ensure!(self.source.len() <= MOST_SOURCES, "[[source]]: more than {MOST_SOURCES} of them");
            let is_exact = |source: &SourceConfig| matches!(source, SourceConfig::HostClock {});
            ensure!(
                self.source.len() == 1 || !self.source.iter().any(is_exact),
                "[[source]] kind = \"host-clock\": is assumed exact, and so cannot be one of several"
            );
            if is_exact(&self.source[0]) {
                let tai_offset = configuration.plan.tai_offset;
                *configuration = Configuration::simple(Reference::HostClock, configuration.refresh, tai_offset)?;
            }
            configuration.plan.sources = self.source.iter().map(SourceConfig::open).collect::<anyhow::Result<_>>()?;
        }
        self.estimator.apply_to(&mut configuration.plan.settings)
    }
}

impl SourceConfig {
    fn open(&self) -> anyhow::Result<Box<dyn Source>> {
        match self {
            Self::Kernel {} => Ok(Box::new(Immediate::new(KernelSource::new(Trust::Kernel)))),
            Self::HostClock {} => Ok(Box::new(Immediate::new(KernelSource::new(Trust::HostClock)))),
            Self::Ptp(ptp) => in_background(ptp.open()?),
            Self::Vmclock { path } => in_background(PageSource::open(path)?),
            Self::Chrony { address } => {
                let parse = |address: &String| -> anyhow::Result<SocketAddr> {
                    address.parse().with_context(|| format!("address = {address:?}: is no address like 127.0.0.1:323"))
                };
                in_background(Chrony::new(address.as_ref().map(parse).transpose()?))
            }
        }
    }
}

/// What may take long never keeps the page waiting.
fn in_background(source: impl Measure) -> anyhow::Result<Box<dyn Source>> {
    let name = source.name().to_owned();
    Ok(Box::new(Background::new(source).with_context(|| format!("{name}: cannot start a thread for it"))?))
}

impl PtpConfig {
    fn open(&self) -> anyhow::Result<PtpClock> {
        let error = match (&self.max_error, &self.max_error_file) {
            (Some(error), None) => PtpError::Stated(nanos("max_error", error)?),
            (None, Some(file)) => PtpError::File(file.clone()),
            _ => bail!(
                "[[source]] {}: state its maximum error, with either max_error or max_error_file",
                self.path.display()
            ),
        };
        let scale = match self.scale {
            Scale::Tai => PtpScale::Tai,
            Scale::Utc => PtpScale::Utc,
        };
        let holdover = ppm("holdover_ppm", self.holdover_ppm, HOLDOVER)?;
        let clock = PtpClock::open(&self.path, scale, error)?;
        Ok(match &self.ptp4l {
            Some(socket) => clock.synchronized_by(Ptp4l::new(socket.clone(), self.ptp4l_domain.unwrap_or(0)), holdover),
            None => clock,
        })
    }
}

impl EstimatorConfig {
    fn apply_to(&self, settings: &mut Settings) -> anyhow::Result<()> {
        settings.wander = ppm("drift_ppm", self.drift_ppm, settings.wander)?;
        let least = ppm("least_drift_ppm", self.least_drift_ppm, LEAST_WANDER.min(settings.wander))?;
        ensure!(
            least <= settings.wander,
            "least_drift_ppm: is more than drift_ppm; it is what a measured drift is at least"
        );
        let measured = self.drift == Some(Drift::Measured);
        settings.measured_wander = measured.then_some(least);
        settings.nominal_error = ppm("nominal_error_ppm", self.nominal_error_ppm, settings.nominal_error)?;
        if let Some(timeout) = &self.source_timeout {
            settings.source_timeout = nanos("source_timeout", timeout)?;
        }
        if let Some(probation) = &self.probation {
            settings.probation = nanos("probation", probation)?;
        }
        settings.monotonic = self.monotonic.unwrap_or(settings.monotonic);
        Ok(())
    }
}

fn ppm(key: &str, value: Option<f64>, default: u64) -> anyhow::Result<u64> {
    let Some(value) = value else { return Ok(default) };
    ensure!((0.000_001..=1000.0).contains(&value), "{key} = {value}: must be between 0.000001 and 1000");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // in range
    Ok((value * PARTS_PER_MILLION) as u64)
}

fn time(key: &str, text: &str) -> anyhow::Result<Duration> {
    duration(text).map_err(|error| anyhow::anyhow!("{key}: {error}"))
}

fn nanos(key: &str, text: &str) -> anyhow::Result<u64> {
    u64::try_from(time(key, text)?.as_nanos()).with_context(|| format!("{key} = {text:?}: is too long"))
}
