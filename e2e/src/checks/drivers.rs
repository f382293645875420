// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's own driver and ours, one after the other on the same device of one guest: what each allows, refuses, notices
//! and costs.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot, TimeType};

use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::report::Report;
use crate::Lab;

use super::{agent, items, ATTEMPTS};

/// In how many machines each cost is measured where it is judged, and where it is only shown.
const BOOTS: [usize; 2] = [8, 2];
/// How often in each, for both drivers in turns.
const ROUNDS: usize = 2;
const CALLS: u32 = 400;
const WAKES: u32 = 6;
/// How often the guest is notified. Some sixty notifications before its kernel listens fill the doorbell's ring for
/// good: with this, a boot may take a few seconds between the two.
const REFRESH: &str = "100ms";
/// How long nothing may happen where that is judged, and where it is only shown.
const AT_REST: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3)];
/// How much more anything may cost than with Linux's own driver.
const RATIO: f64 = 1.10;
/// How far a sample of two clocks may be off beyond what it says itself, in nanoseconds: the guest's clocks run apart
/// meanwhile.
const APART: i64 = 100_000;
/// Readings of two clocks at moments that are not the same, in nanoseconds.
const NEAR: i64 = 1_000_000_000;

/// Which driver has the device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Linux,
    Ours,
}

impl Driver {
    const BOTH: [Self; 2] = [Self::Linux, Self::Ours];

    fn word(self) -> &'static str {
        match self {
            Self::Linux => "c",
            Self::Ours => "rust",
        }
    }
}

