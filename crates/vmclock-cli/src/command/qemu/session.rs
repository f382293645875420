// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's life, and what the page says of it.

use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde_json::{json, Map, Value};
use vmclock::{ClockStatus, Snapshot};
use vmclock_core::abi::{CounterId, Flags, MAGIC, STRUCTURE_LEN};
use vmclock_core::counter;

use crate::cli::{QemuArgs, Signal as Command};
use crate::command::serve::control::Control;
use crate::command::serve::publisher::{new_identity, Publisher, Report};
use crate::command::serve::FIRST_REFRESH;
use crate::output::{error, print_json};

use super::arguments::Accelerator;
use super::process::Process;
use super::qmp::{Event, Qmp};
use super::second_page::{Handed, SecondPage};
use super::source::{self, CounterSource, Resumed};
use vmclock_vmm::counter::GuestCounter;
use vmclock_vmm::lifecycle::{self, Came};

/// A datagram that the doorbell's card takes for a frame: a broadcast of the shortest length.
const RING: [u8; 60] = [0xff; 60];

/// What is known of a QEMU before it is asked.
pub(super) struct Facts {
    pub(super) accelerator: Accelerator,
    /// The address of `-incoming`, which it was not told yet.
    pub(super) incoming: Option<String>,
    /// Whether it is ours to let the guest go on.
    pub(super) lets_go_on: bool,
    /// Where the page's NVDIMM has to be.
    pub(super) nvdimm: Option<u64>,
}

/// All that lives as long as the guest.
pub(super) struct Session<'a> {
    pub(super) args: &'a QemuArgs,
    pub(super) log: Log,
    pub(super) publisher: Publisher,
    pub(super) control: Control,
    pub(super) stop: UnixStream,
    pub(super) process: Process,
    pub(super) bell: Option<UnixDatagram>,
    pub(super) page: PathBuf,
    pub(super) folder: PathBuf,
}

impl Session<'_> {
    /// Publishes until QEMU has ended, or until somebody wants us to stop where it is not ours to end. A QEMU of ours
    /// gives its exit status.
    pub(super) fn run(&mut self, program: &str, facts: &Facts, monitor: UnixStream) -> anyhow::Result<ExitCode> {
        let pid = self.process.pid();
        let what = if self.process.is_ours() { "started" } else { "attached" };
        self.say(what, &format!("{program} with process id {pid}"), &[("pid", pid.into())])?;
        let mut goes_on = false;
        let result = self.follow(facts, monitor, &mut goes_on);
        // However it ended: whoever reads the page from now on must not trust it.
        self.publisher.retire();
        self.ring();
        if !self.process.is_ours() {
            result?;
            self.say("ended", "the page says unreliable", &[])?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Err(error) = result {
            // A reader of ours that went away is no reason to stop a guest either.
            eprintln!("vmclock: {error:#}");
            if !goes_on {
                // It stands, and nobody would let it go on.
                self.process.terminate();
            } else if self.process.status()?.is_none() {
                eprintln!("vmclock: the page now says unreliable; QEMU goes on without a clock");
            }
        }
        let status = self.wait()?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        self.say("ended", &format!("QEMU ended: {status}; the page says unreliable"), &[("status", code.into())])?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    fn follow(&mut self, facts: &Facts, monitor: UnixStream, goes_on: &mut bool) -> anyhow::Result<()> {
        let mut guest = Guest::connect(self, facts, monitor)?;
        if guest.session.process.is_ours() {
            guest.begin(facts)?;
        } else {
            guest.join()?;
        }
        *goes_on = true;
        guest.live()
    }

    /// Says what happened, and what the page says now.
    fn say(&self, event: &str, text: &str, more: &[(&str, Value)]) -> anyhow::Result<()> {
        self.log.report(event, text, Some(self.publisher.contents()), more)
    }

    /// Tells the guest that the page has changed. A full queue means that it has not yet seen an earlier ring.
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            let _ = bell.send(&RING);
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Snapshot)) -> anyhow::Result<()> {
        self.publisher.change(change)?;
        self.ring();
        Ok(())
    }

    /// Whether a signal came that is for us. One for a QEMU of ours is passed on, as its own way to end in good order.
    fn is_told_to_stop(&mut self) -> bool {
        let mut signals = [0; 64];
        let came = self.stop.read(&mut signals).is_ok_and(|count| count > 0);
        if came && self.process.is_ours() {
            self.process.terminate();
            return false;
        }
        came
    }

    fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.stop.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        loop {
            if let Some(status) = self.process.status()? {
                return Ok(status);
            }
            let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            // However it returns: both are asked after.
            let _ = poll(&mut [PollFd::new(&self.stop, PollFlags::IN)], Some(&moment));
            self.is_told_to_stop();
        }
    }
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Guest<'s, 'a> {
    session: &'s mut Session<'a>,
    qmp: Qmp,
    source: Box<dyn CounterSource>,
    second_page: Option<SecondPage>,
    /// As published; `None` while the guest stands or nobody knows.
    counter: Option<GuestCounter>,
    /// The host's counter when we told QEMU to go on, and when it had done so.
    told: Option<(u64, u64)>,
    /// `-incoming`, and nothing has come yet.
    waits_for_stream: bool,
    restored: bool,
    lets_go_on: bool,
    migrating: bool,
    nonsense_reported: bool,
}

