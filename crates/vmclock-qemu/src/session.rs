// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's session: does what the machine decides, and decides nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use vmclock_core::abi::STRUCTURE_LEN;
use vmclock_core::calibration::Period;
use vmclock_host::kernel::nominal_period;
use vmclock_host::publisher::PublishError;
use vmclock_host::rounds::{Rounds, Step};

use crate::arguments::Accelerator;
use crate::counter::{self, DeviceState};
use crate::error::Error;
use crate::event::Event;
use crate::keeper::Keeper;
use crate::kvm;
use crate::machine::{Action, Answer, Input, Machine, Request, Setup, Start};
use crate::monitor::{poll_for, refusal, Monitor, Received, Wait};
use crate::process::Process;
use crate::qmp::{self, Message};
use crate::second_page::SecondPage;
use crate::wiring::{Control, Options, Output, Wiring};

/// How long the sources have for the first round, before the guest needs it.
const FIRST_ROUND: Duration = Duration::from_millis(500);
/// Between two of them, while the guest waits for the time.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);
/// How long the counter is compared with the kernel's raw clock.
const COMPARISON: Duration = Duration::from_millis(10);
/// QEMU answers nothing while it saves or loads a snapshot. After so long it is reported that it does not.
const SLOW: Duration = Duration::from_secs(60);
/// Where the mark is in the page's file: beside what the guest writes.
const MARK: u64 = 0x2000;
/// How often a QEMU that closed its monitor is asked whether it has ended.
const ENDING: Duration = Duration::from_millis(20);

/// A QEMU that runs, and what is known of it before it is asked.
pub(crate) struct Guest<'a> {
    pub(crate) program: String,
    pub(crate) process: Process,
    pub(crate) accelerator: Accelerator,
    pub(crate) start: Start,
    /// Where the page's NVDIMM has to be.
    pub(crate) nvdimm: Option<u64>,
    /// The page's file, and a folder for QEMU to write device states to.
    pub(crate) page: &'a Path,
    pub(crate) folder: &'a Path,
    /// When its monitor has to have answered, and how long that is from the beginning.
    pub(crate) by: Instant,
    pub(crate) timeout: Duration,
}

/// Whether there was a signal that ends our wait. One for a QEMU of ours is passed on, as its own way to end in order.
pub(crate) fn is_interrupted(mut signals: &UnixStream, process: Option<&Process>) -> bool {
    let signalled = signals.read(&mut [0; 64]).is_ok_and(|count| count > 0);
    match process {
        Some(process) if signalled && process.is_ours() => {
            process.terminate();
            false
        }
        _ => signalled,
    }
}

/// Publishes until QEMU has ended, or until a signal ends it where QEMU is not ours to end. A QEMU of ours gives its
/// exit status.
pub(crate) fn run<K: Keeper, C: Control>(
    mut guest: Guest<'_>,
    monitor: UnixStream,
    bell: Option<UnixDatagram>,
    wiring: &mut Wiring<'_, K, C>,
) -> Result<Option<ExitStatus>, Error> {
    let (program, pid, is_ours) = (guest.program.clone(), guest.process.pid(), guest.process.is_ours());
    let mut output = Output { wiring, bell };
    output.report(&if is_ours { Event::Started { program, pid } } else { Event::Attached { program, pid } });
    let mut has_begun = !is_ours;
    let result = Follower::connect(&guest, monitor, &mut output)
        .and_then(|mut follower| follower.follow().inspect_err(|_| has_begun |= follower.machine.has_begun()));
    // However it ended: whoever reads the page from now on must not trust it.
    output.wiring.keeper.give_up();
    output.ring();
    if !is_ours {
        return match result {
            Err(error) if !matches!(error, Error::Interrupted) => Err(error),
            _ => {
                output.report(&Event::Ended { status: None });
                Ok(None)
            }
        };
    }
    if let Err(error) = result {
        output.report(&Event::Warning { text: error.to_string() });
        if !has_begun {
            // The guest is paused, and nobody would continue it.
            guest.process.terminate();
        } else if guest.process.status()?.is_none() {
            let text = "the page says unreliable from now on; QEMU continues without a clock".into();
            output.report(&Event::Warning { text });
        }
    }
    let status = end_of(&mut guest.process, &output.wiring.signals)?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    output.report(&Event::Ended { status: Some((code, status.to_string())) });
    Ok(Some(status))
}