/// A row of the table: what Linux's driver does, what ours does, and whether that is as it should be.
struct Row {
    what: &'static str,
    seen: [String; 2],
    expected: [&'static str; 2],
}

impl Row {
    fn is_as_expected(&self) -> bool {
        self.seen.iter().zip(self.expected).all(|(seen, expected)| seen == expected)
    }
}

/// Something to look at, and what is expected of Linux's driver and of ours.
struct Behaviour {
    what: &'static str,
    expected: [&'static str; 2],
    look: fn(&mut Guest) -> Result<String>,
}

const fn same(what: &'static str, expected: &'static str, look: fn(&mut Guest) -> Result<String>) -> Behaviour {
    Behaviour { what, expected: [expected, expected], look }
}

const BEHAVIOURS: [Behaviour; 37] = [
    Behaviour { what: "device mode", expected: ["0600", "0444"], look: |guest| guest.fact("mode") },
    same("mmap", "allowed", |guest| guest.fact("mmap")),
    same("mmap to write", "EROFS", |guest| guest.fact("mmap to write")),
    same("mprotect to write", "EACCES", |guest| guest.fact("mprotect to write")),
    Behaviour { what: "mmap to execute", expected: ["allowed", "EPERM"], look: |guest| guest.fact("mmap to execute") },
    Behaviour {
        what: "mprotect to execute",
        expected: ["allowed", "EACCES"],
        look: |guest| guest.fact("mprotect to execute"),
    },
    same("mmap of two pages", "EINVAL", |guest| guest.fact("mmap of two pages")),
    same("mmap of the second page", "EINVAL", |guest| guest.fact("mmap of the second page")),
    same("read(2) at the page's end", "4", |guest| guest.fact("read at the page's end")),
    same("read(2) behind it", "0", |guest| guest.fact("read behind it")),
    same("write(2)", "EINVAL", |guest| guest.fact("write")),
    same("set the PTP clock", "EOPNOTSUPP", |guest| guest.fact("set time")),
    same("cross timestamp", "agrees", |guest| guest.fact("cross timestamp")),
    same("poll(2), then after a read", "IN, then nothing", |guest| {
        guest.with_page(|_| (), |guest| guest.text("fresh-poll"))
    }),
    Behaviour {
        what: "the same at sequence count 0",
        expected: ["nothing, then nothing", "IN, then nothing"],
        look: |guest| guest.with_page(|page| page.seq_count = 0, |guest| guest.text("fresh-poll")),
    },
    same("poll(2) of a page that does not notify", "HUP, then HUP", |guest| {
        guest.with_page(
            |page| page.flags = page.flags.without(Flags::NOTIFICATION_PRESENT),
            |guest| guest.text("fresh-poll"),
        )
    }),
    same("read(2) in an update that never ends", "ETIMEDOUT within 0.1 to 1 s", |guest| {
        guest.with_page(
            |page| page.seq_count |= 1,
            |guest| {
                let mut read = || -> Result<(String, u64)> {
                    let answer = guest.machine.ask("driver read")?;
                    let outcome = answer[0].as_str().context("no outcome")?.to_owned();
                    Ok((outcome, answer[1].as_u64().context("no milliseconds")?))
                };
                let (outcome, mut millis) = read()?;
                // A guest that was put off took longer, and never less.
                for _ in 1..ATTEMPTS {
                    if millis >= 1_000 {
                        millis = read()?.1;
                    }
                }
                let within =
                    if (100..1000).contains(&millis) { "0.1 to 1 s".to_owned() } else { format!("{millis} ms") };
                Ok(format!("{outcome} within {within}"))
            },
        )
    }),
    Behaviour {
        what: "it waits",
        expected: ["busily", "asleep"],
        look: |guest| {
            guest.with_page(
                |page| page.seq_count |= 1,
                |guest| {
                    let slept = guest.machine.ask("driver read")?[2] == true;
                    Ok(if slept { "asleep" } else { "busily" }.to_owned())
                },
            )
        },
    },
    same("PTP time in the same", "ETIMEDOUT", |guest| guest.with_page(|page| page.seq_count |= 1, Guest::time)),
    Behaviour {
        what: "PTP time while the status is unknown",
        expected: ["right", "EINVAL"],
        look: |guest| guest.with_page(|page| page.clock_status = ClockStatus::UNKNOWN, Guest::time),
    },
    Behaviour {
        what: "PTP time while it is initializing",
        expected: ["right", "EINVAL"],
        look: |guest| guest.with_page(|page| page.clock_status = ClockStatus::INITIALIZING, Guest::time),
    },
    same("PTP time while it is unreliable", "EINVAL", |guest| {
        guest.with_page(|page| page.clock_status = ClockStatus::UNRELIABLE, Guest::time)
    }),
    Behaviour {
        what: "PTP time before the reference time",
        expected: ["wrong", "right"],
        look: |guest| guest.with_page(ahead, Guest::time),
    },
    Behaviour {
        what: "PTP time with shift 200",
        expected: ["wrong", "EINVAL"],
        look: |guest| guest.with_page(meaningless, Guest::time),
    },
    same("PTP time of a UTC page", "right", |guest| guest.with_page(on_utc, Guest::time)),
    same("PTP time of a monotonic page", "EINVAL", |guest| {
        guest.with_page(|page| page.time_type = TimeType::MONOTONIC, Guest::time)
    }),
    Behaviour { what: "PTP clock when a counter comes later", expected: ["no", "yes"], look: late_counter },
    Behaviour { what: "the same of a page that does not notify", expected: ["no", "yes"], look: unannounced_counter },
    Behaviour { what: "sysfs attributes", expected: ["none", "as on the page, for everyone"], look: attributes },
    Behaviour {
        what: "the same in an update that never ends",
        expected: ["none", "as on the page, for everyone"],
        look: |guest| {
            // They are as they were last seen.
            attributes(guest)?;
            let page = guest.machine.region()?.page()?;
            guest.with_page(|now| now.seq_count |= 1, |guest| attributes_of(guest, &page))
        },
    },
    Behaviour { what: "uevents of disruption and restore", expected: ["none", "disrupted, restored"], look: uevents },
    Behaviour {
        what: "the same of a page that does not notify",
        expected: ["none", "disrupted"],
        look: unannounced_disruption,
    },
    same("work at rest, on a page that notifies", "none", |guest| {
        guest.bind(guest.driver)?;
        // The publisher notifies, unless it stands.
        guest.with_page(|_| (), at_rest)
    }),
    same("work at rest, on one that does not", "none", |guest| {
        let silent = |page: &mut Snapshot| page.flags = page.flags.without(Flags::NOTIFICATION_PRESENT);
        guest.with_page(silent, |guest| {
            guest.bind(guest.driver)?;
            at_rest(guest)
        })
    }),
    Behaviour {
        what: "work in an update that never ends",
        expected: ["none", "some, less and less"],
        look: endless_update,
    },
    same("bound in an update that ends later", "works then", late_end),
    same("binding to a page that is none", "refused with a line", bad_pages),
];

/// So many ticks of the page's counter are ten seconds.
fn ten_seconds(page: &Snapshot) -> u64 {
    let second = (1_u128 << 64 << page.counter_period_shift.min(50)) / u128::from(page.counter_period_frac_sec.max(1));
    u64::try_from(10 * second).unwrap_or_default()
}

/// The reference time moves ten seconds ahead of the counter.
fn ahead(page: &mut Snapshot) {
    page.counter_value = page.counter_value.wrapping_add(ten_seconds(page));
    page.time_sec += 10;
}

/// The reference time is ten seconds ago, and nobody knows how long a tick is.
fn meaningless(page: &mut Snapshot) {
    page.counter_value = page.counter_value.wrapping_sub(ten_seconds(page));
    page.time_sec -= 10;
    page.counter_period_shift = 200;
}

fn on_utc(page: &mut Snapshot) {
    page.time_type = TimeType::UTC;
    page.time_sec = page.time_sec.wrapping_add_signed(page.tai_offset_sec.into());
}

/// Boots a guest with both drivers and compares what they do.
pub(super) fn run(lab: &Lab, kernel: &Kernel, ours: &Kernel, report: &mut Report) {
    let name = |check: &str| format!("{} drivers {check}", kernel.version);
    let mut booted = None;
    report.check(&name("boot"), || {
        let mut machine = boot(lab, &both(kernel, ours))?;
        let figures = load_ours(&mut machine).map_err(|error| machine.explain(error))?;
        booted = Some(machine);
        Ok(figures)
    });
    if let Some(machine) = booted {
        let mut guest = compare(lab, machine, &kernel.version, report);
        // Guests on arm64 have none.
        guest.check(report, &format!("{} drivers agent", kernel.version), |guest| {
            guest.bind(Driver::Ours)?;
            agent::outlives_device(guest.lab, &mut guest.machine)
        });
        guest.check(report, &name("other-counter"), other_counter);
    }
}

/// The same with what they cost.
pub(super) fn compare_costs(lab: &Lab, kernel: &Kernel, ours: &Kernel, report: &mut Report) {
    report.check(&format!("{} drivers cost", kernel.version), || cost(lab, &both(kernel, ours)));
}

/// A kernel with both.
fn both(kernel: &Kernel, ours: &Kernel) -> Kernel {
    Kernel { version: format!("{}-both", kernel.version), other: ours.driver.clone(), ..kernel.clone() }
}

fn boot(lab: &Lab, both: &Kernel) -> Result<Machine> {
    Ok(Machine::boot_calibrated(lab, both, "drivers", &Clock::Ours(&["--refresh", REFRESH]))?.0)
}

/// Loads our driver, beside Linux's own.
pub(super) fn load_ours(machine: &mut Machine) -> Result<String> {
    for mode in ["01000", "0"] {
        let refused = machine.ask(&format!("driver load mode={mode}"))?;
        ensure!(refused == "EINVAL", "the mode {mode}: {refused}");
    }
    for (parameters, mode) in [("", "0600"), ("mode=0444", "0444")] {
        let loaded = machine.ask(&format!("driver load {parameters}"))?;
        ensure!(loaded == "loaded", "our driver cannot be loaded: {loaded}");
        ensure!(machine.ask("driver bind rust")? == "bound", "our driver cannot be bound");
        let seen = machine.ask("driver facts")?["mode"].take();
        ensure!(seen == mode, "with {parameters:?} the mode is {seen}");
        // The last one stays.
        let unloaded = if mode == "0600" { machine.ask("driver unload")? } else { "unloaded".into() };
        ensure!(unloaded == "unloaded", "our driver cannot be unloaded: {unloaded}");
    }
    Ok("both are loaded; the mode is 0600 unless one is given, and others than of permissions are refused".to_owned())
}

/// Compares the two in a guest that has loaded both, and gives it back.
pub(super) fn compare<'a>(lab: &'a Lab, machine: Machine, name: &str, report: &mut Report) -> Guest<'a> {
    let mut guest = Guest { lab, machine, driver: Driver::Linux };
    let mut table = Vec::new();
    guest.check(report, &format!("{name} drivers behave"), |guest| behave(guest, &mut table));
    guest.check(report, &format!("{name} drivers outlive"), outlive);
    print_table(report, name, &table);
    guest
}

