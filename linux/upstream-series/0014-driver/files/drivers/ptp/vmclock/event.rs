// SPDX-License-Identifier: GPL-2.0
//! What a page says of disruptions and restores.

use crate::abi::Snapshot;

//@ event.rs: Epoch, Epoch::of
