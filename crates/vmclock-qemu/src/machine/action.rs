// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be done.

use vmclock_core::guest_counter::GuestCounter;

use crate::event::Event;
use crate::page::PageChange;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Change the page, and notify the guest.
    Page(PageChange),
    /// Make a new mark beside the page. A snapshot brings an old one back, also when an update has just hidden the old
    /// page.
    Mark,
    /// Send QEMU a command. There is never more than one without an answer.
    Ask(Request),
    /// Read the guest's counter from debugfs, and then handle what QEMU has sent before the answer.
    ReadCounter {
        /// To tell answers about this run of the guest from older ones.
        epoch: u64,
    },
    /// Let a program in the guest narrow what is known of its counter, and then handle what QEMU has sent before the
    /// answer.
    AskGuest {
        /// To tell answers about this run of the guest from older ones.
        epoch: u64,
        /// What is known.
        counter: GuestCounter,
    },
    /// Report what happened.
    Report(Event),
    /// Nothing can be known of the guest any more, for this reason.
    GiveUp(String),
    /// QEMU has ended.
    End,
}

/// A command for QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `query-status`
    Status,
    /// `xen-save-devices-state`, for which QEMU pauses a guest that runs.
    DeviceState,
    /// `cont`
    Continue,
    /// `migrate-incoming`, with a URI or an address in JSON.
    MigrateIncoming(String),
    /// `query-migrate`
    MigrationInfo,
}