impl<'s, 'a> Guest<'s, 'a> {
    fn connect(session: &'s mut Session<'a>, facts: &Facts, monitor: UnixStream) -> anyhow::Result<Self> {
        session.stop.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        let mut qmp = Qmp::new(monitor)?;
        // It listens before it has made its machine, but answers only then.
        if !session.process.is_ours() {
            session.process.ensure_maps(&session.page)?;
        }
        qmp.command("migrate-set-capabilities", json!({"capabilities": [{"capability": "events", "state": true}]}))?;
        if let Some(address) = facts.nvdimm {
            let devices = qmp.command("query-memory-devices", Value::Null)?.value;
            let there = devices.as_array().into_iter().flatten().any(|device| device["data"]["addr"] == address);
            ensure!(there, "the NVDIMM is not at {address:#x}, where the table says that it is: QEMU says {devices}");
        }
        let source = source::find(&mut qmp, facts.accelerator, session.process.pid(), &session.folder)?;
        let name = source.name();
        let notify = if session.bell.is_some() { Flags::NOTIFICATION_PRESENT } else { Flags::NONE };
        session.publisher.change(|page| page.flags = page.flags.with(notify))?;
        session.say("connected", &format!("to QEMU's monitor; accelerator {name}"), &[("accel", name.into())])?;
        let uri = facts.incoming.as_deref();
        let of_file = uri.is_some_and(|uri| uri.starts_with("file:") || uri.starts_with("exec:"));
        let second_page = session.args.second_page.then(|| SecondPage::open(&session.page)).transpose()?;
        Ok(Self {
            qmp,
            source,
            second_page,
            counter: None,
            told: None,
            waits_for_stream: uri.is_some(),
            restored: session.args.restored || of_file,
            lets_go_on: facts.lets_go_on,
            migrating: false,
            nonsense_reported: false,
            session,
        })
    }

    /// A QEMU of ours stands, as it was told to: the guest begins, or waits for what comes in.
    fn begin(&mut self, facts: &Facts) -> anyhow::Result<()> {
        if !self.waits_for_stream {
            self.note_standing()?;
            return if self.lets_go_on { self.go_on() } else { Ok(()) };
        }
        let uri = facts.incoming.as_deref().filter(|uri| *uri != "defer");
        self.session.say("incoming", uri.unwrap_or("waits for migrate-incoming"), &[])?;
        let Some(uri) = uri else { return Ok(()) };
        let arguments = match serde_json::from_str::<Value>(uri) {
            Ok(address) if address.is_object() => json!({"channels": [{"channel-type": "main", "addr": address}]}),
            _ => json!({"uri": uri}),
        };
        self.qmp.command("migrate-incoming", arguments)?;
        Ok(())
    }

    /// Somebody else's QEMU may be anywhere in its life.
    fn join(&mut self) -> anyhow::Result<()> {
        let status = self.qmp.command("query-status", Value::Null)?;
        // What happened before that answer is in it.
        self.qmp.take_events(&["STOP", "RESUME"]);
        match status.value["status"].as_str() {
            Some("inmigrate") => {
                self.waits_for_stream = true;
                self.restored = true;
                self.note_where_from()?;
                self.session.say("incoming", "the guest is on its way here", &[])
            }
            Some("running") => {
                let found = self.source.running(&mut self.qmp, Resumed { earliest: status.sent, latest: None });
                ensure!(!self.qmp.ended(), "QEMU ended while it was being asked for the guest's counter");
                self.calibrate(found)
            }
            _ => {
                self.note_standing()?;
                self.session.say("standing", "the guest stands; it gets time as soon as it goes on", &[])
            }
        }
    }

