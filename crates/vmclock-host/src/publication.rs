// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page of a clock: whose counter it is about, and what it says of UTC.

use vmclock_core::abi::{ClockStatus, Flags, Snapshot, TimeType};
use vmclock_core::calibration::Calibration;
use vmclock_core::event::Maintenance;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::leap::{next_month_start, LeapKind};
use vmclock_core::lifecycle::{self, on_scale_of};
use vmclock_core::time::{Span, Tai, Time, Utc};

use crate::clock::{Clock, PublishError, Round};
use crate::continuity::Doubt;
use crate::event::{Event, Signal};
use crate::journal::Identity;
use crate::page_file::Found;
use crate::schedule::{LeapSecond, UtcSchedule};
use crate::utc::UtcKeeper;
use crate::world::{Host, PageSink};

/// A clock that is not this machine's.
#[derive(Clone, Copy)]
struct Imaginary {
    /// From the machine's clock to the page's.
    shift: Span,
    schedule: UtcSchedule,
}

/// Whose counter the page is about.
#[derive(Clone, Copy)]
enum Readers {
    /// Programs on this machine.
    Here,
    /// A guest, whose counter may not be known (yet).
    Guest(Option<GuestCounter>),
}

/// One page of a clock.
pub(crate) struct Publication<S> {
    pub(crate) page: S,
    /// What it is called in the journal.
    name: String,
    imaginary: Option<Imaginary>,
    readers: Readers,
    /// The page is about to be about another counter, or to say something else of UTC.
    must_publish: bool,
    /// It was left by another publisher, and stays as it is until there is another calibration for it.
    awaits_renewal: bool,
    /// The marker that it gets in the round that is concluded, and that is in the journal.
    next_marker: Option<u64>,
}

impl<S: PageSink> Publication<S> {
    /// A page for programs on this machine.
    pub(crate) const fn here(page: S, name: String) -> Self {
        Self::new(page, name, Readers::Here)
    }

    /// A page for a guest, whose counter is not known yet.
    pub(crate) const fn of_guest(page: S, name: String) -> Self {
        Self::new(page, name, Readers::Guest(None))
    }

    const fn new(page: S, name: String, readers: Readers) -> Self {
        Self { page, name, imaginary: None, readers, must_publish: false, awaits_renewal: false, next_marker: None }
    }

