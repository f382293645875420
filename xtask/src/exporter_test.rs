// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask exporter-test`: the alert rules by Prometheus's own tests, and the exporter of a real service, scraped by
//! the real Prometheus.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request};
use crate::project::Project;
use crate::shell::{say, Cmd};
use crate::steps::Done;

/// How long anything may take, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Test the exporter with the real Prometheus.
#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(project: &Project, _: &Options) -> Result<()> {
    test(project, &Cache::open()?)
}

/// As a step of all tests: not where Prometheus cannot be fetched.
pub(crate) fn step(project: &Project) -> Result<Done> {
    let cache = Cache::open()?;
    match fetch(&cache) {
        Ok(_) => test(project, &cache).map(|()| Done::Passed),
        Err(error) => debian::skip_unless_ci(error),
    }
}

fn fetch(cache: &Cache) -> Result<debian::Tree> {
    let request = Request {
        name: "prometheus",
        suite: "trixie",
        alone: &["prometheus", "promtool", "libc6"],
        with_dependencies: &[],
        freshness: Freshness::Any,
    };
    debian::fetch(cache, &request)
}

fn test(project: &Project, cache: &Cache) -> Result<()> {
    let tree = fetch(cache)?;
    let promtool = tree.script("usr/bin/promtool", &[])?;
    let prometheus = tree.script("usr/bin/prometheus", &[])?;
    let rules = project.path("packaging/prometheus");
    Cmd::new(&promtool).args(["check", "rules", "vmclock.rules.yml"]).current_dir(&rules).read_all()?;
    Cmd::new(&promtool).args(["test", "rules", "vmclock.rules.test.yml"]).current_dir(&rules).read_all()?;
    say("ok     the alert rules pass their tests");

    project.cargo("build").args(["--package", "vmclock-cli"]).run()?;
    let vmclock = project.target("debug/vmclock");
    let scratch = cache.scratch()?;
    let page = scratch.path().join("page");
    let service = ["serve", "--json", "--reference", "host-clock", "--tai-offset=37", "--page"];
    let _service = Running::start(Command::new(&vmclock).args(service).arg(&page).stdout(Stdio::null()))?;
    until("the service publishes", || page.exists())?;
    Cmd::new(&vmclock).args(["wait", "--max-error", "1s", "--timeout", "120s", "--page"]).arg(&page).read()?;
    let mut exporter = Running::start(
        Command::new(&vmclock)
            .args(["exporter", "--json", "--listen", "127.0.0.1:0", "--service"])
            .arg(&page)
            .stdout(Stdio::piped()),
    )?;
    let said = exporter.first_line()?;
    let address = said.split('"').find_map(|word| word.strip_prefix("http://"));
    let address = address.with_context(|| format!("the exporter says {said:?}"))?.to_owned();
    let metrics = scratch.path().join("metrics");
    fs::write(&metrics, get(&address, "/metrics")?).context("cannot keep the metrics")?;
    Cmd::new("sh").args(["-euc", "\"$0\" check metrics <\"$1\""]).arg(&promtool).arg(&metrics).read_all()?;
    say("ok     promtool has no complaint about the metrics");

    let configuration = scratch.path().join("prometheus.yml");
    fs::write(&configuration, configured(&rules.join("vmclock.rules.yml"), &address))
        .context("cannot write Prometheus's configuration")?;
    // Free a moment ago; Prometheus cannot be told to choose one.
    let own = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("no free port")?;
    let log = fs::File::create(scratch.path().join("log")).context("cannot make a log")?;
    let _prometheus = Running::start(
        Command::new(&prometheus)
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
            .arg(format!("--web.listen-address={own}"))
            .stdout(Stdio::null())
            .stderr(log),
    )?;
    let own = own.to_string();
    let wanted = fs::read_to_string(rules.join("vmclock.rules.yml"))?.matches("- alert:").count();
    let is_scraped = || {
        let query = "/api/v1/query?query=vmclock_status%7Bstatus%3D%22synchronized%22%7D%20%3D%3D%201";
        let scraped = get(&own, query).is_ok_and(|answer| answer.contains("\"status\":\"synchronized\""));
        let evaluated = get(&own, "/api/v1/rules?type=alert");
        scraped && evaluated.is_ok_and(|answer| answer.matches("\"health\":\"ok\"").count() == wanted)
    };
    let said = || fs::read_to_string(scratch.path().join("log")).unwrap_or_default();
    until("Prometheus scrapes the exporter", is_scraped).with_context(said)?;
    say(&format!("ok     Prometheus scrapes the exporter, and evaluates {wanted} alert rules"));
    Ok(())
}

/// Waits until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn configured(rules: &Path, target: &str) -> String {
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n  - job_name: vmclock\n    \
         static_configs: [{{targets: [\"{target}\"]}}]\n",
        rules.display()
    )
}

/// The body of a document.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{address} answers {answer:?}"))?;
    ensure!(head.contains(" 200 "), "{address}{path}: {head}");
    Ok(body.to_owned())
}

/// A process that ends with this.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        Ok(Self(command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {program}"))?))
    }

    fn first_line(&mut self) -> Result<String> {
        let output = self.0.stdout.as_mut().context("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
