// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What a device saves is taken up in every version, and nothing else is.
#![cfg(not(loom))]

mod machine;

use proptest::prelude::*;
use vmclock_core::abi::{Flags, STRUCTURE_LEN};
use vmclock_vmm::device::{Arrival, Error};
use vmclock_vmm::lineage::Lineage;
use vmclock_vmm::state::{Identities, State, StateError};

use machine::{arrived, bytes, calibration, guest, incoming, region, saved, seen};

#[cfg(feature = "serde")]
#[test]
fn states_of_every_version_are_read() {
    let golden = include_str!("golden/state-1.json");
    let state: State = serde_json::from_str(golden).expect("version 1");
    let memory = guest();
    let device = arrived(region(&memory), (), &state, Arrival::Restore, None, [7, 8]).expect("written");
    assert_eq!(device.page().time_sec, 1_800_000_000);
    assert!(device.page().seq_count > 1 << 28);

    // It is written as it was, and read in any order.
    assert_eq!(serde_json::to_string(&state).expect("text"), golden.trim_end());
    let (mut new, old) = (saved(), state);
    // But for marker and generation, and a notification, which that device had.
    (new.page[2], new.page[13]) = (old.page[2], old.page[13]);
    new.page[3] |= Flags::NOTIFICATION_PRESENT.0;
    assert_eq!(new, old);
    let parts: serde_json::Value = serde_json::from_str(golden).expect("JSON");
    let turned = format!(r#"{{"identities":{},"more":[1],"page":{},"version":1}}"#, parts["identities"], parts["page"]);
    assert_eq!(serde_json::from_str::<State>(&turned).expect("text"), state);
    for damaged in ["{}", r#"{"version":1,"page":[]}"#, r#"{"version":1,"version":1}"#, r#"{"page":7,"version":1}"#] {
        assert!(serde_json::from_str::<State>(damaged).is_err(), "{damaged}");
    }
}

/// A newer version may have any shape: the error is that it is newer.
#[cfg(feature = "serde")]
#[test]
fn states_of_newer_versions_are_refused_by_name() {
    let golden = include_str!("golden/state-1.json");
    let newer = golden.replace("\"version\":1", "\"version\":2");
    for newer in [
        newer.as_str(),
        &newer.replace("Unpredictable", "Keyed"),
        &newer.replacen("\"page\":[", "\"page\":[-1,{},", 1),
        r#"{"version":2,"words":[1],"identities":"Counting"}"#,
        r#"{"version":2}"#,
        r#"{"words":{"a":[]},"page":"none","identities":{"Keyed":-1.5},"version":2}"#,
        r#"[2, "all", {"else": true}]"#,
    ] {
        let error = serde_json::from_str::<State>(newer).expect_err("newer").to_string();
        assert!(error.contains("version 2") && error.contains("known here is 1"), "{newer}: {error}");
        assert!(error.contains("newer monitor"), "{error}");
    }
    assert!(
        serde_json::from_str::<State>("[1,[0,0,0,0,0,0,0,0,0,0,0,0,0,0],\"Counting\"]").is_ok(),
        "as formats without names have it"
    );
}

#[test]
fn what_no_device_could_have_saved_is_refused() {
    let memory = guest();
    let refused = |change: &dyn Fn(&mut State)| {
        let mut state = saved();
        change(&mut state);
        let Err(Error::State(error)) = arrived(region(&memory), (), &state, Arrival::Restore, None, [7, 8]) else {
            panic!("taken up: {state:?}")
        };
        let text = error.to_string();
        assert!(text.contains("is damaged") || text.contains("newer monitor"), "{text}");
        error
    };
    assert_eq!(refused(&|state| state.version = 2), StateError::Version { found: 2, known: 1 });
    assert_eq!(refused(&|state| state.version = 0), StateError::Version { found: 0, known: 1 });
    assert!(matches!(refused(&|state| state.page[0] = 0), StateError::Page(_)));
    assert!(matches!(refused(&|state| state.page[1] |= 1 << 32), StateError::Page(_)), "in the middle of an update");
    for size in [16, 112, 0x2000, u32::MAX] {
        let word = u64::from(size) << 32 | 0x4b4c_4356;
        assert_eq!(refused(&|state| state.page[0] = word), StateError::Region { found: size, memory: 0x1000 });
    }
    for (counter, time_type) in [(0xff, 1), (1, 0), (1, 2), (0, 0), (7, 1), (1, 3)] {
        let word = 4 << 32 | time_type << 24 | counter << 16 | 1;
        assert!(matches!(refused(&|state| state.page[1] = word), StateError::Counter { .. }));
    }
    assert!(matches!(refused(&|state| state.page[6] = 0), StateError::Time(_)), "a period of 0");
    assert!(matches!(refused(&|state| state.page[9] = 1 << 63), StateError::Time(_)));
    for count in [1 << 24, u32::MAX] {
        let lineage = Lineage { key: [1, 2], count };
        let error = refused(&|state| state.identities = Identities::Unpredictable(lineage));
        assert_eq!(error, StateError::Count(count));
    }

    // Claims that no device here enforces, and what no device writes.
    let mut state = saved();
    state.page[3] = u64::MAX;
    state.page[4] |= 0x0100_ffff;
    let device = arrived(region(&memory), (), &state, Arrival::Restore, None, [7, 8]).expect("taken up");
    let errors = Flags::PERIOD_ESTERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID);
    let errors = errors.with(Flags::TIME_ESTERROR_VALID).with(Flags::TIME_MAXERROR_VALID);
    assert_eq!(device.page().flags, errors.with(Flags::VM_GEN_COUNTER_PRESENT));
    assert_eq!(device.page().pad, [0; 2]);
}

