// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What a writer leaves in memory: of any kind, from any sequence count, and where a store fails.
#![cfg(not(loom))]
#![allow(clippy::pedantic)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};
use vmclock_core::page::{publish, write_initial, Page, PageMemory, Writer};

/// An update: the odd count, three words of constants, twelve others, the even count.
const STORES: usize = 1 + 3 + 12 + 1;

#[derive(Debug)]
struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("full")
    }
}

impl std::error::Error for Full {}

/// Memory that takes so many stores, and keeps what it was asked to.
struct Memory {
    bytes: RefCell<[u8; STRUCTURE_LEN]>,
    left: Cell<usize>,
    stores: RefCell<Vec<(u64, Ordering)>>,
}

impl Memory {
    fn new(bytes: [u8; STRUCTURE_LEN], left: usize) -> Self {
        Self { bytes: RefCell::new(bytes), left: Cell::new(left), stores: RefCell::default() }
    }

    fn store(&self, offset: u64, value: &[u8], order: Ordering) -> Result<(), Full> {
        self.left.set(self.left.get().checked_sub(1).ok_or(Full)?);
        let start = usize::try_from(offset).unwrap();
        self.bytes.borrow_mut()[start..start + value.len()].copy_from_slice(value);
        self.stores.borrow_mut().push((offset, order));
        Ok(())
    }

    fn contents(&self) -> Snapshot {
        Snapshot::from_bytes(&self.bytes.borrow())
    }
}

impl PageMemory for Memory {
    type Error = Full;

    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), Full> {
        self.store(offset, &value.to_le_bytes(), order)
    }

    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), Full> {
        self.store(offset, &value.to_le_bytes(), order)
    }
}

fn any_contents() -> impl Strategy<Value = Snapshot> {
    prop::collection::vec(any::<u8>(), STRUCTURE_LEN)
        .prop_map(|bytes| Snapshot::from_bytes(&bytes.try_into().expect("as long")))
}

/// Any count, those around the end among them.
fn any_count() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0..8u32).prop_map(|more| more.wrapping_sub(4))]
}

/// The count after an update, from an even or an odd one.
fn next(count: u32) -> u32 {
    match count {
        0xffff_fffe | 0xffff_ffff => 2,
        count if count % 2 == 0 => count + 2,
        count => count + 1,
    }
}

proptest! {
    #[test]
    fn an_update_leaves_the_contents_and_the_next_count(contents in any_contents(), count in any_count()) {
        let memory = Memory::new([0xee; STRUCTURE_LEN], STORES);
        let mut published = contents.with(|page| page.seq_count = count);
        publish(&memory, &mut published).expect("enough stores");
        prop_assert_eq!(published, contents.with(|page| page.seq_count = next(count)));
        prop_assert_eq!(memory.contents(), published);
        let stores = memory.stores.take();
        prop_assert_eq!(stores.len(), STORES);
        prop_assert_eq!((stores[0], stores[STORES - 1]), ((0x0c, Ordering::Relaxed), (0x0c, Ordering::Release)));
        prop_assert!(stores[1..STORES - 1].iter().all(|(offset, _)| *offset != 0x0c));
    }

    #[test]
    fn every_writer_of_a_mapped_page_skips_0(contents in any_contents(), count in any_count(), updates in 1..5) {
        let contents = contents.with(|page| {
    page.seq_count = count;
    page.magic = Snapshot::BLANK.magic;
    page.version = 1;
    page.size = 4096;
});
        let page = Page::new();
        let mut writer = Writer::create(&page, contents);
        prop_assert_eq!(page.sequence(), 2);
        writer.continue_after(count);
        let mut expected = count;
        for turn in 0..updates {
            expected = next(expected);
            match turn % 3 {
                0 => writer.update(|page| page.seq_count = 7), // which is not theirs to choose
                1 => writer.update_late(|page| page.seq_count = 0),
                _ => writer.update_observed(|page| page.seq_count = 1, || assert_eq!(page.sequence() % 2, 1)),
            }
            prop_assert_eq!(page.sequence(), expected);
            prop_assert_eq!(page.snapshot(|| false), Ok(contents.with(|page| page.seq_count = expected)));
            prop_assert_eq!(writer.contents(), &contents.with(|page| page.seq_count = expected));
        }
        // Another writer finds it, and one that makes it anew.
        let (_, mut taken) = Writer::take_over(&page, 4096).expect("a page");
        taken.update(|_| ());
        prop_assert_eq!(page.sequence(), next(expected));
        Writer::create(&page, contents);
        prop_assert_eq!(page.sequence(), next(next(expected)));
    }

    #[test]
    fn a_store_that_fails_leaves_the_old_page_or_an_odd_one(
        old in any_contents(), new in any_contents(), count in any_count(), left in 0..STORES,
    ) {
        let memory = Memory::new(old.with(|page| page.seq_count = count & !1).to_bytes(), left);
        let before = memory.contents();
        let mut contents = new.with(|page| page.seq_count = count & !1);
        let wanted = contents;
        prop_assert!(publish(&memory, &mut contents).is_err());
        prop_assert_eq!(contents, wanted, "there was no update yet");
        prop_assert!(memory.contents() == before || memory.contents().seq_count == count | 1);
        memory.left.set(STORES);
        publish(&memory, &mut contents).expect("enough stores");
        prop_assert_eq!(memory.contents(), new.with(|page| page.seq_count = next(count)));
    }

    #[test]
    fn an_initial_page_is_what_it_is_asked_to_be(contents in any_contents()) {
        let memory = Memory::new([0xee; STRUCTURE_LEN], STORES - 1);
        write_initial(&memory, &contents).expect("enough stores");
        prop_assert_eq!(memory.contents(), contents);
        prop_assert_eq!(memory.stores.take().pop(), Some((0x0c, Ordering::Release)));
    }
}
