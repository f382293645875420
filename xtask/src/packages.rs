// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask package`: the Debian packages of command, agent, service and libraries, and archives of static programs
//! for everything else; and whether they install, work, upgrade and go in clean Debian systems.
//!
//! They are built once, by the machine's Rust and with its C library, and so are for Debian of the machine's release and
//! newer ones.

mod systems;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::c_library;
use crate::cache::remove_folder;
use crate::deb::Deb;
use crate::dkms;
use crate::project::Project;
use crate::shell::{say, Cmd};

/// Build the Debian packages, and archives of static programs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build them twice, and compare: the same bytes
    #[arg(long)]
    twice: bool,

    /// Install, use, upgrade and remove them in clean systems of Debian's releases, and ask lintian. Needs root and 2 GB
    #[arg(long)]
    test: bool,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let place = project.target("debian");
    let built = compile(project, &place.join("build"))?;
    let packages = pack(project, &built, "", &place.join("packages"))?;
    for package in &packages {
        say(&format!("built {}", package.display()));
    }
    if options.twice {
        let built = compile(project, &place.join("build-again"))?;
        let again = pack(project, &built, "", &place.join("again"))?;
        for (one, other) in packages.iter().zip(&again) {
            Cmd::new("cmp").arg(one).arg(other).read()?;
        }
        say(&format!("ok     {} files, built twice in two folders: the same bytes", packages.len()));
    }
    if options.test {
        let next = pack(project, &built, "+next", &place.join("next"))?;
        systems::test(&packages, &next)?;
    }
    Ok(())
}

/// The workspace's version.
fn version(project: &Project) -> Result<String> {
    let id = project.cargo("pkgid").args(["--package", "vmclock-cli"]).read()?;
    Ok(id.trim().rsplit(['#', '@']).next().context("`cargo pkgid` prints nothing")?.to_owned())
}

/// The programs and libraries that the packages are made of.
struct Built {
    /// The command, and the C library and the Python module, linked with the system's C library.
    command: PathBuf,
    c_library: PathBuf,
    python_module: PathBuf,
    /// Command and agent that need nothing.
    static_command: PathBuf,
    agent: PathBuf,
}

/// All packages and archives, in a folder, of the workspace's version with this behind it.
fn pack(project: &Project, built: &Built, suffix: &str, packages: &Path) -> Result<Vec<PathBuf>> {
    let version = version(project)? + suffix;
    let libc = oldest_libc(&[&built.command, &built.python_module])?;
    let begin = |name: &str| Deb::begin(project, packages, name, &version);
    let begin_native = |name: &str| Ok::<_, anyhow::Error>(begin(name)?.for_this_architecture()?.with("LIBC", &libc));
    let parts = |name: &str| project.path("packaging/debian").join(name);
    let own = |deb: Deb| {
        let folder = parts(deb.name());
        deb.build(&[&folder])
    };
    let unit = project.path("packaging/debian/unit");
    let unit_of = |deb: Deb, unit_name: &str, prepare: &str, clear: &str| {
        let folder = parts(deb.name());
        deb.with("UNIT", unit_name).with("PREPARE", prepare).with("CLEAR", clear).build(&[&unit, &folder])
    };
    let mut made = vec![
        own(command(project, built, begin_native("vmclock")?)?)?,
        unit_of(
            agent(project, built, begin_native("vmclock-agent")?)?,
            "vmclock-agent.service",
            ":",
            "rm -rf /var/lib/vmclock-agent",
        )?,
        unit_of(
            service(project, begin("vmclock-host")?)?,
            "vmclock.service",
            "systemd-tmpfiles --create vmclock-host.conf || [ $? = 73 ]",
            "rm -rf /run/vmclock /var/lib/vmclock",
        )?,
    ];
    let [library, development] = c_packages(built, begin_native("libvmclock1")?, begin_native("libvmclock-dev")?)?;
    made.extend([own(library)?, own(development)?]);
    made.push(own(python(project, built, begin_native("python3-vmclock")?)?)?);
    made.push(dkms::build(project, packages, &format!("{}{suffix}", dkms::version(project)?))?);
    made.push(archive(project, built, packages, &version)?);
    Ok(made)
}

