// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a publisher does: from the command line and, where that is not enough, a file in TOML. `docs/serve.toml` has
//! all keys.

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail, ensure, Context};
use serde::Deserialize;
use toml::de::DeTable;
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
/// The file that is read where nobody names one.
pub(crate) const DEFAULT: &str = "/etc/vmclock/vmclock.toml";
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
    /// The group that may connect to the socket.
    pub(in crate::command) group: Option<String>,
    /// The file, and what it says.
    pub(in crate::command) file: Option<(PathBuf, Config)>,
}

impl Configuration {
    /// What the command line says, and the file that it names.
    pub(in crate::command) fn of(args: &ServeArgs) -> anyhow::Result<Self> {
        // Whoever names a reference wants no other.
        let default = || Some(PathBuf::from(DEFAULT)).filter(|path| args.reference.is_none() && path.exists());
        let path = args.config.clone().or_else(default);
        let file = path.map(|path| Config::read(&path).map(|config| (path, config))).transpose()?;
        let reference = args.reference.unwrap_or(Reference::Kernel);
        let mut configuration = Self::simple(reference, args.refresh.unwrap_or(REFRESH), args.tai_offset)?;
        if let Some((path, config)) = &file {
            config.apply_to(&mut configuration, args.refresh).map_err(|error| located(path, error))?;
        }
        configuration.group = args.group.clone().or(configuration.group);
        configuration.file = file;
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
            let config = Config::read(path)?;
            config.apply_to(&mut configuration, args.refresh).map_err(|error| located(path, error))?;
        }
        Ok(configuration)
    }

    /// What a file says.
    pub(in crate::command) fn of_file(path: &Path) -> anyhow::Result<Self> {
        let mut configuration = Self::simple(Reference::Kernel, REFRESH, None)?;
        let config = Config::read(path)?;
        config.apply_to(&mut configuration, None).map_err(|error| located(path, error))?;
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
        Ok(Self { plan, refresh: checked("--refresh", refresh)?, is_exact, group: None, file: None })
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
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::command) struct Config {
    refresh: Option<String>,
    tai_offset: Option<i16>,
    pub(super) group: Option<String>,
    #[serde(default)]
    source: Vec<SourceConfig>,
    #[serde(default)]
    estimator: EstimatorConfig,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum SourceConfig {
    Kernel {},
    HostClock {},
    Ptp(PtpConfig),
    Vmclock { path: PathBuf },
    Chrony { address: Option<String> },
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
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

#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scale {
    Tai,
    Utc,
}

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
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
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            anyhow!("{name}:{line}: is not in order; docs/serve.toml has all keys: {error}")
        })
    }

    /// What the command line says comes first.
    fn apply_to(&self, configuration: &mut Configuration, refresh: Option<Duration>) -> anyhow::Result<()> {
        if let (None, Some(refresh)) = (refresh, self.refresh()?) {
            configuration.refresh = refresh;
        }
        if let Some(offset) = self.tai_offset()? {
            configuration.plan.tai_offset = configuration.plan.tai_offset.or(Some(offset));
        }
        configuration.group.clone_from(&self.group);
        if !self.source.is_empty() {
            self.check_sources()?;
            if is_exact(&self.source[0]) {
                let (tai_offset, group) = (configuration.plan.tai_offset, configuration.group.take());
                *configuration = Configuration::simple(Reference::HostClock, configuration.refresh, tai_offset)?;
                configuration.group = group;
            }
            let open = |(index, source): (usize, &SourceConfig)| {
                source.open().with_context(|| At { table: Table::Source(index) })
            };
            configuration.plan.sources = self.source.iter().enumerate().map(open).collect::<anyhow::Result<_>>()?;
        }
        self.estimator.apply_to(&mut configuration.plan.settings).context(At { table: Table::Estimator })
    }

    /// How often the sources are polled.
    pub(super) fn refresh(&self) -> anyhow::Result<Option<Duration>> {
        self.refresh.as_ref().map(|refresh| checked("refresh", time("refresh", refresh)?)).transpose()
    }

    /// TAI-UTC as the operator states it.
    pub(super) fn tai_offset(&self) -> anyhow::Result<Option<TaiOffset>> {
        let checked = |offset| {
            TaiOffset::from_page_field(offset)
                .with_context(|| format!("tai_offset = {offset}: TAI-UTC is between 10 and 60 s"))
        };
        self.tai_offset.map(checked).transpose()
    }

    /// Whether all else makes sense, without opening a source.
    pub(super) fn check_values(&self) -> anyhow::Result<()> {
        self.check_sources()?;
        self.estimator.apply_to(&mut Settings::default())
    }

    fn check_sources(&self) -> anyhow::Result<()> {
        ensure!(self.source.len() <= MOST_SOURCES, "[[source]]: more than {MOST_SOURCES} of them");
        ensure!(
            self.source.len() <= 1 || !self.source.iter().any(is_exact),
            "[[source]] kind = \"host-clock\": is assumed exact, and so cannot be one of several"
        );
        Ok(())
    }

    /// What is not as it was, and cannot change while the publisher runs.
    pub(super) fn differs_for_good(&self, other: &Self) -> Vec<&'static str> {
        let tables = [("[[source]]", self.source != other.source), ("[estimator]", self.estimator != other.estimator)];
        tables.into_iter().filter_map(|(table, differs)| differs.then_some(table)).collect()
    }
}

fn is_exact(source: &SourceConfig) -> bool {
    matches!(source, SourceConfig::HostClock {})
}

/// In which table a value is wrong.
#[derive(Clone, Copy, Debug)]
struct At {
    table: Table,
}

#[derive(Clone, Copy, Debug)]
enum Table {
    /// By its number.
    Source(usize),
    Estimator,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table {
            Table::Source(index) => write!(f, "[[source]] {}", index + 1),
            Table::Estimator => f.write_str("[estimator]"),
        }
    }
}

/// The same error with file and line in front.
fn located(path: &Path, error: anyhow::Error) -> anyhow::Error {
    let table = error.downcast_ref::<At>().map(|at| at.table);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // A message begins with its key.
    let is_of_key = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    let keys = error.chain().map(|cause| cause.to_string().split(|c| !is_of_key(c)).next().unwrap_or("").to_owned());
    let line = position(&text, table, keys).map_or(1, |start| line_of(&text, start));
    error.context(format!("{}:{line}", path.display()))
}

/// Where the first of these keys is that is in the table, or else the table.
fn position(text: &str, table: Option<Table>, keys: impl Iterator<Item = String>) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let document = document.get_ref();
    let (start, table) = match table {
        None => (0, document),
        Some(Table::Estimator) => {
            let estimator = document.get("estimator")?;
            (estimator.span().start, estimator.get_ref().as_table()?)
        }
        Some(Table::Source(index)) => {
            let source = document.get("source")?.get_ref().as_array()?.get(index)?;
            (source.span().start, source.get_ref().as_table()?)
        }
    };
    let mut starts = keys.filter_map(|key| table.get_key_value(key.as_str()).map(|(key, _)| key.span().start));
    Some(starts.next().unwrap_or(start))
}

fn line_of(text: &str, start: usize) -> usize {
    text.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count() + 1
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
