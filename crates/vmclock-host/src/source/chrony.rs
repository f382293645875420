// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's clock with the error that chronyd states, by chronyd's own command protocol (version 6, as since chrony
//! 2.2): a datagram there and one back, on a port that chronyd opens to this machine only. [`protocol`] has its frame.

pub mod protocol;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use vmclock_core::leap::{next_month_start, LeapKind};

use self::protocol::{Command, ReplyError};
use super::kernel::{knows_tai, measurement, quality, SYSTEM_CLOCK};
use super::{LeapNotice, Measure, Measurement, SourceError, Stamp};

/// Where chronyd listens unless its configuration names another port.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 323);
/// How long an answer may take, to the first request and to another: a datagram may be lost.
const TIMEOUTS: [Duration; 2] = [Duration::from_millis(250); 2];

/// What chronyd calls its own clock, 127.127.1.1: with `local` it is synchronized to itself, and states no error.
const ITSELF: u32 = 0x7f7f_0101;
/// How fast the error of a clock that chronyd disciplines grows beside its skew, in seconds per second: chronyd's
/// default of `maxclockerror`.
const CLOCK_ERROR: f64 = 1e-6;

/// The kernel's clock, disciplined by chronyd, which is asked for its error each time. That takes up to half a second.
///
/// ```
/// use vmclock_host::source::{chrony::Chrony, Measure};
/// let mut source = Chrony::new(Some("127.0.0.1:1".parse()?));
/// let error = source.measure().expect_err("nobody listens there");
/// assert!(error.to_string().contains("is chronyd running?"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Chrony {
    address: SocketAddr,
    name: String,
    is_tai: bool,
    sequence: u32,
    /// How long each attempt waits for an answer.
    timeouts: [Duration; 2],
}

impl Chrony {
    /// At an address other than 127.0.0.1:323, perhaps.
    pub fn new(address: Option<SocketAddr>) -> Self {
        let address = address.unwrap_or(DEFAULT);
        Self {
            address,
            name: format!("chrony {address}"),
            is_tai: knows_tai(),
            sequence: std::process::id(),
            timeouts: TIMEOUTS,
        }
    }

