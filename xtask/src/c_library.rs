// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask install-c`: libvmclock, shared and static, with its headers, pkg-config file and manual pages.
//!
//! rustc makes an archive of the crate `vmclock-capi` and all of Rust's library that it needs. Both libraries are
//! linked of that: the shared one with versions of its symbols, which a `cdylib` of rustc's could not have beside the
//! linker script of rustc's own; and the static one as a single object that defines nothing but the functions of the
//! header, so that it gets along with other libraries written in Rust.

mod man;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::project::Project;
use crate::shell::say;

/// The crate's folder.
pub(crate) const CRATE: &str = "crates/vmclock-capi";

/// What changes when programs that were linked before would break; the libraries' own number, not the crates' version.
const SONAME: &str = "libvmclock.so.1";
/// The soname, then how often functions were added, and how often neither.
const FILE_NAME: &str = "libvmclock.so.1.0.0";

/// Build and install libvmclock for C and C++.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the library will be used from.
    #[arg(long, default_value = "/usr/local", value_name = "FOLDER")]
    prefix: PathBuf,

    /// The folder of the libraries, within the prefix or absolute.
    #[arg(long, default_value = "lib", value_name = "FOLDER")]
    libdir: PathBuf,

    /// Put everything under this folder instead of `/`, as packages are made.
    #[arg(long, value_name = "FOLDER")]
    destdir: Option<PathBuf>,

    /// Keep the debugging information.
    #[arg(long)]
    keep_debug: bool,
}

impl Options {
    /// What a package has, below `destdir`.
    pub(crate) fn packaged(destdir: PathBuf, libdir: PathBuf) -> Self {
        Self { prefix: "/usr".into(), libdir, destdir: Some(destdir), keep_debug: false }
    }

    /// An ordinary tree at `prefix`.
    pub(crate) fn at(prefix: PathBuf) -> Self {
        Self { prefix, libdir: "lib".into(), destdir: None, keep_debug: false }
    }
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    install(project, options)?;
    let place = options.destdir.as_ref().unwrap_or(&options.prefix);
    say(&format!("installed to {}", place.display()));
    Ok(())
}

/// Builds and installs.
pub(crate) fn install(project: &Project, options: &Options) -> Result<()> {
    if !options.prefix.is_absolute() {
        bail!("--prefix {}: must be an absolute path", options.prefix.display());
    }
    project.cargo("build").args(["--release", "--package", "vmclock-capi"]).run()?;
    link_and_install(project, &project.target("release/libvmclock_capi.a"), &project.target("c"), options)
}

/// Installs what is linked of rustc's archive, in a folder for that.
pub(crate) fn link_and_install(project: &Project, rust: &Path, folder: &Path, options: &Options) -> Result<()> {
    let built = build(project, rust, folder, options.keep_debug)?;
    let own = |path: &str| project.path(CRATE).join(path);
    // An absolute path replaces what it is joined to.
    let libdir = options.prefix.join(&options.libdir);
    let includedir = options.prefix.join("include");
    let folder = |path: &Path| -> Result<PathBuf> {
        let path = match &options.destdir {
            Some(destdir) => destdir.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_path_buf(),
        };
        fs::create_dir_all(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(path)
    };

    let libraries = folder(&libdir)?;
    copy(&built.shared, &libraries.join(FILE_NAME), 0o755)?;
    link(FILE_NAME, &libraries.join(SONAME))?;
    link(SONAME, &libraries.join("libvmclock.so"))?;
    copy(&built.archive, &libraries.join("libvmclock.a"), 0o644)?;
    let headers = folder(&includedir)?;
    for header in ["vmclock.h", "vmclock.hpp"] {
        copy(&own("include").join(header), &headers.join(header), 0o644)?;
    }
    let version = version(project)?;
    let description = read(&own("libvmclock.pc.in"))?
        .replace("@prefix@", &options.prefix.display().to_string())
        .replace("@libdir@", &libdir.display().to_string())
        .replace("@includedir@", &includedir.display().to_string())
        .replace("@version@", &version);
    write(&folder(&libdir.join("pkgconfig"))?.join("libvmclock.pc"), &description)?;
    let manuals = folder(&options.prefix.join("share/man/man3"))?;
    for (name, text) in man::pages(&read(&own("include/vmclock.h"))?, &version)? {
        write(&manuals.join(format!("{name}.3")), &text)?;
    }
    Ok(())
}

/// The two libraries.
struct Built {
    shared: PathBuf,
    archive: PathBuf,
}

fn build(project: &Project, rust: &Path, folder: &Path, keep_debug: bool) -> Result<Built> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let (shared, object, archive) = (folder.join(FILE_NAME), folder.join("libvmclock.o"), folder.join("libvmclock.a"));
    let map = project.path(CRATE).join("libvmclock.map");
    let symbols = symbols(&map)?;

    let mut link = project.command(compiler("CC", "cc")).args(["-shared", "-o"]).arg(&shared);
    link = link.args(symbols.iter().map(|name| format!("-Wl,-u,{name}"))).arg(rust);
    link = link.arg(format!("-Wl,-soname,{SONAME}")).arg(format!("-Wl,--version-script={}", map.display()));
    link = link.args(["-Wl,--gc-sections", "-Wl,-z,relro,-z,now,-z,defs", "-Wl,--as-needed"]);
    // What Rust's library calls, where the C library is not one with them.
    link.args(["-lgcc_s", "-lpthread", "-ldl", "-lm"]).read()?;

    let mut gather = project.command("ld").args(["-r", "--gc-sections", "-o"]).arg(&object);
    gather = gather.args(symbols.iter().flat_map(|name| ["-u", name.as_str()]));
    gather.arg(rust).read()?;
    let mut hide = project.command("objcopy").args(symbols.iter().map(|name| format!("--keep-global-symbol={name}")));
    // LLVM's own form of Rust's library, as large as all else.
    hide = hide.args(["--remove-section=.llvmbc", "--remove-section=.llvmcmd"]);
    hide.arg(&object).read()?;
    if !keep_debug {
        project.command("strip").args(["--strip-unneeded"]).arg(&shared).read()?;
        project.command("strip").args(["--strip-debug"]).arg(&object).read()?;
    }
    let _ = fs::remove_file(&archive); // `ar` would add to it
    project.command("ar").arg("rcsD").arg(&archive).arg(&object).read()?;
    Ok(Built { shared, archive })
}

/// The crate's version.
fn version(project: &Project) -> Result<String> {
    let id = project.cargo("pkgid").args(["--package", "vmclock-capi"]).read()?;
    let version = id.trim().rsplit(['#', '@']).next().context("`cargo pkgid` prints nothing")?;
    Ok(version.to_owned())
}

/// The functions that a linker script exports.
pub(crate) fn symbols(map: &Path) -> Result<Vec<String>> {
    let text = read(map)?;
    let names = text.lines().filter_map(|line| line.trim().strip_suffix(';'));
    Ok(names.filter(|name| name.starts_with("vmclock_")).map(str::to_owned).collect())
}

/// A compiler: what the variable says, or the usual one.
pub(crate) fn compiler(variable: &str, usual: &str) -> OsString {
    env::var_os(variable).unwrap_or_else(|| usual.into())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // A program may have the old one mapped: it keeps it.
    let _ = fs::remove_file(to);
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(to, permissions).with_context(|| format!("cannot set the mode of {}", to.display()))
}

fn link(target: &str, at: &Path) -> Result<()> {
    let _ = fs::remove_file(at);
    symlink(target, at).with_context(|| format!("cannot make the link {}", at.display()))
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
