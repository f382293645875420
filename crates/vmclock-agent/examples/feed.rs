// SPDX-License-Identifier: MIT OR Apache-2.0
//! Feeds a daemon, or ClockBound's clients, from a page, until SIGTERM:
//!
//!     feed PAGE MILLISECONDS chrony SOCKET MAX_ERROR [CHRONYD]
//!     feed PAGE MILLISECONDS ntpd-rs SOCKET MAX_ERROR
//!     feed PAGE MILLISECONDS clockbound SEGMENT
//!     feed PAGE MILLISECONDS clockbound3 SEGMENT
//!
//! `MILLISECONDS` is the time between samples; `MAX_ERROR`, in ± nanoseconds, what the receiver is configured for;
//! `CHRONYD` the socket for chronyd's commands: it drops what it measured when the page shows a disruption.

use std::env::args;
use std::error::Error;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vmclock::VmClock;
use vmclock_agent::feed::chronyd::{Chronyd, Command, Conversation};
use vmclock_agent::feed::clockbound::v3::{self, ClockBound3};
use vmclock_agent::feed::clockbound::{ClockBound, Settings};
use vmclock_agent::feed::sock::{Receiver, Sock};
use vmclock_agent::feed::Feed;
use vmclock_agent::measure::{Ahead, Measured};
use vmclock_core::abi::ClockStatus;
use vmclock_core::event::Epoch;
use vmclock_core::leap::LeapStatus;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (page, interval, mut feed, chronyd): (_, _, Box<dyn Feed>, _) = match arguments[..] {
        [page, interval, "chrony", path, max_error] => (page, interval, sock(Receiver::Chrony, path, max_error)?, None),
        [page, interval, "chrony", path, max_error, chronyd] => {
            (page, interval, sock(Receiver::Chrony, path, max_error)?, Some(Chronyd::new(chronyd)))
        }
        [page, interval, "ntpd-rs", path, max_error] => {
            (page, interval, sock(Receiver::NtpdRs, path, max_error)?, None)
        }
        [page, interval, "clockbound", path] => {
            let settings = Settings { path: path.into(), ..Settings::default() };
            (page, interval, Box::new(ClockBound::open(settings)?), None)
        }
        [page, interval, "clockbound3", path] => {
            let settings = v3::Settings { path: path.into(), ..v3::Settings::default() };
            (page, interval, Box::new(ClockBound3::open(settings, page)?), None)
        }
        _ => return Err("which page, how often, what for? See the beginning of this example".into()),
    };
    let interval = Duration::from_millis(interval.parse()?);
    let clock = VmClock::open_at(page)?;
    let (stop, stopper) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, stopper)?;

    let mut epoch = clock.epoch()?;
    let mut conversation: Option<Conversation> = None;
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next {
            next = now + interval;
            let current = clock.epoch()?;
            if current != epoch {
                epoch = current;
                feed.disrupted()?;
                if let Some(chronyd) = &chronyd {
                    conversation = Some(chronyd.start(&[Command::ResetSources], now)?);
                }
            }
            // A page that gives no time today may tomorrow, and a daemon may come back.
            if let Err(error) = measure(&clock).and_then(|measured| Ok(feed.update(&measured)?)) {
                println!("{error}");
            }
        }
        if let Some(result) = conversation.as_mut().and_then(|conversation| conversation.advance(now)) {
            result?;
            println!("chronyd has dropped what it measured");
            conversation = None;
        }
        let until = conversation.as_ref().map_or(next, |conversation| conversation.deadline().min(next));
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        let mut ready = vec![PollFd::new(&stop, PollFlags::IN)];
        ready.extend(conversation.as_ref().map(|conversation| PollFd::new(conversation, PollFlags::IN)));
        poll(&mut ready, Some(&left))?;
        if !ready[0].revents().is_empty() {
            return Ok(());
        }
    }
}

fn sock(receiver: Receiver, path: &str, max_error: &str) -> Result<Box<dyn Feed>, Box<dyn Error>> {
    let feed = Sock::new(receiver, path, max_error.parse()?)?;
    print!("{}", feed.configuration());
    Ok(Box::new(feed))
}

/// Compares the system's clock with the page.
fn measure(clock: &VmClock) -> Result<Measured, Box<dyn Error>> {
    let cross = clock.cross_timestamp()?;
    let (low, high) = cross.realtime_ahead_nanos().ok_or("the page gives no UTC with bounds")?;
    let max_error = u64::try_from(cross.reading.max_error_nanos().unwrap_or(u128::MAX))?;
    Ok(Measured {
        ahead: Ahead { low, high },
        realtime: cross.realtime.time,
        max_error,
        estimated_error: max_error,
        synchronized: cross.page.clock_status == ClockStatus::SYNCHRONIZED,
        leap: LeapStatus::of(&cross.page),
        epoch: Some(Epoch::of(&cross.page)),
    })
}