pub(super) struct Guest<'a> {
    lab: &'a Lab,
    machine: Machine,
    /// Who has the device.
    driver: Driver,
}

impl Guest<'_> {
    fn check(&mut self, report: &mut Report, name: &str, check: impl FnOnce(&mut Self) -> Result<String>) {
        report.check(name, || check(self).map_err(|error| self.machine.explain(error)));
    }

    /// How long something is waited for that comes with our driver, and with Linux's own does not.
    fn patience(&self) -> Duration {
        match self.driver {
            Driver::Linux => Duration::from_secs(2),
            Driver::Ours => PATIENCE,
        }
    }

    fn bind(&mut self, driver: Driver) -> Result<()> {
        let answer = self.machine.ask(&format!("driver bind {}", driver.word()))?;
        ensure!(answer == "bound", "binding gives {answer}");
        self.driver = driver;
        Ok(())
    }

    fn text(&mut self, word: &str) -> Result<String> {
        let answer = self.machine.ask(&format!("driver {word}"))?;
        Ok(answer.as_str().with_context(|| format!("{word}: {answer}"))?.to_owned())
    }

    fn fact(&mut self, name: &str) -> Result<String> {
        let facts = self.machine.ask("driver facts")?;
        match &facts[name] {
            Value::String(text) => Ok(text.clone()),
            Value::Null => bail!("the guest does not tell {name:?}: {facts}"),
            other => Ok(other.to_string()),
        }
    }

    /// With another page instead of the publisher's, which gets its own back afterwards.
    fn with_page<T>(
        &mut self,
        change: impl FnOnce(&mut Snapshot),
        look: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.machine.stop_publisher()?;
        let result = (|| {
            let kept = self.machine.region()?.bytes()?;
            let mut page = Snapshot::from_bytes(&kept);
            // It stood still in the middle of an update, perhaps.
            page.seq_count &= !1;
            change(&mut page);
            self.machine.region()?.set_bytes(&page.to_bytes())?;
            let result = look(self);
            self.machine.region()?.set_bytes(&kept)?;
            result
        })();
        self.machine.continue_publisher()?;
        result
    }

    /// The PTP clock's time, as far as it is right.
    fn time(&mut self) -> Result<String> {
        let now = || i64::try_from(self.lab.truth.now());
        let before = now()?;
        let time = self.machine.ask("driver time")?;
        let after = now()?;
        Ok(match time.as_i64() {
            Some(time) if (before - NEAR..=after + NEAR).contains(&time) => "right".to_owned(),
            Some(_) => "wrong".to_owned(),
            None => time.as_str().context("neither a time nor an error")?.to_owned(),
        })
    }

    fn ring(&mut self) -> Result<()> {
        self.machine.signal(self.lab, "clear")
    }
}

