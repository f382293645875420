// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: libFuzzer against the path of `vmclock eval`, or a device's saved state (`--target state`), with
//! this machine's stable Rust.
//!
//! cargo-fuzz wants a nightly compiler, for the sanitizers. All that libFuzzer itself needs is the counters that
//! [`INSTRUMENTATION`] puts into the code, and overflow checks (in `fuzz/Cargo.toml`) make wrong arithmetic visible.

use std::fs;
use std::path::{self, Path, PathBuf};

use anyhow::{anyhow, bail, Context, Result};
use serde_json::Value;

use crate::cache::remove_folder;
use crate::project::Project;
use crate::shell::Cmd;
use crate::steps::Done;

/// What makes the compiler count which edges are taken, and show comparisons to the fuzzer so that it can guess magic
/// numbers: what cargo-fuzz passes, but for the sanitizer.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 --cfg fuzzing";

/// What the pages and counters to start from are made of.
const VECTORS: &str = "crates/vmclock-core/tests/vectors/time-at-counter.json";

/// What can be fuzzed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// A page, as `vmclock eval` reads it
    Eval,
    /// A saved state, as a monitor's device takes it up
    State,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Eval => "eval",
            Self::State => "state",
        }
    }

    /// The longest input. Of a page: a counter, the name of the CPU's counter, a page's structure, and some bytes more;
    /// of a state: how it arrives, its bytes, and some more.
    const fn max_len(self) -> usize {
        match self {
            Self::Eval => 8 + 1 + 0x70 + 15,
            Self::State => 1 + 152 + 8,
        }
    }
}

/// Look for pages that break the arithmetic, starting from those that were found interesting before.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Stop after this many pages; without it, go on until interrupted.
    #[arg(long, conflicts_with = "input")]
    runs: Option<u64>,

    /// What to fuzz.
    #[arg(long, value_enum, default_value = "eval")]
    target: Target,

    /// Run this one input, which an earlier run has saved.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    if let Some(input) = &options.input {
        // The fuzzer runs in the clone's root, wherever this was called.
        let input = path::absolute(input).with_context(|| format!("cannot find {}", input.display()))?;
        return build(project, options.target)?.arg(input).run();
    }
    let runs = options.runs.map(|runs| format!("-runs={runs}"));
    let corpus = project.target("fuzz/corpus").join(options.target.name());
    explore(project, options.target, &corpus, runs.as_slice())
}

/// The bounded run of `cargo xtask test`, which takes the same way every time. It looks also after the fuzzer itself:
/// without feedback from the code it would not find a single input worth keeping.
pub(crate) fn smoke(project: &Project) -> Result<Done> {
    for (target, runs) in [(Target::Eval, "-runs=5000000"), (Target::State, "-runs=500000")] {
        let corpus = project.target("fuzz/corpus").join(format!("{}-smoke", target.name()));
        remove_folder(&corpus)?;
        explore(project, target, &corpus, &[runs, "-seed=1", "-reduce_inputs=0"].map(str::to_owned))?;
        if fs::read_dir(&corpus).with_context(|| format!("cannot list {}", corpus.display()))?.next().is_none() {
            bail!("the fuzzer kept no input in {}: does this compiler still know INSTRUMENTATION?", corpus.display());
        }
    }
    Ok(Done::Passed)
}

fn explore(project: &Project, target: Target, corpus: &Path, options: &[String]) -> Result<()> {
    let fuzzer = build(project, target)?;
    let seeds = project.target("fuzz/seeds").join(target.name());
    let findings = project.target("fuzz/findings");
    for folder in [corpus, &seeds, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    // A state needs none: its target begins with one that a device has saved.
    if target == Target::Eval {
        write_seeds(&project.path(VECTORS), &seeds)?;
    }
    // libFuzzer writes what it keeps into the first folder. The last one holds what once went wrong.
    let known = project.path("fuzz/corpus").join(target.name());
    fuzzer
        .args(options)
        .args([format!("-max_len={}", target.max_len()), format!("-artifact_prefix={}/", findings.display())])
        .args(["-timeout=10", "-print_final_stats=1"])
        .args([corpus, &seeds])
        .args(known.is_dir().then_some(known))
        .run()
        .map_err(|error| {
            anyhow!(
                "{error}\nan input that broke a promise is saved in {}; cargo xtask fuzz --target {} --input FILE \
                 repeats it",
                findings.display(),
                target.name()
            )
        })
}

/// Builds the fuzzer. The command wants libFuzzer's options and folders.
fn build(project: &Project, fuzzed: Target) -> Result<Cmd> {
    let (host, target) = (host()?, project.target("fuzz"));
    project
        .cargo("build")
        .args(["--release", "--manifest-path", "fuzz/Cargo.toml", "--bin", fuzzed.name(), "--target-dir"])
        .arg(&target)
        // Naming a target, even this very machine, keeps the instrumentation out of build scripts.
        .args(["--target", &host])
        .env("RUSTFLAGS", INSTRUMENTATION)
        .run()?;
    Ok(project.command(target.join(host).join("release").join(fuzzed.name())))
}

/// What the compiler calls this machine.
fn host() -> Result<String> {
    let version = Cmd::new("rustc").arg("-vV").read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.with_context(|| format!("rustc -vV does not name its host: {version:?}"))?.to_owned())
}

/// Writes each test vector as an input of the fuzzer: the counter, the CPU's counter as a byte, the page.
fn write_seeds(vectors: &Path, folder: &Path) -> Result<()> {
    let text = fs::read_to_string(vectors).with_context(|| format!("cannot read {}", vectors.display()))?;
    let parsed: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", vectors.display()))?;
    let list = parsed.as_array().with_context(|| format!("{} is not a list of vectors", vectors.display()))?;
    for vector in list {
        let (name, input) = seed(vector)
            .with_context(|| format!("{} has a vector without name, counter or page: {vector}", vectors.display()))?;
        let file = folder.join(name);
        fs::write(&file, input).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The name and the input of a vector.
fn seed(vector: &Value) -> Option<(&str, Vec<u8>)> {
    const X86_TSC: u8 = 1;
    let mut input = vector["counter"].as_u64()?.to_le_bytes().to_vec();
    input.push(X86_TSC);
    input.extend(from_hex(vector["page"].as_str()?)?);
    Some((vector["name"].as_str()?, input))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_vector_becomes_counter_cpu_and_page() {
        let vector = json!({"name": "plain", "counter": 258, "page": "56434c4b"});
        assert_eq!(seed(&vector), Some(("plain", vec![2, 1, 0, 0, 0, 0, 0, 0, 1, b'V', b'C', b'L', b'K'])));
    }

    #[test]
    fn a_vector_that_lacks_something_is_none() {
        for page in [json!("5"), json!("zz"), json!(7)] {
            assert_eq!(seed(&json!({"name": "plain", "counter": 1, "page": page})), None);
        }
        assert_eq!(seed(&json!({"name": "plain", "counter": -1, "page": ""})), None);
    }
}
