// SPDX-License-Identifier: MIT OR Apache-2.0
//! The step `c`: libvmclock is installed, and programs in C and C++ are compiled against what was installed, linked in
//! each way, and run as they are, under valgrind, and with sanitizers.

mod abi;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;

use crate::c_library::{self, compiler, read, symbols, write, CRATE};
use crate::debian;
use crate::project::Project;
use crate::shell::{say, Cmd};
use crate::steps::Done;

/// Record the ABI of libvmclock, after it was changed on purpose.
#[derive(clap::Args)]
pub(crate) struct RecordOptions {}

pub(crate) fn record(project: &Project, _: &RecordOptions) -> Result<()> {
    let place = Place::make(project)?;
    c_library::install(project, &c_library::Options::at(place.prefix.clone()))?;
    abi::record(project, &place)
}

/// The step of `cargo xtask test`.
pub(crate) fn step(project: &Project) -> Result<Done> {
    let tools = ["cc", "c++", "nm", "readelf", "objcopy", "pkg-config", "valgrind", "mandoc", "abidw", "abidiff"];
    let missing: Vec<&str> = tools.into_iter().filter(|tool| !is_there(tool)).collect();
    if !missing.is_empty() {
        return debian::skip_unless_ci(anyhow::anyhow!(
            "{} not found: install what .ci/run lists (gcc, g++, pkgconf, valgrind, mandoc, abigail-tools)",
            missing.join(", ")
        ));
    }
    let place = Place::make(project)?;
    c_library::install(project, &c_library::Options::at(place.prefix.clone()))?;
    check_symbols(project, &place)?;
    abi::compare(project, &place)?;
    check_manuals(&place)?;
    let vectors = write_vectors(project, &place)?;
    let publisher = Publisher::start(project, &place)?;
    for program in programs() {
        program.check(project, &place, &publisher, vectors)?;
    }
    Ok(Done::Passed)
}

fn is_there(tool: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|folder| folder.join(tool).is_file())
}

/// Where it all happens.
struct Place {
    /// Programs, pages, vectors.
    folder: PathBuf,
    /// The installed tree.
    prefix: PathBuf,
}

impl Place {
    fn make(project: &Project) -> Result<Self> {
        let folder = project.target("c-test");
        // Nothing of an earlier run may help this one.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let prefix = folder.join("usr");
        fs::create_dir_all(&prefix).with_context(|| format!("cannot make the folder {}", prefix.display()))?;
        Ok(Self { folder, prefix })
    }

    /// What pkg-config says of the installed library.
    fn pkg_config(&self, options: &[&str]) -> Result<Vec<String>> {
        let path = self.prefix.join("lib/pkgconfig");
        let said = Cmd::new("pkg-config").args(options).arg("libvmclock").env("PKG_CONFIG_PATH", path).read()?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
    }
}

/// Both libraries define the functions of the linker script, the shared one with their version, and nothing else.
fn check_symbols(project: &Project, place: &Place) -> Result<()> {
    let expected = symbols(&project.path(CRATE).join("libvmclock.map"))?;
    let shared = place.prefix.join("lib/libvmclock.so");
    let defined = |options: &[&str], library: &Path| -> Result<Vec<String>> {
        let said = Cmd::new("nm").args(options).arg(library).read()?;
        let names = said.lines().filter_map(|line| line.rsplit_once(" T ")).map(|(_, name)| name.to_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    };
    let versioned: Vec<String> = expected.iter().map(|name| format!("{name}@@VMCLOCK_1.0")).collect();
    ensure!(defined(&["-D", "--defined-only"], &shared)? == versioned, "libvmclock.so does not export what it must");
    let archive = place.prefix.join("lib/libvmclock.a");
    let global = Cmd::new("nm").args(["-g", "--defined-only", "--format=posix"]).arg(&archive).read()?;
    let mut global: Vec<&str> = global.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| name).collect();
    global.sort_unstable();
    ensure!(global == expected, "libvmclock.a does not define what it must, but {global:?}");
    let dynamic = Cmd::new("readelf").arg("-d").arg(&shared).read()?;
    ensure!(dynamic.contains("soname: [libvmclock.so.1]"), "libvmclock.so has another soname:\n{dynamic}");
    let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
    say(&format!("libvmclock.so: {} bytes; libvmclock.a: {} bytes", size(&shared)?, size(&archive)?));
    Ok(())
}

