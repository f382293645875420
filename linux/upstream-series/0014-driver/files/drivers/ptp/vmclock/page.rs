// SPDX-License-Identifier: GPL-2.0
//! The sequence count: how the page is read while the hypervisor writes it.
//!
//! The hypervisor makes the count odd, writes, and makes it even again. A reader takes the count,
//! reads, and takes the count again: an even and unchanged count means that what it read belongs
//! together. Nothing that was read is interpreted before that.
//!
//! Every access to the shared memory is a relaxed atomic load of one naturally aligned word; the order
//! between them is made by barriers alone.

use kernel::sync::{
    atomic::{
        Atomic,
        Relaxed, //
    },
    barrier::{
        dma_mb,
        Read, //
    }, //
};

use crate::abi::{
    Snapshot,
    Words,
    CHANGING_WORDS,
    STRUCTURE_LEN, //
};

//@ page/sequence.rs: Busy, SeqCount, SeqCount::get, SeqCount::read, SeqCount::try_read, SeqCount::read_again
//@ page/mod.rs: Page
const _: () = {
    assert!(size_of::<Page>() == STRUCTURE_LEN);
    assert!(core::mem::offset_of!(Page, seq_count) == core::mem::offset_of!(Snapshot, seq_count));
    assert!(
        core::mem::offset_of!(Page, words) == core::mem::offset_of!(Snapshot, disruption_marker)
    );
};

//@ page/mod.rs: Page::from_ptr, Page::snapshot, Page::words_with, Page::try_some_words_with, Page::sequence, Page::load, load