    /// Everything that happens, until QEMU closes its monitor.
    fn live(&mut self) -> anyhow::Result<()> {
        let mut interval = FIRST_REFRESH.min(self.session.args.refresh);
        let mut due = Instant::now() + interval;
        loop {
            while let Some(event) = self.qmp.take_event() {
                self.handle(&event)?;
            }
            if self.qmp.ended() {
                return Ok(());
            }
            self.wait_until(due)?;
            if self.session.is_told_to_stop() {
                return Ok(());
            }
            self.qmp.receive()?;
            self.answer_control()?;
            // What has happened comes first: a refresh must not speak of a counter from before a stop.
            if Instant::now() >= due && !self.qmp.has_event("STOP") && !self.qmp.ended() {
                self.refresh()?;
                interval = (interval * 2).min(self.session.args.refresh);
                due = Instant::now() + interval;
            }
        }
    }

    fn wait_until(&self, due: Instant) -> anyhow::Result<()> {
        let left = due.saturating_duration_since(Instant::now()).min(Duration::from_secs(60));
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: left.subsec_nanos().into() };
        let mut fds =
            vec![PollFd::new(self.qmp.stream(), PollFlags::IN), PollFd::new(&self.session.stop, PollFlags::IN)];
        fds.extend(self.session.control.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).context("cannot wait for QEMU"),
        }
    }

    fn handle(&mut self, event: &Event) -> anyhow::Result<()> {
        let word = |key: &str| event.data[key].as_str().unwrap_or("unknown").to_owned();
        match event.name.as_str() {
            "STOP" => self.stopped(),
            "RESUME" => self.resumed(event),
            "RESET" => self.reset(&word("reason")),
            "SHUTDOWN" => self.session.say("shutdown", &word("reason"), &[("reason", word("reason").into())]),
            "MIGRATION" => self.migration(&word("status")),
            _ => Ok(()),
        }
    }

    /// The guest stands. It will go on at another offset, perhaps with another memory: until that is known, no time.
    fn stopped(&mut self) -> anyhow::Result<()> {
        self.counter = None;
        self.told = None;
        self.session.publisher.set_guest_counter(None);
        let unknown = self.session.publisher.contents().counter_id == CounterId::NONE;
        if !unknown {
            self.session.change(|page| page.clock_status = ClockStatus::INITIALIZING)?;
        }
        self.note_standing()?;
        self.session.say("paused", "the guest stands; the page gives no time until it goes on", &[])
    }

    /// Finds out what can be known only while the guest stands.
    fn note_standing(&mut self) -> anyhow::Result<()> {
        self.source.forget();
        // QEMU is at it already, or it is too late.
        if !self.migrating && !self.qmp.has_event("RESUME") {
            if let Err(error) = self.source.stopped(&mut self.qmp) {
                ensure!(!self.qmp.ended(), error);
                self.session.say("warning", &format!("{error:#}"), &[])?;
            }
        }
        Ok(())
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        let answer = self.qmp.command("cont", Value::Null)?;
        self.told = Some((answer.sent, answer.received));
        Ok(())
    }

    fn resumed(&mut self, event: &Event) -> anyhow::Result<()> {
        if self.waits_for_stream {
            self.loaded()?;
        }
        let told = self.told.take();
        let sent = told.map_or(event.emitted, |(sent, _)| sent);
        // The later of the two, but no later than it was done.
        let later = if event.emitted.wrapping_sub(sent) >> 63 == 0 { event.emitted } else { sent };
        let resumed = Resumed { earliest: later, latest: told.map(|(_, received)| received) };
        self.look_for_snapshot()?;
        let found = self.source.running(&mut self.qmp, resumed);
        ensure!(!self.qmp.ended(), "QEMU ended while it was being asked for the guest's counter");
        self.session.say("resumed", "the guest runs", &[])?;
        self.calibrate(found)
    }

    /// Publishes a counter, or that there is none.
    fn calibrate(&mut self, found: anyhow::Result<GuestCounter>) -> anyhow::Result<()> {
        let counter = match found {
            Ok(counter) => counter,
            Err(why) => {
                self.counter = None;
                self.session.publisher.set_guest_counter(None);
                self.session.change(|page| {
                    page.counter_id = CounterId::NONE;
                    page.clock_status = ClockStatus::UNKNOWN;
                })?;
                let text = format!("the guest gets marker and generation, but no time: {why:#}");
                return self.session.say("no-counter", &text, &[]);
            }
        };
        self.counter = Some(counter);
        self.session.publisher.set_guest_counter(Some(counter));
        if self.session.publisher.contents().counter_id == CounterId::NONE {
            self.session.publisher.change(|page| page.counter_id = counter::ID)?;
        }
        self.publish()?;
        let more = [("accel", self.source.name().into())].into_iter().chain(self.facts(&counter)).collect::<Vec<_>>();
        let text = format!("the guest's counter is known {}", error(self.nanos(counter.error()).into()));
        self.session.say("calibrated", &text, &more)?;
        self.ask_guest()
    }

    fn facts(&self, counter: &GuestCounter) -> [(&'static str, Value); 3] {
        [
            ("guest_minus_host", i64::from_ne_bytes(counter.offset().to_ne_bytes()).into()),
            ("window_ns", self.nanos(counter.window()).into()),
            ("error_ns", self.nanos(counter.error()).into()),
        ]
    }

    fn nanos(&self, ticks: u64) -> u64 {
        let millisecond = u128::from(self.qmp.ticks_in(1_000_000).max(1));
        u64::try_from((u128::from(ticks) * 1_000_000).div_ceil(millisecond)).unwrap_or(u64::MAX)
    }

    /// A refresh of the calibration. Says what happened other than that.
    fn publish(&mut self) -> anyhow::Result<Vec<Report>> {
        let before = self.session.publisher.contents().seq_count;
        let reports = self.session.publisher.refresh()?;
        if self.session.publisher.contents().seq_count != before {
            self.session.ring();
        }
        for report in reports.iter().filter(|report| report.event != "refreshed") {
            self.session.say(report.event, &report.text, &[])?;
        }
        Ok(reports)
    }

    fn refresh(&mut self) -> anyhow::Result<()> {
        self.look_again()?;
        for report in self.publish()?.iter().filter(|report| report.event == "refreshed" && self.counter.is_some()) {
            self.session.say("refreshed", &report.text, &[])?;
        }
        self.ask_guest()
    }

    /// Whether the counter is another one, though nothing was said to have happened.
    fn look_again(&mut self) -> anyhow::Result<()> {
        let Some(known) = self.counter else { return Ok(()) };
        match self.source.again() {
            None => Ok(()),
            Some(Ok(counter)) if counter == known => Ok(()),
            Some(found) => {
                let marker = new_identity()?;
                self.session.change(|page| lifecycle::disrupted(page, marker))?;
                self.session.say("disrupted", "the guest's counter changed without an event", &[])?;
                self.calibrate(found)
            }
        }
    }

    /// Lets the guest narrow what is known of its counter.
    fn ask_guest(&mut self) -> anyhow::Result<()> {
        let (Some(second_page), Some(known)) = (&mut self.second_page, &self.counter) else { return Ok(()) };
        match second_page.ask(known)? {
            Handed::Narrowed { counter, rounds } if counter.window() < known.window() => {
                // If it stood meanwhile, this is of another offset: its STOP is on its way.
                self.qmp.receive()?;
                if self.qmp.has_event("STOP") {
                    return Ok(());
                }
                self.counter = Some(counter);
                self.session.publisher.set_guest_counter(Some(counter));
                self.publish()?;
                let more: Vec<_> = [("rounds", rounds.into())].into_iter().chain(self.facts(&counter)).collect();
                let text = format!("the guest's counter is known {}", error(self.nanos(counter.error()).into()));
                self.session.say("handover", &text, &more)
            }
            Handed::Nonsense if !self.nonsense_reported => {
                self.nonsense_reported = true;
                self.session.say("warning", "what the guest says of its counter cannot be true, and is ignored", &[])
            }
            _ => Ok(()),
        }
    }

    /// Loading a snapshot into a running QEMU looks like a pause, but leaves the page as it was when it was saved.
    fn look_for_snapshot(&mut self) -> anyhow::Result<()> {
        if self.loaded_page()? == self.session.publisher.contents().to_bytes()[..] {
            return Ok(());
        }
        // QEMU's idea of the counter is that of the snapshot, the guest's is not.
        self.source.forget();
        // The guest has seen neither more than we published nor, in that snapshot, more than what came back: behind both,
        // or a second load of one snapshot would repeat the counts of the first.
        let (back, _) = seen_on(&self.loaded_page()?);
        let ours = self.session.publisher.contents().seq_count;
        self.renew(true, lifecycle::later(ours, back), None)?;
        self.session.say("snapshot-loaded", "the page is not what was published: a snapshot was loaded", &[])
    }

    fn loaded_page(&self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; STRUCTURE_LEN];
        let page = self.session.page.display();
        let mut file = std::fs::File::open(&self.session.page).with_context(|| format!("{page}: cannot open it"))?;
        file.read_exact(&mut bytes).with_context(|| format!("{page}: cannot read it"))?;
        Ok(bytes)
    }

    /// All of the page anew, behind a sequence count that the guest may have seen.
    fn renew(&mut self, restored: bool, seen: u32, generation: Option<u64>) -> anyhow::Result<()> {
        let marker = new_identity()?;
        let came = if restored { Came::OutOfSavedState(new_identity()?) } else { Came::FromAnotherHost };
        self.session.publisher.continue_after(lifecycle::unseen_after(seen));
        self.session.change(|page| {
            page.vm_generation_counter = generation.unwrap_or(page.vm_generation_counter);
            lifecycle::arrived(page, came, marker);
        })
    }

    /// A guest came, from another host or out of a file, and stands.
    fn loaded(&mut self) -> anyhow::Result<()> {
        self.waits_for_stream = false;
        let (seq_count, generation) = seen_on(&self.loaded_page()?);
        self.renew(self.restored, seq_count, generation)?;
        let text =
            if self.restored { "a snapshot: new marker, new generation" } else { "a live migration: new marker" };
        self.session.say("loaded", text, &[("restored", self.restored.into())])
    }

    fn migration(&mut self, status: &str) -> anyhow::Result<()> {
        self.session.say("migration", status, &[("status", status.into())])?;
        self.migrating = !matches!(status, "completed" | "failed" | "cancelled" | "none");
        if self.waits_for_stream && !self.session.process.is_ours() {
            self.note_where_from()?;
        }
        if self.waits_for_stream && status == "completed" {
            self.loaded()?;
            self.note_standing()?;
            if self.lets_go_on {
                self.go_on()?;
            }
        }
        Ok(())
    }

    /// Somebody else told QEMU where the guest comes from. What does not come through a socket of QEMU's own may be saved
    /// state, and an event too many is better than one too few.
    fn note_where_from(&mut self) -> anyhow::Result<()> {
        let migration = self.qmp.command("query-migrate", Value::Null)?.value;
        if migration["socket-address"].as_array().is_some_and(|addresses| !addresses.is_empty()) {
            self.restored = self.session.args.restored;
        }
        Ok(())
    }

    /// With KVM a reset sets the counter back.
    fn reset(&mut self, reason: &str) -> anyhow::Result<()> {
        self.session.say("reset", reason, &[("reason", reason.into())])?;
        match (self.counter, self.source.again()) {
            (Some(known), Some(found)) if found.as_ref().ok() != Some(&known) => self.calibrate(found),
            _ => Ok(()),
        }
    }

    fn answer_control(&mut self) -> anyhow::Result<()> {
        let Session { control, publisher, log, bell, .. } = &mut *self.session;
        control.answer(|command: Command| {
            let report = publisher.signal(command)?;
            if let Some(bell) = bell {
                // A full queue means that it has not yet seen an earlier ring.
                let _ = bell.send(&RING);
            }
            log.report(report.event, &report.text, Some(publisher.contents()), &[])?;
            Ok(publisher.state())
        })
    }
}

