// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest without a page has: a daemon of its own, that asks a server over the network about once a minute, and steers
//! the guest's clock by a control loop.

use hdrhistogram::Histogram;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::reference::{Behaviour, Kind, Reference};

const POLL: f64 = 64e9;

#[derive(Debug)]
pub(super) struct NetworkGuest {
    server: Reference,
    /// The clock's error in nanoseconds, and the frequency that the daemon takes off.
    error: f64,
    steering: f64,
    since: f64,
    settled: u32,
    pub(super) errors: Histogram<u64>,
}

impl NetworkGuest {
    pub(super) fn new(random: &mut Xoshiro256PlusPlus, errors: Histogram<u64>) -> Self {
        let server = Reference::new(Kind::Network, Behaviour::Honest, random);
        Self { server, error: 0.0, steering: 0.0, since: 0.0, settled: 0, errors }
    }

    /// So many nanoseconds went by, in which the counter was off by so many.
    pub(super) fn advance(&mut self, nanos: f64, counter_error: f64, random: &mut Xoshiro256PlusPlus) {
        self.error += counter_error - self.steering * nanos;
        self.since += nanos;
        // The first half hour is the daemon's to settle.
        if self.settled > 30 {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            self.errors.saturating_record(self.error.abs() as u64);
        }
        if self.since < POLL {
            return;
        }
        let elapsed = std::mem::take(&mut self.since);
        let Some(look) = self.server.look(elapsed, random) else { return };
        // It takes the middle of the packet's way for the moment, which it is not.
        let measured = self.error - look.error + (look.before - look.after) / 2.0;
        if self.settled < 8 {
            self.steering += measured / elapsed / 2.0;
            self.error -= measured;
        } else {
            self.steering += 0.03 * measured / elapsed;
            self.error -= 0.3 * measured;
        }
        self.settled += 1;
    }
}