fn behave(guest: &mut Guest, table: &mut Vec<Row>) -> Result<String> {
    let mut seen: Vec<Vec<String>> = vec![Vec::new(); BEHAVIOURS.len()];
    for driver in Driver::BOTH {
        guest.bind(driver)?;
        for (behaviour, seen) in BEHAVIOURS.iter().zip(&mut seen) {
            let looked = (behaviour.look)(guest).with_context(|| format!("{} ({})", behaviour.what, driver.word()))?;
            seen.push(looked);
        }
    }
    for (behaviour, seen) in BEHAVIOURS.iter().zip(seen) {
        let seen = seen.try_into().ok().context("two drivers")?;
        table.push(Row { what: behaviour.what, seen, expected: behaviour.expected });
    }
    let wrong: Vec<&str> = table.iter().filter(|row| !row.is_as_expected()).map(|row| row.what).collect();
    ensure!(wrong.is_empty(), "not as expected: {}", wrong.join(", "));
    let better = table.iter().filter(|row| row.seen[0] != row.seen[1]).count();
    Ok(format!("{} behaviours, the same in {}, on purpose different in {better}", table.len(), table.len() - better))
}

/// Two times that Linux's own driver gets wrong: before the reference time, and with a shift that means nothing.
pub(super) fn times_that_were_wrong(lab: &Lab, machine: Machine) -> Result<(Machine, [String; 2])> {
    let mut guest = Guest { lab, machine, driver: Driver::Linux };
    let times = [guest.with_page(ahead, Guest::time), guest.with_page(meaningless, Guest::time)];
    let [before, shift] = times.map(|time| time.map_err(|error| guest.machine.explain(error)));
    Ok((guest.machine, [before?, shift?]))
}

