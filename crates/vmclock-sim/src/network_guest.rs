// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest without a page has: a daemon of its own, that asks a server over the network about once a minute, and
//! steers the guest's clock by a control loop.

use crate::chance::Chance;
use crate::clock::{Clock, ClockSpec, ErrorModel, Stated};
use crate::spec::{Delay, SourceSpec, WorldSpec};
use crate::units::{rounded, Nanos, HOUR, MICRO, MILLI, SECOND};
use crate::world::World;

const POLL: Nanos = 64 * SECOND;
/// The first half hour is the daemon's to settle.
const SETTLED: u32 = 30;

/// A server over a network, and the way to it: the packet's way there and back brackets its time.
pub(crate) fn server(chance: &mut Chance) -> (ClockSpec, [Delay; 2]) {
    let clock = ClockSpec {
        tai: true,
        stated: Stated::Constant(400 * MICRO),
        error: ErrorModel::Bias { deviation: 60 * MICRO, follows: 2 * HOUR, limit: 300 * MICRO, noise: 0 },
        estimated: 80_000,
        synchronized: true,
        announces: 0,
        knows_offset: false,
        turns: None,
    };
    let way = |chance: &mut Chance| Delay { fixed: chance.between(200 * MICRO, 20 * MILLI), queue: 300 * MICRO };
    let there = way(chance);
    (clock, [there, way(chance)])
}

/// The daemon, and its clock.
#[derive(Debug)]
pub(crate) struct NetworkGuest {
    server: Server,
    ways: [Delay; 2],
    chance: Chance,
    /// The nominal frequency, in Hz.
    hertz: f64,
    /// The clock's error in nanoseconds when the counter was this; and the frequency that the daemon takes off.
    error: f64,
    at: Nanos,
    counter: u64,
    steering: f64,
    polled: u32,
    pub(crate) next_poll: Nanos,
    last_poll: Nanos,
}

/// Whom it asks.
#[derive(Debug)]
enum Server {
    /// One that the page's publisher polls too.
    OfTheHost(usize),
    /// One of its own.
    Own(Box<Clock>),
}

impl NetworkGuest {
    /// In a world: it asks the first of the servers that the host asks over the network, if there are any.
    pub(crate) fn new(spec: &WorldSpec) -> Self {
        let mut chance = Chance::stream(spec.seed, "network guest", 0);
        let over_network = |source: &&SourceSpec| source.before.fixed >= 100 * MICRO;
        let (server, ways) = if let Some(source) = spec.sources.iter().find(over_network) {
            (Server::OfTheHost(source.clock), [source.before, source.after])
        } else {
            let (clock, ways) = server(&mut chance);
            (Server::Own(Box::new(Clock::new(&clock, 0, &[], Chance::stream(spec.seed, "server", 0)))), ways)
        };
        Self {
            server,
            ways,
            chance,
            hertz: spec.oscillator.hertz,
            error: 0.0,
            at: 0,
            counter: spec.oscillator.start,
            steering: 0.0,
            polled: 0,
            next_poll: POLL,
            last_poll: 0,
        }
    }

    /// The clock's error now, in nanoseconds.
    fn carry(&mut self, world: &World) {
        let counter = world.counter.at(world.now);
        let elapsed = (world.now - self.at) as f64;
        let counted = counter.wrapping_sub(self.counter) as f64 / self.hertz * SECOND as f64;
        self.error += counted - elapsed - self.steering * elapsed;
        (self.at, self.counter) = (world.now, counter);
    }

    /// The counter is another one.
    pub(crate) fn resume(&mut self, world: &World) {
        (self.at, self.counter) = (world.now, world.counter.at(world.now));
    }

    /// Somebody reads its clock.
    pub(crate) fn read(&mut self, world: &mut World) {
        self.carry(world);
        if let (true, Some(statistics)) = (self.polled > SETTLED, &mut world.statistics) {
            statistics.network_errors.saturating_record(rounded(self.error).unsigned_abs());
        }
    }

    /// The daemon asks.
    pub(crate) fn poll(&mut self, world: &mut World) {
        self.carry(world);
        let elapsed = (world.now - self.last_poll).max(1) as f64;
        self.last_poll = world.now;
        self.next_poll = world.now + POLL;
        if self.chance.happens(0.02) {
            return;
        }
        let [before, after] = self.ways.map(|way| {
            let busy = if self.chance.happens(0.03) { 30.0 } else { 1.0 };
            way.fixed as f64 + busy * self.chance.exponential(way.queue as f64)
        });
        let shown = match &mut self.server {
            Server::OfTheHost(clock) => world.show(*clock, world.now).0,
            Server::Own(clock) => clock.show(world.now, &world.calendar),
        };
        // It takes the middle of the packet's way for the moment, which it is not.
        let measured = self.error - shown.error as f64 + (before - after) / 2.0;
        if self.polled < 8 {
            self.steering += measured / elapsed / 2.0;
            self.error -= measured;
        } else {
            self.steering += 0.03 * measured / elapsed;
            self.error -= 0.3 * measured;
        }
        self.polled += 1;
    }
}