    fn ask(&mut self) -> io::Result<Result<Tracking, ReplyError>> {
        let any: SocketAddr =
            if self.address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(self.address)?;
        // One for all attempts: the answer to the first may arrive when the second is under way.
        self.sequence = self.sequence.wrapping_add(1);
        for (attempt, timeout) in (0..).zip(self.timeouts) {
            socket.set_read_timeout(Some(timeout))?;
            socket.send(&Command::Tracking.request(self.sequence, attempt))?;
            let sent = Instant::now();
            while sent.elapsed() < timeout {
                let mut answer = [0; 1024];
                match socket.recv(&mut answer) {
                    Ok(len) => return Ok(Tracking::parse(&answer[..len], self.sequence)),
                    Err(error) => match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::TimedOut => break,
                        ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    },
                }
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

impl Measure for Chrony {
    fn name(&self) -> &str {
        &self.name
    }

    fn clock(&self) -> String {
        SYSTEM_CLOCK.into()
    }

    fn is_tai(&self) -> bool {
        self.is_tai
    }

    fn measure(&mut self) -> Result<Measurement, SourceError> {
        let name = self.name.clone();
        let failed = |error| SourceError::Io { name, what: "gives no answer, is chronyd running?", error };
        let asked = Instant::now();
        let tracking = self.ask().map_err(failed)?;
        let no_time = |reason: &str| SourceError::NoTime { name: self.name.clone(), reason: reason.to_owned() };
        let tracking = tracking.map_err(|error| no_time(&error.to_string()))?;
        let (max_error, estimated_error) = tracking
            .errors()
            .ok_or_else(|| no_time("is not synchronized to anything but itself; see `chronyc sources`"))?;
        let exact = measurement(&quality()?);
        let max_error = max_error.saturating_add(tracking.growth(asked.elapsed()));
        let leap = LeapNotice { today: exact.leap.today.or(tracking.leap_on_day_of(&exact)), ..exact.leap };
        Ok(Measurement { max_error, estimated_error, leap, ..exact })
    }
}

/// What chronyd states of the kernel's clock, in seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tracking {
    is_synchronized: bool,
    /// The leap second that chronyd expects.
    leap: Option<LeapKind>,
    /// The offset that the kernel's clock is still to be corrected by.
    correction: f64,
    rms_offset: f64,
    /// The error bound of the clock's frequency, in seconds per second.
    skew: f64,
    root_delay: f64,
    root_dispersion: f64,
}

impl Tracking {
    /// chronyd's answer to a request of [`Command::Tracking`] with this sequence number.
    pub fn parse(answer: &[u8], sequence: u32) -> Result<Self, ReplyError> {
        let bytes = Command::Tracking.parse_reply(answer, sequence)?;
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let number = |at: usize| protocol::number(word(at));
        let reference = word(0);
        let (stratum, leap_status) = (half(24), half(26));
        Ok(Self {
            is_synchronized: leap_status < 3 && stratum > 0 && reference != 0 && reference != ITSELF,
            leap: match leap_status {
                1 => Some(LeapKind::Inserted),
                2 => Some(LeapKind::Deleted),
                _ => None,
            },
            correction: number(40),
            rms_offset: number(48),
            skew: number(60) * 1e-6,
            root_delay: number(64),
            root_dispersion: number(68),
        })
    }

    /// The clock's maximum error, as chrony's manual defines it, and its estimated error, in ± nanoseconds. `None`
    /// where chronyd does not know.
    fn errors(&self) -> Option<(u64, u64)> {
        let maximum = self.correction.abs() + self.root_dispersion + self.root_delay / 2.0;
        let estimated = (self.correction.abs() + self.rms_offset).min(maximum);
        let is_sane = self.root_dispersion >= 0.0 && self.root_delay >= 0.0 && maximum < 1e6 && self.skew >= 0.0;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // in range
        let nanos = |seconds: f64| (seconds * 1e9).ceil() as u64;
        (self.is_synchronized && is_sane).then(|| (nanos(maximum), nanos(estimated)))
    }

    /// How far the kernel's clock is ahead of UTC, in nanoseconds: at least, and at most. chronyd was asked so long ago.
    /// `None` where chronyd does not know.
    pub fn ahead(&self, age: Duration) -> Option<(i128, i128)> {
        self.errors()?;
        #[allow(clippy::cast_possible_truncation)] // in range
        let nanos = |seconds: f64| (seconds * 1e9).ceil() as i128;
        let error = nanos(self.root_dispersion + self.root_delay / 2.0) + i128::from(self.growth(age));
        let behind = nanos(self.correction);
        Some((-behind - error, -behind + error + 1))
    }

    /// How much the error may have grown since chronyd was asked, in nanoseconds: as chronyd itself lets it grow.
    fn growth(&self, age: Duration) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, and a cast saturates
        let nanos = ((self.skew + CLOCK_ERROR) * age.as_secs_f64() * 1e9).ceil() as u64;
        nanos
    }

    /// The leap second that chronyd expects, which it may keep from the kernel. For a moment chronyd still expects it
    /// when it is over: then the day is not the last of a month.
    fn leap_on_day_of(&self, measured: &Measurement) -> Option<LeapKind> {
        const DAY: i64 = 86_400;
        let utc = match measured.stamp {
            Stamp::Utc(sample) => sample.time,
            Stamp::Tai(sample) => measured.leap.tai_offset?.utc(sample.time)?,
        };
        let to_come = next_month_start(utc.seconds()).saturating_sub(utc.seconds());
        self.leap.filter(|_| to_come <= DAY && !measured.leap.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kernel::{KernelSource, Trust};
    use proptest::prelude::*;
    use vmclock_core::sample::Sample;
    use vmclock_core::tai::TaiOffset;
    use vmclock_core::time::{Scale, Time};

    const HEADER_LEN: usize = 28;
    const TRACKING_LEN: usize = HEADER_LEN + 76;

    fn answer(sequence: u32) -> Vec<u8> {
        let mut bytes = vec![0; TRACKING_LEN];
        bytes[..8].copy_from_slice(&[6, 2, 0, 0, 0, 33, 0, 5]);
        bytes[16..20].copy_from_slice(&sequence.to_be_bytes());
        bytes[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&[192, 0, 2, 1]);
        bytes[HEADER_LEN + 24..HEADER_LEN + 26].copy_from_slice(&2_u16.to_be_bytes());
        // -0.5 ms still to go, 0.25 ms, 0.5 ppm, 8 ms there and back, 1 ms.
        for (at, seconds) in
            [(40, -0.000_488_281_25), (48, 0.000_244_140_625), (60, 0.5), (64, 0.007_812_5), (68, 0.000_976_562_5)]
        {
            let word = coded(seconds);
            bytes[HEADER_LEN + at..HEADER_LEN + at + 4].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// A power of two, perhaps negative.
    fn coded(seconds: f64) -> u32 {
        #[allow(clippy::cast_possible_truncation)]
        let exponent = seconds.abs().log2() as i32 + 25 - 23;
        let coefficient = if seconds < 0.0 { -(1 << 23) } else { 1 << 23 };
        #[allow(clippy::cast_sign_loss)]
        let word = ((exponent as u32 & 0x7f) << 25) | (coefficient as u32 & 0x01ff_ffff);
        word
    }

    #[test]
    fn an_answer_is_understood() {
        let tracking = Tracking::parse(&answer(7), 7).expect("an answer");
        assert_eq!(tracking.errors(), Some((5_371_094, 732_422)));
        let (low, high) = tracking.ahead(Duration::ZERO).expect("synchronized");
        assert_eq!((low, high), (488_281 - 4_882_813, 488_281 + 4_882_813 + 1), "0.5 ms fast");
        assert!((150..=151).contains(&tracking.growth(Duration::from_millis(100))), "0.5 ppm and 1 ppm, rounded up");
        let mut unsynchronized = answer(7);
        unsynchronized[HEADER_LEN + 27] = 3;
        assert_eq!(Tracking::parse(&unsynchronized, 7).expect("an answer").errors(), None);
        assert_eq!(Tracking::parse(&unsynchronized, 7).expect("an answer").ahead(Duration::ZERO), None);
        let mut local = answer(7);
        local[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&ITSELF.to_be_bytes());
        assert_eq!(Tracking::parse(&local, 7).expect("an answer").errors(), None, "no error is no bound");
    }

    #[test]
    fn a_leap_second_is_announced_on_its_day_and_no_longer() {
        const NEW_YEAR: i64 = 1_483_228_800;
        fn sample<S: Scale>(seconds: i64) -> Sample<S> {
            Sample { before: 0, time: Time::from_parts(NEW_YEAR + seconds, 0), after: 0 }
        }
        let measured = |stamp, leap| Measurement {
            stamp,
            max_error: 0,
            estimated_error: 0,
            synchronized: true,
            leap,
            era: 0,
            steering: None,
        };
        let utc = |seconds| measured(Stamp::Utc(sample(seconds)), LeapNotice::default());
        let expected = |status| {
            let mut bytes = answer(7);
            bytes[HEADER_LEN + 27] = status;
            Tracking::parse(&bytes, 7).expect("an answer")
        };
        for (status, leap) in [(0, None), (1, Some(LeapKind::Inserted)), (2, Some(LeapKind::Deleted))] {
            assert_eq!(expected(status).leap_on_day_of(&utc(-10)), leap);
            assert_eq!(expected(status).leap_on_day_of(&utc(-86_401)), None, "the day before");
            assert_eq!(expected(status).leap_on_day_of(&utc(0)), None, "over");
        }
        let now = LeapNotice { now: true, tai_offset: TaiOffset::from_seconds(37), today: None };
        let before = LeapNotice { now: false, ..now };
        let tai = Stamp::Tai(sample(36));
        assert_eq!(expected(1).leap_on_day_of(&measured(tai, now)), None, "it is under way");
        assert_eq!(expected(1).leap_on_day_of(&measured(tai, before)), Some(LeapKind::Inserted));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let refused = |bytes: &[u8], sequence| Tracking::parse(bytes, sequence).expect_err("no answer").to_string();
        assert!(refused(&answer(7)[..TRACKING_LEN - 1], 7).contains("too short"));
        assert!(refused(&answer(7), 8).contains("something else"));
        for (at, value, part) in [(0, 5, "version"), (1, 1, "version"), (9, 2, "refuses"), (7, 9, "something else")] {
            let mut wrong = answer(7);
            wrong[at] = value;
            assert!(refused(&wrong, 7).contains(part));
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_up_a_bound(bytes in prop::collection::vec(any::<u8>(), 0..200), sequence in any::<u32>()) {
            let _ = Tracking::parse(&bytes, sequence);
            let mut framed = answer(sequence);
            for (to, from) in framed[HEADER_LEN..].iter_mut().zip(&bytes) {
                *to = *from;
            }
            if let Some((maximum, estimated)) = Tracking::parse(&framed, sequence).expect("framed").errors() {
                prop_assert!(estimated <= maximum && maximum < 1_000_000_000_000_001);
            }
        }
    }

    #[test]
    fn a_daemon_is_asked_again_when_a_datagram_is_lost() {
        let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let mut source = patient(&daemon);
        let served = std::thread::spawn(move || {
            let mut question = [0; 200];
            daemon.recv_from(&mut question).expect("the first is lost");
            let (len, from) = daemon.recv_from(&mut question).expect("asked again");
            assert_eq!(len, TRACKING_LEN);
            let sequence = u32::from_be_bytes([question[8], question[9], question[10], question[11]]);
            daemon.send_to(&answer(sequence), from).expect("sent");
        });
        let measurement = source.measure().expect("an answer");
        served.join().expect("served");
        // It grows while nobody answers: by 1.5 ppm of some 250 ms.
        assert!((5_371_094 + 375..5_371_094 + 10_000).contains(&measurement.max_error), "{measurement:?}");
    }

    /// A source that asks a second time soon, and then waits however busy this machine is.
    fn patient(daemon: &UdpSocket) -> Chrony {
        let source = Chrony::new(Some(daemon.local_addr().expect("bound")));
        Chrony { timeouts: [TIMEOUTS[0], Duration::from_secs(60)], ..source }
    }

    #[test]
    fn a_late_answer_is_an_answer() {
        let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let mut source = patient(&daemon);
        let served = std::thread::spawn(move || {
            let (mut first, mut second) = ([0; TRACKING_LEN], [0; TRACKING_LEN]);
            daemon.recv_from(&mut first).expect("asked");
            let (_, from) = daemon.recv_from(&mut second).expect("asked again");
            let sequence = u32::from_be_bytes([first[8], first[9], first[10], first[11]]);
            daemon.send_to(&answer(sequence), from).expect("sent");
        });
        source.measure().expect("the first answer, when it is asked for the second time");
        served.join().expect("served");
    }

    #[test]
    fn wherever_chronyd_is_the_clock_is_the_systems() {
        let other = Chrony::new(Some("192.0.2.1:323".parse().expect("an address")));
        assert_eq!(Chrony::new(None).clock(), other.clock());
        assert_eq!(other.clock(), KernelSource::new(Trust::Kernel).clock());
        assert_eq!(other.name(), "chrony 192.0.2.1:323");
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_waited_for_but_not_for_long() {
        let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let start = Instant::now();
        let error = Chrony::new(Some(daemon.local_addr().expect("bound"))).measure().expect_err("no answer");
        assert!(error.to_string().contains("is chronyd running?"), "{error}");
        assert!(start.elapsed() >= TIMEOUTS[0] + TIMEOUTS[1], "{:?}", start.elapsed());
    }
}
