// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device node, and who may read it.

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use rustix::fs::OFlags;

use crate::device::Device;
use crate::finding::Finding;
use crate::kernel::{Driver, Kernel};
use crate::machine::Machine;

const CHECK: &str = "device node";

/// Lets everyone read the clock, now and after every boot.
const UDEV_RULE: &str = "`echo 'SUBSYSTEM==\"misc\", KERNEL==\"vmclock*\", MODE=\"0444\"' > \
                         /etc/udev/rules.d/60-vmclock.rules && udevadm control --reload && \
                         udevadm trigger --subsystem-match=misc`; without udev: `chmod a+r /dev/vmclock*`";

/// What is in `/dev`, and what came of opening it.
struct Node {
    path: String,
    kind: &'static str,
    mode: u32,
    owner: String,
    opened: io::Result<()>,
}

pub(crate) fn finding(machine: &Machine, kernel: &Kernel, device: Option<&Device>, driver: &Driver) -> Finding {
    let mut paths = paths(machine).into_iter();
    let Some(path) = paths.next() else {
        return missing(machine, device, driver);
    };
    let mut finding = match look(machine, &path) {
        Ok(node) => permission(&node, kernel),
        Err(error) => Finding::problem(CHECK, format!("{path}: {error}")).todo(format!("see `ls -l {path}`")),
    };
    let others: Vec<_> = paths.collect();
    if !others.is_empty() {
        let others = others.join(", ");
        // Writing to a String cannot fail.
        let _ = write!(finding.found, "; there is {others} too (`vmclock doctor --page` looks at another)");
    }
    finding
}

/// The machine's device nodes, `/dev/vmclock0` first.
fn paths(machine: &Machine) -> Vec<String> {
    let nodes = machine.names("/dev").into_iter().filter(|name| name.starts_with("vmclock"));
    nodes.map(|name| format!("/dev/{name}")).collect()
}

fn look(machine: &Machine, path: &str) -> io::Result<Node> {
    let there = machine.path(path);
    let metadata = fs::metadata(&there)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_file() => "a plain file",
        kind if kind.is_dir() => "a directory",
        _ => "neither a character device nor a plain file",
    };
    // Not blocking, in case it is a FIFO.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    Ok(Node {
        path: path.into(),
        kind,
        mode: metadata.mode() & 0o7777,
        owner: format!("{}:{}", user(metadata.uid()), user(metadata.gid())),
        opened: File::options().read(true).custom_flags(nonblocking).open(&there).map(|_| ()),
    })
}

fn user(id: u32) -> String {
    if id == 0 {
        "root".into()
    } else {
        id.to_string()
    }
}

/// Whether we may read it, and who else may.
fn permission(node: &Node, kernel: &Kernel) -> Finding {
    let Node { path, kind, mode, owner, opened } = node;
    let found = format!("{path} is {kind}, mode {mode:04o}, {owner}");
    match opened {
        _ if !matches!(*kind, "a character device" | "a plain file") => Finding::problem(CHECK, found)
            .todo(format!("remove it (`rm -r {path}`), and see who made it; the driver makes a character device")),
        Ok(()) if mode & 0o004 != 0 => Finding::ok(CHECK, format!("{found}: you may read it, and so may everyone")),
        Ok(()) => Finding::ok(CHECK, format!("{found}: you may read it, other users may not"))
            .todo(format!("to let everyone read it: {}", rule(kernel))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && mode & 0o004 != 0 => {
            // The mode allows it, so something else forbids it: a container's list of devices, or SELinux.
            Finding::problem(CHECK, format!("{found}, and yet you may not read it")).todo(format!(
                "allow the device: `--device {path}:{path}:r` for a container; else ask SELinux (`ausearch -m avc`)"
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::problem(CHECK, format!("{found}: you may not read it")).todo(format!("as root: {}", rule(kernel)))
        }
        Err(error) => Finding::problem(CHECK, format!("{found}: cannot open it: {error}"))
            .todo("load the driver again: `modprobe -r ptp_vmclock && modprobe ptp_vmclock`"),
    }
}

fn rule(kernel: &Kernel) -> String {
    let release = kernel.release.name();
    if kernel.release.lets_readers_write() {
        format!(
            "update the kernel to 6.18.47, 7.1.11, 7.2.1 or later, unless its vendor has mended {release}: \
             in a mainline kernel of that release whoever may read the device can write to the page as well \
             (CVE-2026-80724). Then {UDEV_RULE}"
        )
    } else {
        UDEV_RULE.into()
    }
}

/// Why there is none.
fn missing(machine: &Machine, device: Option<&Device>, driver: &Driver) -> Finding {
    let offered = machine.names("/sys/class/misc").into_iter().find(|name| name.starts_with("vmclock"));
    match (offered, driver, device) {
        (Some(name), ..) => Finding::missing(CHECK, format!("the kernel has {name}, but there is no /dev/{name} here"))
            .todo(format!(
                "in a container: start it with `--device /dev/{name}:/dev/{name}:r`; else mount devtmpfs on /dev"
            )),
        (None, Driver::Bound { name }, Some(device)) => {
            let why = device
                .too_small_for_a_node(machine)
                .unwrap_or_else(|| "its region may be smaller than a page of this kernel".into());
            Finding::missing(CHECK, format!("no /dev/vmclock*, although {name} has taken {}: {why}", device.name)).todo(
                "ask whoever runs the host for a region of 64 KiB; `dmesg | grep -i vmclock` says what the driver made",
            )
        }
        _ => Finding::missing(CHECK, "no /dev/vmclock*: the driver makes it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::State;
    use crate::kernel;

    fn node(mode: u32, opened: io::Result<()>) -> Node {
        let (path, owner) = ("/dev/vmclock0".into(), "root:root".into());
        Node { path, kind: "a character device", mode, owner, opened }
    }

    fn denied() -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn kernel_of(release: &str) -> Kernel {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("proc/sys/kernel")).unwrap();
        std::fs::write(folder.path().join("proc/sys/kernel/osrelease"), release).unwrap();
        kernel::look(&Machine::fake(folder.path(), |_| Err(io::ErrorKind::Unsupported.into())))
    }

    #[test]
    fn a_node_for_root_only_is_a_problem_for_others_and_advice_for_root() {
        let kernel = kernel_of("7.2.3");
        let others = permission(&node(0o600, denied()), &kernel);
        assert_eq!(others.state, State::Problem);
        assert!(others.found.contains("mode 0600, root:root: you may not read it"), "{}", others.found);
        assert!(others.todo.unwrap().contains("MODE=\"0444\""));

        let root = permission(&node(0o600, Ok(())), &kernel);
        assert_eq!(root.state, State::Ok);
        assert!(root.found.contains("other users may not"));
        assert!(root.todo.unwrap().contains("udev"));
    }

    #[test]
    fn a_mode_that_allows_what_is_denied_points_at_containers() {
        let finding = permission(&node(0o444, denied()), &kernel_of("7.2.3"));
        assert_eq!(finding.state, State::Problem);
        assert!(finding.todo.unwrap().contains("--device"));
    }

    #[test]
    fn the_rule_comes_with_a_warning_where_readers_can_write() {
        let advice = |release: &str| permission(&node(0o600, denied()), &kernel_of(release)).todo.unwrap();
        assert!(advice("6.18.44").contains("CVE-2026-80724"));
        assert!(!advice("6.18.47").contains("CVE"));
    }
}
