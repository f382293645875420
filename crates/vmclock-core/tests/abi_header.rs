// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Our layout against Linux's own header, by a C compiler.
//!
//! `cargo xtask test` names a folder with the newest header that Debian has in `VMCLOCK_ABI_INCLUDE`; otherwise the
//! system's is used, if it has one.
#![cfg(not(loom))]

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use core::mem::offset_of;
use vmclock_core::abi::{
    ClockStatus, CounterId, Flags, LeapIndicator, SmearingHint, Snapshot, TimeType, MAGIC, STRUCTURE_LEN,
};

/// Each expression in C, and what it must be.
fn expectations() -> Vec<(String, u64)> {
    let mut all = vec![("sizeof(struct vmclock_abi)".to_owned(), STRUCTURE_LEN as u64)];
    macro_rules! offsets {
        ($($field:ident),* $(,)?) => {
            $({
                let expression = concat!("offsetof(struct vmclock_abi, ", stringify!($field), ")");
                all.push((expression.to_owned(), offset_of!(Snapshot, $field) as u64));
            })*
        };
    }
    offsets!(
        magic,
        size,
        version,
        counter_id,
        time_type,
        seq_count,
        disruption_marker,
        flags,
        pad,
        clock_status,
        leap_second_smearing_hint,
        tai_offset_sec,
        leap_indicator,
        counter_period_shift,
        counter_value,
        counter_period_frac_sec,
        counter_period_esterror_rate_frac_sec,
        counter_period_maxerror_rate_frac_sec,
        time_sec,
        time_frac_sec,
        time_esterror_nanosec,
        time_maxerror_nanosec,
        vm_generation_counter,
    );
    for (name, value) in [
        ("VMCLOCK_MAGIC", u64::from(MAGIC)),
        ("VMCLOCK_COUNTER_ARM_VCNT", CounterId::ARM_CNTVCT.0.into()),
        ("VMCLOCK_COUNTER_X86_TSC", CounterId::X86_TSC.0.into()),
        ("VMCLOCK_COUNTER_INVALID", CounterId::NONE.0.into()),
        ("VMCLOCK_TIME_UTC", TimeType::UTC.0.into()),
        ("VMCLOCK_TIME_TAI", TimeType::TAI.0.into()),
        ("VMCLOCK_TIME_MONOTONIC", TimeType::MONOTONIC.0.into()),
        ("VMCLOCK_TIME_INVALID_SMEARED", TimeType::INVALID_SMEARED.0.into()),
        ("VMCLOCK_TIME_INVALID_MAYBE_SMEARED", TimeType::INVALID_MAYBE_SMEARED.0.into()),
        ("VMCLOCK_FLAG_TAI_OFFSET_VALID", Flags::TAI_OFFSET_VALID.0),
        ("VMCLOCK_FLAG_DISRUPTION_SOON", Flags::DISRUPTION_SOON.0),
        ("VMCLOCK_FLAG_DISRUPTION_IMMINENT", Flags::DISRUPTION_IMMINENT.0),
        ("VMCLOCK_FLAG_PERIOD_ESTERROR_VALID", Flags::PERIOD_ESTERROR_VALID.0),
        ("VMCLOCK_FLAG_PERIOD_MAXERROR_VALID", Flags::PERIOD_MAXERROR_VALID.0),
        ("VMCLOCK_FLAG_TIME_ESTERROR_VALID", Flags::TIME_ESTERROR_VALID.0),
        ("VMCLOCK_FLAG_TIME_MAXERROR_VALID", Flags::TIME_MAXERROR_VALID.0),
        ("VMCLOCK_FLAG_TIME_MONOTONIC", Flags::TIME_MONOTONIC.0),
        ("VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT", Flags::VM_GEN_COUNTER_PRESENT.0),
        ("VMCLOCK_FLAG_NOTIFICATION_PRESENT", Flags::NOTIFICATION_PRESENT.0),
        ("VMCLOCK_STATUS_UNKNOWN", ClockStatus::UNKNOWN.0.into()),
        ("VMCLOCK_STATUS_INITIALIZING", ClockStatus::INITIALIZING.0.into()),
        ("VMCLOCK_STATUS_SYNCHRONIZED", ClockStatus::SYNCHRONIZED.0.into()),
        ("VMCLOCK_STATUS_FREERUNNING", ClockStatus::FREE_RUNNING.0.into()),
        ("VMCLOCK_STATUS_UNRELIABLE", ClockStatus::UNRELIABLE.0.into()),
        ("VMCLOCK_SMEARING_STRICT", SmearingHint::STRICT.0.into()),
        ("VMCLOCK_SMEARING_NOON_LINEAR", SmearingHint::NOON_LINEAR.0.into()),
        ("VMCLOCK_SMEARING_UTC_SLS", SmearingHint::UTC_SLS.0.into()),
        ("VMCLOCK_LEAP_NONE", LeapIndicator::NONE.0.into()),
        ("VMCLOCK_LEAP_PRE_POS", LeapIndicator::PRE_POSITIVE.0.into()),
        ("VMCLOCK_LEAP_PRE_NEG", LeapIndicator::PRE_NEGATIVE.0.into()),
        ("VMCLOCK_LEAP_POS", LeapIndicator::POSITIVE.0.into()),
        ("VMCLOCK_LEAP_POST_POS", LeapIndicator::POST_POSITIVE.0.into()),
        ("VMCLOCK_LEAP_POST_NEG", LeapIndicator::POST_NEGATIVE.0.into()),
    ] {
        all.push((name.to_owned(), value));
    }
    all
}

/// The include folder to use, or why there is none.
fn include_folder() -> Result<PathBuf, String> {
    const HEADER: &str = "linux/vmclock-abi.h";
    if let Some(folder) = std::env::var_os("VMCLOCK_ABI_INCLUDE").map(PathBuf::from) {
        assert!(folder.join(HEADER).exists(), "VMCLOCK_ABI_INCLUDE is {}: no {HEADER} there", folder.display());
        return Ok(folder);
    }
    let system = PathBuf::from("/usr/include");
    if system.join(HEADER).exists() {
        Ok(system)
    } else {
        Err(format!("no {HEADER} in {} (Linux 6.13 and later have it)", system.display()))
    }
}

#[test]
fn every_offset_and_constant_is_as_in_linux() {
    let folder = match include_folder() {
        Ok(folder) => folder,
        Err(reason) => return println!("nothing to compare with: {reason}"),
    };
    let expectations = expectations();
    let mut prints = String::new();
    for (expression, _) in &expectations {
        writeln!(prints, "printf(\"%llu\\n\", (unsigned long long)({expression}));").expect("a String grows");
    }
    let source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/vmclock-abi.h>\n\
         int main(void) {{\n{prints}return 0;\n}}\n"
    );
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (file, program) = (scratch.join("abi_header.c"), scratch.join("abi_header"));
    std::fs::write(&file, source).expect("the scratch folder can be written");
    let compiled = Command::new("cc").arg("-isystem").arg(&folder).arg("-o").arg(&program).arg(&file).output();
    let compiled = compiled.expect("there is a C compiler, cc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().expect("what was compiled runs");
    let output = String::from_utf8(output.stdout).expect("numbers");
    let values: Vec<u64> = output.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(values.len(), expectations.len());
    for ((expression, ours), linux) in expectations.iter().zip(values) {
        assert_eq!(*ours, linux, "{expression}");
    }
    println!("{} offsets and constants are as in {}", expectations.len(), folder.display());
}