/// Sequence count and generation of a page that came with a guest: nothing else of it is worth anything here.
fn seen_on(page: &[u8]) -> (u32, Option<u64>) {
    let half = |at: usize| page.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    let word = |at: usize| page.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    let generation = word(std::mem::offset_of!(Snapshot, vm_generation_counter));
    let flags = Flags(word(std::mem::offset_of!(Snapshot, flags)));
    let is_page = half(0) == MAGIC && flags.contains(Flags::VM_GEN_COUNTER_PRESENT) && generation != 0;
    (half(std::mem::offset_of!(Snapshot, seq_count)), is_page.then_some(generation))
}

/// Says what happens, a line each: JSON on standard output, words on standard error, as QEMU has standard output.
#[derive(Clone, Copy)]
pub(super) struct Log {
    pub(super) json: bool,
}

impl Log {
    pub(super) fn report(
        self,
        event: &str,
        text: &str,
        page: Option<&Snapshot>,
        more: &[(&str, Value)],
    ) -> anyhow::Result<()> {
        if !self.json {
            if event != "refreshed" {
                eprintln!("vmclock: {event:<12} {text}");
            }
            return Ok(());
        }
        let mut line = Map::new();
        line.insert("event".into(), event.into());
        line.insert("text".into(), text.into());
        if let Some(page) = page {
            let page = json!({
                "seq_count": page.seq_count,
                "disruption_marker": page.disruption_marker,
                "vm_generation_counter": page.vm_generation_counter,
                "clock_status": page.clock_status.to_string(),
                "counter_id": page.counter_id.to_string(),
                "time_maxerror_nanosec": page.time_maxerror_nanosec,
            });
            line.insert("page".into(), page);
        }
        line.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        print_json(&line)
    }
}
