// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! One update of the sequence count, over any memory.

use core::convert::Infallible;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use super::sequence::update;
use super::Page;
use crate::abi::{Snapshot, Words};

const SEQ_COUNT: u64 = offset_of!(Snapshot, seq_count) as u64;
/// From here on the page is of words of eight bytes.
const CHANGING: u64 = offset_of!(Snapshot, disruption_marker) as u64;

/// Memory that holds a page, written by whole words that a reader may load at any moment.
///
/// Offsets are from the page's start, and aligned. The page is little-endian: that is how a number has to be stored.
pub trait PageMemory {
    /// Why a word cannot be written.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Stores four bytes.
    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), Self::Error>;

    /// Stores eight bytes.
    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), Self::Error>;
}

impl<M: PageMemory + ?Sized> PageMemory for &M {
    type Error = M::Error;

    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), M::Error> {
        (**self).store_u32(offset, value, order)
    }

    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), M::Error> {
        (**self).store_u64(offset, value, order)
    }
}

/// Writes `contents` to `memory` in one update of the sequence count, and the new count to `contents`.
///
/// What fails leaves the count in memory odd, or all as it was; the next call is the retry. There may be only one
/// writer at a time.
///
/// ```
/// use std::cell::Cell;
/// use std::convert::Infallible;
/// use std::sync::atomic::Ordering;
/// use vmclock_core::abi::Snapshot;
/// use vmclock_core::page::{publish, PageMemory};
///
/// /// Memory of which only the sequence count matters.
/// struct Count(Cell<Vec<u32>>);
///
/// impl PageMemory for Count {
///     type Error = Infallible;
///
///     fn store_u32(&self, offset: u64, value: u32, _: Ordering) -> Result<(), Infallible> {
///         if offset == 0x0c {
///             self.0.set([self.0.take(), vec![value]].concat());
///         }
///         Ok(())
///     }
///
///     fn store_u64(&self, _: u64, _: u64, _: Ordering) -> Result<(), Infallible> {
///         Ok(())
///     }
/// }
///
/// let memory = Count(Cell::default());
/// let mut contents = Snapshot::BLANK.with(|page| page.seq_count = 6);
/// publish(&memory, &mut contents)?;
/// assert_eq!((memory.0.take(), contents.seq_count), (vec![7, 8], 8));
/// # Ok::<(), Infallible>(())
/// ```
pub fn publish<M: PageMemory + ?Sized>(memory: &M, contents: &mut Snapshot) -> Result<(), M::Error> {
    // Encoded before readers have to wait.
    let words = Words::from(*contents);
    update_in(memory, &mut contents.seq_count, || store_words(memory, &words))
}

/// One update, in which `write` stores the words.
#[inline(always)]
pub(super) fn update_in<M: PageMemory + ?Sized>(
    memory: &M,
    seq_count: &mut u32,
    write: impl FnOnce() -> Result<(), M::Error>,
) -> Result<(), M::Error> {
    update(seq_count, |count, order| memory.store_u32(SEQ_COUNT, count, order), write)
}

/// Writes a page that nobody reads yet, with its sequence count as it is in `contents`: no update.
pub fn write_initial<M: PageMemory + ?Sized>(memory: &M, contents: &Snapshot) -> Result<(), M::Error> {
    store_words(memory, &(*contents).into())?;
    memory.store_u32(SEQ_COUNT, contents.seq_count, Ordering::Release)
}

/// All but the sequence count.
#[inline(always)]
pub(super) fn store_words<M: PageMemory + ?Sized>(memory: &M, words: &Words) -> Result<(), M::Error> {
    let Words { magic, size, identity, seq_count: _, changing } = words;
    for (offset, half) in [(0x00, magic), (0x04, size), (0x08, identity)] {
        memory.store_u32(offset, *half, Ordering::Relaxed)?;
    }
    for (offset, word) in (CHANGING..).step_by(size_of::<u64>()).zip(changing) {
        memory.store_u64(offset, *word, Ordering::Relaxed)?;
    }
    Ok(())
}

/// A page that is mapped here cannot fail.
impl PageMemory for Page {
    type Error = Infallible;

    #[inline(always)]
    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), Infallible> {
        match offset {
            0x00 => self.magic.store(value.to_le(), order),
            0x04 => self.size.store(value.to_le(), order),
            0x08 => self.identity.store(value.to_le(), order),
            SEQ_COUNT => self.seq_count.store(value, order),
            _ => {}
        }
        Ok(())
    }

    #[inline(always)]
    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), Infallible> {
        let index = usize::try_from(offset.wrapping_sub(CHANGING) >> 3).unwrap_or(usize::MAX);
        if let Some(word) = self.words.get(index) {
            word.store(value.to_le(), order);
        }
        Ok(())
    }
}
