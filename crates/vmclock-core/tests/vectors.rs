// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Exact vectors: what a page must give at a counter value, computed by a program that shares no code with this one.
#![cfg(not(loom))]
#![allow(clippy::pedantic)]

use serde::Deserialize;
use vmclock_core::abi::{CounterId, Snapshot};
use vmclock_core::calibration::Calibration;
use vmclock_core::leap::{tai, UtcRule};
use vmclock_core::time::Timestamp;

#[derive(Deserialize)]
struct Vector {
    name: String,
    page: String,
    counter: u64,
    expect: Expect,
}

#[derive(Deserialize)]
struct Expect {
    status: String,
    disruption_marker: u64,
    vm_generation_counter: Option<u64>,
    time: Option<Stamp>,
    earliest: Option<Stamp>,
    latest: Option<Stamp>,
    tai: Option<Stamp>,
    utc: Option<UtcStamp>,
    exit: u8,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Stamp {
    sec: i64,
    nsec: u32,
}

#[derive(Deserialize, PartialEq, Debug)]
struct UtcStamp {
    sec: i64,
    nsec: u32,
    leap_second: bool,
}

fn stamp<S>(stamp: Timestamp<S>) -> Stamp {
    Stamp { sec: stamp.seconds(), nsec: stamp.subsec_nanos() }
}

fn region(hex: &str, size: usize) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().map(|digit| digit.to_digit(16).expect("a hex digit")).collect();
    let mut bytes: Vec<u8> =
        digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("a byte")).collect();
    bytes.resize(size.max(bytes.len()), 0);
    bytes
}

#[test]
fn every_vector_is_met_exactly() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("vectors/time-at-counter.json")).expect("the vectors are JSON");
    assert_eq!(vectors.len(), 115);
    for Vector { name, page, counter, expect } in vectors {
        let page = Snapshot::from_prefix(&region(&page, 4096)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(page.clock_status.to_string(), expect.status, "{name}");
        assert_eq!(page.disruption_marker, expect.disruption_marker, "{name}");
        assert_eq!(page.generation(), expect.vm_generation_counter, "{name}");
        let calibration = Calibration::from_snapshot(&page, CounterId::X86_TSC);
        assert_eq!(calibration.is_ok(), expect.exit == 0, "{name}: {calibration:?}");
        let time = calibration.and_then(|calibration| calibration.time_at(counter)).ok();
        let interval = calibration.ok().and_then(|calibration| calibration.interval_at(counter).expect("in range"));
        let utc = time.and_then(|time| UtcRule::from_snapshot(&page)?.utc(time)).map(|utc| UtcStamp {
            sec: utc.time.seconds(),
            nsec: utc.time.subsec_nanos(),
            leap_second: utc.leap_second,
        });
        assert_eq!(time.map(|time| stamp(time.timestamp())), expect.time, "{name}: time");
        assert_eq!(interval.map(|interval| stamp(interval.earliest)), expect.earliest, "{name}: earliest");
        assert_eq!(interval.map(|interval| stamp(interval.latest)), expect.latest, "{name}: latest");
        assert_eq!(time.and_then(|time| tai(&page, time)).map(|tai| stamp(tai.timestamp())), expect.tai, "{name}: tai");
        assert_eq!(utc, expect.utc, "{name}: utc");
    }
}
