// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's counter as KVM states it in debugfs: `/sys/kernel/debug/kvm/<pid>-<fd>/vcpu<n>/`.

use std::fs::read_to_string;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use vmclock_core::guest_counter::{GuestCounter, Scale};

/// Where the kernel has it.
pub const DEBUGFS: &str = "/sys/kernel/debug/kvm";
/// While a vCPU runs a guest of its own, the numbers are that guest's.
const NESTED_TRIES: u32 = 50;

/// Why a guest's counter is not known.
///
/// ```
/// use std::path::Path;
/// let error = vmclock_qemu::kvm::guest_counter(Path::new("/nowhere"), 1).unwrap_err();
/// assert!(error.to_string().contains("/nowhere: cannot be read"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// Debugfs.
    #[error(
        "{}: cannot be read ({error}); it takes root, and debugfs: mount -t debugfs none /sys/kernel/debug",
        path.display()
    )]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A number.
    #[error("{}: {reason}", path.display())]
    Number {
        /// In which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No virtual machine.
    #[error(
        "{}: KVM has no virtual machine of process {pid}; name QEMU itself, or a script that ends in exec",
        debugfs.display()
    )]
    NoMachine {
        /// Where.
        debugfs: PathBuf,
        /// Of which process.
        pid: u32,
    },
    /// More than one.
    #[error("{}: process {pid} has {count} virtual machines; which of them is the guest is unknown", debugfs.display())]
    SeveralMachines {
        /// Where.
        debugfs: PathBuf,
        /// Of which process.
        pid: u32,
        /// How many.
        count: usize,
    },
    /// A virtual machine without a vCPU.
    #[error("{}: KVM has no vCPU of process {pid}; start the guest first", debugfs.display())]
    NoVcpu {
        /// Where.
        debugfs: PathBuf,
        /// Of which process.
        pid: u32,
    },
    /// vCPUs whose counters differ.
    #[error(
        "the guest's vCPUs have different counters ({} is not as {}): no page can be right for all; let the guest not \
         write its TSC, or give it one vCPU",
        other.display(),
        first.display()
    )]
    Different {
        /// One of them.
        first: PathBuf,
        /// Another.
        other: PathBuf,
    },
    /// A vCPU that runs a guest of its own.
    #[error("{}: runs a guest of its own each time it is read, whose counter is shown then", vcpu.display())]
    Nested {
        /// Which.
        vcpu: PathBuf,
    },
}

/// The counter of the guest of process `pid`, the same on all its vCPUs. Takes up to 50 ms for each vCPU that runs a
/// guest of its own.
pub fn guest_counter(debugfs: &Path, pid: u32) -> Result<GuestCounter, KvmError> {
    let mut vcpus = Vec::new();
    for folder in folders(&machine(debugfs, pid)?, "vcpu")? {
        vcpus.push((vcpu_counter(&folder)?, folder));
    }
    let Some(((counter, first), others)) = vcpus.split_first() else {
        return Err(KvmError::NoVcpu { debugfs: debugfs.into(), pid });
    };
    match others.iter().find(|(other, _)| other != counter) {
        Some((_, other)) => Err(KvmError::Different { first: first.clone(), other: other.clone() }),
        None => Ok(*counter),
    }
}

/// The one virtual machine of the process.
fn machine(debugfs: &Path, pid: u32) -> Result<PathBuf, KvmError> {
    let mut machines = folders(debugfs, &format!("{pid}-"))?;
    match (machines.pop(), machines.len()) {
        (Some(machine), 0) => Ok(machine),
        (None, _) => Err(KvmError::NoMachine { debugfs: debugfs.into(), pid }),
        (Some(_), others) => Err(KvmError::SeveralMachines { debugfs: debugfs.into(), pid, count: others + 1 }),
    }
}

/// The folders whose names are `prefix` and a number, in order.
fn folders(parent: &Path, prefix: &str) -> Result<Vec<PathBuf>, KvmError> {
    let unreadable = |error| KvmError::Folder { path: parent.into(), error };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|number| number.parse::<u32>().ok());
        found.extend(number.map(|number| (number, parent.join(&name))));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, folder)| folder).collect())
}

fn vcpu_counter(vcpu: &Path) -> Result<GuestCounter, KvmError> {
    for _ in 0..NESTED_TRIES {
        // Before and after, as it may change in between.
        if !in_guest_mode(vcpu)? {
            let path = vcpu.join("tsc-offset");
            let Some(offset) = number::<i64>(&path)? else {
                return Err(KvmError::Number { path, reason: "is not there; KVM on x86 has it".into() });
            };
            let scale = scale(vcpu)?;
            if !in_guest_mode(vcpu)? {
                return Ok(GuestCounter::exact(offset.cast_unsigned(), scale));
            }
        }
        sleep(Duration::from_millis(1));
    }
    Err(KvmError::Nested { vcpu: vcpu.into() })
}

fn in_guest_mode(vcpu: &Path) -> Result<bool, KvmError> {
    Ok(number::<u64>(&vcpu.join("guest_mode"))?.is_some_and(|mode| mode != 0))
}

