// SPDX-License-Identifier: GPL-2.0
//! Instants and spans in 2^-64 s, the unit of the page, typed by time scale.

use core::marker::PhantomData;

use crate::fixed::{
    widening_mul,
    NANOS_PER_SEC, //
};

/// A time scale.
pub(crate) trait Scale: 'static {}

/// International Atomic Time, counted from 1970-01-01 00:00:00 TAI.
pub(crate) enum Tai {}
impl Scale for Tai {}

/// UTC as POSIX counts it.
pub(crate) enum Utc {}
impl Scale for Utc {}

/// The scale of the page at hand: TAI, UTC or monotonic.
pub(crate) enum PageScale {}
impl Scale for PageScale {}

//@ time/mod.rs: Time, Time::from_raw, Time::from_parts, Time::seconds, Time::frac, Time::subsec_nanos, Time::floor_nanos, Time::checked_add, Time::on, Time::plus_seconds, nanos_floor
impl<S> Clone for Time<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Time<S> {}

/// A span of time, in 2^-64 s.
#[derive(Clone, Copy)]
pub(crate) struct Span(i128);

//@ time/mod.rs: Span::from_raw
