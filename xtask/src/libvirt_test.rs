// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask libvirt-test`: guests of Debian's libvirt daemon with our hook, under TCG. What is checked is in
//! `packaging/libvirt/test`; here is where it runs: Debian's packages as the root of a process with mounts of its own,
//! so that the machine's own libvirt and its files are not touched.

use anyhow::{ensure, Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request};
use crate::guest_test::{self, QEMU_SUITE};
use crate::project::Project;
use crate::shell::{say, Cmd};
use crate::steps::Done;

/// What the daemon and the script need.
const PACKAGES: [&str; 14] = [
    "base-files",
    "bash",
    "coreutils",
    "findutils",
    "grep",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "mount",
    "qemu-system-x86",
    "qemu-utils",
    "sed",
    "util-linux",
    "dash",
];

/// Makes the packages' files a root, and runs a script in it. `$0` is the folder of the packages, `$1` a folder to write
/// to, `$2` the command, `$3` the folder of the script.
const IN_A_ROOT: &str = r#"
set -eu
root=$1/root
mkdir -p "$1/upper" "$root"
mount -t tmpfs tmpfs "$1/upper" -o mode=0755
mkdir "$1/upper/files" "$1/upper/work"
mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper/files,workdir=$1/upper/work" "$root"
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/tmp" "$root/run" "$root/etc/libvirt" "$root/vmclock"
mount -t proc proc "$root/proc"
for folder in dev sys; do mount --rbind "/$folder" "$root/$folder"; done
chmod 1777 "$root/tmp"
cp "$2" "$root/vmclock/vmclock"
cp -r "$3" "$root/vmclock/libvirt"
rm -rf "$root/var/run"
ln -s ../run "$root/var/run"
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin
END
cat >"$root/etc/group" <<'END'
root:x:0:
kvm:x:994:
libvirt:x:995:
libvirt-qemu:x:64055:
END
# The sandboxes of continuous integration have neither AppArmor nor control groups to give away.
cat >"$root/etc/libvirt/qemu.conf" <<'END'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
remember_owner = 0
END
exec chroot "$root" /bin/bash /vmclock/libvirt/test /vmclock/vmclock /usr/bin/qemu-system-x86_64
"#;

/// Run guests of the real libvirt daemon, with our hook.
#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(project: &Project, _options: &Options) -> Result<()> {
    if let Done::Skipped(reason) = step(project)? {
        say(&format!("SKIPPED: {reason}"));
    }
    Ok(())
}

/// The step of `cargo xtask test`.
pub(crate) fn step(project: &Project) -> Result<Done> {
    let is_possible =
        cfg!(target_arch = "x86_64") && Cmd::new("unshare").args(["--mount", "--pid", "--fork", "true"]).read().is_ok();
    if !is_possible {
        let error = anyhow::anyhow!("it takes root, mounts of its own, and x86-64");
        return debian::skip_unless_ci(error);
    }
    let fetched = Cache::open().and_then(|cache| {
        let request = Request {
            name: "libvirt",
            suite: QEMU_SUITE,
            alone: &[],
            with_dependencies: &PACKAGES,
            freshness: Freshness::Any,
        };
        Ok((debian::fetch(&cache, &request)?, cache.scratch()?))
    });
    let (tree, scratch) = match fetched {
        Ok(fetched) => fetched,
        Err(error) => return debian::skip_unless_ci(error),
    };
    let vmclock = guest_test::static_command(project)?;
    let script = project.path("packaging/libvirt");
    ensure!(script.join("test").is_file(), "{} has no test", script.display());
    let test = Cmd::new("unshare").args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", IN_A_ROOT]);
    let test = test.arg(tree.path("")).arg(scratch.path()).arg(vmclock).arg(script);
    test.run().context("guests of libvirt do not see what they should")?;
    Ok(Done::Passed)
}