    /// Begins on a page that was found so, with this clock. Another publisher's continues if the counter went on and it
    /// is as that one left it.
    pub(crate) fn begin<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        blank: Snapshot,
        found: Found,
        events: &mut Vec<Event>,
    ) -> Result<(), PublishError> {
        let (last, is_interrupted) = match found {
            Found::New => {
                clock.returned(&self.name);
                clock.note(&self.name, Identity::of(self.page.contents()));
                return Ok(());
            }
            Found::AtRest(last) => (last, false),
            Found::Interrupted(last) => (last, true),
        };
        let doubt = match self.continues(clock, &last, is_interrupted, &blank) {
            Some(Ok(gap_ns)) => {
                clock.note(&self.name, Identity::of(&last));
                self.go_on(clock, &last, is_interrupted)?;
                events.push(Event::Continued { page: self.name.clone(), gap_ns });
                return Ok(());
            }
            Some(Err(doubt)) => Some(Event::NotContinued { doubt }),
            None => None,
        };
        clock.returned(&self.name);
        self.take_over(clock, blank, &last)?;
        let (page, status) = (self.name.clone(), last.clock_status);
        events.push(Event::TookOver { page, status, interrupted: is_interrupted });
        events.extend(doubt);
        Ok(())
    }

    fn continues<H: Host>(
        &self,
        clock: &Clock<H>,
        last: &Snapshot,
        is_interrupted: bool,
        blank: &Snapshot,
    ) -> Option<Result<u64, Doubt>> {
        let facts = self.facts(clock, ClockStatus::FREE_RUNNING);
        clock.continues(&self.name, last, is_interrupted, blank, |calibration| {
            let mut page = *last;
            facts.as_ref()?.put(calibration, &mut page)?;
            Some(page)
        })
    }

    /// Continues with a page as it was left. What is on it stays until the first round.
    fn go_on<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        last: &Snapshot,
        is_interrupted: bool,
    ) -> Result<(), PublishError> {
        self.must_publish = true;
        if !clock.is_waiting() {
            // What was published meanwhile was right for this page then, and not later.
            clock.recorder.renew();
            self.awaits_renewal = true;
        }
        if is_interrupted {
            clock.found(&self.name, None);
            // What is on it may be of two updates. Readers wait for the second one to end.
            let status = lifecycle::without_time(last.counter_id);
            return Ok(self.page.update(&mut |page| page.clock_status = status)?);
        }
        let known = clock.policy().estimator().left().find(|known| known.reference_counter() == last.counter_value);
        if let (Some(known), Readers::Here, true) = (known.copied(), self.readers, last.clock_status.gives_time()) {
            // A page that is never set back is on TAI, and has what it was moved to.
            let on_page = Calibration::from_snapshot(last, last.counter_id).ok();
            let moved =
                on_page.filter(|_| last.flags.contains(Flags::TIME_MONOTONIC) && last.time_type == TimeType::TAI);
            let tai = moved.map(|moved| moved.with_reference_time(Time::from_raw(moved.reference_time().raw())));
            clock.found(&self.name, Some(&tai.unwrap_or(known)));
        }
        Ok(())
    }

    /// Changes the page in one update. A marker or generation that is new is in the journal before.
    pub(crate) fn change<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        change: &mut dyn FnMut(&mut Snapshot),
    ) -> Result<(), PublishError> {
        let mut next = *self.page.contents();
        change(&mut next);
        self.note(clock, Identity::of(&next));
        Ok(self.page.update(&mut |page| *page = next.with(|next| next.seq_count = page.seq_count))?)
    }

    fn note<H: Host>(&self, clock: &mut Clock<H>, identity: Identity) {
        clock.note(&self.name, identity);
        if identity != Identity::of(self.page.contents()) {
            clock.write_ahead();
        }
    }

    /// After a disruption: draws the page's next marker, so that those of many pages are in the journal at once.
    pub(crate) fn foresee<H: Host>(&mut self, clock: &mut Clock<H>, round: Round) -> Result<(), PublishError> {
        if round.disrupted && self.next_marker.is_none() {
            let marker = clock.fresh_identity()?;
            self.next_marker = Some(marker);
            clock.note(&self.name, Identity { marker, ..Identity::of(self.page.contents()) });
        }
        Ok(())
    }

    /// Leaves the page to the next publisher, as a round says that is its clock's last one.
    pub(crate) fn leave<H: Host>(&mut self, clock: &mut Clock<H>, round: Round) -> Result<(), PublishError> {
        self.must_publish = false;
        if (clock.is_waiting() || self.awaits_renewal) && self.page.contents().clock_status.gives_time() {
            return Ok(self.page.update(&mut |page| page.clock_status = ClockStatus::FREE_RUNNING)?);
        }
        self.publish(clock, round)?;
        if !self.page.contents().clock_status.gives_time() {
            self.page.give_up();
        }
        Ok(())
    }

    /// Marks the page unreliable: nobody corrects it any more, and no publisher continues it.
    pub(crate) fn give_up<H: Host>(&mut self, clock: &mut Clock<H>) {
        clock.forget(&self.name);
        self.page.give_up();
    }

    /// A page that somebody else left behind: its generation is kept, as the machine is the same; all else starts anew,
    /// with a marker never used before, because nobody knows what happened to the counter meanwhile.
    fn take_over<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        blank: Snapshot,
        last: &Snapshot,
    ) -> Result<(), PublishError> {
        let generation = last.generation().filter(|generation| *generation != 0);
        let vm_generation_counter = generation.unwrap_or(blank.vm_generation_counter);
        let next = blank.with(|page| page.vm_generation_counter = vm_generation_counter);
        self.change(clock, &mut |page| *page = next)
    }

    /// The page's clock shows another time than this machine's.
    pub(crate) fn imagine<H: Host>(&mut self, clock: &Clock<H>, start: Time<Utc>) -> Result<(), PublishError> {
        let offset = clock.policy().utc().schedule().offset;
        let shift = offset.tai(start).zip(offset.tai(clock.host.utc())).and_then(|(start, now)| start.since(now));
        let shift = shift.ok_or(PublishError::OutOfRange { what: "the time to start at" })?;
        self.imaginary = Some(Imaginary { shift, schedule: UtcSchedule { offset, leap: None } });
        Ok(())
    }

    /// From now on the page is about a guest's counter, which gives no time as long as it is not known.
    pub(crate) fn set_guest_counter(&mut self, counter: Option<GuestCounter>) {
        self.readers = Readers::Guest(counter);
        self.must_publish = true;
    }

    /// Does to the page what happens to the machine.
    pub(crate) fn signal<H: Host>(&mut self, clock: &mut Clock<H>, signal: Signal) -> Result<(), PublishError> {
        let (marker, generation) = (clock.fresh_identity()?, clock.fresh_identity()?);
        self.change(clock, &mut |page| match signal {
            // The counter continues all the same, and so does the time.
            Signal::Migrate => page.disruption_marker = marker,
            Signal::Snapshot => {
                page.disruption_marker = marker;
                lifecycle::cloned(page, generation);
            }
            Signal::Clone => lifecycle::cloned(page, generation),
            Signal::Soon => lifecycle::announced(page, Maintenance::Soon),
            Signal::Imminent => lifecycle::announced(page, Maintenance::Imminent),
            Signal::Clear => lifecycle::announced(page, Maintenance::None),
            Signal::Leap(_) => {}
        })
    }

    /// Announces a leap second at the end of the current month of the page's clock, or that there is none. Gives the
    /// end of that month.
    pub(crate) fn announce<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        kind: Option<LeapKind>,
    ) -> Result<i64, PublishError> {
        let month = if self.imaginary.is_some() {
            let now = self.time(clock).ok_or(PublishError::OutOfRange { what: "the time" })?;
            let (offset, _) = self.schedule(clock).at(now);
            let month = next_month_start(now.seconds().saturating_sub(offset.seconds().into()));
            let leap = kind.map(|kind| LeapSecond { month, kind });
            self.imaginary = Some(Imaginary { shift: self.shift(), schedule: UtcSchedule { offset, leap } });
            month
        } else {
            clock.announce(kind)
        };
        self.tell_leap_status(clock)?;
        Ok(month)
    }

    /// Brings the leap indicator up to date. It holds at the page's reference time, not now.
    fn tell_leap_status<H: Host>(&mut self, clock: &mut Clock<H>) -> Result<(), PublishError> {
        let Some(reference) = self.reference_time(clock) else { return Ok(()) };
        clock.write_ahead();
        let status = clock.policy().utc().leap_status(&self.schedule(clock), reference);
        Ok(self.page.update(&mut |page| lifecycle::leap_status(page, status))?)
    }

    /// What the page says of UTC, and when.
    fn schedule<H: Host>(&self, clock: &Clock<H>) -> UtcSchedule {
        self.imaginary.map_or(*clock.policy().utc().schedule(), |imaginary| imaginary.schedule)
    }

    /// The page's time, as far as it is known.
    fn time<H: Host>(&self, clock: &Clock<H>) -> Option<Time<Tai>> {
        clock.time().checked_add(self.shift())
    }

    fn shift(&self) -> Span {
        self.imaginary.map_or(Span::default(), |imaginary| imaginary.shift)
    }

    /// TAI at the page's reference time, if it gives one.
    fn reference_time<H: Host>(&self, clock: &Clock<H>) -> Option<Time<Tai>> {
        let page = self.page.contents();
        if !page.clock_status.gives_time() {
            return None;
        }
        let seconds = i64::try_from(page.time_sec).ok()?;
        if page.time_type == TimeType::TAI {
            return Some(Time::from_parts(seconds, page.time_frac_sec));
        }
        let (offset, _) = self.schedule(clock).at(self.time(clock)?);
        offset.tai(Time::from_parts(seconds, page.time_frac_sec))
    }

    /// Brings the page up to date, if there is anything new. Says whether it has a calibration that it did not have.
    pub(crate) fn publish<H: Host>(&mut self, clock: &mut Clock<H>, round: Round) -> Result<bool, PublishError> {
        if round.disrupted {
            self.foresee(clock, round)?;
            let marker = self.next_marker.take().unwrap_or_else(|| unreachable!("it was foreseen"));
            self.change(clock, &mut |page| {
                lifecycle::distrusted(page);
                page.disruption_marker = marker;
            })?;
        }
        let is_renewed = round.is_new || round.disrupted || !round.status.gives_time();
        self.awaits_renewal &= !is_renewed;
        if clock.is_waiting() || self.awaits_renewal {
            return Ok(false);
        }
        let is_new = self.bring_up_to_date(clock, round.status, round.is_new)?;
        // What another publisher left on it is not on it any more.
        clock.returned(&self.name);
        Ok(is_new)
    }

    fn bring_up_to_date<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        status: ClockStatus,
        is_new: bool,
    ) -> Result<bool, PublishError> {
        let Some(facts) = self.facts(clock, status) else { return Ok(false) };
        let last = clock.last().copied();
        let due = |last: &Calibration<Tai>| is_new || self.must_publish || !facts.are_on(self.page.contents(), last);
        let Some(calibration) = last.filter(due) else {
            if facts.status != self.page.contents().clock_status {
                clock.write_ahead();
                self.page.update(&mut |page| page.clock_status = facts.status)?;
            }
            return Ok(false);
        };
        let mut next = *self.page.contents();
        let unsayable = PublishError::OutOfRange { what: "the time, or the counter's frequency," };
        facts.put(&calibration, &mut next).ok_or(unsayable)?;
        clock.write_ahead();
        if facts.settles {
            let mut settled = None;
            self.page.update_late(&mut |page| {
                let counter = clock.host.counter();
                let calibration = clock.recorder.settle(counter);
                settled = Some((counter, calibration));
                // It is the same but for nanoseconds, so that it fits as well.
                if calibration.and_then(|calibration| facts.put(&calibration, page)).is_none() {
                    page.clock_status = ClockStatus::UNRELIABLE;
                }
            })?;
            if let Some((counter, calibration)) = settled {
                clock.settled(counter, calibration.as_ref());
            }
        } else {
            self.page.update(&mut |page| *page = next.with(|next| next.seq_count = page.seq_count))?;
        }
        self.must_publish = false;
        Ok(true)
    }

    /// All that a calibration needs to become the page's. `None` for a guest whose counter is not known.
    fn facts<H: Host>(&self, clock: &Clock<H>, status: ClockStatus) -> Option<Facts> {
        let guest = match self.readers {
            Readers::Here => None,
            Readers::Guest(counter) => Some(counter?),
        };
        Some(Facts {
            utc: *clock.policy().utc(),
            status,
            schedule: self.schedule(clock),
            shift: self.shift(),
            guest,
            // A guest's counter may be known better later, and then the time goes back; and on UTC an inserted second
            // is counted twice.
            settles: clock.policy().settings().monotonic
                && guest.is_none()
                && self.page.contents().time_type == TimeType::TAI,
        })
    }
}

