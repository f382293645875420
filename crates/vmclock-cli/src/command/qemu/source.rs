// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the guest's counter is known from.

use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use serde_json::{json, Value};

use super::arguments::Accelerator;
use super::kvm;
use super::qmp::Qmp;
use vmclock_vmm::counter::GuestCounter;

/// What the host knows of the moment at which the guest went on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumed {
    /// QEMU's own time stamp of it, or when it was told to.
    pub(super) earliest: u64,
    /// When QEMU had certainly done it, if that is known.
    pub(super) latest: Option<u64>,
}

/// A way to know the guest's counter.
pub(super) trait CounterSource {
    fn name(&self) -> &'static str;

    /// The guest stands: what can be known of its counter only now?
    fn stopped(&mut self, qmp: &mut Qmp) -> anyhow::Result<()>;

    /// What was learned while the guest stood is not true any more.
    fn forget(&mut self);

    /// The guest's counter, now that it runs.
    fn running(&mut self, qmp: &mut Qmp, resumed: Resumed) -> anyhow::Result<GuestCounter>;

    /// The counter again, where it may change without an event and can be had at no cost.
    fn again(&self) -> Option<anyhow::Result<GuestCounter>> {
        None
    }
}

/// Asks QEMU which accelerator it uses.
pub(super) fn find(
    qmp: &mut Qmp,
    accelerator: Accelerator,
    pid: u32,
    folder: &Path,
) -> anyhow::Result<Box<dyn CounterSource>> {
    let kvm = qmp.command("query-kvm", Value::Null)?.value["enabled"] == true;
    Ok(match accelerator {
        _ if !cfg!(target_arch = "x86_64") => {
            Box::new(Unknown("this host is not x86, so a guest's TSC is not its counter"))
        }
        _ if kvm => Box::new(Kvm { pid }),
        Accelerator::MaybeTcg => Box::new(Tcg { state: folder.join("device-state"), value: None }),
        Accelerator::InstructionCount => {
            Box::new(Unknown("with -icount the guest's counter counts instructions, not time"))
        }
        Accelerator::Kvm | Accelerator::Other => {
            Box::new(Unknown("the guest's counter is known with the accelerators kvm and tcg only"))
        }
    })
}

/// QEMU's interpreter: the guest's counter is the host's minus an offset that changes with each stop. While the guest
/// stands, its counter is in the state of the device `timer`.
struct Tcg {
    /// The file for QEMU to write device states to.
    state: PathBuf,
    value: Option<u64>,
}

/// A guest goes on so long after the event's time stamp, by measurement: 11 to 32 us.
const LIKELY: u64 = 20_000;
/// The time stamp is rounded down to a microsecond; and one for what the conversion adds.
const STAMP: u64 = 2_000;

impl Tcg {
    /// Lets QEMU write its device states, for which it stops the guest if it runs.
    fn read_value(&self, qmp: &mut Qmp) -> anyhow::Result<(u64, u64)> {
        let arguments = json!({"filename": self.state, "live": false});
        let answer = qmp.command("xen-save-devices-state", arguments)?;
        let state = std::fs::read(&self.state)
            .with_context(|| format!("{}: cannot read QEMU's device states", self.state.display()))?;
        // The next one is written anew; if it stays, it goes with its folder.
        let _ = std::fs::remove_file(&self.state);
        let value = timer_value(&state).context("QEMU's device states have no timer of the form known (version 2)")?;
        Ok((value, answer.received))
    }
}

impl CounterSource for Tcg {
    fn name(&self) -> &'static str {
        "tcg"
    }

    fn stopped(&mut self, qmp: &mut Qmp) -> anyhow::Result<()> {
        self.value = None;
        let (value, _) = self.read_value(qmp)?;
        // Somebody let it go on meanwhile: nobody knows which stop this was.
        if !qmp.has_event("RESUME") {
            self.value = Some(value);
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.value = None;
    }

    fn running(&mut self, qmp: &mut Qmp, resumed: Resumed) -> anyhow::Result<GuestCounter> {
        let (value, earliest, latest) = match (self.value.take(), resumed.latest) {
            (Some(value), Some(latest)) => (value, resumed.earliest, latest),
            // The monitor answers only after it is done with the resumption.
            (Some(value), None) => (value, resumed.earliest, qmp.command("query-status", Value::Null)?.received),
            (None, _) => {
                let (value, answered) = self.read_value(qmp)?;
                let mut events = qmp.take_events(&["STOP", "RESUME"]);
                let Some(last) = events.iter().rposition(|event| event.name == "RESUME") else {
                    bail!("QEMU did not say that the guest goes on after its device states were written")
                };
                // A stop after that is the next thing to be seen to.
                qmp.put_back(events.split_off(last + 1));
                (value, events.pop().map_or(resumed.earliest, |event| event.emitted), answered)
            }
        };
        let likely = earliest.wrapping_add(qmp.ticks_in(LIKELY));
        Ok(GuestCounter::resumed(value, earliest.wrapping_sub(qmp.ticks_in(STAMP)), likely, latest))
    }
}

/// `cpu_ticks_offset`, which is the guest's counter while the guest stands, out of QEMU's device states: a section
/// header's end with the name `timer`, instance 0 and version 2, then the number, the most significant byte first.
fn timer_value(state: &[u8]) -> Option<u64> {
    const HEADER: &[u8] = b"\x05timer\0\0\0\0\0\0\0\x02";
    let at = state.windows(HEADER.len()).position(|window| window == HEADER)? + HEADER.len();
    Some(u64::from_be_bytes(state.get(at..at + 8)?.try_into().ok()?))
}

/// The kernel's own virtual machines: debugfs has the offset.
struct Kvm {
    pid: u32,
}

impl CounterSource for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn stopped(&mut self, _qmp: &mut Qmp) -> anyhow::Result<()> {
        Ok(())
    }

    fn forget(&mut self) {}

    fn running(&mut self, qmp: &mut Qmp, resumed: Resumed) -> anyhow::Result<GuestCounter> {
        // QEMU writes the counters while it resumes.
        if resumed.latest.is_none() {
            qmp.command("query-status", Value::Null)?;
        }
        kvm::guest_counter(Path::new(kvm::DEBUGFS), self.pid)
    }

    fn again(&self) -> Option<anyhow::Result<GuestCounter>> {
        Some(kvm::guest_counter(Path::new(kvm::DEBUGFS), self.pid))
    }
}

/// No way: the guest has marker and generation, and no time.
struct Unknown(&'static str);

impl CounterSource for Unknown {
    fn name(&self) -> &'static str {
        "unknown"
    }

    fn stopped(&mut self, _qmp: &mut Qmp) -> anyhow::Result<()> {
        Ok(())
    }

    fn forget(&mut self) {}

    fn running(&mut self, _qmp: &mut Qmp, _resumed: Resumed) -> anyhow::Result<GuestCounter> {
        bail!("{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_is_found() {
        let mut state = b"QEVM\0\0\0\x03 whatever \x04\0\0\0\x02\x05timer\0\0\0\0\0\0\0\x02".to_vec();
        assert_eq!(timer_value(&state), None, "cut off");
        state.extend([0, 0, 0, 9, 0, 0, 0, 1, 0xff]);
        assert_eq!(timer_value(&state), Some(9 << 32 | 1));
        assert_eq!(timer_value(b""), None);
    }
}
