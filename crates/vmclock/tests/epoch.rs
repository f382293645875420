// SPDX-License-Identifier: MIT OR Apache-2.0
//! `is_current` gives the answer that comparing epochs gives, on every kind of page and through every way to it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vmclock::mock::MockPage;
use vmclock::{Epoch, OpenOptions, ReadError, Snapshot, VmClock};
use vmclock_core::abi::Flags;
use vmclock_core::page::{Page, Writer};

const PRESENT: Flags = Flags::VM_GEN_COUNTER_PRESENT;

fn write(path: &Path, page: &Snapshot) {
    let mut bytes = page.to_bytes().to_vec();
    bytes.resize(4096, 0);
    std::fs::write(path, bytes).expect("written");
}

fn page(marker: u64, generation: Option<u64>) -> Snapshot {
    Snapshot::BLANK.with(|page| {
        page.disruption_marker = marker;
        page.flags = if generation.is_some() { PRESENT } else { Flags::NONE };
        page.vm_generation_counter = generation.unwrap_or_default();
    })
}

/// Numbers of which some are equal to others.
fn few() -> impl Strategy<Value = u64> {
    prop_oneof![0..3u64, Just(u64::MAX), any::<u64>()]
}

fn pages() -> impl Strategy<Value = Snapshot> {
    let sizes = prop_oneof![Just(4096u32), 0x10..0x78u32];
    let flags = prop_oneof![Just(PRESENT), Just(Flags::NONE), any::<u64>().prop_map(Flags)];
    (few(), few(), sizes, flags).prop_map(|(disruption_marker, vm_generation_counter, size, flags)| {
        Snapshot::BLANK.with(|page| {
            page.disruption_marker = disruption_marker;
            page.vm_generation_counter = vm_generation_counter;
            page.size = size;
            page.flags = flags;
        })
    })
}

fn epochs() -> impl Strategy<Value = Epoch> {
    (few(), proptest::option::of(few()))
        .prop_map(|(disruption_marker, generation)| Epoch { disruption_marker, generation })
}

proptest! {
    #[test]
    fn a_page_is_still_of_its_epoch_and_no_other(contents in pages(), other in epochs()) {
        let page = Page::new();
        let _writer = Writer::create(&page, contents);
        let its_own = Epoch::of(&contents.clipped());
        prop_assert_eq!(page.epoch(|| false), Ok(its_own));
        let whole = contents.size >= 0x70;
        prop_assert_eq!(page.is_still_of(&its_own), whole, "of a shorter page it is not certain");
        prop_assert_eq!(page.is_still_of(&other), whole && other == its_own);
    }

    #[test]
    fn a_clock_compares_exactly(contents in pages(), other in epochs()) {
        let mock = MockPage::with(contents);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        write(&path, &contents);
        let its_own = Epoch::of(&contents.clipped());
        for clock in [
            mock.clock(),
            VmClock::open_at(&path).expect("opened"),
            OpenOptions::new().map(false).open(&path).expect("opened"),
        ] {
            prop_assert_eq!(clock.epoch(), Ok(its_own));
            prop_assert_eq!(clock.is_current(&its_own), Ok(true));
            prop_assert_eq!(clock.is_current(&other), Ok(other == its_own));
        }
    }
}

#[test]
fn what_happens_to_the_machine_is_seen() {
    let mock = MockPage::new();
    let clock = mock.clock();
    let known = clock.epoch().expect("read");
    mock.update(|page| page.time_maxerror_nanosec += 1);
    assert_eq!(clock.is_current(&known), Ok(true), "a refresh is no event");
    for happen in [MockPage::disrupt, MockPage::restore] {
        let known = clock.epoch().expect("read");
        happen(&mock);
        assert_eq!(clock.is_current(&known), Ok(false));
    }
    let known = clock.epoch().expect("read");
    mock.update(|page| page.flags = page.flags.without(PRESENT));
    assert_eq!(clock.is_current(&known), Ok(false), "a generation that is not stated is not the same");
}

#[test]
fn a_page_being_updated_is_waited_for_and_then_busy() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("page");
    let contents = page(7, Some(8));
    write(&path, &contents);
    let clock = OpenOptions::new().max_wait(Duration::from_millis(5)).open(&path).expect("opened");
    let known = clock.epoch().expect("read");
    write(&path, &contents.with(|page| page.seq_count = 3));
    let start = Instant::now();
    assert!(matches!(clock.is_current(&known), Err(ReadError::Busy(busy)) if busy.seq_count == 3));
    assert!(start.elapsed() >= Duration::from_millis(5));
    write(&path, &contents.with(|page| page.seq_count = 4));
    assert_eq!(clock.is_current(&known), Ok(true));
}

#[test]
fn a_file_that_was_cut_short_has_no_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    // Zeros are what a lost page reads as: they must not pass for a page that has nothing else.
    for contents in [page(7, Some(8)), page(7, None), page(0, Some(0)), page(0, None)] {
        let path = folder.path().join("page");
        write(&path, &contents);
        let clock = VmClock::open_at(&path).expect("opened");
        let known = clock.epoch().expect("read");
        assert_eq!(clock.is_current(&known), Ok(true));
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("cut");
        assert_eq!(clock.is_current(&known), Err(ReadError::Vanished { len: 0 }));
        assert_eq!(clock.epoch(), Err(ReadError::Vanished { len: 0 }));
    }
}
