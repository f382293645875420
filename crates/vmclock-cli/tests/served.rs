// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest whose page `vmclock serve` keeps: through `vmclock qemu`, with a program in place of QEMU; and through what
//! that does to the page, over the service's end and return.
#![cfg(feature = "qemu")]

mod common;

use std::path::{Path, PathBuf};

use common::{json, run, stderr, vmclock, wait_for, Lines, Publisher};
use rustix::process::Signal;
use vmclock::{ClockStatus, Snapshot};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::event::Signal as HostSignal;
use vmclock_qemu::event::Event;
use vmclock_qemu::keeper::{Keeper, Region};
use vmclock_qemu::page::PageChange;
use vmclock_qemu::service::{ServiceGuest, Socket};

const SERVICE: [&str; 4] = ["--reference", "host-clock", "--tai-offset", "-37"];

fn socket(service: &Publisher) -> PathBuf {
    service.page().with_extension("control")
}

/// A guest of a service, and where its page is.
fn guest(service: &Publisher, page: &Path) -> ServiceGuest<Socket> {
    let socket = Socket::connect(socket(service)).expect("the service listens");
    let mut guest = ServiceGuest::new(socket, "guest".parse().expect("a name"));
    guest.prepare(Region::new(page, 0x10000).notifying(true)).expect("added");
    guest
}

fn known(offset: u64) -> PageChange {
    PageChange::Counter(GuestCounter::exact(offset, None))
}

/// Attends until there is an event of this name.
fn attend(guest: &mut ServiceGuest<Socket>, name: &str) {
    wait_for(name, || {
        let news = guest.attend().expect("attended");
        news.events.iter().any(|event: &Event| event.name() == name).then_some(())
    });
}

fn identity(page: &Snapshot) -> (u64, u64) {
    (page.disruption_marker, page.vm_generation_counter)
}

#[test]
fn a_guest_is_paused_and_resumed_while_its_service_is_killed_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Publisher::in_folder(folder.path(), &SERVICE);
    let page = folder.path().join("guest");
    let mut guest = guest(&service, &page);
    attend(&mut guest, "served");
    assert_eq!(guest.contents().clock_status, ClockStatus::INITIALIZING);
    assert!(guest.change(known(5_000)).expect("published").is_updated);
    let first = guest.contents();
    assert_eq!(first.clock_status, ClockStatus::SYNCHRONIZED);
    guest.signal(HostSignal::Soon).expect("announced");
    assert_ne!(guest.contents().flags, first.flags);
    assert_eq!(guest.contents().clock_status, ClockStatus::SYNCHRONIZED);

    service.lines.signal(Signal::KILL);
    service.lines.wait();
    attend(&mut guest, "service-lost");
    assert_eq!(guest.contents().clock_status, ClockStatus::SYNCHRONIZED, "its bounds grow");
    assert!(guest.change(PageChange::Withhold).expect("written here").is_updated);
    let away = guest.contents();
    assert_eq!(away.clock_status, ClockStatus::INITIALIZING, "its counter is another one from now on");
    assert_eq!(identity(&away), identity(&first), "a pause is no event");
    let seen = guest.seen(&away.to_bytes(), true).expect("looked at here");
    assert!(seen.is_ours());
    guest.change(known(9_000)).expect("kept for the service");
    assert_eq!(guest.contents().clock_status, ClockStatus::INITIALIZING, "nobody knows the time");
    guest.change(PageChange::Incoming { saved_state: true, generation: None }).expect("written here");
    let restored = guest.contents();
    assert!(restored.disruption_marker != first.disruption_marker, "new marker");
    assert!(restored.vm_generation_counter != first.vm_generation_counter, "new generation");
    guest.change(known(9_000)).expect("kept for the service");

    let _service = Publisher::in_folder(folder.path(), &SERVICE);
    attend(&mut guest, "served");
    let page = guest.contents();
    assert_eq!(page.vm_generation_counter, restored.vm_generation_counter);
    let by = wait_for("a time", || Some(guest.contents()).filter(|page| page.clock_status.gives_time()));
    assert!(by.seq_count.wrapping_sub(restored.seq_count) < 1 << 30, "behind what the guest has seen");
    guest.give_up();
    assert_eq!(guest.contents().clock_status, ClockStatus::UNRELIABLE);
}