/// The manual pages are understood, and there is one for each function.
fn check_manuals(place: &Place) -> Result<()> {
    let folder = place.prefix.join("share/man/man3");
    let mut pages = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        pages.push(entry?.path());
    }
    // Its status tells of style too; what is wrong is in the lines.
    let output = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&pages).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // A date would make each day's pages others.
    let complaints: Vec<&str> = said.lines().filter(|line| !line.contains("missing date")).collect();
    ensure!(complaints.is_empty(), "mandoc complains:\n{}", complaints.join("\n"));
    say(&format!("manual pages: {}", pages.len()));
    Ok(())
}

/// Writes the vectors for a program that knows no JSON: a line each, with tabs between. Gives their number.
fn write_vectors(project: &Project, place: &Place) -> Result<usize> {
    let json = read(&project.path("crates/vmclock-core/tests/vectors/time-at-counter.json"))?;
    let vectors: Vec<Value> = serde_json::from_str(&json).context("the vectors are not JSON")?;
    let word = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        number => number.to_string(),
    };
    let time = |value: &Value| match &value["leap_second"] {
        _ if value.is_null() => "-".to_owned(),
        Value::Bool(leap) => format!("{}:{}:{}", value["sec"], value["nsec"], u8::from(*leap)),
        _ => format!("{}:{}", value["sec"], value["nsec"]),
    };
    let statuses = ["unknown", "initializing", "synchronized", "free-running", "unreliable"];
    let mut lines = String::new();
    for vector in &vectors {
        let expect = &vector["expect"];
        let status = expect["status"].as_str().context("a vector has no status")?;
        let status = match statuses.iter().position(|name| *name == status) {
            Some(number) => number.to_string(),
            None => status.rsplit(' ').next().unwrap_or_default().to_owned(),
        };
        let mut columns = vec![word(&vector["name"]), word(&vector["page"]), word(&vector["counter"]), status];
        columns.extend(["disruption_marker", "vm_generation_counter"].map(|key| word(&expect[key])));
        columns.extend(["time", "earliest", "latest", "tai", "utc"].map(|key| time(&expect[key])));
        lines += &columns.join("\t");
        lines.push('\n');
    }
    write(&place.folder.join("vectors"), &lines)?;
    Ok(vectors.len())
}

/// `vmclock serve` with this machine's clock as the truth.
struct Publisher {
    child: Child,
    page: PathBuf,
}

