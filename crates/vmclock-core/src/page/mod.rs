// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The sequence count: how a page is read and written while the other side does the opposite.
//!
//! A writer makes the count odd, writes, and makes it even again. A reader takes the count, reads, and takes the count
//! again: an even and unchanged count means that what it read belongs together. Nothing that was read is interpreted
//! before that. Readers never write, so any number of them costs nothing, and the page may be mapped read-only.
//!
//! Every access to the shared memory is a relaxed atomic access of one naturally aligned word; the order between them
//! is made by fences alone. Both Rust's memory model and a page in read-only memory require that.

use core::sync::atomic::compiler_fence;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

mod memory;
mod sequence;
mod writer;

pub use memory::{publish, write_initial, PageMemory};
pub use sequence::{Busy, SeqCount};
pub use writer::{TakenOver, Writer};

use crate::abi::{CounterId, Flags, Snapshot, TimeWords, Words, CHANGING_WORDS, STRUCTURE_LEN};
use crate::event::Epoch;

/// The structure as it lies in shared memory.
///
/// ```
/// use vmclock_core::abi::Snapshot;
/// use vmclock_core::page::{Page, Writer};
///
/// let page = Page::new();
/// let mut writer = Writer::create(&page, Snapshot::BLANK.with(|page| page.disruption_marker = 1));
/// let before = page.snapshot(|| false)?;
/// writer.update(|next| next.disruption_marker = 2);
/// let after = page.snapshot(|| false)?;
/// assert_eq!((before.disruption_marker, after.disruption_marker), (1, 2));
/// # Ok::<(), vmclock_core::page::Busy>(())
/// ```
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Page {
    magic: AtomicU32,
    size: AtomicU32,
    /// Version, counter and time type. Constant for the lifetime of a device, but for a counter that becomes known
    /// later.
    identity: AtomicU32,
    seq_count: SeqCount,
    /// From the disruption marker on: all that changes under the sequence count.
    words: [AtomicU64; CHANGING_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Page>() == STRUCTURE_LEN);
    assert!(core::mem::offset_of!(Page, seq_count) == core::mem::offset_of!(Snapshot, seq_count));
    assert!(core::mem::offset_of!(Page, words) == core::mem::offset_of!(Snapshot, disruption_marker));
};

