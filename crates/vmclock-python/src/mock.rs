// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page in this process, for the tests of programs.

use pyo3::prelude::*;

use crate::clock::{seconds, Clock};
use crate::errors;
use crate::snapshot::Snapshot;

/// A page in this process, for the tests of programs: its counter moves only by `advance` and `set_counter`.
///
/// It starts synchronized on TAI, at 2033-05-18 03:33:20 TAI with UTC 37 s behind and errors of ± 1 µs, or with the
/// contents of `page`.
#[pyclass(frozen, module = "vmclock")]
pub(crate) struct MockPage(vmclock::mock::MockPage);

#[pymethods]
impl MockPage {
    #[new]
    #[pyo3(signature = (page=None))]
    fn new(page: Option<&[u8]>) -> PyResult<Self> {
        let Some(page) = page else { return Ok(Self(vmclock::mock::MockPage::new())) };
        let page = vmclock::Snapshot::from_prefix(page).map_err(|error| errors::not_a_page(&error))?;
        Ok(Self(vmclock::mock::MockPage::with(page)))
    }

    /// A clock that reads this page. It sees every later change.
    fn clock(&self) -> Clock {
        Clock::of(self.0.clock())
    }

    /// The page's contents.
    fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.contents())
    }

    /// Publishes other contents.
    fn publish(&self, page: &[u8]) -> PyResult<()> {
        let new = vmclock::Snapshot::from_prefix(page).map_err(|error| errors::not_a_page(&error))?;
        self.0.update(|page| *page = new.with(|new| new.seq_count = page.seq_count));
        Ok(())
    }

    /// Moves the counter on by so many seconds.
    fn advance(&self, by: f64) -> PyResult<()> {
        self.0.advance(seconds("by", by)?);
        Ok(())
    }

    /// Sets the counter.
    fn set_counter(&self, counter: u64) {
        self.0.set_counter(counter);
    }

    /// What a live migration does: a new marker.
    fn disrupt(&self) {
        self.0.disrupt();
    }

    /// What a restore from a snapshot does: a new marker and a new generation.
    fn restore(&self) {
        self.0.restore();
    }

    /// What the removal of a page's file does: its clocks have vanished.
    fn remove(&self) {
        self.0.remove();
    }

    /// What a new publisher does after `remove`: there is a page again, with a new marker.
    fn publish_again(&self) {
        self.0.publish_again();
    }
}
