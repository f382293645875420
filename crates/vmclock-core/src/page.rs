// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sequence count: how a page is read and written while the other side does the opposite.
//!
//! A writer makes the count odd, writes, and makes it even again. A reader takes the count, reads, and takes the count
//! again: an even and unchanged count means that what it read belongs together. Nothing that was read is looked at
//! before that. Readers never write, so any number of them costs nothing, and the page may be mapped read-only.
//!
//! Every access to the shared memory is a relaxed atomic access of one naturally aligned word; the order between them
//! comes from fences alone. That is what both Rust's memory model and a page in read-only memory ask for.
#![allow(unsafe_code)]

use core::fmt;
use core::ops::Deref;

#[cfg(not(loom))]
use core::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

use crate::abi::{Flags, ParseError, Snapshot, Words, CHANGING_WORDS, STRUCTURE_LEN};
use crate::event::Incarnation;

/// The sequence count stayed odd, or kept changing, for as long as the reader was willing to wait.
///
/// ```
/// let busy = vmclock_core::page::Busy { seq_count: 7 };
/// assert!(busy.to_string().contains("odd"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy {
    /// The last count seen.
    pub seq_count: u32,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq_count } = *self;
        if seq_count & 1 != 0 {
            write!(f, "the page stayed in the middle of an update (sequence count {seq_count} is odd); ")?;
            f.write_str("whoever publishes it may have died: restart the publisher, which repairs the page")
        } else {
            write!(f, "the page changed faster than it could be read (sequence count is at {seq_count}); ")?;
            f.write_str("its publisher updates it without a pause")
        }
    }
}

impl core::error::Error for Busy {}

/// The sequence count by itself: both halves of the protocol, over whatever data lies beside it.
#[derive(Debug)]
#[repr(transparent)]
pub struct SeqCount(AtomicU32);

impl SeqCount {
    /// A new count.
    #[cfg(not(loom))]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value.to_le()))
    }

    /// A new count.
    #[cfg(loom)]
    pub fn new(value: u32) -> Self {
        Self(AtomicU32::new(value.to_le()))
    }

    /// The count at this moment.
    #[inline]
    pub fn get(&self) -> u32 {
        u32::from_le(self.0.load(Ordering::Relaxed))
    }

    /// Runs `read` until what it returns is known to belong together, for as long as `wait` says yes.
    ///
    /// `read` must do nothing but relaxed atomic loads and reading the counter: its result may be nonsense, which is
    /// then thrown away. `wait` is asked once before every further attempt, and not at all when the first succeeds.
    #[inline]
    pub fn read<T>(&self, mut read: impl FnMut() -> T, wait: impl FnMut() -> bool) -> Result<T, Busy> {
        match self.try_read(&mut read) {
            Some(value) => Ok(value),
            None => self.read_again(read, wait),
        }
    }

    #[inline]
    fn try_read<T>(&self, read: &mut impl FnMut() -> T) -> Option<T> {
        let before = self.get();
        if before & 1 != 0 {
            return None;
        }
        // Keeps the reads below behind the count above: pairs with the release store in `write`.
        fence(Ordering::Acquire);
        let value = read();
        // Keeps the reads above before the count below. An acquire load of the count would not: it orders what comes
        // after it. Had a read above seen a word of a later update, the fence in `write` makes the count differ.
        fence(Ordering::Acquire);
        (self.get() == before).then_some(value)
    }

    #[cold]
    fn read_again<T>(&self, mut read: impl FnMut() -> T, mut wait: impl FnMut() -> bool) -> Result<T, Busy> {
        loop {
            pause();
            if !wait() {
                return Err(Busy { seq_count: self.get() });
            }
            if let Some(value) = self.try_read(&mut read) {
                return Ok(value);
            }
        }
    }

    /// Runs `write` while the count is odd, and leaves it even and new. `count` is the writer's own copy of the
    /// count, which it never reads back: a guest may be able to write the page.
    ///
    /// There may be only one writer at a time; two would not be undefined behaviour, but their updates would mix.
    #[inline]
    pub fn write(&self, count: &mut u32, write: impl FnOnce()) {
        let odd = *count | 1;
        self.0.store(odd.to_le(), Ordering::Relaxed);
        // Keeps the stores below behind the odd count.
        fence(Ordering::Release);
        write();
        *count = odd.wrapping_add(1);
        // Keeps the stores above before the even count.
        self.0.store(count.to_le(), Ordering::Release);
    }
}

