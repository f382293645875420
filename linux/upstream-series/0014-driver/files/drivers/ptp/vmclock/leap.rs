// SPDX-License-Identifier: GPL-2.0
//! TAI at an instant of the page.

use crate::{
    abi::{
        Snapshot,
        TimeType, //
    },
    time::{
        PageScale,
        Tai,
        Time, //
    }, //
};

//@ leap.rs: tai
