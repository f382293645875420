// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest in an unmodified QEMU, started as a user starts it: `vmclock qemu ... -- qemu-system-x86_64 ...`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use rustix::process::{kill_process, kill_process_group, Pid, Signal};
use serde_json::{json, Value};
use vmclock_e2e_guest::PORT;

use crate::apart::{self, Apart};
use crate::arm::{self, Arm, Publisher};
use crate::checks::TAI_MINUS_UTC;
use crate::initramfs::{self, Files};
use crate::patience::{until, TimedOut, PATIENCE};
use crate::port::{Port, Question};
use crate::qmp::Qmp;
use crate::region::Region;
use crate::Lab;

/// How long a guest that hangs may take to say where it does.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// One of Debian's kernels.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    /// Linux's own, or ours; none where the kernel has Linux's built in.
    pub(crate) driver: Option<PathBuf>,
    /// One more, that the guest loads when it is told to.
    pub(crate) other: Option<PathBuf>,
    /// Whether it has warnings to print that matter.
    pub(crate) warns: bool,
    /// More files for its guests, with their names.
    pub(crate) files: Vec<(String, PathBuf)>,
}

/// Who gives the guest its page.
pub(crate) enum Clock<'a> {
    /// `vmclock qemu`, with these options.
    Ours(&'a [&'a str]),
    /// `vmclock qemu`, with these options, as a client of the service that has this page.
    Served(&'a Path, &'a [&'a str]),
    /// `vmclock qemu --attach`, with these options, for a QEMU that is started beside it.
    Attached(&'a [&'a str]),
    /// QEMU's own device.
    Stock,
    /// The harness itself, of a guest on arm64.
    Tree(&'a Arm),
}

/// A QEMU that runs.
pub(crate) struct Machine {
    folder: PathBuf,
    process: Child,
    /// QEMU, where it is not the publisher's child.
    qemu: Option<Child>,
    /// What `vmclock qemu --json` prints.
    lines: Receiver<Value>,
    pub(crate) qmp: Qmp,
    /// Before the guest has said that it is ready, there is none.
    port: Option<Port>,
    region: Option<Region>,
    /// We are, where nobody else is.
    publisher: Option<Publisher>,
    /// It did not do something within its deadline: nobody waits for it any more.
    hangs: bool,
}

impl Machine {
    /// Boots a guest and waits until it is ready.
    pub(crate) fn boot(lab: &Lab, kernel: &Kernel, name: &str, clock: &Clock) -> Result<Self> {
        Self::boot_with(lab, kernel, name, clock, &[])
    }

    /// The same, and until the page has the time. Gives what the publisher says of the guest's counter.
    pub(crate) fn boot_calibrated(lab: &Lab, kernel: &Kernel, name: &str, clock: &Clock) -> Result<(Self, Value)> {
        let mut machine = Self::boot(lab, kernel, name, clock)?;
        let line = machine.wait_for("calibrated").map_err(|error| machine.explain(error))?;
        Ok((machine, line))
    }

    /// The same with more arguments for QEMU.
    pub(crate) fn boot_with(lab: &Lab, kernel: &Kernel, name: &str, clock: &Clock, extra: &[&str]) -> Result<Self> {
        let mut machine = Self::start(lab, kernel, name, clock, extra)?;
        match machine.wait_until_ready() {
            Ok(()) => Ok(machine),
            Err(error) => Err(machine.explain(error)),
        }
    }

    /// Starts a QEMU that is paused, with nobody yet who lets it run.
    pub(crate) fn attached(lab: &Lab, kernel: &Kernel, name: &str, extra: &[&str]) -> Result<Self> {
        Self::start(lab, kernel, name, &Clock::Attached(&["--second-page", "--refresh", "10s"]), extra)
    }

    /// Starts a QEMU that goes on with a guest from `uri`, and waits until it does.
    pub(crate) fn incoming(lab: &Lab, kernel: &Kernel, name: &str, options: &[&str], uri: &str) -> Result<Self> {
        Self::incoming_with(lab, kernel, name, options, uri, &[])
    }

    /// The same with more arguments for QEMU: those that the guest was started with.
    pub(crate) fn incoming_with(
        lab: &Lab,
        kernel: &Kernel,
        name: &str,
        options: &[&str],
        uri: &str,
        extra: &[&str],
    ) -> Result<Self> {
        Self::start(lab, kernel, name, &Clock::Ours(options), &[extra, &["-incoming", uri]].concat())
    }

    /// The same with another clock.
    pub(crate) fn incoming_on(lab: &Lab, kernel: &Kernel, name: &str, clock: &Clock, uri: &str) -> Result<Self> {
        Self::start(lab, kernel, name, clock, &["-incoming", uri])
    }

    fn start(lab: &Lab, kernel: &Kernel, name: &str, clock: &Clock, extra: &[&str]) -> Result<Self> {
        let folder = lab.folder.join(format!("{name}-{}", kernel.version));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        for socket in ["qmp", "port", "bell", "page.qmp", "page.bell"] {
            let _ = fs::remove_file(folder.join(socket));
        }
        let page = folder.join("page");
        let extra =
            arguments(lab, kernel, clock, &folder)?.into_iter().chain(extra.iter().map(|word| (*word).to_owned()));
        let errors = File::create(folder.join("errors"))?;
        // A group of its own, so that QEMU too can be ended if all else fails.
        let start = |mut command: Command, output: Stdio| {
            command.stdin(Stdio::null()).stdout(output).stderr(errors.try_clone()?).process_group(0);
            command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))
        };
        let client = |options: &[&str]| {
            let mut command = Command::new(&lab.vmclock);
            command.args(["qemu", "--json", "--page"]).arg(&page).args(options);
            command
        };
        let publisher = |options: &[&str]| {
            // Not every machine knows the offset: neither its kernel nor a list of leap seconds may say it.
            let mut command = client(&["--reference", "host-clock", &format!("--tai-offset=-{TAI_MINUS_UTC}")]);
            command.args(options);
            command
        };
        let mut qemu = None;
        let mut process = match clock {
            Clock::Ours(options) => {
                let mut command = publisher(options);
                command.arg("--").arg(&lab.qemu).args(extra);
                start(command, Stdio::piped())?
            }
            Clock::Served(service, options) => {
                let mut command = client(options);
                command.args(["--name", name, "--service"]).arg(service).arg("--").arg(&lab.qemu).args(extra);
                start(command, Stdio::piped())?
            }
            Clock::Attached(options) => {
                let mut command = publisher(&["--print-args", "--table"]);
                let line = command.arg(folder.join("table")).arg("--").arg(&lab.qemu).args(extra).output()?;
                ensure!(line.status.success(), "--print-args: {}", String::from_utf8_lossy(&line.stderr));
                let mut command = publisher(options);
                command.arg("--attach");
                let process = start(command, Stdio::piped())?;
                let mut command = Command::new("sh");
                command.arg("-c").arg(format!("exec {}", String::from_utf8(line.stdout)?));
                until("the page is there", PATIENCE, || Ok(page.metadata().is_ok_and(|page| page.len() > 4096)))?;
                qemu = Some(start(command, Stdio::null())?);
                process
            }
            Clock::Stock => {
                let mut command = Command::new(&lab.qemu);
                command.args(["-device", "vmclock"]).args(extra);
                start(command, Stdio::piped())?
            }
            Clock::Tree(arm) => {
                let mut command = Command::new(&arm.qemu);
                command.args(extra);
                start(command, Stdio::piped())?
            }
        };
        let lines = lines(process.stdout.take().context("no pipe")?, File::create(folder.join("said"))?);
        let connected = (|| {
            let socket = folder.join("qmp");
            until("QEMU's monitor is open", PATIENCE, || match process.try_wait()? {
                Some(status) => bail!("QEMU does not run: {status}"),
                None => Ok(socket.exists()),
            })?;
            let region = match clock {
                Clock::Ours(_) | Clock::Served(..) | Clock::Attached(_) => Some(Region::open(&page)?),
                Clock::Stock => None,
                Clock::Tree(_) => Some(arm::region_in(&folder)?),
            };
            let mut qmp = Qmp::connect(&socket)?;
            let publisher = match clock {
                Clock::Tree(_) => Some(Publisher::connect(&folder, &mut qmp)?),
                _ => None,
            };
            Ok((qmp, region, publisher))
        })();
        match connected {
            Ok((qmp, region, publisher)) => {
                Ok(Self { folder, process, qemu, lines, qmp, port: None, region, publisher, hangs: false })
            }
            Err(error) => {
                for process in [Some(&mut process), qemu.as_mut()].into_iter().flatten() {
                    end_group(process);
                    let _ = process.wait();
                }
                Err(anyhow::Error::context(error, said(&folder)))
            }
        }
    }

    /// Waits for the guest's first words, after a boot.
    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        let ready = self.port()?.greeting(PATIENCE).context("the guest does not come up")?;
        if let Some(error) = ready["driver"].as_str() {
            bail!("the driver cannot be loaded: {error}");
        }
        Ok(())
    }

    /// The same after a reset, on the connection that there is.
    pub(crate) fn wait_until_ready_again(&mut self) -> Result<()> {
        let ready = self.port()?.greeting(PATIENCE).context("the guest does not come up again")?;
        ensure!(ready["driver"].is_null(), "the driver cannot be loaded again: {ready}");
        Ok(())
    }

    /// The guest's program. After a restore it goes on where it was, and says nothing by itself.
    fn port(&mut self) -> Result<&mut Port> {
        ensure!(!self.hangs, "this guest hung before");
        if self.port.is_none() {
            self.port = Some(Port::connect(&self.folder.join("port"))?);
        }
        self.port.as_mut().context("no port")
    }

    /// Asks the guest something, without waiting for the answer.
    pub(crate) fn say(&mut self, words: &str) -> Result<Question> {
        self.port()?.say(words)
    }

    /// Waits for the guest's answer.
    pub(crate) fn answer(&mut self, question: Question) -> Result<Value> {
        self.port()?.answer(question, PATIENCE)
    }

    pub(crate) fn ask(&mut self, words: &str) -> Result<Value> {
        self.ask_within(PATIENCE, words)
    }

    /// The same for what takes long on an idle machine already.
    pub(crate) fn ask_within(&mut self, patience: Duration, words: &str) -> Result<Value> {
        let question = self.say(words)?;
        self.port()?.answer(question, patience).with_context(|| format!("asked the guest for {words:?}"))
    }

    /// The region that we share with the guest.
    pub(crate) fn region(&self) -> Result<&Region> {
        self.region.as_ref().context("QEMU's own device has no shared region")
    }

    /// Waits for one of the publisher's lines, and forgets those before it.
    pub(crate) fn wait_for(&mut self, event: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line["event"] == event => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(TimedOut(format!("`vmclock qemu` has not said {event:?} for {PATIENCE:?}")).into());
                }
                Err(RecvTimeoutError::Disconnected) => bail!("`vmclock qemu` ended before it said {event:?}"),
            }
        }
    }

    /// Forgets all that the publisher has said.
    pub(crate) fn forget_lines(&self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// Keeps the guest's CPU and whoever asks for its counter apart. `None` where there is but one CPU.
    pub(crate) fn apart(&self) -> Result<Option<Apart>> {
        match (&self.qemu, &self.publisher) {
            (Some(qemu), _) => Apart::keep(Some(&self.process), Pid::from_child(qemu)),
            // We are the publisher.
            (None, Some(_)) => Apart::keep(None, Pid::from_child(&self.process)),
            (None, None) => Apart::keep(Some(&self.process), apart::child_of(&self.process)?),
        }
    }

    /// Lets the publisher, though not QEMU, stand still, so that the page is the caller's to write.
    pub(crate) fn while_publisher_stands<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.stop_publisher()?;
        let result = work(self);
        self.continue_publisher()?;
        result
    }

    /// Publishes the time of the guest's counter, where nobody else does. It is known as well as the guest answers
    /// quickly.
    pub(crate) fn calibrate(&mut self, lab: &Lab) -> Result<i128> {
        let before = lab.truth.now();
        let counter = self.ask("counter")?.as_u64().context("the guest tells no counter")?;
        let off = (lab.truth.now() - before) / 2;
        let publisher = self.publisher.as_ref().context("somebody else publishes")?;
        publisher.calibrate(self.region()?, counter, before + off, off + 1)?;
        Ok(off)
    }

    /// Lets the publisher stand, until it is [continued](Self::continue_publisher). We do nothing meanwhile in any
    /// case.
    pub(crate) fn stop_publisher(&self) -> Result<()> {
        if self.publisher.is_some() {
            return Ok(());
        }
        Ok(kill_process(Pid::from_child(&self.process), Signal::STOP)?)
    }

    pub(crate) fn continue_publisher(&self) -> Result<()> {
        if self.publisher.is_some() {
            return Ok(());
        }
        Ok(kill_process(Pid::from_child(&self.process), Signal::CONT)?)
    }

    /// Tells the guest of whatever the page holds now, where the harness itself is the publisher.
    pub(crate) fn ring(&self) -> Result<()> {
        self.publisher.as_ref().map_or(Ok(()), Publisher::ring)
    }

    /// Tells the publisher something, as an operator does.
    pub(crate) fn signal(&self, lab: &Lab, what: &str) -> Result<()> {
        if let Some(publisher) = &self.publisher {
            return publisher.signal(self.region()?, what);
        }
        let output =
            Command::new(&lab.vmclock).args(["signal", what, "--page"]).arg(self.folder.join("page")).output()?;
        if !output.status.success() {
            bail!("`vmclock signal {what}` failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether the publisher has ended, and well.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        let status = self.process.try_wait()?;
        ensure!(status.is_none_or(|status| status.success()), "`vmclock qemu` ended: {status:?}");
        Ok(status.is_some())
    }

    /// Does the one check that the machine is there for, and switches it off.
    pub(crate) fn do_and_quit(mut self, check: impl FnOnce(&mut Self) -> Result<String>) -> Result<String> {
        let figures = check(&mut self).map_err(|error| self.explain(error))?;
        self.quit()?;
        Ok(figures)
    }

    /// Switches the machine off.
    pub(crate) fn quit(mut self) -> Result<()> {
        let told = self.qmp.run("quit", &json!({}));
        let process = &mut self.process;
        let mut status = None;
        until("QEMU has ended", PATIENCE, || {
            status = process.try_wait()?;
            Ok(status.is_some())
        })?;
        match (told, status) {
            // It may close its monitor before it answers.
            (Err(_), Some(status)) if !status.success() => Err(self.explain(anyhow!("QEMU ended by itself: {status}"))),
            _ => Ok(()),
        }
    }

    /// An error, and what guest, publisher and QEMU said before it; and where the guest is, if it hangs.
    pub(crate) fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        if self.hangs {
            return error;
        }
        let mut text = format!("{error:#}\n  {}", said(&self.folder));
        if error.is::<TimedOut>() {
            self.hangs = true;
            text += &self.examine();
        }
        anyhow!(text)
    }

    /// Where a guest is that hangs: what its CPUs do, and what its kernel says to an NMI, by the parameters that it is
    /// booted with: where it was interrupted, every task, and its whole log. It does not survive that.
    fn examine(&mut self) -> String {
        let console = self.folder.join("console");
        let lines =
            || fs::read(&console).map(|text| String::from_utf8_lossy(&text).lines().count()).unwrap_or_default();
        let before = lines();
        let registers = self.qmp.run_for_people("info registers -a").map_or_else(
            |error| format!("{error:#}"),
            |text| indented(text.lines().filter(|line| !is_of_floating_point(line))),
        );
        if self.qmp.run("inject-nmi", &json!({})).is_ok() {
            // It ends with a panic, whose last line comes last.
            let text = || String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
            let _ = until("it has said all", LAST_WORDS, || {
                Ok(text()
                    .lines()
                    .skip(before)
                    .any(|line| line.contains("Rebooting") || line.contains("end Kernel panic")))
            });
        }
        let text = fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let answer = without_kernel_threads(text.lines().skip(before));
        format!("its registers:{registers}\n  its answer to an NMI:{}\n ", indented(answer.into_iter()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in [Some(&mut self.process), self.qemu.as_mut()].into_iter().flatten() {
            if !matches!(process.try_wait(), Ok(Some(_))) {
                end_group(process);
                let _ = process.wait();
            }
        }
    }
}

fn end_group(process: &Child) {
    let _ = kill_process_group(Pid::from_child(process), Signal::KILL);
}

/// What a user gives QEMU: nothing of it is about the clock but the rate of the guest's counter, and on arm64 the
/// device tree.
fn arguments(lab: &Lab, kernel: &Kernel, clock: &Clock, folder: &Path) -> Result<Vec<String>> {
    let (init, vmclock, c_program, agent) = match clock {
        Clock::Tree(arm) => (&arm.init, None, None, None),
        _ => (&lab.init, Some(&*lab.vmclock), lab.c_program.as_deref(), lab.agent.as_deref()),
    };
    let initramfs = lab.folder.join(format!("initramfs-{}", kernel.version));
    if !initramfs.exists() {
        let (driver, other) = (kernel.driver.as_deref(), kernel.other.as_deref());
        let files = Files { driver, other, vmclock, c_program, agent, more: &kernel.files };
        initramfs::write(&initramfs, init, &files)?;
    }
    let (board, console) = match clock {
        Clock::Tree(arm) => (arm.make_board(folder)?, "ttyAMA0".to_owned()),
        // On a busy machine the kernel measures its counter wrongly; with KVM it would be told.
        _ => (
            ["-accel", "tcg", "-machine", "q35", "-cpu", "max"].map(str::to_owned).to_vec(),
            format!("ttyS0 tsc_early_khz={}", lab.tsc_khz),
        ),
    };
    let path = |name: &str| folder.join(name).display().to_string();
    let level = if kernel.warns { 5 } else { 4 };
    // For a guest that hangs: see `examine`.
    let kernel_line = format!("console={console} loglevel={level} panic=-1 unknown_nmi_panic panic_print=0x21");
    #[rustfmt::skip] // an option and its value a line
    let words = [
        "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
        "-serial", &format!("file:{}", path("console")),
        "-kernel", &kernel.image.display().to_string(),
        "-initrd", &initramfs.display().to_string(),
        "-append", &kernel_line,
        "-qmp", &format!("unix:{},server=on,wait=off", path("qmp")),
        "-device", "virtio-serial-pci,addr=0x5",
        "-chardev", &format!("socket,id=port,path={},server=on,wait=off", path("port")),
        "-device", &format!("virtserialport,chardev=port,name={PORT}"),
    ];
    Ok(board.into_iter().chain(words.map(str::to_owned)).collect())
}

/// What `vmclock qemu --json` prints, line by line, without making it wait; and in a file, but for the refreshes.
fn lines(stdout: std::process::ChildStdout, mut copy: File) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Ok(value) = serde_json::from_str::<Value>(&line) {
                if value["event"] != "refreshed" {
                    let _ = writeln!(copy, "{line}");
                }
                if sender.send(value).is_err() {
                    break;
                }
            }
        }
    });
    receiver
}