impl Page {
    /// A page of zeros in ordinary memory: for mocks and tests.
    pub fn new() -> Self {
        Self {
            magic: AtomicU32::new(0),
            size: AtomicU32::new(0),
            identity: AtomicU32::new(0),
            seq_count: SeqCount::new(0),
            words: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The page that lies at `memory`.
    ///
    /// # Safety
    ///
    /// For the whole of `'a`, `memory` must be valid for atomic loads of [`STRUCTURE_LEN`]
    /// bytes (and for stores, if a [`Writer`] is made on it), aligned to 8 bytes, and accessed by this process through
    /// atomics only. Other processes, a guest and a hypervisor may do to it what they like.
    #[cfg(not(loom))]
    #[allow(unsafe_code)]
    pub const unsafe fn from_ptr<'a>(memory: *const u8) -> &'a Self {
        debug_assert!(!memory.is_null());
        // SAFETY: the caller vouches for length, alignment and lifetime; any bytes are a valid `Page`, and atomics
        // allow for any other access to them.
        #[allow(clippy::cast_ptr_alignment)]
        unsafe {
            &*memory.cast::<Self>()
        }
    }

    /// Four bytes at an aligned offset, as a little-endian number; 0 beyond the page's words.
    pub fn load_u32(&self, offset: u64, order: Ordering) -> u32 {
        match offset {
            0x00 => u32::from_le(self.magic.load(order)),
            0x04 => u32::from_le(self.size.load(order)),
            0x08 => u32::from_le(self.identity.load(order)),
            0x0c => self.sequence(),
            _ => {
                let (index, is_high) = (offset.wrapping_sub(0x10) >> 3, offset & 4 != 0);
                let word = usize::try_from(index).ok().and_then(|index| self.words.get(index));
                let word = word.map_or(0, |word| u64::from_le(word.load(order)));
                #[allow(clippy::cast_possible_truncation)] // the half that is asked for
                if is_high {
                    (word >> 32) as u32
                } else {
                    word as u32
                }
            }
        }
    }

    /// A consistent copy of the page, waiting for an update in progress as long as `wait` says yes (see
    /// [`SeqCount::read`]). Nothing in it is checked but its consistency: see [`Snapshot::validate`].
    #[inline]
    pub fn snapshot(&self, wait: impl FnMut() -> bool) -> Result<Snapshot, Busy> {
        self.words_with(|| (), wait).map(|(words, ())| words.decode().clipped())
    }

    /// The same as words, together with what `counter` returns, read between the two loads of the sequence count: at
    /// the moment when the counter was read, these were the page's words.
    #[doc(hidden)]
    #[inline(always)]
    pub fn words_with<C>(
        &self,
        mut counter: impl FnMut() -> C,
        wait: impl FnMut() -> bool,
    ) -> Result<(Words, C), Busy> {
        // The counter first: reading it takes long, and the CPU can load and check the words meanwhile.
        self.seq_count
            .read(|| (counter(), self.load::<{ Words::ALL }>()), wait)
            .map(|(counter, words)| (words, counter))
    }

    /// The same of some words only, as [`Words::OF_TIME`]: the others are zero, whatever is on the page. `None` where
    /// the page is being updated.
    #[doc(hidden)]
    #[inline(always)]
    pub fn try_some_words_with<const WORDS: u16, C>(&self, mut counter: impl FnMut() -> C) -> Option<(Words, C)> {
        self.seq_count.try_read(&mut || (counter(), self.load::<WORDS>())).map(|(counter, words)| (words, counter))
    }

    /// The words that the page's time depends on, and what `counter` returns at a moment when these were the page's
    /// words; `None` where the page is being updated: [`words_with`](Self::words_with) waits.
    #[doc(hidden)]
    #[inline(always)]
    pub fn try_time_words<C>(&self, mut counter: impl FnMut() -> C) -> Option<(TimeWords, C)> {
        // The counter first, as above.
        self.seq_count.try_read(&mut || (counter(), self.load_time_words())).map(|(counter, words)| (words, counter))
    }

    /// The same words, each given to `put` with its place in the array of [`TimeWords::from_array`], and then `counter`;
    /// `false` also where they do not certainly give a time, and where `may_be_cut_short` and the generation is zero.
    /// They belong together only if this is `true`.
    ///
    /// It is for a function that cannot be inlined into its caller. Where each word is checked and stored before the
    /// next is loaded, a few registers do, and none has to be saved.
    #[doc(hidden)]
    #[inline(always)]
    pub fn try_put_time_words(
        &self,
        cpu: CounterId,
        may_be_cut_short: bool,
        mut put: impl FnMut(usize, u64),
        counter: impl Fn() -> u64,
    ) -> bool {
        let [marker, flags, state, counter_value, period, _, period_maxerror, rest @ ..] = &self.words;
        let [time_sec, time_frac_sec, _, time_maxerror, generation] = rest;
        let mut read = || {
            let mut put = |index, value| {
                put(index, value);
                // Keeps the compiler from loading the next before.
                compiler_fence(Ordering::SeqCst);
            };
            let size = u32::from_le(self.size.load(Ordering::Relaxed));
            let identity = u32::from_le(self.identity.load(Ordering::Relaxed));
            if !TimeWords::certain_identity(size, identity, cpu) {
                return false;
            }
            put(0, u64::from(identity) << 32 | u64::from(size));
            let state = load(state);
            if !TimeWords::certain_state(state) {
                return false;
            }
            put(3, state);
            let period = load(period);
            if !TimeWords::certain_period(period) {
                return false;
            }
            put(5, period);
            let time_sec = load(time_sec);
            if !TimeWords::certain_seconds(time_sec) {
                return false;
            }
            put(7, time_sec);
            put(1, load(marker));
            put(2, load(flags));
            put(4, load(counter_value));
            put(6, load(period_maxerror));
            put(8, load(time_frac_sec));
            put(9, load(time_maxerror));
            // Last: see `may_be_cut_short`.
            let generation = load(generation);
            put(10, generation);
            if may_be_cut_short && generation == 0 {
                return false;
            }
            put(TimeWords::LEN, counter());
            true
        };
        self.seq_count.try_read(&mut read) == Some(true)
    }

    /// Marker and generation, consistent with one another.
    #[inline]
    pub fn epoch(&self, mut wait: impl FnMut() -> bool) -> Result<Epoch, Busy> {
        let read = self.seq_count.read(|| self.load_epoch(), &mut wait)?;
        if read.size as usize >= STRUCTURE_LEN {
            Ok(Epoch::of(&read))
        } else {
            self.epoch_of_short_page(wait)
        }
    }

    #[cold]
    fn epoch_of_short_page(&self, wait: impl FnMut() -> bool) -> Result<Epoch, Busy> {
        self.snapshot(wait).map(|page| Epoch::of(&page))
    }

    /// Whether the page is certainly still in an epoch that was read before: for checking, at the price of a few
    /// loads, that nothing happened. `false` is no answer: something happened, or an update is in progress, or the
    /// page is shorter than the structure; compare with [`epoch`](Self::epoch) to know.
    ///
    /// ```
    /// use vmclock_core::abi::Snapshot;
    /// use vmclock_core::page::{Page, Writer};
    ///
    /// let page = Page::new();
    /// let mut writer = Writer::create(&page, Snapshot::BLANK.with(|page| page.disruption_marker = 1));
    /// let known = page.epoch(|| false)?;
    /// writer.update(|next| next.time_sec = 7);
    /// assert!(page.is_still_of(&known));
    /// writer.update(|next| next.disruption_marker = 2);
    /// assert!(!page.is_still_of(&known));
    /// # Ok::<(), vmclock_core::page::Busy>(())
    /// ```
    #[inline]
    pub fn is_still_of(&self, known: &Epoch) -> bool {
        // Compared as they are loaded: a comparison and its branch are one operation of the CPU's.
        let [marker, flags, .., generation] = &self.words;
        let mut unchanged = || {
            let has_generation = || Flags(load(flags)).contains(Flags::VM_GEN_COUNTER_PRESENT);
            u32::from_le(self.size.load(Ordering::Relaxed)) as usize >= STRUCTURE_LEN
                && load(marker) == known.disruption_marker
                && match known.generation {
                    Some(known) => has_generation() && load(generation) == known,
                    None => !has_generation(),
                }
        };
        self.seq_count.try_read(&mut unchanged) == Some(true)
    }

    /// The fields of an epoch; all else is blank.
    #[inline]
    fn load_epoch(&self) -> Snapshot {
        let [marker, flags, .., generation] = &self.words;
        Snapshot {
            size: u32::from_le(self.size.load(Ordering::Relaxed)),
            disruption_marker: load(marker),
            flags: Flags(load(flags)),
            vm_generation_counter: load(generation),
            ..Snapshot::BLANK
        }
    }

    /// The sequence count at this moment: while it stays the same, nothing changed.
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.seq_count.get()
    }

    #[inline(always)]
    fn load_time_words(&self) -> TimeWords {
        let [marker, flags, state, counter_value, period, _, period_maxerror, rest @ ..] = &self.words;
        let [time_sec, time_frac_sec, _, time_maxerror, generation] = rest;
        TimeWords {
            size: u32::from_le(self.size.load(Ordering::Relaxed)),
            identity: u32::from_le(self.identity.load(Ordering::Relaxed)),
            disruption_marker: load(marker),
            flags: load(flags),
            state: load(state),
            counter_value: load(counter_value),
            period: load(period),
            period_maxerror: load(period_maxerror),
            time_sec: load(time_sec),
            time_frac_sec: load(time_frac_sec),
            time_maxerror: load(time_maxerror),
            vm_generation_counter: load(generation),
        }
    }

    /// No loop, so that the compiler knows of each word whether it is wanted: a load that nobody needs is none that it
    /// may leave out.
    #[inline(always)]
    fn load<const WORDS: u16>(&self) -> Words {
        let is_wanted = |place: usize| WORDS >> place & 1 != 0;
        let half =
            |place, half: &AtomicU32| if is_wanted(place) { u32::from_le(half.load(Ordering::Relaxed)) } else { 0 };
        let word = |place, word: &AtomicU64| if is_wanted(place) { load(word) } else { 0 };
        let [marker, flags, state, counter_value, period, period_est, period_max, rest @ ..] = &self.words;
        let [time_sec, time_frac_sec, time_est, time_max, generation] = rest;
        Words {
            magic: half(0, &self.magic),
            size: half(1, &self.size),
            identity: half(2, &self.identity),
            seq_count: if is_wanted(3) { self.seq_count.get() } else { 0 },
            changing: [
                word(4, marker),
                word(5, flags),
                word(6, state),
                word(7, counter_value),
                word(8, period),
                word(9, period_est),
                word(10, period_max),
                word(11, time_sec),
                word(12, time_frac_sec),
                word(13, time_est),
                word(14, time_max),
                word(15, generation),
            ],
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
fn load(word: &AtomicU64) -> u64 {
    u64::from_le(word.load(Ordering::Relaxed))
}