#[test]
fn bytes_are_those_of_version_1_and_others_are_refused_by_name() {
    let counting = State::default();
    let bytes = counting.to_bytes();
    assert_eq!(&bytes[..16], b"VMCLKDEV\x01\0\0\0\0\0\0\0");
    assert_eq!((&bytes[16..24], &bytes[128..]), (&b"VCLK\0\x10\0\0"[..], &[0; 24][..]));
    assert_eq!(State::from_bytes(&bytes), Ok(counting));
    let memory = guest();
    let device = arrived(region(&memory), (), &counting, Arrival::Restore, None, [7, 8]).expect("it can be taken up");
    assert_eq!((device.page().generation(), device.page().counter_id), (Some(1), vmclock_core::abi::CounterId::NONE));

    let state = saved();
    let bytes = state.to_bytes();
    assert_eq!(State::from_bytes(&bytes), Ok(state));
    assert_eq!(&bytes[8..16], [1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(&bytes[128..152], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    for len in [0, 7, 8, 11] {
        assert!(State::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(State::from_bytes(&bytes[..151]), Err(StateError::Length(151)));
    assert_eq!(State::from_bytes(&[&bytes[..], &[0]].concat()), Err(StateError::Length(153)));
    assert_eq!(State::from_bytes(&bytes[1..]), Err(StateError::Magic));
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes;
        bytes[at] = byte;
        State::from_bytes(&bytes)
    };
    let newer = StateError::Version { found: 2, known: 1 };
    assert_eq!(changed(8, 2), Err(newer));
    assert_eq!(State::from_bytes(&[&b"VMCLKDEV\x02\0\0\0"[..], &[0xff; 500]].concat()), Err(newer), "of any length");
    assert_eq!(changed(12, 2), Err(StateError::Identities(2)));
    let count = changed(151, 1).expect("it is judged when it is taken up");
    assert!(matches!(
        arrived(region(&memory), (), &count, Arrival::Restore, None, [7, 8]),
        Err(Error::State(StateError::Count(u32::MAX)))
    ));
}

#[test]
fn errors_have_their_causes() {
    let mut state = saved();
    state.page[0] = 0;
    let memory = guest();
    let error = arrived(region(&memory), (), &state, Arrival::Restore, None, [7, 8]).expect_err("no page");
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(source.contains("magic") || source.contains("VCLK"), "{source}");
    assert!(!error.to_string().contains(&source), "it is said once");
}

fn states() -> impl Strategy<Value = State> {
    let page = prop_oneof![
        Just(saved().page),
        any::<[u64; 14]>(),
        // A page with a few words of it changed, or a few bits.
        prop::collection::vec((0..14_usize, any::<u64>(), any::<bool>()), 0..4).prop_map(|changes| {
            let mut page = saved().page;
            for (word, value, is_bit) in changes {
                page[word] = if is_bit { page[word] ^ 1 << (value % 64) } else { value };
            }
            page
        }),
    ];
    let count = prop_oneof![any::<u32>(), (1_u32 << 24) - 3..1 << 24, Just(u32::MAX)];
    let identities = prop_oneof![
        Just(Identities::Counting),
        (any::<[u64; 2]>(), count).prop_map(|(key, count)| Identities::Unpredictable(Lineage { key, count })),
    ];
    (prop_oneof![9 => Just(1), 1 => any::<u32>()], page, identities)
        .prop_map(|(version, page, identities)| State::from_parts(version, page, identities))
}

proptest! {
    /// Damaged, or made by somebody who means harm: it is refused, or the page is one that readers take.
    #[test]
    fn any_state_is_taken_up_or_refused(
        state in states(), is_restored in any::<bool>(), is_calibrated in any::<bool>(), fresh in any::<u64>(),
    ) {
        let memory = guest();
        let known = calibration(5, 1_800_000_000);
        let known = is_calibrated.then_some(&known);
        let _ = state.guest_counter(&calibration(fresh, 1_900_000_000).calibration, None);
        match incoming(&memory, &state, known, is_restored.then_some(fresh)) {
            Ok(mut device) => {
                let page = seen(&memory);
                prop_assert_eq!(&page, device.page());
                prop_assert_eq!(page.clock_status.gives_time(), is_calibrated);
                prop_assert!(page.generation().is_some() && !page.flags.contains(Flags::TIME_MONOTONIC));
                device.disrupt(fresh).expect("written");
                prop_assert_ne!(page.disruption_marker, seen(&memory).disruption_marker);
            }
            Err(Error::State(_) | Error::NoCounter | Error::BeforeEpoch) => prop_assert_eq!(bytes(&memory), [0; STRUCTURE_LEN]),
            Err(error) => panic!("{error}"),
        }
    }
}
