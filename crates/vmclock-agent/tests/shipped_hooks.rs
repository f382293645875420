// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hooks in `packaging/agent.d` are in order, and do what they say; with commands that only record how they are
//! called, and in a copy whose paths lead into a folder of the test's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use vmclock_agent::hook::load;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/agent.d");

/// A root file system, as far as a hook sees it.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// A command that records its arguments in `calls`, and then does this.
    fn command(&self, name: &str, then: &str) -> &Self {
        let calls = self.path("calls");
        self.file(&format!("bin/{name}"), &format!("#!/bin/sh\necho {name} \"$@\" >> '{}'\n{then}\n", calls.display()));
        fs::set_permissions(self.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn run(&self, hook: &str) -> Output {
        let mut text = fs::read_to_string(Path::new(SHIPPED).join(hook)).unwrap();
        for folder in ["/etc/", "/run/", "/var/lib/"] {
            text = text.replace(folder, &self.path(folder.trim_start_matches('/')).join("").display().to_string());
        }
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("bin").display());
        let mut command = Command::new("sh");
        command.arg(self.0.path().join(hook)).env_clear().env("PATH", path).env("VMCLOCK_GENERATION", "0x7");
        self.file(hook, &text);
        command.output().unwrap()
    }
}

fn is_id(line: &str) -> bool {
    let id = line.strip_suffix('\n').unwrap_or_default();
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[test]
fn all_are_loaded() {
    let (hooks, errors) = load(Path::new(SHIPPED));
    let names = hooks.iter().map(|hook| (hook.order, hook.name.as_str()));
    // Not every machine has the user of the last one.
    let missing = errors.iter().filter(|error| error.problem.contains("has no user \"postgres\""));
    let all: Vec<_> = names.chain(missing.clone().map(|error| (error.order, error.name.as_str()))).collect();
    assert_eq!(all, [(10, "machine-id"), (20, "dhcp"), (50, "restart-unit"), (60, "database-pool")], "{errors:?}");
    assert_eq!(errors.len(), missing.count(), "{errors:?}");
}

#[test]
fn each_run_makes_another_machine_id() {
    let root = Root::new();
    root.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    let mut ids = vec![root.read("etc/machine-id")];
    for _ in 0..2 {
        let output = root.run("10-machine-id");
        assert!(output.status.success(), "{output:?}");
        let id = root.read("etc/machine-id");
        assert!(is_id(&id) && !ids.contains(&id), "{id}");
        ids.push(id);
    }
    assert_eq!(fs::read_dir(root.path("etc")).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn listed_units_are_restarted() {
    let root = Root::new();
    root.command("systemctl", "");
    assert!(root.run("50-restart-unit").status.success(), "no list");
    root.file("etc/vmclock/restart-units", "# none\n\n");
    assert!(root.run("50-restart-unit").status.success(), "an empty list");
    assert_eq!(root.read("calls"), "");
    root.file("etc/vmclock/restart-units", "# TLS\nnginx.service\n\na $(touch x) b.service");
    assert!(root.run("50-restart-unit").status.success());
    assert_eq!(root.read("calls"), "systemctl try-restart -- nginx.service a $(touch x) b.service\n");
    root.command("systemctl", "exit 5");
    assert!(!root.run("50-restart-unit").status.success(), "a restart that fails");
}

#[test]
fn whatever_dhcp_client_runs_is_asked() {
    let none = Root::new();
    none.command("nmcli", "echo not running").command("networkctl", "").command("dhcpcd", "").command("dhclient", "");
    let output = none.run("20-dhcp");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "no DHCP client runs that this hook knows\n");

    let root = Root::new();
    let links = "1 lo loopback carrier unmanaged\\n2 eth0 ether routable configured\\n3 eth1 ether off unmanaged\\n\
                 4 eth2 ether degraded configuring\\n";
    root.command("networkctl", &format!("case $* in *list) printf '{links}' ;; *eth2) exit 1 ;; esac"));
    let devices = "eth3:connected\\nlo:connected (externally)\\neth4:disconnected\\n";
    root.command("nmcli", &format!("case $* in *RUNNING*) echo running ;; *STATE*) printf '{devices}' ;; esac"));
    root.command("dhcpcd", "").command("dhclient", "");
    root.file("run/systemd/netif/links/2", "").file("run/dhcpcd/pid", "1").file("run/dhclient.eth5.pid", "1");
    let output = root.run("20-dhcp");
    assert!(!output.status.success(), "eth2 was not renewed");
    let calls = root.read("calls");
    let has = |call: &str| calls.lines().any(|line| line == call);
    for call in ["networkctl renew eth0", "networkctl renew eth2", "nmcli device connect eth3", "dhcpcd --rebind"] {
        assert!(has(call), "{call}: {calls}");
    }
    let (pid, leases) = (root.path("run/dhclient.eth5.pid"), root.path("var/lib/dhcp/dhclient.eth5.leases"));
    assert!(has(&format!("dhclient -x -pf {} eth5", pid.display())), "{calls}");
    assert!(has(&format!("dhclient -nw -pf {} -lf {} eth5", pid.display(), leases.display())), "{calls}");
    assert!(!["lo", "eth1", "eth4"].iter().any(|not| calls.lines().any(|line| line.ends_with(not))), "{calls}");
}

#[test]
fn the_pool_is_told_to_connect_anew() {
    let root = Root::new();
    root.command("psql", "test \"$PGCONNECT_TIMEOUT\" = 5");
    assert!(root.run("60-database-pool").status.success());
    assert!(root.read("calls").ends_with("--dbname pgbouncer --command RECONNECT\n"));
    root.command("psql", "exit 2");
    assert!(!root.run("60-database-pool").status.success());
}