/// A page without a counter gets one.
fn late_counter(guest: &mut Guest) -> Result<String> {
    let driver = guest.driver;
    let bound = guest.with_page(
        |page| page.counter_id = CounterId::NONE,
        |guest| {
            guest.bind(driver)?;
            Ok(guest.machine.ask("driver has-ptp")? == true)
        },
    )?;
    ensure!(!bound, "a PTP clock of a page without a counter");
    // The publisher's own page is back. The guest is told with the next refresh; nobody needs to wait long.
    guest.ring()?;
    appears(guest)
}

/// The same while nobody tells of it.
fn unannounced_counter(guest: &mut Guest) -> Result<String> {
    let (driver, counter) = (guest.driver, guest.machine.region()?.page()?.counter_id);
    let silent = |page: &mut Snapshot| {
        page.flags = page.flags.without(Flags::NOTIFICATION_PRESENT);
        page.counter_id = CounterId::NONE;
    };
    guest.with_page(silent, |guest| {
        guest.bind(driver)?;
        let bytes = guest.machine.region()?.bytes()?;
        let mut page = Snapshot::from_bytes(&bytes);
        page.counter_id = counter;
        guest.machine.region()?.set_bytes(&page.to_bytes())?;
        appears(guest)
    })
}

/// Whether a PTP clock appears; and binds anew.
fn appears(guest: &mut Guest) -> Result<String> {
    let mut appeared = false;
    let _ = until("a PTP clock appears", guest.patience(), || {
        appeared = guest.machine.ask("driver has-ptp")? == true;
        Ok(appeared)
    });
    guest.bind(guest.driver)?;
    Ok(if appeared { "yes" } else { "no" }.to_owned())
}