/// The files are there only on hosts that can scale; and a ratio of one is no scaling.
fn scale(vcpu: &Path) -> Result<Option<Scale>, KvmError> {
    let (ratio_path, bits_path) = (vcpu.join("tsc-scaling-ratio"), vcpu.join("tsc-scaling-ratio-frac-bits"));
    let (Some(ratio), Some(bits)) = (number::<u64>(&ratio_path)?, number::<u64>(&bits_path)?) else { return Ok(None) };
    let impossible = |path: PathBuf, number: u64| KvmError::Number { path, reason: format!("{number} is impossible") };
    let Some(fraction_bits) = u8::try_from(bits).ok().filter(|bits| *bits < 64) else {
        return Err(impossible(bits_path, bits));
    };
    if ratio == 0 {
        return Err(impossible(ratio_path, ratio));
    }
    Ok((ratio != 1 << fraction_bits).then_some(Scale { ratio, fraction_bits }))
}

/// The number in a file; `None` if there is no such file.
fn number<N: std::str::FromStr>(path: &Path) -> Result<Option<N>, KvmError> {
    let wrong = |reason| KvmError::Number { path: path.into(), reason };
    match read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(wrong(format!("{text:?} is not a number"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(format!("cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as the kernel shows it: file names, contents and their form are those recorded from Linux 6.18.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, contents) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, contents).expect("written");
        }
        folder
    }

    #[test]
    fn the_recorded_machine() {
        // Without TSC control there are no scaling files.
        let tree = tree(&[
            ("16745-11/vcpu0/guest_mode", "0"),
            ("16745-11/vcpu0/pid", "16747"),
            ("16745-11/vcpu0/tsc-offset", "0"),
            ("16745-11/pages_4k", "17"),
            ("999-11/vcpu0/tsc-offset", "12"),
        ]);
        assert_eq!(guest_counter(tree.path(), 16745).expect("known"), GuestCounter::exact(0, None));
        let error = guest_counter(tree.path(), 1674).expect_err("another process").to_string();
        assert!(error.contains("no virtual machine of process 1674"), "{error}");
    }

    #[test]
    fn scaling() {
        let tree = tree(&[
            ("7-9/vcpu0/guest_mode", "0\n"),
            ("7-9/vcpu0/tsc-offset", "-2443256234522\n"),
            ("7-9/vcpu0/tsc-scaling-ratio", "244813135872000\n"),
            ("7-9/vcpu0/tsc-scaling-ratio-frac-bits", "48\n"),
        ]);
        let scale = Scale { ratio: 244_813_135_872_000, fraction_bits: 48 };
        let counter = guest_counter(tree.path(), 7).expect("known");
        assert_eq!(counter, GuestCounter::exact(0_u64.wrapping_sub(2_443_256_234_522), Some(scale)));
        std::fs::write(tree.path().join("7-9/vcpu0/tsc-scaling-ratio"), (1_u64 << 48).to_string()).expect("written");
        assert_eq!(guest_counter(tree.path(), 7).expect("known"), GuestCounter::exact(counter.offset(), None));
        for nonsense in ["0", "-1", "x", ""] {
            std::fs::write(tree.path().join("7-9/vcpu0/tsc-scaling-ratio"), nonsense).expect("written");
            assert!(guest_counter(tree.path(), 7).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn several_vcpus_have_to_agree() {
        let tree =
            tree(&[("7-9/vcpu0/tsc-offset", "-5"), ("7-9/vcpu1/tsc-offset", "-5"), ("7-9/vcpu10/tsc-offset", "-5")]);
        assert_eq!(guest_counter(tree.path(), 7).expect("known"), GuestCounter::exact(5_u64.wrapping_neg(), None));
        std::fs::write(tree.path().join("7-9/vcpu10/tsc-offset"), "-4").expect("written");
        let error = guest_counter(tree.path(), 7).expect_err("they differ").to_string();
        assert!(error.contains("different counters") && error.contains("vcpu10"), "{error}");
    }

    #[test]
    fn a_nested_guests_numbers_are_not_taken() {
        let tree = tree(&[("7-9/vcpu0/tsc-offset", "-5"), ("7-9/vcpu0/guest_mode", "1")]);
        let error = guest_counter(tree.path(), 7).expect_err("nested").to_string();
        assert!(error.contains("a guest of its own"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let nowhere = Path::new("/nowhere/kvm");
        assert!(guest_counter(nowhere, 1).expect_err("nothing").to_string().contains("/nowhere/kvm: cannot be read"));
        let tree = tree(&[("7-9/vcpu0/pid", "8")]);
        assert!(guest_counter(tree.path(), 7).expect_err("no offset").to_string().contains("tsc-offset: is not there"));
        std::fs::create_dir(tree.path().join("7-10")).expect("made");
        assert!(guest_counter(tree.path(), 7).expect_err("two").to_string().contains("2 virtual machines"));
    }
}