/// Compiles everything, in a folder, so that no path of this machine is in it.
fn compile(project: &Project, target: &Path) -> Result<Built> {
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from);
    let remap =
        [(project.path(""), "/usr/src/vmclock"), (target.to_path_buf(), "/usr/src/target"), (home, "/usr/src/cargo")];
    let remap: Vec<_> = remap.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect();
    let host = host_triple(project)?;
    // A folder for each set of flags: with other ones cargo would compile everything in it anew.
    let cargo = |folder: &str, flags: &[&str]| {
        let flags: Vec<_> = remap.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let cargo = project.cargo("build").args(["--release", "--locked", "--target", &host]);
        let cargo =
            cargo.arg("--target-dir").arg(target.join(folder)).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_INCREMENTAL", "0")
    };
    let take = |folder: &str, file: &str| -> Result<PathBuf> {
        let from = target.join(folder).join(&host).join("release").join(file);
        let to = target.join(format!("{folder}-{file}"));
        fs::copy(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        Ok(to)
    };
    let stripped = |path: PathBuf| -> Result<PathBuf> {
        Cmd::new("strip").arg("--strip-unneeded").arg(&path).read()?;
        Ok(path)
    };
    cargo("static", &["-Ctarget-feature=+crt-static"]).args(["-p", "vmclock-cli", "-p", "vmclock-agent"]).run()?;
    let static_command = stripped(take("static", "vmclock")?)?;
    let agent = stripped(take("static", "vmclock-agent")?)?;
    cargo("shared", &[]).args(["-p", "vmclock-cli", "-p", "vmclock-capi"]).run()?;
    let command = stripped(take("shared", "vmclock")?)?;
    let archive = take("shared", "libvmclock_capi.a")?;
    let python = cargo("shared", &[]).arg("--manifest-path").arg(project.path("crates/vmclock-python/Cargo.toml"));
    // Any Python from 3.9 on: none has to be here.
    python.env("PYO3_NO_PYTHON", "1").env("PYO3_BUILD_EXTENSION_MODULE", "1").run()?;
    let python_module = stripped(take("shared", "lib_native.so")?)?;
    let c_library = target.join("c");
    remove_folder(&c_library)?;
    // Debian's name for it.
    let triplet = host.replace("-unknown-", "-");
    let libdir = Path::new("lib").join(triplet);
    let options = c_library::Options::packaged(c_library.clone(), libdir);
    c_library::link_and_install(project, &archive, &target.join("libvmclock"), &options)?;
    Ok(Built { command, c_library, python_module, static_command, agent })
}

fn host_triple(project: &Project) -> Result<String> {
    let said = project.command("rustc").arg("-vV").read()?;
    Ok(said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?.to_owned())
}

/// The oldest C library that all of these files take, as their symbols' versions have it.
fn oldest_libc(files: &[&Path]) -> Result<String> {
    let said = Cmd::new("objdump").arg("-T").args(files).read()?;
    let versions = said.split("GLIBC_").skip(1).filter_map(|rest| {
        let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let (major, minor) = version.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.split('.').next()?.parse::<u32>().ok()?))
    });
    let (major, minor) = versions.max().context("no symbol has a version of the C library")?;
    Ok(format!("{major}.{minor}"))
}

fn command(project: &Project, built: &Built, deb: Deb) -> Result<Deb> {
    deb.copy(&built.command, "usr/bin/vmclock", 0o755)?;
    let pages = deb.folder("usr/share/man/man1")?;
    Cmd::new(&built.command).args(["man", "--out"]).arg(&pages).read()?;
    let entries = fs::read_dir(&pages).with_context(|| format!("cannot list {}", pages.display()))?;
    for page in entries.flatten() {
        deb.gzip(&format!("usr/share/man/man1/{}", page.file_name().to_string_lossy()))?;
    }
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/vmclock"),
        ("zsh", "usr/share/zsh/vendor-completions/_vmclock"),
        ("fish", "usr/share/fish/vendor_completions.d/vmclock.fish"),
    ] {
        deb.text(path, &Cmd::new(&built.command).args(["completions", shell]).read()?)?;
    }
    let system = |name: &str| project.path("packaging/system").join(name);
    deb.copy(&system("60-vmclock.rules"), "usr/lib/udev/rules.d/60-vmclock.rules", 0o644)?;
    deb.copy(&system("vmclock.sysusers"), "usr/lib/sysusers.d/vmclock.conf", 0o644)?;
    Ok(deb)
}

fn agent(project: &Project, built: &Built, deb: Deb) -> Result<Deb> {
    deb.copy(&built.agent, "usr/bin/vmclock-agent", 0o755)?;
    let packaging = |name: &str| project.path("packaging").join(name);
    deb.copy(&packaging("man/vmclock-agent.8"), "usr/share/man/man8/vmclock-agent.8", 0o644)?;
    deb.gzip("usr/share/man/man8/vmclock-agent.8")?;
    deb.copy(&packaging("vmclock-agent.service"), "usr/lib/systemd/system/vmclock-agent.service", 0o644)?;
    deb.copy(&project.path("docs/agent.toml"), "etc/vmclock/agent.toml", 0o644)?;
    deb.copy(&packaging("agent.d/README"), "etc/vmclock/agent.d/README", 0o644)?;
    let examples = packaging("agent.d");
    let entries = fs::read_dir(&examples).with_context(|| format!("cannot list {}", examples.display()))?;
    for example in entries.flatten() {
        let name = example.file_name().to_string_lossy().into_owned();
        let mode = if name.contains('.') || name == "README" { 0o644 } else { 0o755 };
        if name != "README" {
            deb.copy(&example.path(), &format!("usr/share/doc/vmclock-agent/examples/agent.d/{name}"), mode)?;
        }
    }
    // It is static on purpose: whatever else the guest has.
    let overrides = "vmclock-agent: shared-library-lacks-prerequisites [usr/bin/vmclock-agent]\n";
    deb.text("usr/share/lintian/overrides/vmclock-agent", overrides)?;
    Ok(deb)
}