/// Waits until a guest would have the time, if its counter were known.
fn wait_for_time<K: Keeper, C: Control>(
    guest: &Guest<'_>,
    monitor: &mut Monitor,
    output: &mut Output<'_, '_, K, C>,
    timeout: Duration,
) -> Result<(), Error> {
    let by = Instant::now() + timeout;
    while let Some(reason) = output.wiring.keeper.why_no_time()? {
        if Instant::now() >= by {
            return Err(Error::NoTime { timeout, reason });
        }
        poll_for(&[output.wiring.signals.as_fd(), monitor.as_fd()], BETWEEN_ROUNDS)?;
        is_interrupted(&output.wiring.signals, Some(&guest.process));
        monitor.receive()?;
        if monitor.is_closed() {
            return Err(Error::Ended { awaited: "its guest a time".into() });
        }
        output.attend()?;
        for event in output.wiring.keeper.first_round(FIRST_ROUND)? {
            output.report(&Event::Published(event));
        }
    }
    Ok(())
}

/// Waits for a QEMU of ours to end.
fn end_of(process: &mut Process, signals: &UnixStream) -> Result<ExitStatus, Error> {
    loop {
        if let Some(status) = process.status()? {
            return Ok(status);
        }
        poll_for(&[signals.as_fd()], ENDING)?;
        is_interrupted(signals, Some(process));
    }
}

/// A command that QEMU has not answered.
struct Asked {
    request: Request,
    name: &'static str,
    id: u64,
    sent: u64,
    since: Instant,
    is_reported: bool,
}

/// Follows a guest whose QEMU's monitor answers.
struct Follower<'g, 'o, 's, 'w, K, C> {
    guest: &'g Guest<'g>,
    output: &'o mut Output<'s, 'w, K, C>,
    monitor: Monitor,
    machine: Machine,
    memory: File,
    /// As it was last written; none where a page cannot come back (QEMU does not load into a read-only one).
    mark: Option<u64>,
    second_page: Option<SecondPage>,
    device_state: DeviceState,
    asked: Option<Asked>,
    /// Answers that did not come over the monitor.
    local: VecDeque<Input>,
    /// Whoever keeps the page knows that the guest is still to come.
    is_expected: bool,
    /// Nothing was handled since QEMU was last asked for what it can be asked for.
    is_drained: bool,
    has_ended: bool,
}

impl<'g, 'o, 's, 'w, K: Keeper, C: Control> Follower<'g, 'o, 's, 'w, K, C> {
    fn connect(guest: &'g Guest<'g>, monitor: UnixStream, output: &'o mut Output<'s, 'w, K, C>) -> Result<Self, Error> {
        let ticks_per_ms = nominal_period(COMPARISON).map(ticks_per_ms).ok_or(PublishError::CounterStopped)?;
        let events = output.wiring.keeper.first_round(FIRST_ROUND)?;
        for event in events {
            output.report(&Event::Published(event));
        }

        output.attend()?;

        let signals = &output.wiring.signals;
        signals.set_nonblocking(true).map_err(Error::system("make a socket non-blocking"))?;
        let mut wait = Wait {
            by: guest.by,
            timeout: guest.timeout,
            signals: signals.as_fd(),
            is_interrupted: &mut || is_interrupted(signals, Some(&guest.process)),
        };
        let mut monitor = Monitor::greet(monitor, ticks_per_ms, &mut wait)?;
        // QEMU listens before it has made its machine, but answers only then.
        if !guest.process.is_ours() {
            guest.process.ensure_maps(guest.page)?;
        }
        let events = json!({"capabilities": [{"capability": "events", "state": true}]});
        monitor.run("migrate-set-capabilities", &events, &mut wait)?;
        if let Some(address) = guest.nvdimm {
            let devices = monitor.run("query-memory-devices", &Value::Null, &mut wait)?;
            if !devices.as_array().into_iter().flatten().any(|device| device["data"]["addr"] == address) {
                return Err(Error::NvdimmElsewhere { address, devices: devices.to_string() });
            }
        }
        let is_kvm = monitor.run("query-kvm", &Value::Null, &mut wait)?["enabled"] == true;
        let source = counter::source(is_kvm, guest.accelerator);
        output.report(&Event::Connected { accelerator: source.name() });

        let Options { restored, second_page, require_time, .. } = output.wiring.options;
        if let (Some(timeout), true) = (require_time, guest.process.is_ours()) {
            wait_for_time(guest, &mut monitor, output, timeout)?;
        }
        let memory = File::options().read(true).write(true).open(guest.page);
        let memory = memory.map_err(Error::file(guest.page, "open it"))?;
        let copy =
            second_page.then(|| memory.try_clone()).transpose().map_err(Error::file(guest.page, "open it twice"))?;
        let second = copy.map(SecondPage::in_file).transpose().map_err(PublishError::Identity)?;
        let setup = Setup { source, start: guest.start.clone(), restored, second_page, ticks_per_ms };
        let (machine, actions) = Machine::new(setup);
        let mut follower = Self {
            guest,
            output,
            monitor,
            machine,
            memory,
            mark: None,
            second_page: second,
            device_state: DeviceState::in_folder(guest.folder),
            asked: None,
            local: VecDeque::new(),
            is_expected: guest.start.is_incoming(),
            is_drained: false,
            has_ended: false,
        };
        follower.perform(actions)?;
        Ok(follower)
    }