#[inline]
fn pause() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// The structure as it lies in shared memory.
///
/// ```
/// use vmclock_core::abi::Snapshot;
/// use vmclock_core::page::{Page, Writer};
///
/// let page = Page::new();
/// let mut writer = Writer::create(&page, Snapshot { disruption_marker: 1, ..Snapshot::BLANK });
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
    /// Version, counter and time type. Constant for the life of a device, but for a counter that becomes known later.
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
    pub const unsafe fn from_ptr<'a>(memory: *const u8) -> &'a Self {
        debug_assert!(!memory.is_null());
        // SAFETY: the caller vouches for length, alignment and lifetime; any bytes are a valid `Page`, and atomics
        // allow for whatever happens to them.
        #[allow(clippy::cast_ptr_alignment)]
        unsafe {
            &*memory.cast::<Self>()
        }
    }

    /// A consistent copy of the page, waiting for an update in progress as long as `wait` says yes (see
    /// [`SeqCount::read`]). Nothing in it is checked but its consistency: see [`Snapshot::validate`].
    #[inline]
    pub fn snapshot(&self, wait: impl FnMut() -> bool) -> Result<Snapshot, Busy> {
        self.words_with(|| (), wait).map(|(words, ())| words.decode().clipped())
    }

    /// The same as words, together with what `counter` returns, read between the two looks at the sequence count: at
    /// the moment when the counter was read, the page said just this.
    #[inline(always)]
    pub fn words_with<C>(
        &self,
        mut counter: impl FnMut() -> C,
        wait: impl FnMut() -> bool,
    ) -> Result<(Words, C), Busy> {
        // The counter first: reading it takes long, and the CPU can load and check the words meanwhile.
        self.seq_count.read(|| (counter(), self.load()), wait).map(|(counter, words)| (words, counter))
    }

    /// Marker and generation, consistent with one another.
    #[inline]
    pub fn incarnation(&self, mut wait: impl FnMut() -> bool) -> Result<Incarnation, Busy> {
        let read = self.seq_count.read(|| self.load_incarnation(), &mut wait)?;
        if read.size as usize >= STRUCTURE_LEN {
            Ok(Incarnation::of(&read))
        } else {
            self.incarnation_of_short_page(wait)
        }
    }

    #[cold]
    fn incarnation_of_short_page(&self, wait: impl FnMut() -> bool) -> Result<Incarnation, Busy> {
        self.snapshot(wait).map(|page| Incarnation::of(&page))
    }

    /// Whether the page is certainly still of an incarnation that was read before: for checking, at the price of a few
    /// loads, that nothing happened. `false` is no answer: something happened, or an update is in progress, or the
    /// page is shorter than the structure; compare with [`incarnation`](Self::incarnation) to know.
    ///
    /// ```
    /// use vmclock_core::abi::Snapshot;
    /// use vmclock_core::page::{Page, Writer};
    ///
    /// let page = Page::new();
    /// let mut writer = Writer::create(&page, Snapshot { disruption_marker: 1, ..Snapshot::BLANK });
    /// let known = page.incarnation(|| false)?;
    /// writer.update(|next| next.time_sec = 7);
    /// assert!(page.is_still_of(&known));
    /// writer.update(|next| next.disruption_marker = 2);
    /// assert!(!page.is_still_of(&known));
    /// # Ok::<(), vmclock_core::page::Busy>(())
    /// ```
    #[inline]
    pub fn is_still_of(&self, known: &Incarnation) -> bool {
        // Without branches, and without making an `Option` of what was loaded.
        let (presence, value, mask) = match known.generation {
            Some(generation) => (Flags::VM_GEN_COUNTER_PRESENT, generation, u64::MAX),
            None => (Flags::NONE, 0, 0),
        };
        let mut unchanged = || {
            let now = self.load_incarnation();
            let marker = now.disruption_marker ^ known.disruption_marker;
            let generation = (now.vm_generation_counter ^ value) & mask;
            let presence = (now.flags.0 ^ presence.0) & Flags::VM_GEN_COUNTER_PRESENT.0;
            marker | generation | presence == 0 && now.size as usize >= STRUCTURE_LEN
        };
        self.seq_count.try_read(&mut unchanged) == Some(true)
    }

    /// What an incarnation is made of; all else is blank.
    #[inline]
    fn load_incarnation(&self) -> Snapshot {
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
    fn load(&self) -> Words {
        let half = |half: &AtomicU32| u32::from_le(half.load(Ordering::Relaxed));
        Words {
            magic: half(&self.magic),
            size: half(&self.size),
            identity: half(&self.identity),
            seq_count: self.seq_count.get(),
            changing: self.words.each_ref().map(load),
        }
    }

    /// Stores all but the sequence count.
    #[inline]
    fn store(&self, contents: Snapshot) {
        let Words { magic, size, identity, seq_count: _, changing } = contents.into();
        for (field, half) in [(&self.magic, magic), (&self.size, size), (&self.identity, identity)] {
            field.store(half.to_le(), Ordering::Relaxed);
        }
        for (field, word) in self.words.iter().zip(changing) {
            field.store(word.to_le(), Ordering::Relaxed);
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

/// In what state a [`Writer`] found the page that it took over.
///
/// ```
/// use vmclock_core::{abi::Snapshot, page::{Page, TakenOver, Writer}};
/// let page = Page::new();
/// assert!(Writer::take_over(&page, 4096).is_err()); // zeros are not a page
/// Writer::create(&page, Snapshot::BLANK);
/// assert!(matches!(Writer::take_over(&page, 4096), Ok((TakenOver::AtRest, _))));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakenOver {
    /// At rest: its contents are as its last writer left them (or a guest that can write it).
    AtRest,
    /// In the middle of an update: its words may be of two updates.
    Interrupted,
}

/// The one writer of a page.
///
/// It keeps its own copy of all that it wrote and never reads anything back, except when it takes over what another
/// writer left. `P` is whatever leads to the page: a reference, or something that owns the memory.
#[derive(Debug)]
pub struct Writer<P> {
    page: P,
    contents: Snapshot,
}

impl<P: Deref<Target = Page>> Writer<P> {
    /// Makes `page`, whatever it holds, a page with these contents.
    pub fn create(page: P, contents: Snapshot) -> Self {
        let seq_count = page.sequence();
        let mut writer = Self { page, contents: Snapshot { seq_count, ..contents } };
        writer.update(|_| ());
        writer
    }

    /// Continues on a page of `len` bytes that another writer left behind: at rest, or odd because it was killed in
    /// the middle of an update. Nothing is written yet: the page stays as it is until the first
    /// [`update`](Self::update), which must give it a new disruption marker, as nobody knows what happened to the
    /// counter meanwhile.
    pub fn take_over(page: P, len: usize) -> Result<(TakenOver, Self), (ParseError, P)> {
        let contents = page.load().decode();
        if let Err(error) = contents.validate(len) {
            return Err((error, page));
        }
        let found = if contents.seq_count & 1 == 0 { TakenOver::AtRest } else { TakenOver::Interrupted };
        Ok((found, Self { page, contents: contents.clipped() }))
    }

    /// What the page says, as far as this writer knows: the contents of its last update, or what it took over.
    pub fn contents(&self) -> &Snapshot {
        &self.contents
    }

    /// What leads to the page.
    pub fn page(&self) -> &P {
        &self.page
    }

    /// Lets the next update continue behind this sequence count: for a page whose readers have seen another writer's, as
    /// after a migration. To them an equal count would mean that nothing changed.
    ///
    /// ```
    /// use vmclock_core::{abi::Snapshot, page::{Page, Writer}};
    /// let page = Page::new();
    /// let mut writer = Writer::create(&page, Snapshot::BLANK);
    /// writer.continue_after(1_000);
    /// writer.update(|_| ());
    /// assert_eq!(page.sequence(), 1_002);
    /// ```
    pub fn continue_after(&mut self, seq_count: u32) {
        self.contents.seq_count = seq_count;
    }

    /// Changes the contents and publishes them in one update of the sequence count.
    #[inline]
    pub fn update(&mut self, change: impl FnOnce(&mut Snapshot)) {
        self.update_observed(change, || ());
    }

    /// Like [`update`](Self::update), but `change` runs while the count is odd and readers wait: for what depends on the moment at which they lost
    /// the old contents. It must be short, and must not panic: the count would stay odd.
    ///
    /// ```
    /// # use vmclock_core::{abi::Snapshot, page::{Page, Writer}};
    /// let page = Page::new();
    /// let mut writer = Writer::create(&page, Snapshot::BLANK);
    /// writer.update_late(|next| next.time_sec = u64::from(page.sequence()));
    /// assert_eq!((writer.contents().time_sec, page.sequence()), (3, 4));
    /// ```
    pub fn update_late(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let mut seq_count = self.contents.seq_count;
        let (page, contents) = (&self.page, &mut self.contents);
        page.seq_count.write(&mut seq_count, || {
            change(contents);
            page.store(*contents);
        });
        self.contents.seq_count = seq_count;
    }

    /// Like [`update`](Self::update), calling `odd` twice: when the count has just become odd, and when it is about to become even. For
    /// measuring how long readers have to wait, and for stopping in the middle of an update.
    ///
    /// ```
    /// # use vmclock_core::{abi::Snapshot, page::{Page, Writer}};
    /// let page = Page::new();
    /// let mut writer = Writer::create(&page, Snapshot::BLANK);
    /// let mut seen = Vec::new();
    /// writer.update_observed(|next| next.time_sec = 7, || seen.push(page.sequence()));
    /// assert_eq!(seen, [3, 3]);
    /// assert_eq!(page.sequence(), 4);
    /// ```
    #[inline]
    pub fn update_observed(&mut self, change: impl FnOnce(&mut Snapshot), mut odd: impl FnMut()) {
        let mut seq_count = self.contents.seq_count;
        change(&mut self.contents);
        let contents = self.contents;
        self.page.seq_count.write(&mut seq_count, || {
            odd();
            self.page.store(contents);
            odd();
        });
        self.contents.seq_count = seq_count;
    }
}
