// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a publisher knows, saved ahead of what its pages say, and read by the process that comes after it.
//!
//! All that was ever on a page is in the state before it is on the page. So whoever comes after a publisher that was
//! killed knows all bounds that readers may have, and one that comes after a clean stop does too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmclock_core::abi::Snapshot;

use crate::continuity::{compare, Doubt, Witness};
use crate::event::Event;
use crate::policy::{CannotResume, Policy, Start};
use crate::source::Source;
use crate::state::{sealed, unsealed};
use crate::world::{Host, StateStore};

/// Marker and generation of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) marker: u64,
    pub(crate) generation: u64,
}

impl Identity {
    pub(crate) const fn of(page: &Snapshot) -> Self {
        Self { marker: page.disruption_marker, generation: page.vm_generation_counter }
    }
}

/// A source, as far as it has to be the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedSource {
    name: String,
    clock: String,
    /// The epoch of the counter when it was last measured.
    pub(crate) era: Option<u64>,
}

impl SavedSource {
    pub(crate) fn of(source: &dyn Source, era: Option<u64>) -> Self {
        Self { name: source.name().to_owned(), clock: source.clock(), era }
    }

    fn is(&self, other: &Self) -> bool {
        (&self.name, &self.clock) == (&other.name, &other.clock)
    }
}

/// All that is saved.
#[derive(Serialize)]
struct Written<'a> {
    began: &'a Witness,
    saved: &'a Witness,
    /// What is published next may not be on all pages, as it was saved before.
    is_unseen: bool,
    sources: &'a [SavedSource],
    policy: &'a Policy,
    pages: &'a BTreeMap<String, Identity>,
}

/// The same when it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    began: Witness,
    saved: Witness,
    is_unseen: bool,
    sources: Vec<SavedSource>,
    policy: Policy,
    pages: BTreeMap<String, Identity>,
}

/// What the last publisher left, where the counter went on since.
pub(crate) struct Left {
    pub(crate) policy: Policy,
    /// The epochs of the counter, of each source as they are now.
    pub(crate) eras: Vec<Option<u64>>,
}

/// Pages that the last publisher left must return within this, in nanoseconds: a minute. As long as some have not, what
/// was on them binds what is published.
const RETURNED_WITHIN: u64 = 60_000_000_000;

/// The pages that the last publisher left, and that have not returned.
struct Gap {
    nanos: u64,
    /// What was published last may not have been on all of them.
    is_unseen: bool,
    pages: BTreeMap<String, Identity>,
}

/// The journal of a publisher.
pub(crate) struct Journal {
    store: Box<dyn StateStore>,
    began: Witness,
    pages: BTreeMap<String, Identity>,
    gap: Option<Gap>,
    /// Whether what is saved is all that is known.
    is_saved: bool,
    /// It could not be saved, and is not any more.
    is_broken: bool,
    /// What is to be reported of that.
    failure: Option<String>,
    /// What is known is on all pages.
    is_seen: bool,
}

impl Journal {
    /// Opens what the last publisher left, if the counter went on since; what does not follow is reported.
    pub(crate) fn open(
        witness: Option<Witness>,
        mut store: Box<dyn StateStore>,
        start: &Start,
        sources: &[SavedSource],
        events: &mut Vec<Event>,
    ) -> (Option<Self>, Option<Left>) {
        let loaded = store.load();
        let Some(witness) = witness else {
            events.push(Event::NotContinued { doubt: Doubt::NoWitness });
            return (None, None);
        };
        let mut journal = Self {
            store,
            began: witness,
            pages: BTreeMap::new(),
            gap: None,
            is_saved: false,
            is_broken: false,
            failure: None,
            is_seen: true,
        };
        let left = match loaded {
            Ok(None) => return (Some(journal), None),
            Ok(Some(bytes)) => journal.take_up(&bytes, start, sources),
            Err(error) => Err(Doubt::Unreadable { reason: error.to_string() }),
        };
        let left = left.map_err(|doubt| events.push(Event::NotContinued { doubt })).ok();
        (Some(journal), left)
    }

    fn take_up(&mut self, bytes: &[u8], start: &Start, sources: &[SavedSource]) -> Result<Left, Doubt> {
        let corrupt = |reason: &dyn ToString| Doubt::Corrupt { reason: reason.to_string() };
        let json = unsealed(bytes).map_err(|reason| corrupt(&reason))?;
        let Read { began, saved, is_unseen, sources: before, policy, pages } =
            serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
        let wander = policy.settings().wander.max(start.settings.wander);
        let nanos = compare(&began, &saved, &self.began, wander)?;
        let is_there = |old: &&SavedSource| sources.iter().any(|new| new.is(old));
        if let Some(gone) = before.iter().find(|old| old.era.is_some_and(|era| era != 0) && !is_there(old)) {
            return Err(Doubt::SourceRemoved { source: gone.name.clone() });
        }
        let is_same = before.len() == sources.len() && before.iter().zip(sources).all(|(old, new)| old.is(new));
        let policy = policy.resume(start, is_same, is_unseen).map_err(|why| match why {
            CannotResume::Nonsense => corrupt(&why),
            CannotResume::AssumesLess { .. } => Doubt::AssumesLess { reason: why.to_string() },
        })?;
        let era = |new: &SavedSource| before.iter().find(|old| new.is(old)).and_then(|old| old.era);
        self.is_seen = !is_unseen;
        self.began = began;
        self.pages = pages.clone();
        self.gap = Some(Gap { nanos, is_unseen, pages });
        Ok(Left { policy, eras: sources.iter().map(era).collect() })
    }