/// What makes a page out of a calibration.
struct Facts {
    utc: UtcKeeper,
    status: ClockStatus,
    schedule: UtcSchedule,
    shift: Span,
    guest: Option<GuestCounter>,
    /// Whether the page promises that its time never goes back.
    settles: bool,
}

impl Facts {
    /// Whether a page with this calibration says the same of UTC already.
    fn are_on(&self, page: &Snapshot, calibration: &Calibration<Tai>) -> bool {
        let mut next = *page;
        self.put(calibration, &mut next).is_none()
            || (next.leap_indicator, next.tai_offset_sec, next.flags)
                == (page.leap_indicator, page.tai_offset_sec, page.flags)
    }

    /// Writes it all. `None` where a page cannot say it.
    fn put(&self, calibration: &Calibration<Tai>, page: &mut Snapshot) -> Option<()> {
        let tai = calibration.reference_time().checked_add(self.shift)?;
        let calibration = calibration.with_reference_time(tai);
        let calibration = match &self.guest {
            None => calibration,
            Some(guest) => guest.calibration(&calibration)?,
        };
        let (scheduled, _) = self.schedule.at(tai);
        let on_page = on_scale_of(page.time_type, &calibration, Some(scheduled))?;
        lifecycle::calibrated(page, &on_page, self.status, self.utc.leap_status(&self.schedule, tai))?;
        let flags = page.flags.without(Flags::TIME_MONOTONIC);
        page.flags = if self.settles { flags.with(Flags::TIME_MONOTONIC) } else { flags };
        Some(())
    }
}