/// The driver is bound while the page is odd, as a killed publisher leaves it. Nobody tells of the end.
fn late_end(guest: &mut Guest) -> Result<String> {
    let driver = guest.driver;
    guest.with_page(
        |_| (),
        |guest| {
            let kept = guest.machine.region()?.bytes()?;
            let mut page = Snapshot::from_bytes(&kept);
            page.seq_count |= 1;
            guest.machine.region()?.set_bytes(&page.to_bytes())?;
            guest.bind(driver)?;
            guest.machine.region()?.set_bytes(&kept)?;
            let works = until("the device node works", PATIENCE, || {
                Ok(guest.fact("mmap").is_ok_and(|outcome| outcome == "allowed"))
            });
            Ok(if works.is_ok() { "works then" } else { "does not work" }.to_owned())
        },
    )
}

fn attributes(guest: &mut Guest) -> Result<String> {
    let page = guest.machine.region()?.page()?;
    attributes_of(guest, &page)
}

fn attributes_of(guest: &mut Guest, page: &Snapshot) -> Result<String> {
    let found = guest.machine.ask("driver attributes")?;
    if found == json!({}) {
        return Ok("none".to_owned());
    }
    let expected = json!({
        "marker": [format!("{:#018x}", page.disruption_marker), "444"],
        "generation": [format!("{:#018x}", page.vm_generation_counter), "444"],
        "status": [page.clock_status.to_string(), "444"],
        "tai_offset": [page.tai_offset_sec.to_string(), "444"],
        "time_type": [page.time_type.to_string(), "444"],
    });
    ensure!(found == expected, "the attributes are {found}, and should be {expected}");
    Ok("as on the page, for everyone".to_owned())
}