    /// Everything that happens, until QEMU closes its monitor.
    fn follow(&mut self) -> Result<(), Error> {
        let mut rounds = Rounds::new(self.output.wiring.options.refresh, Instant::now());
        loop {
            // The page is written only directly after all was handled that QEMU has sent: it reports the pause before
            // it loads a snapshot, and what we write then would hide what is brought back.
            self.handle_all()?;
            if self.has_ended {
                return Ok(());
            }
            self.output.answer_control(self.machine.is_incoming());
            self.output.attend()?;
            let keeper = &mut self.output.wiring.keeper;
            if keeper.has_rounds() || self.machine.wants_rounds() {
                let is_complete = keeper.is_round_complete();
                match rounds.next(Instant::now(), is_complete) {
                    Step::Start => keeper.start_round(),
                    Step::Finish => self.handle(Input::RoundComplete)?,
                    Step::Wait(until) => self.wait_until(until)?,
                }
            } else {
                self.wait_until(Instant::now() + SLOW)?;
            }
            if is_interrupted(&self.output.wiring.signals, Some(&self.guest.process)) {
                return Err(Error::Interrupted);
            }
            self.report_slowness();
        }
    }

    fn wait_until(&self, until: Instant) -> Result<(), Error> {
        let wiring = &self.output.wiring;
        let mut fds = vec![self.monitor.as_fd(), wiring.signals.as_fd()];
        fds.extend(wiring.control.fds());
        fds.extend(wiring.keeper.fds());
        let until = wiring.keeper.due().map_or(until, |due| due.min(until));
        poll_for(&fds, until.saturating_duration_since(Instant::now()).min(SLOW))
    }

    /// All that QEMU has sent, and then, one by one, what else was asked: an answer of debugfs or of the guest may be
    /// about a run of the guest that is over by now.
    fn handle_all(&mut self) -> Result<(), Error> {
        loop {
            self.monitor.receive()?;
            while let Some(received) = self.monitor.take() {
                self.received(received)?;
            }
            match self.local.pop_front() {
                Some(input) => self.handle(input)?,
                None if self.is_drained => break,
                None => {
                    self.handle(Input::Drained)?;
                    self.is_drained = true;
                }
            }
        }
        if self.monitor.is_closed() {
            self.handle(Input::Closed)?;
        }
        Ok(())
    }

    fn received(&mut self, received: Received) -> Result<(), Error> {
        match received.message {
            Message::Greeting => Ok(()),
            Message::Event(event) => event.input(received.emitted).map_or(Ok(()), |input| self.handle(input)),
            Message::Answer { id, result } => {
                let Some(asked) = self.asked.take_if(|asked| id.is_none_or(|id| id == asked.id)) else { return Ok(()) };
                let answer = match result {
                    Err(reason) => Err(refusal(asked.name, &reason)),
                    Ok(_) if asked.request == Request::DeviceState => self.device_state.take().map(Answer::DeviceState),
                    Ok(value) => Ok(qmp::answer(&asked.request, &value)),
                };
                self.handle(Input::Answered { answer, sent: asked.sent, received: received.at })
            }
        }
    }

