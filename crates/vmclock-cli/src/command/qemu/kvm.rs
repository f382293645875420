// SPDX-License-Identifier: MIT OR Apache-2.0
//! What KVM says of a guest's counter, in debugfs: `/sys/kernel/debug/kvm/<pid>-<fd>/vcpu<n>/`.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{bail, ensure, Context};

use vmclock_vmm::counter::{GuestCounter, Scale};

/// Where the kernel has it.
pub(super) const DEBUGFS: &str = "/sys/kernel/debug/kvm";
/// While a vCPU runs a guest of its own, the numbers are that guest's.
const NESTED_TRIES: u32 = 50;

/// The counter of the guest of process `pid`, the same on all its vCPUs.
pub(super) fn guest_counter(debugfs: &Path, pid: u32) -> anyhow::Result<GuestCounter> {
    let mut vcpus = Vec::new();
    for folder in folders(&machine(debugfs, pid)?, "vcpu")? {
        vcpus.push((vcpu_counter(&folder)?, folder));
    }
    let Some(((counter, first), others)) = vcpus.split_first() else {
        bail!("{}: KVM shows no vCPU of process {pid}: is the guest being started?", debugfs.display());
    };
    for (other, folder) in others {
        ensure!(
            other == counter,
            "the guest's vCPUs have different counters ({} is not as {}): one page cannot be right for all; \
let the guest not write its TSC, or give it one vCPU",
            folder.display(),
            first.display()
        );
    }
    Ok(*counter)
}

/// The one virtual machine of the process.
fn machine(debugfs: &Path, pid: u32) -> anyhow::Result<PathBuf> {
    let mut machines = folders(debugfs, &format!("{pid}-"))?;
    match (machines.pop(), machines.len()) {
        (Some(machine), 0) => Ok(machine),
        (None, _) => bail!(
            "{}: KVM shows no virtual machine of process {pid}; name QEMU itself and not a script that starts it otherwise than by exec",
            debugfs.display()
        ),
        (Some(_), others) => bail!("{}: process {pid} has {} virtual machines", debugfs.display(), others + 1),
    }
}

/// The folders whose names are `prefix` and a number, in order.
fn folders(parent: &Path, prefix: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(parent).with_context(|| {
        format!(
            "{}: cannot be read; it takes root, and debugfs: mount -t debugfs none /sys/kernel/debug",
            parent.display()
        )
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("{}: cannot be read", parent.display()))?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|number| number.parse::<u32>().ok());
        found.extend(number.map(|number| (number, parent.join(&name))));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, folder)| folder).collect())
}

fn vcpu_counter(vcpu: &Path) -> anyhow::Result<GuestCounter> {
    for _ in 0..NESTED_TRIES {
        // Before and after, as it may change in between.
        if !in_guest_mode(vcpu)? {
            let offset = number::<i64>(&vcpu.join("tsc-offset"))?.context("no tsc-offset: is this KVM on x86?")?;
            let scale = scale(vcpu)?;
            if !in_guest_mode(vcpu)? {
                return Ok(GuestCounter::exact(offset.cast_unsigned(), scale));
            }
        }
        sleep(Duration::from_millis(1));
    }
    bail!("{}: runs a guest of its own whenever it is looked at, and its own counter is not shown then", vcpu.display())
}

fn in_guest_mode(vcpu: &Path) -> anyhow::Result<bool> {
    Ok(number::<u64>(&vcpu.join("guest_mode"))?.is_some_and(|mode| mode != 0))
}

/// The files are there only on hosts that can scale; and a ratio of one is no scaling.
fn scale(vcpu: &Path) -> anyhow::Result<Option<Scale>> {
    let ratio = number::<u64>(&vcpu.join("tsc-scaling-ratio"))?;
    let bits = number::<u64>(&vcpu.join("tsc-scaling-ratio-frac-bits"))?;
    let (Some(ratio), Some(bits)) = (ratio, bits) else { return Ok(None) };
    let fraction_bits = u8::try_from(bits).ok().filter(|bits| *bits < 64);
    let fraction_bits = fraction_bits
        .with_context(|| format!("{}: tsc-scaling-ratio-frac-bits is {bits}, which cannot be", vcpu.display()))?;
    ensure!(ratio != 0, "{}: tsc-scaling-ratio is 0, which cannot be", vcpu.display());
    Ok((ratio != 1 << fraction_bits).then_some(Scale { ratio, fraction_bits }))
}

/// The number in a file; `None` if there is no such file.
fn number<N: std::str::FromStr>(path: &Path) -> anyhow::Result<Option<N>> {
    match read_to_string(path) {
        Ok(text) => {
            let number = text.trim().parse().ok();
            Ok(Some(number.with_context(|| format!("{}: {text:?} is not a number", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: cannot be read", path.display())),
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
        assert!(guest_counter(nowhere, 1)
            .expect_err("nothing")
            .to_string()
            .contains("/nowhere/kvm: cannot be read; it takes root"));
        let tree = tree(&[("7-9/vcpu0/pid", "8")]);
        assert!(guest_counter(tree.path(), 7).expect_err("no offset").to_string().contains("no tsc-offset"));
        std::fs::create_dir(tree.path().join("7-10")).expect("made");
        assert!(guest_counter(tree.path(), 7).expect_err("two").to_string().contains("2 virtual machines"));
    }
}
