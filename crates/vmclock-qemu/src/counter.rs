// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a guest's counter is known from, and QEMU's device state.

use std::path::{Path, PathBuf};

use crate::arguments::Accelerator;
use crate::machine::CounterSource;

/// By QEMU's answer to `query-kvm`, and by its arguments.
pub(crate) fn source(is_kvm: bool, accelerator: Accelerator) -> CounterSource {
    let unknown = |why: &str| CounterSource::Unknown(why.into());
    match accelerator {
        _ if !cfg!(target_arch = "x86_64") => unknown("this host is not x86, so a guest's TSC is not its counter"),
        _ if is_kvm => CounterSource::Kvm,
        Accelerator::MaybeTcg => CounterSource::Tcg,
        Accelerator::InstructionCount => unknown("with -icount the guest's counter counts instructions, not time"),
        Accelerator::Kvm | Accelerator::Other => {
            unknown("the guest's counter is known with the accelerators kvm and tcg only")
        }
    }
}

/// The file that QEMU writes its device state to.
pub(crate) struct DeviceState {
    path: PathBuf,
}

impl DeviceState {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("device-state") }
    }

    /// For QMP, which is text.
    pub(crate) fn path(&self) -> Result<&str, String> {
        self.path.to_str().ok_or_else(|| {
            format!(
                "{}: is not UTF-8, as QEMU's monitor needs it; name another folder with TMPDIR",
                self.path.display()
            )
        })
    }

    /// The guest's counter in the file that QEMU has just written.
    pub(crate) fn take(&self) -> Result<u64, String> {
        let path = self.path.display();
        let state = std::fs::read(&self.path).map_err(|error| {
            format!("{path}: cannot read QEMU's device state: {error}; QEMU has to be able to write there")
        })?;
        // The next one is written anew; if it stays, it goes with its folder.
        let _ = std::fs::remove_file(&self.path);
        timer_value(&state).ok_or_else(|| "QEMU's device state has no timer of the known form (version 2)".into())
    }
}

/// `cpu_ticks_offset`, which is the guest's counter while the guest is paused, out of QEMU's device state: a section
/// header's end with the name `timer`, instance 0 and version 2, then the number, the most significant byte first.
fn timer_value(state: &[u8]) -> Option<u64> {
    const HEADER: &[u8] = b"\x05timer\0\0\0\0\0\0\0\x02";
    let at = state.windows(HEADER.len()).position(|window| window == HEADER)? + HEADER.len();
    Some(u64::from_be_bytes(state.get(at..at + 8)?.try_into().ok()?))
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

    #[test]
    fn a_state_is_read_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = DeviceState::in_folder(folder.path());
        let mut bytes = b"\x05timer\0\0\0\0\0\0\0\x02".to_vec();
        bytes.extend(7_u64.to_be_bytes());
        std::fs::write(state.path().expect("text"), bytes).expect("written");
        assert_eq!(state.take(), Ok(7));
        assert!(state.take().expect_err("it is another pause's").contains("device-state: cannot read"));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn sources() {
        assert_eq!(source(true, Accelerator::MaybeTcg), CounterSource::Kvm);
        assert_eq!(source(false, Accelerator::MaybeTcg), CounterSource::Tcg);
        assert!(matches!(source(false, Accelerator::Kvm), CounterSource::Unknown(_)), "KVM is not enabled after all");
        let counted = source(false, Accelerator::InstructionCount);
        assert!(matches!(counted, CounterSource::Unknown(why) if why.contains("icount")));
    }
}