    fn handle(&mut self, input: Input) -> Result<(), Error> {
        self.is_drained = false;
        let mut memory = [0; STRUCTURE_LEN];
        self.memory.read_exact_at(&mut memory, 0).map_err(Error::file(self.guest.page, "read it"))?;
        let mut mark = [0; 8];
        if self.mark.is_some() {
            self.memory.read_exact_at(&mut mark, MARK).map_err(Error::file(self.guest.page, "read its mark"))?;
        }
        let is_marked = self.mark.is_none_or(|known| known == u64::from_le_bytes(mark));
        let seen = self.output.wiring.keeper.seen(&memory, is_marked)?;
        let actions = self.machine.on(input, seen);
        self.perform(actions)?;
        if self.machine.is_incoming() && !std::mem::replace(&mut self.is_expected, true) {
            self.output.wiring.keeper.expect_guest()?;
        }
        Ok(())
    }

    fn perform(&mut self, actions: Vec<Action>) -> Result<(), Error> {
        for action in actions {
            match action {
                Action::Page(change) => self.output.change(change)?,
                Action::Mark => self.make_mark()?,
                Action::Ask(request) => self.ask(request),
                Action::ReadCounter { epoch } => {
                    let counter = kvm::guest_counter(Path::new(kvm::DEBUGFS), self.guest.process.pid());
                    let counter = counter.map_err(|error| error.to_string());
                    self.local.push_back(Input::CounterRead { epoch, counter });
                }
                Action::AskGuest { epoch, counter } => {
                    if let Some(second_page) = &mut self.second_page {
                        let handed = second_page.ask(&counter);
                        let handed = handed.map_err(Error::file(self.guest.page, "use its second page"))?;
                        self.local.push_back(Input::HandedOver { epoch, handed });
                    }
                }
                Action::Report(event) => self.output.report(&event),
                Action::GiveUp(why) => return Err(Error::Refused(why)),
                Action::End => self.has_ended = true,
            }
        }
        Ok(())
    }

    fn make_mark(&mut self) -> Result<(), Error> {
        if self.guest.nvdimm.is_none() {
            let mark = self.output.wiring.keeper.fresh_identity()?;
            let written = self.memory.write_all_at(&mark.to_le_bytes(), MARK);
            written.map_err(Error::file(self.guest.page, "write its mark"))?;
            self.mark = Some(mark);
        }
        Ok(())
    }

    fn ask(&mut self, request: Request) {
        let state = match (&request, self.device_state.path()) {
            (Request::DeviceState, Err(why)) => {
                self.local.push_back(Input::Answered { answer: Err(why), sent: 0, received: 0 });
                return;
            }
            (_, state) => state.unwrap_or_default(),
        };
        let (name, arguments) = qmp::command(&request, state);
        let (id, sent) = self.monitor.send(name, &arguments);
        self.asked = Some(Asked { request, name, id, sent, since: Instant::now(), is_reported: false });
    }

    /// Waiting longer harms nobody: the page gives no time meanwhile, or the time that it gave.
    fn report_slowness(&mut self) {
        let Some(asked) = self.asked.as_mut().filter(|asked| !asked.is_reported && asked.since.elapsed() > SLOW) else {
            return;
        };
        asked.is_reported = true;
        let text = format!("QEMU has not answered {} for {SLOW:?}; waiting all the same", asked.name);
        self.output.report(&Event::Warning { text });
    }
}

/// How many ticks of a counter of this period there are in a millisecond.
fn ticks_per_ms(period: Period) -> u64 {
    // 2^(64 + shift) / frac in a second.
    let ticks = ((1_u128 << 127) / u128::from(period.frac().max(1))) >> 63_u8.saturating_sub(period.shift());
    u64::try_from(ticks / 1_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    #[test]
    fn ticks() {
        for hz in [1_000_000, 24_000_000, 2_999_999_999, 6_000_000_000] {
            let period = Period::from_frequency(NonZeroU64::new(hz).expect("not 0"));
            assert!(ticks_per_ms(period).abs_diff(hz / 1_000) <= 1, "{hz}");
        }
    }
}