#[test]
fn a_guest_keeps_its_marker_while_its_service_is_restarted() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let arguments = [&SERVICE[..], &["--refresh", "20ms", "--state", state.to_str().expect("plain")]].concat();
    let mut service = Publisher::in_folder(folder.path(), &arguments);
    let page = folder.path().join("guest");
    let mut guest = guest(&service, &page);
    attend(&mut guest, "served");
    guest.change(known(5_000)).expect("published");
    let first = guest.contents();
    assert_eq!(first.clock_status, ClockStatus::SYNCHRONIZED);
    for (signal, left) in [(Signal::TERM, ClockStatus::FREE_RUNNING), (Signal::KILL, ClockStatus::SYNCHRONIZED)] {
        service.lines.signal(signal);
        service.lines.wait();
        assert_eq!(guest.contents().clock_status, left, "its bounds grow");
        attend(&mut guest, "service-lost");
        service = Publisher::in_folder(folder.path(), &arguments);
        attend(&mut guest, "served");
        let renewed = wait_for("another calibration", || {
            let page = guest.contents();
            (page.counter_value != first.counter_value && page.clock_status == ClockStatus::SYNCHRONIZED)
                .then_some(page)
        });
        assert_eq!(identity(&renewed), identity(&first), "{signal:?}");
    }
    // Without what was saved nobody knows what happened meanwhile.
    service.lines.signal(Signal::KILL);
    service.lines.wait();
    std::fs::remove_dir_all(&state).expect("removed");
    attend(&mut guest, "service-lost");
    let _service = Publisher::in_folder(folder.path(), &arguments);
    attend(&mut guest, "served");
    assert_ne!(guest.contents().disruption_marker, first.disruption_marker);
}

#[test]
fn a_guest_that_was_left_behind_is_taken_over_with_its_page_only() {
    let service = Publisher::start();
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("guest");
    let mut killed = guest(&service, &page);
    killed.change(known(1)).expect("published");
    let before = killed.contents();
    drop(killed);
    let mut other =
        ServiceGuest::new(Socket::connect(socket(&service)).expect("listens"), "guest".parse().expect("a name"));
    let error = other.prepare(Region::new(&folder.path().join("other"), 0x10000)).expect_err("another page");
    assert!(error.to_string().contains("there is a guest of this name"), "{error}");
    let next = guest(&service, &page);
    assert_eq!(next.contents().vm_generation_counter, before.vm_generation_counter);
    assert_ne!(next.contents().disruption_marker, before.disruption_marker, "nobody knows what happened meanwhile");
    assert_eq!(next.contents().clock_status, ClockStatus::INITIALIZING);
}

/// Greets, answers, reports that the guest runs, and ends when it is told to.
const QEMU: &str = r#"
for word; do
    case $word in socket,id=vmclock-qmp,fd=*) eval "exec 3<&${word##*=} 4>&${word##*=}" ;; esac
done
trap 'exit 0' TERM
echo '{"QMP": {}}' >&4
while read -r line <&3; do
    id=${line##*'"id":'}
    id=${id%%[,\}]*}
    case $line in *'"cont"'*) echo '{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 0}}' >&4 ;; esac
    echo "{\"return\": {}, \"id\": $id}" >&4
done
"#;

/// `vmclock qemu` with a script in place of QEMU.
fn qemu(folder: &Path, options: &[&str]) -> Lines {
    let script = folder.join("qemu");
    std::fs::write(&script, format!("#!/bin/bash\n{QEMU}")).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("executable");
    Lines::of(
        vmclock()
            .args(["qemu", "--json", "--page"])
            .arg(folder.join("web-7"))
            .args(options)
            .arg("--")
            .arg(script)
            .args(["-icount", "auto"]),
    )
}

#[test]
fn vmclock_qemu_is_a_client_of_the_service() {
    let service = Publisher::start();
    let folder = tempfile::tempdir().expect("a folder");
    let mut lines = qemu(folder.path(), &["--require-time", "--service", &service.path()]);
    let said = lines.until(|line| line["event"] == "no-counter");
    let served = said.iter().find(|line| line["event"] == "served").expect("it is served");
    assert_eq!(served["guest"], "web-7");
    assert!(!said.iter().any(|line| line["event"] == "created"), "it publishes nothing itself: {said:?}");
    let page = folder.path().join("web-7");
    let show = || json(&["show", "--json", "--page", page.to_str().expect("plain")]);
    assert_eq!(show()["clock_status"], "unknown");
    let before = show()["disruption_marker"].clone();
    let output = run(&["signal", "migrate", "--page", page.to_str().expect("plain")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_ne!(show()["disruption_marker"], before);
    lines.until(|line| line["event"] == "signal");
    lines.signal(Signal::TERM);
    lines.until(|line| line["event"] == "ended");
    assert_eq!(show()["clock_status"], "unreliable");
}

#[test]
fn a_service_that_is_named_has_to_be_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nobody");
    let args = ["qemu", "--service", path.to_str().expect("plain"), "--", "true"];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no publisher listens here"), "{}", stderr(&output));
}

#[test]
fn a_guest_is_not_started_without_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[[source]]\nkind = \"chrony\"\naddress = \"127.0.0.1:1\"\n").expect("written");
    let config = config.to_str().expect("plain");
    let mut lines = qemu(folder.path(), &["--config", config, "--require-time=200ms"]);
    let said = lines.until(|line| line["event"] == "ended");
    let warning = said.iter().find(|line| line["event"] == "warning").expect("a warning");
    let text = warning["text"].as_str().unwrap_or_default();
    assert!(text.contains("no time to give to the guest within 200ms") && text.contains("127.0.0.1:1"), "{text}");
    assert!(!said.iter().any(|line| line["event"] == "resumed"), "{said:?}");
}
