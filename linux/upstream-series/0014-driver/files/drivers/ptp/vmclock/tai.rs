// SPDX-License-Identifier: GPL-2.0
//! TAI-UTC and its sign.

use crate::time::{
    Tai,
    Time,
    Utc, //
};

//@ tai.rs: RANGE, TaiOffset, TaiOffset::from_seconds, TaiOffset::from_page_field, TaiOffset::page_field, TaiOffset::tai