fn uevents(guest: &mut Guest) -> Result<String> {
    // An interrupt is had only by who is bound to a page that notifies.
    guest.bind(guest.driver)?;
    guest.machine.ask("driver listen")?;
    let mut told = Vec::new();
    for (what, count) in [("migrate", 1), ("clone", 2)] {
        guest.machine.signal(guest.lab, what)?;
        let _ = until("the kernel tells of it", guest.patience(), || {
            let more = guest.machine.ask("driver uevents")?;
            told.extend(more.as_array().into_iter().flatten().cloned());
            Ok(told.len() >= count)
        });
        let page = guest.machine.region()?.page()?;
        for event in told.get(count - 1..).unwrap_or_default() {
            let [marker, generation] =
                [page.disruption_marker, page.vm_generation_counter].map(|number| format!("{number:#018x}"));
            ensure!(event[1] == marker && event[2] == generation, "told {event}, not {marker} and {generation}");
        }
    }
    let names: Vec<&str> = told.iter().filter_map(|event| event[0].as_str()).collect();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

/// A marker changes while nobody notifies, but while a program has the device node open.
fn unannounced_disruption(guest: &mut Guest) -> Result<String> {
    let (driver, patience) = (guest.driver, guest.patience());
    let silent = |page: &mut Snapshot| page.flags = page.flags.without(Flags::NOTIFICATION_PRESENT);
    guest.with_page(silent, |guest| {
        guest.bind(driver)?;
        guest.machine.ask("driver listen")?;
        guest.machine.ask("driver hold")?;
        let mut page = Snapshot::from_bytes(&guest.machine.region()?.bytes()?);
        page.disruption_marker ^= 1;
        page.seq_count = page.seq_count.wrapping_add(2);
        guest.machine.region()?.set_bytes(&page.to_bytes())?;
        let mut names = Vec::new();
        let _ = until("the kernel tells of it", patience, || {
            let more = guest.machine.ask("driver uevents")?;
            names
                .extend(more.as_array().into_iter().flatten().filter_map(|event| event[0].as_str().map(str::to_owned)));
            Ok(!names.is_empty())
        });
        guest.machine.ask("driver let-go")?;
        Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
    })
}

/// How much work the driver has within a while in which nothing happens.
fn work(guest: &mut Guest, within: Duration) -> Result<u64> {
    let done = guest.machine.ask(&format!("driver work {}", within.as_millis()))?;
    done.as_u64().with_context(|| format!("the guest does not count: {done}"))
}

fn at_rest(guest: &mut Guest) -> Result<String> {
    let within = AT_REST[usize::from(!guest.lab.strict_costs)];
    Ok(match work(guest, within)? {
        0 => "none".to_owned(),
        some => format!("{some} times in {within:?}"),
    })
}

/// The driver polls a page that stays in the middle of an update, ever more rarely: after 1, 3, 7 s and so on, or
/// later, as it wakes no CPU.
fn endless_update(guest: &mut Guest) -> Result<String> {
    const WITHIN: Duration = Duration::from_secs(6);
    let driver = guest.driver;
    guest.with_page(
        |_| (),
        |guest| {
            let kept = guest.machine.region()?.bytes()?;
            let mut page = Snapshot::from_bytes(&kept);
            page.seq_count |= 1;
            guest.machine.region()?.set_bytes(&page.to_bytes())?;
            guest.bind(driver)?;
            let done = work(guest, WITHIN)?;
            guest.machine.region()?.set_bytes(&kept)?;
            guest.bind(driver)?;
            Ok(match done {
                0 => "none".to_owned(),
                1..=3 => "some, less and less".to_owned(),
                many => format!("{many} times in {WITHIN:?}"),
            })
        },
    )
}

/// Another magic, another version, a size beyond the region.
fn bad_pages(guest: &mut Guest) -> Result<String> {
    let driver = guest.driver;
    let changes: [fn(&mut Snapshot); 3] =
        [|page| page.magic ^= 1, |page| page.version = 2, |page| page.size = 0x20_0000];
    let mut answers = Vec::new();
    let lines = |guest: &mut Guest| {
        Ok::<_, anyhow::Error>(items(&json!({ "log": guest.machine.ask("driver log")? }), "log")?.len())
    };
    // What the driver had to log of the page before, it has logged once it is bound again.
    guest.bind(driver)?;
    for change in changes {
        let before = lines(guest)?;
        let answer = guest.with_page(change, |guest| guest.text(&format!("bind {}", driver.word())))?;
        answers.push(match (answer.as_str(), lines(guest)? - before) {
            ("bound", _) => "taken".to_owned(),
            (_, 1) => "refused with a line".to_owned(),
            (_, count) => format!("refused with {count} lines"),
        });
    }
    guest.bind(driver)?;
    answers.dedup();
    Ok(answers.join(", "))
}

/// With the system's clock on another counter than the page's, the PTP clock has to bracket its own by two readings of
/// it.
fn other_counter(guest: &mut Guest) -> Result<String> {
    let mut crossed = Vec::new();
    let mut figures = String::new();
    for driver in Driver::BOTH {
        guest.bind(driver)?;
        let seen = guest.machine.ask("driver other-counter")?;
        crossed.push(seen["cross timestamp"].as_str().unwrap_or_default().to_owned());
        let samples = items(&seen, "samples")?;
        let mut worst = 0;
        for sample in samples {
            let (Some(apart), Some(half)) = (sample[0].as_i64(), sample[1].as_i64()) else {
                bail!("{}: a sample that is none: {sample}", driver.word());
            };
            worst = worst.max(apart.abs().saturating_sub(half));
        }
        ensure!(!samples.is_empty() && worst < APART, "{}: the PTP clock is {worst} ns off: {seen}", driver.word());
        write!(figures, "{}: {} samples, at most {worst} ns apart; ", seen["counter"], samples.len())?;
    }
    ensure!(crossed == ["ENODEV", "ENODEV"], "cross timestamps: {}", crossed.join(", "));
    Ok(format!("{figures}cross timestamps: ENODEV from both"))
}

/// In turns, so that both meet the same machine: the best of all rounds, and of the wake-ups, whose way through QEMU
/// and ACPI is long and never twice the same, the median. In some machines, as each puts its modules elsewhere, which
/// alone may be worth a tenth under TCG.
fn cost(lab: &Lab, both: &Kernel) -> Result<String> {
    let mut calls = [[f64::MAX; 2]; 2];
    let mut wakes = [Vec::new(), Vec::new()];
    let boots = BOOTS[usize::from(!lab.strict_costs)];
    for _ in 0..boots {
        let mut guest = Guest { lab, machine: boot(lab, both)?, driver: Driver::Linux };
        let measured = measure(&mut guest, &mut calls, &mut wakes);
        measured.map_err(|error| guest.machine.explain(error))?;
        guest.machine.quit()?;
    }
    let [linux, ours] = wakes.map(|mut wakes| {
        wakes.sort_by(f64::total_cmp);
        wakes.get(wakes.len() / 2).copied().unwrap_or(f64::MAX)
    });
    let pairs = [
        ("read(2)", calls[0][0], calls[1][0]),
        ("PTP gettime", calls[0][1], calls[1][1]),
        ("poll(2) wake-up", linux, ours),
    ];
    let mut figures = String::new();
    for (what, linux, ours) in pairs {
        write!(figures, "{what}: C {linux:.0} ns, Rust {ours:.0} ns, ratio {:.2}; ", ours / linux)?;
    }
    write!(figures, "{ROUNDS} rounds in turns in {boots} machines, to be at most {RATIO:.2}")?;
    let within = pairs.iter().all(|(_, linux, ours)| ours / linux <= RATIO);
    ensure!(within || !lab.strict_costs, "{figures}");
    Ok(figures)
}

/// In one machine.
fn measure(guest: &mut Guest, calls: &mut [[f64; 2]; 2], wakes: &mut [Vec<f64>; 2]) -> Result<()> {
    ensure!(guest.text("load")? == "loaded", "our driver cannot be loaded");
    for _ in 0..ROUNDS {
        for (driver, (calls, wakes)) in Driver::BOTH.into_iter().zip(calls.iter_mut().zip(wakes.iter_mut())) {
            guest.bind(driver)?;
            let cost = guest.machine.ask(&format!("driver cost {CALLS}"))?;
            for (best, name) in calls.iter_mut().zip(["read", "gettime"]) {
                *best = best.min(cost[name].as_f64().with_context(|| format!("no cost of {name}: {cost}"))?);
            }
            let late = guest.machine.ask(&format!("driver wakes {WAKES}"))?;
            wakes.extend(late.as_array().into_iter().flatten().filter_map(Value::as_f64));
        }
    }
    Ok(())
}

/// What is left of a file when its device is gone. Linux's own driver would use freed memory: see `--kasan`.
fn outlive(guest: &mut Guest) -> Result<String> {
    guest.bind(Driver::Ours)?;
    let left = guest.with_page(|_| (), |guest| guest.machine.ask("driver outlive"))?;
    let expected = json!({ "read": "ENODEV", "poll": "HUP ERR", "mapping": true, "events": [true, true, false] });
    ensure!(left == expected, "after unbind: {left}");
    guest.bind(Driver::Ours)?;
    Ok("after unbind read(2) gives ENODEV, poll(2) HUP ERR, the mapping stays, our events say that the device vanished; binding again works"
        .to_owned())
}

fn print_table(report: &mut Report, name: &str, table: &[Row]) {
    let width = |column: usize| table.iter().map(|row| row.seen[column].len()).max().unwrap_or(0).max(4);
    let what = table.iter().map(|row| row.what.len()).max().unwrap_or(0);
    report.say(&format!("\n{:what$}  {:linux$}  Rust", format!("behaviour on {name}"), "C", linux = width(0)));
    for row in table {
        let mark = if row.is_as_expected() { "" } else { "  <- not as expected" };
        report.say(&format!("{:what$}  {:linux$}  {}{mark}", row.what, row.seen[0], row.seen[1], linux = width(0)));
    }
    report.say("");
}
