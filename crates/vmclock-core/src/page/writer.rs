// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The one writer of a page that this process has mapped.

use core::ops::Deref;

use super::memory::{store_words, update_in};
use super::Page;
use crate::abi::{ParseError, Snapshot, Words};

/// In what state a [`Writer`] found the page that it took over.
///
/// ```
/// use vmclock_core::{abi::Snapshot, page::{Page, TakenOver, Writer}};
/// let page = Page::new();
/// assert!(Writer::take_over(&page, 4096).is_err()); // zeros are not a page
/// Writer::create(&page, Snapshot::BLANK);
/// assert!(matches!(Writer::take_over(&page, 4096), Ok((TakenOver::Static, _))));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakenOver {
    /// Static: its contents are as its last writer left them (or a guest that can write it).
    Static,
    /// In the middle of an update: its words may be of two updates.
    Interrupted,
}

/// The one writer of a page.
///
/// It keeps its own copy of all that it wrote and never reads anything back, except when it takes over what another
/// writer left. `P` leads to the page: a reference, or the owner of the memory.
#[derive(Debug)]
pub struct Writer<P> {
    page: P,
    contents: Snapshot,
}

impl<P: Deref<Target = Page>> Writer<P> {
    /// Makes `page` a page with these contents, whether it is one already or not.
    pub fn create(page: P, contents: Snapshot) -> Self {
        let seq_count = page.sequence();
        let mut writer = Self { page, contents: Snapshot { seq_count, ..contents } };
        writer.update(|_| ());
        writer
    }

    /// Continues on a page of `len` bytes that another writer left behind: static, or odd because it was killed in the
    /// middle of an update. Nothing is written yet: the page stays as it is until the first
    /// [`update`](Self::update), which must give it a new disruption marker, as nobody knows what happened to the
    /// counter meanwhile.
    pub fn take_over(page: P, len: usize) -> Result<(TakenOver, Self), (ParseError, P)> {
        let contents = page.load::<{ Words::ALL }>().decode();
        if let Err(error) = contents.validate(len) {
            return Err((error, page));
        }
        let found = if contents.seq_count & 1 == 0 { TakenOver::Static } else { TakenOver::Interrupted };
        Ok((found, Self { page, contents: contents.clipped() }))
    }

    /// The page's contents as far as this writer knows: those of its last update, or those that it took over.
    pub fn contents(&self) -> &Snapshot {
        &self.contents
    }

    /// What the memory holds: other than [`contents`](Self::contents) where somebody else wrote it, such as a guest, or
    /// whoever loaded a snapshot. Nothing of it is to be believed.
    ///
    /// ```
    /// use vmclock_core::{abi::Snapshot, page::{Page, Writer}};
    /// let page = Page::new();
    /// let writer = Writer::create(&page, Snapshot::BLANK);
    /// assert_eq!(writer.in_memory(), *writer.contents());
    /// ```
    pub fn in_memory(&self) -> Snapshot {
        self.page.load::<{ Words::ALL }>().decode()
    }

    /// What leads to the page.
    pub fn page(&self) -> &P {
        &self.page
    }

    /// Lets the next update continue behind this sequence count: for a page whose readers have seen another writer's,
    /// as after a migration. To them an equal count would mean that nothing changed.
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

    /// Like [`update`](Self::update), but `change` runs while the count is odd and readers wait: for what depends on
    /// the moment at which they lost the old contents. It must be short, and must not panic: the count would stay odd.
    ///
    /// ```
    /// # use vmclock_core::{abi::Snapshot, page::{Page, Writer}};
    /// let page = Page::new();
    /// let mut writer = Writer::create(&page, Snapshot::BLANK);
    /// writer.update_late(|next| next.time_sec = u64::from(page.sequence()));
    /// assert_eq!((writer.contents().time_sec, page.sequence()), (3, 4));
    /// ```
    pub fn update_late(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let (page, mut seq_count) = (&*self.page, self.contents.seq_count);
        let Ok(()) = update_in(page, &mut seq_count, || {
            change(&mut self.contents);
            store_words(page, &self.contents.into())
        });
        self.contents.seq_count = seq_count;
    }

    /// Like [`update`](Self::update), calling `odd` twice: when the count has just become odd, and when it is about to
    /// become even. For measuring how long readers have to wait, and for stopping in the middle of an update.
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
    #[doc(hidden)]
    #[inline]
    pub fn update_observed(&mut self, change: impl FnOnce(&mut Snapshot), mut odd: impl FnMut()) {
        let mut seq_count = self.contents.seq_count;
        change(&mut self.contents);
        // Encoded before readers have to wait.
        let words = Words::from(self.contents);
        let page = &*self.page;
        let Ok(()) = update_in(page, &mut seq_count, || {
            odd();
            store_words(page, &words)?;
            odd();
            Ok(())
        });
        self.contents.seq_count = seq_count;
    }
}