    /// Whether there may be pages that the last publisher left.
    pub(crate) const fn goes_on(&self) -> bool {
        self.gap.is_some()
    }

    /// Whether this is the only page that the last publisher left: then what is on it tells what readers have. And whether
    /// that may be something else than what was published last.
    pub(crate) fn is_only(&self, page: &str) -> Option<bool> {
        let gap = self.gap.as_ref().filter(|gap| gap.pages.len() == 1 && gap.pages.contains_key(page))?;
        Some(gap.is_unseen)
    }

    /// There is something new to publish; or it is on all pages.
    pub(crate) const fn set_seen(&mut self, is_seen: bool) {
        self.is_seen = is_seen;
    }

    /// A page returned, whether or not it is continued. Says whether it was the last.
    pub(crate) fn returned(&mut self, page: &str) -> bool {
        let gap = self.gap.as_mut().map(|gap| {
            gap.pages.remove(page);
            gap.pages.is_empty()
        });
        gap == Some(true) && self.release()
    }

    /// So long, in nanoseconds, after the start, pages that have not returned are not waited for any more. Says whether
    /// there were any.
    pub(crate) fn expire(&mut self, age: u64) -> bool {
        age > RETURNED_WITHIN && self.release()
    }

    fn release(&mut self) -> bool {
        let gap = self.gap.take();
        for page in gap.iter().flat_map(|gap| gap.pages.keys()) {
            self.pages.remove(page);
        }
        gap.is_some()
    }

    /// How long the gap was, in nanoseconds, if this page is as the last publisher left it; and what differs if not.
    pub(crate) fn gap_of(&self, page: &str, found: Identity) -> Result<u64, Doubt> {
        let doubt = |reason: &str| Doubt::Page { page: page.to_owned(), reason: reason.to_owned() };
        let gap = self.gap.as_ref().ok_or_else(|| doubt("nothing is known of it"))?;
        match gap.pages.get(page) {
            None => Err(doubt("the saved state does not have it")),
            Some(saved) if saved.marker != found.marker => Err(doubt("its marker is not the one in the saved state")),
            Some(saved) if saved.generation != found.generation => {
                Err(doubt("its generation is not the one in the saved state"))
            }
            Some(_) => Ok(gap.nanos),
        }
    }

    /// A page is about to have these.
    pub(crate) fn note(&mut self, page: &str, identity: Identity) {
        if self.pages.get(page) != Some(&identity) {
            self.pages.insert(page.to_owned(), identity);
            self.is_saved = false;
        }
    }

    /// A page is given up.
    pub(crate) fn forget(&mut self, page: &str) {
        self.is_saved &= self.pages.remove(page).is_none();
    }

    /// All is given up: the next publisher starts anew.
    pub(crate) fn abandon(&mut self) {
        self.is_broken = true;
        // One that stays says of no page what is on it: they are unreliable, and so stay as they are.
        let _ = self.store.remove();
    }

    /// More may be known than is saved.
    pub(crate) const fn outdated(&mut self) {
        self.is_saved = false;
    }

    /// Saves what is known, if it is not saved. Where that fails there is no state from then on: an old one would not
    /// have what is on the pages.
    pub(crate) fn save(&mut self, host: &impl Host, policy: &Policy, sources: impl FnOnce() -> Vec<SavedSource>) {
        if !self.is_saved {
            self.is_saved = true;
            self.write(host, policy, &sources());
        }
    }

    /// Saves what is known at the end of a publisher. Says whether it is saved.
    pub(crate) fn finish(&mut self, host: &impl Host, policy: &Policy, sources: &[SavedSource]) -> bool {
        self.is_saved = true;
        self.write(host, policy, sources);
        !self.is_broken
    }

    /// What could not be saved, once.
    pub(crate) const fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn write(&mut self, host: &impl Host, policy: &Policy, sources: &[SavedSource]) {
        if self.is_broken {
            return;
        }
        let saved = host.witness().ok_or_else(|| Doubt::NoWitness.to_string()).and_then(|saved| {
            if !saved.is_comparable(&self.began) {
                // How the raw clock goes with the counter shows from now on.
                self.began = saved.clone();
            }
            let Self { began, pages, is_seen, .. } = &*self;
            let written = Written { began, saved: &saved, is_unseen: !is_seen, sources, policy, pages };
            serde_json::to_vec(&written).map_err(|error| error.to_string())
        });
        let saved = saved.and_then(|json| self.store.save(&sealed(&json)).map_err(|error| error.to_string()));
        if let Err(why) = saved {
            self.is_broken = true;
            let removed = self.store.remove().err().map_or_else(String::new, |error| format!("; {error}"));
            self.failure = Some(format!("{why}: the next publisher will start anew{removed}"));
        }
    }
}