fn service(project: &Project, deb: Deb) -> Result<Deb> {
    let packaging = |name: &str| project.path("packaging").join(name);
    deb.copy(&packaging("vmclock.service"), "usr/lib/systemd/system/vmclock.service", 0o644)?;
    deb.copy(&packaging("system/vmclock-host.tmpfiles"), "usr/lib/tmpfiles.d/vmclock-host.conf", 0o644)?;
    deb.copy(&packaging("vmclock-exporter.service"), "usr/lib/systemd/system/vmclock-exporter.service", 0o644)?;
    let sample = project.path("docs/serve.toml");
    let sample = fs::read_to_string(&sample).with_context(|| format!("cannot read {}", sample.display()))?;
    // The unit's own group, which the exporter is in.
    let grouped = sample.replace("\n# group = \"vmclock\"\n", "\ngroup = \"vmclock\"\n");
    ensure!(grouped != sample, "docs/serve.toml has no line for the group");
    deb.text("etc/vmclock/vmclock.toml", &grouped)?;
    for example in ["prometheus/vmclock.rules.yml", "grafana/vmclock.json"] {
        deb.copy(&packaging(example), &format!("usr/share/doc/vmclock-host/examples/{example}"), 0o644)?;
    }
    deb.copy(&packaging("libvirt/vmclock"), "etc/libvirt/hooks/qemu.d/vmclock", 0o755)?;
    deb.copy(&packaging("libvirt/apparmor"), "etc/apparmor.d/abstractions/libvirt-qemu.d/vmclock", 0o644)?;
    deb.copy(&packaging("libvirt/domain.xml"), "usr/share/doc/vmclock-host/examples/domain.xml", 0o644)?;
    Ok(deb)
}

/// The library, and what programs are built with.
fn c_packages(built: &Built, library: Deb, development: Deb) -> Result<[Deb; 2]> {
    let files = Cmd::new("find").args([".", "-type", "f", "-printf", "%P\n"]).current_dir(&built.c_library).read()?;
    for file in files.lines() {
        let is_library = file.contains("/libvmclock.so.");
        let deb = if is_library { &library } else { &development };
        deb.copy(&built.c_library.join(file), file, 0o644)?;
        if file.contains("/man/") {
            deb.gzip(file)?;
        }
    }
    let links =
        Cmd::new("find").args([".", "-type", "l", "-printf", "%P %l\n"]).current_dir(&built.c_library).read()?;
    for (link, target) in links.lines().filter_map(|line| line.split_once(' ')) {
        // What programs are linked with has no version.
        let deb = if link.contains(".so.") { &library } else { &development };
        deb.link(link, target)?;
    }
    Ok([library, development])
}

fn python(project: &Project, built: &Built, deb: Deb) -> Result<Deb> {
    let packages = "usr/lib/python3/dist-packages";
    let source = project.path("crates/vmclock-python/python/vmclock");
    let entries = fs::read_dir(&source).with_context(|| format!("cannot list {}", source.display()))?;
    for file in entries.flatten().filter(|file| file.path().is_file()) {
        deb.copy(&file.path(), &format!("{packages}/vmclock/{}", file.file_name().to_string_lossy()), 0o644)?;
    }
    deb.copy(&built.python_module, &format!("{packages}/vmclock/_native.abi3.so"), 0o644)?;
    let version = version(project)?;
    let metadata = format!("Metadata-Version: 2.1\nName: vmclock\nVersion: {version}\n");
    deb.text(&format!("{packages}/vmclock-{version}.dist-info/METADATA"), &metadata)?;
    Ok(deb)
}

/// Command and agent for every other system, and their checksums.
fn archive(project: &Project, built: &Built, packages: &Path, version: &str) -> Result<PathBuf> {
    let name = format!("vmclock-{version}-{}-linux", std::env::consts::ARCH);
    let folder = packages.join(&name);
    remove_folder(&folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (from, to) in [
        (built.static_command.clone(), "vmclock"),
        (built.agent.clone(), "vmclock-agent"),
        (project.path("LICENSE-MIT"), "LICENSE-MIT"),
        (project.path("LICENSE-APACHE"), "LICENSE-APACHE"),
        (project.path("docs/agent.toml"), "agent.toml"),
        (project.path("docs/serve.toml"), "vmclock.toml"),
    ] {
        let to = folder.join(to);
        fs::copy(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    let file = packages.join(format!("{name}.tar.xz"));
    let tar = Cmd::new("tar").args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    tar.args(["--mode=u+rwX,go=rX", "-C"]).arg(packages).arg("-cJf").arg(&file).arg(&name).read()?;
    let sum = Cmd::new("sha256sum").arg(format!("{name}.tar.xz")).current_dir(packages).read()?;
    let sums = packages.join(format!("{name}.tar.xz.sha256"));
    fs::write(&sums, sum).with_context(|| format!("cannot write {}", sums.display()))?;
    ensure!(file.is_file(), "tar made no {}", file.display());
    Ok(file)
}