impl Publisher {
    fn start(project: &Project, place: &Place) -> Result<Self> {
        project.cargo("build").args(["--package", "vmclock-cli"]).run()?;
        let page = place.folder.join("page");
        let mut command = Command::new(project.target("debug/vmclock"));
        command.args(["serve", "--json", "--reference", "host-clock", "--tai-offset", "37", "--page"]).arg(&page);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start `vmclock`")?;
        let output = child.stdout.take().context("no output")?;
        let publisher = Self { child, page };
        for line in BufReader::new(output).lines() {
            let event: Value = serde_json::from_str(&line?).unwrap_or_default();
            // It prints no more than a line when something happens, and goes on where nobody listens.
            if event["event"] == "refreshed" {
                return Ok(publisher);
            }
        }
        bail!("`vmclock serve` ended before it had published a time")
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the programs are linked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Linking {
    /// With libvmclock.so.
    Shared,
    /// With libvmclock.a, and the C library's .so.
    Archive,
    /// With nothing shared at all.
    Static,
}

/// How the checks are compiled and run.
struct Program {
    name: &'static str,
    linking: Linking,
    sanitized: bool,
    /// Under valgrind as well.
    valgrind: bool,
}

fn programs() -> [Program; 5] {
    [
        Program { name: "shared", linking: Linking::Shared, sanitized: false, valgrind: true },
        Program { name: "archive", linking: Linking::Archive, sanitized: false, valgrind: true },
        Program { name: "static", linking: Linking::Static, sanitized: false, valgrind: false },
        Program { name: "shared-sanitized", linking: Linking::Shared, sanitized: true, valgrind: false },
        Program { name: "archive-sanitized", linking: Linking::Archive, sanitized: true, valgrind: false },
    ]
}

const SOURCES: [&str; 7] = ["main.c", "vectors.c", "values.c", "hostile.c", "events.c", "live.c", "allocations.c"];
const WARNINGS: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"];

impl Program {
    fn check(&self, project: &Project, place: &Place, publisher: &Publisher, vectors: usize) -> Result<()> {
        let (c, cpp) = (place.folder.join(self.name), place.folder.join(format!("{}-cpp", self.name)));
        let source = |name: &str| project.path(CRATE).join("tests/c").join(name);
        let mut compile = project.command(compiler("CC", "cc")).args(["-std=c99", "-O2", "-g", "-pthread", "-o"]);
        compile = compile.arg(&c).args(WARNINGS).args(SOURCES.map(source));
        if self.counts_allocations() {
            compile = compile.arg("-DCOUNT_ALLOCATIONS");
        }
        compile.args(self.flags(place)?).read()?;
        let compile = project.command(compiler("CXX", "c++")).args(["-std=c++17", "-O2", "-g", "-pthread", "-o"]);
        compile.arg(&cpp).args(WARNINGS).arg(source("check.cpp")).args(self.flags(place)?).read()?;

        let folder = place.folder.join(format!("{}.files", self.name));
        fs::create_dir(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        self.run(&c, &["vectors".as_ref(), place.folder.join("vectors").as_ref()], &format!("vectors: {vectors}\n"))?;
        for name in ["values", "hostile", "events"] {
            self.run(&c, &[name.as_ref(), folder.as_ref()], name)?;
        }
        // Valgrind's malloc would go before the program's.
        let counted = if self.counts_allocations() { "allocations: none\n" } else { "allocations: not counted\n" };
        expect(sanitizer_options(Cmd::new(&c).arg("allocations").arg(&folder)), counted)?;
        for name in ["live", "threads"] {
            self.run(&c, &[name.as_ref(), publisher.page.as_ref()], name)?;
        }
        self.run(&cpp, &[publisher.page.as_ref()], "C++\n")?;
        say(&format!("{}: passed{}", self.name, if self.valgrind { ", under valgrind too" } else { "" }));
        Ok(())
    }

    /// What the compiler is told of the library and of the sanitizers.
    fn flags(&self, place: &Place) -> Result<Vec<String>> {
        let lib = place.prefix.join("lib");
        let mut flags = match self.linking {
            Linking::Shared => {
                let mut flags = place.pkg_config(&["--cflags", "--libs"])?;
                flags.push(format!("-Wl,-rpath,{}", lib.display()));
                flags
            }
            Linking::Archive => {
                let mut flags = place.pkg_config(&["--cflags"])?;
                flags.push(lib.join("libvmclock.a").display().to_string());
                flags
            }
            Linking::Static => {
                [vec!["-static".into()], place.pkg_config(&["--static", "--cflags", "--libs"])?].concat()
            }
        };
        if self.sanitized {
            flags.extend(["-fsanitize=address,undefined".into(), "-fno-sanitize-recover=all".into()]);
        }
        Ok(flags)
    }

    /// The sanitizers bring a malloc of their own; without a shared C library there can be one only.
    fn counts_allocations(&self) -> bool {
        self.linking != Linking::Static && !self.sanitized
    }

    /// Runs a check, which says how it ended.
    fn run(&self, program: &Path, arguments: &[&Path], expected: &str) -> Result<()> {
        expect(sanitizer_options(Cmd::new(program).args(arguments)), expected)?;
        if self.valgrind {
            let strict = ["--quiet", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite,indirect"];
            expect(Cmd::new("valgrind").args(strict).arg(program).args(arguments), expected)?;
        }
        Ok(())
    }
}

/// What leaks, valgrind finds; the sanitizer would have to trace the process, which not every container allows.
fn sanitizer_options(command: Cmd) -> Cmd {
    command.env("ASAN_OPTIONS", "detect_leaks=0")
}

/// Runs a command that has to say this.
fn expect(command: Cmd, expected: &str) -> Result<()> {
    let shown = command.to_string();
    let said = command.read_all()?;
    ensure!(said.contains(expected), "`{shown}` says {said:?}, not {expected:?}");
    Ok(())
}