/// The last lines of the guest's console, of what the publisher said, and of its and QEMU's complaints.
fn said(folder: &Path) -> String {
    let tail = |name: &str| {
        let text = fs::read(folder.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        indented(lines.into_iter().rev())
    };
    let (console, publisher, errors) = (tail("console"), tail("said"), tail("errors"));
    format!("the guest's console:{console}\n  publisher:{publisher}\n  errors:{errors}\n ")
}

fn indented<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.fold(String::new(), |all, line| all + "\n    " + line)
}

/// A kernel's list of tasks has dozens of its own, which are nearly always at rest.
fn without_kernel_threads<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut is_left_out = false;
    let mut keep = |line: &&str| {
        // A task's lines end with its stack.
        is_left_out |= line.contains("task:") && line.contains("pid:2 ");
        let keep = !is_left_out;
        is_left_out &= !line.contains("</TASK>");
        keep
    };
    lines.filter(|line| keep(line)).collect()
}

/// Of QEMU's registers, those that tell nothing about where a kernel is.
fn is_of_floating_point(line: &str) -> bool {
    ["FP", "XMM", "YMM", "ZMM", "Q0", "Q1", "Q2", "Q3", "MXCSR", "Opmask"].iter().any(|name| line.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_panic_stays_what_is_not_the_kernels_own() {
        let text = "[1] Kernel panic\n[1] task:init state:R pid:1 ppid:0\n[1] <TASK>\n[1] a\n[1] </TASK>\n\
                    [1] task:kworker state:I pid:9 tgid:9 ppid:2 task\n[1] <TASK>\n[1] b\n[1] </TASK>\n\
                    [1] task:vmclock state:S pid:90 tgid:90 ppid:1 task\n[1] <TASK>\n[1] c\n[1] </TASK>\n[0] the log";
        let kept = without_kernel_threads(text.lines()).join("\n");
        assert!(kept.contains("[1] a\n") && kept.contains("[1] c\n") && kept.ends_with("the log"), "{kept}");
        assert!(!kept.contains("kworker") && !kept.contains("[1] b\n"), "{kept}");
    }
}
