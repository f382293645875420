// SPDX-License-Identifier: MIT OR Apache-2.0
//! Samples by datagram, as gpsd sends them: for chrony's `refclock SOCK`, and for a source of ntpd-rs with
//! `mode = "sock"`. Both own the socket, and make it when they start.
//!
//! A sample is `struct sock_sample` of chrony's `refclock_sock.c`: when, by the system's clock (UTC); how far true time
//! is ahead of it, in seconds; and a leap second that comes at the end of this day. Chrony reads it in this machine's
//! byte order. ntpd-rs (`sock_source.rs`) reads little-endian, takes the time of arrival for the time of the sample,
//! and refuses pulses.
//!
//! An error has no place in it: it is in the receiver's configuration, which [`Sock::configuration`] writes. So a
//! sample that is worse than configured is withheld.
//!
//! ntpd-rs 1.x has the sign of chrony and gpsd. Its 2.0.0-alpha.20260715 has the other one, and must not be fed.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use vmclock_core::leap::LeapKind;

use super::{io_error, Feed, FeedError, Leap};
use crate::measure::Measured;

/// Who receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// chronyd, 3.0 or later.
    Chrony,
    /// ntpd-rs, 1.4 or later, before 2.0.0-alpha.
    NtpdRs,
}

/// Samples of UTC for a time daemon.
///
/// ```
/// use vmclock_agent::feed::{sock::{Receiver, Sock}, Feed};
/// let feed = Sock::new(Receiver::Chrony, "/run/chrony.vmclock.sock", 50_000)?;
/// assert_eq!(feed.name(), "chrony /run/chrony.vmclock.sock");
/// assert!(feed.configuration().starts_with("refclock SOCK /run/chrony.vmclock.sock "));
/// # Ok::<(), vmclock_agent::feed::FeedError>(())
/// ```
#[derive(Debug)]
pub struct Sock {
    receiver: Receiver,
    path: PathBuf,
    name: String,
    /// ± nanoseconds.
    max_error: u64,
    socket: UnixDatagram,
}

impl Sock {
    /// A feed for the daemon that has its socket at `path`, now or later, and that was told that samples are right
    /// within ± `max_error` nanoseconds: worse ones are withheld.
    pub fn new(receiver: Receiver, path: impl Into<PathBuf>, max_error: u64) -> Result<Self, FeedError> {
        let path = path.into();
        let daemon = match receiver {
            Receiver::Chrony => "chrony",
            Receiver::NtpdRs => "ntpd-rs",
        };
        let name = format!("{daemon} {}", path.display());
        // A path that is too long, at once and not with each sample.
        SocketAddr::from_pathname(&path).map_err(io_error(&path, "send to a socket of this name"))?;
        let socket = UnixDatagram::unbound().map_err(io_error(&path, "make a socket to send there"))?;
        socket.set_nonblocking(true).map_err(io_error(&path, "make a socket that does not block"))?;
        Ok(Self { receiver, path, name, max_error, socket })
    }

    /// Where the daemon has its socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the daemon's configuration has to say for this feed: chrony counts half of `delay` to the maximum error,
    /// ntpd-rs takes `precision` for a standard deviation, and before 1.5 was told its square.
    pub fn configuration(&self) -> String {
        #[allow(clippy::cast_precision_loss)] // of no consequence: rounded to nanoseconds below
        let seconds = self.max_error as f64 * 1e-9;
        let path = self.path.display();
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = match self.receiver {
            Receiver::Chrony => {
                writeln!(text, "refclock SOCK {path} refid VMCL poll 0 precision 1e-6 delay {:.9}", 2.0 * seconds)
            }
            Receiver::NtpdRs => {
                let variance = seconds * seconds;
                writeln!(
                    text,
                    "[[source]]\nmode = \"sock\"\npath = \"{path}\"\n\
                     precision = {seconds:.9} # ntpd-rs 1.4: measurement_noise_estimate = {variance:e}"
                )
            }
        };
        text
    }
}

impl Feed for Sock {
    fn name(&self) -> &str {
        &self.name
    }

    fn update(&mut self, measured: &Measured) -> Result<(), FeedError> {
        let name = || self.name.clone();
        if !measured.synchronized {
            return Err(FeedError::NotSynchronized { name: name() });
        }
        let uncertainty = measured.ahead.uncertainty();
        if uncertainty > i128::from(self.max_error) || measured.ahead.low > measured.ahead.high {
            return Err(FeedError::TooUncertain { name: name(), uncertainty, limit: self.max_error });
        }
        let leap = match Leap::of(measured) {
            Leap::Far => None,
            Leap::Today(kind, _) => Some(kind),
            Leap::Close => return Err(FeedError::LeapSecond { name: name() }),
        };
        let sample =
            Sample::of(measured, leap).ok_or_else(|| FeedError::OutOfRange { name: name(), ahead: measured.ahead })?;
        match self.socket.send_to(&sample.bytes(self.receiver), &self.path) {
            Ok(_) => Ok(()),
            Err(error) => {
                let hint = match (error.kind(), self.receiver) {
                    (ErrorKind::NotFound | ErrorKind::ConnectionRefused, Receiver::Chrony) => {
                        ": is chronyd running, with `refclock SOCK` and this path?"
                    }
                    (ErrorKind::NotFound | ErrorKind::ConnectionRefused, Receiver::NtpdRs) => {
                        ": is ntp-daemon running, with a source of mode \"sock\" and this path?"
                    }
                    (ErrorKind::PermissionDenied, _) => ": run as the daemon's user, or with CAP_DAC_OVERRIDE",
                    (ErrorKind::WouldBlock, _) => ": the daemon does not read its socket",
                    _ => "",
                };
                Err(FeedError::Io { path: self.path.clone(), doing: "send a sample", error, hint })
            }
        }
    }

    /// There is no word for it in this protocol: the next sample tells, and for chronyd
    /// [`Chronyd`](super::chronyd::Chronyd).
    fn disrupted(&mut self) -> Result<(), FeedError> {
        Ok(())
    }
}

/// `struct sock_sample`, with 64 bits for `time_t` and `suseconds_t`; where they have 32, chrony takes both.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sample {
    seconds: i64,
    micros: i64,
    /// How far true time is ahead of the system's clock, in seconds.
    offset: f64,
    /// 0: none, 1: a second is inserted at the end of the day, 2: one is deleted.
    leap: i32,
}

/// The bytes of a sample.
const LEN: usize = 40;
/// `SOCK_MAGIC`.
const MAGIC: i32 = 0x534f_434b;

impl Sample {
    fn of(measured: &Measured, leap: Option<LeapKind>) -> Option<Self> {
        // A few hundred years; chrony and ntpd-rs refuse more than about a hundred.
        let nanos = i64::try_from(measured.ahead.middle()).ok()?.checked_neg()?;
        #[allow(clippy::cast_precision_loss)] // one in 2^53, of an offset: of a day, 10 ps
        let offset = nanos as f64 / 1e9;
        let leap = match leap {
            None => 0,
            Some(LeapKind::Inserted) => 1,
            Some(LeapKind::Deleted) => 2,
        };
        let micros = i64::from(measured.realtime.subsec_nanos() / 1_000);
        Some(Self { seconds: measured.realtime.seconds(), micros, offset, leap })
    }

    fn bytes(&self, receiver: Receiver) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        // `pulse` and `_pad` are zero: it is a whole time, not a pulse.
        macro_rules! fields {
            ($encode:ident) => {
                bytes[..8].copy_from_slice(&self.seconds.$encode());
                bytes[8..16].copy_from_slice(&self.micros.$encode());
                bytes[16..24].copy_from_slice(&self.offset.$encode());
                bytes[28..32].copy_from_slice(&self.leap.$encode());
                bytes[36..].copy_from_slice(&MAGIC.$encode());
            };
        }
        match receiver {
            Receiver::Chrony => {
                fields!(to_ne_bytes);
            }
            Receiver::NtpdRs => {
                fields!(to_le_bytes);
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::measured;
    use super::*;
    use crate::measure::Ahead;
    use proptest::prelude::*;
    use vmclock_core::abi::LeapIndicator;
    use vmclock_core::leap::LeapStatus;
    use vmclock_core::time::Time;

    /// A daemon's socket, and a feed for it.
    fn pair(receiver: Receiver) -> (tempfile::TempDir, UnixDatagram, Sock) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sock");
        let daemon = UnixDatagram::bind(&path).expect("bound");
        daemon.set_nonblocking(true).expect("set");
        let feed = Sock::new(receiver, &path, 1_000).expect("a feed");
        (folder, daemon, feed)
    }

    fn received(daemon: &UnixDatagram) -> Option<[u8; LEN]> {
        let mut bytes = [0; 100];
        let len = daemon.recv(&mut bytes).ok()?;
        assert_eq!(len, LEN);
        Some(bytes[..LEN].try_into().expect("40 bytes"))
    }

    #[test]
    fn a_sample_is_chronys() {
        let (_folder, daemon, mut feed) = pair(Receiver::NtpdRs);
        // 0.75 s behind at 1000000001.5 s.
        feed.update(&measured(Time::from_parts(1_000_000_001, 1 << 63), -750_000_000)).expect("sent");
        let bytes = received(&daemon).expect("received");
        assert_eq!(bytes[..8], 1_000_000_001_i64.to_le_bytes(), "seconds");
        assert_eq!(bytes[8..16], 500_000_i64.to_le_bytes(), "microseconds");
        assert_eq!(bytes[16..24], 0.75_f64.to_le_bytes(), "true time is ahead of the system's");
        assert_eq!(bytes[24..36], [0; 12], "no pulse, no leap second, padding");
        assert_eq!(&bytes[36..], b"KCOS");
    }

    #[test]
    fn leap_seconds_of_today_are_passed_on() {
        for (indicator, expected) in [(LeapIndicator::PRE_POSITIVE, 1_i32), (LeapIndicator::PRE_NEGATIVE, 2)] {
            let (_folder, daemon, mut feed) = pair(Receiver::Chrony);
            let leap = LeapStatus { indicator, ..LeapStatus::UNKNOWN };
            let noon = measured(Time::from_parts(1_483_228_800 - 43_200, 0), 0);
            feed.update(&Measured { leap, ..noon }).expect("sent");
            assert_eq!(received(&daemon).expect("received")[28..32], expected.to_ne_bytes());
            let close = measured(Time::from_parts(1_483_228_798, 0), 0);
            let error = feed.update(&Measured { leap, ..close }).expect_err("ambiguous");
            assert!(matches!(error, FeedError::LeapSecond { .. }), "{error}");
            assert_eq!(received(&daemon), None);
        }
    }

    #[test]
    fn what_is_not_certain_is_withheld() {
        let (_folder, daemon, mut feed) = pair(Receiver::Chrony);
        let good = measured(Time::from_parts(1_000_000_001, 0), 0);
        let error = feed.update(&Measured { synchronized: false, ..good }).expect_err("unsynchronized");
        assert!(matches!(error, FeedError::NotSynchronized { .. }), "{error}");
        let vague = Measured { ahead: Ahead { low: -1_001, high: 1_001 }, ..good };
        let error = feed.update(&vague).expect_err("beyond the limit").to_string();
        assert!(error.contains("± 1001 ns") && error.contains("± 1000 ns"), "{error}");
        let inverted = Measured { ahead: Ahead { low: 1, high: -1 }, ..good };
        assert!(feed.update(&inverted).is_err());
        let far = Measured { ahead: Ahead { low: i128::MIN, high: i128::MIN }, ..good };
        assert!(matches!(feed.update(&far), Err(FeedError::OutOfRange { .. })));
        assert_eq!(received(&daemon), None);
        feed.update(&Measured { ahead: Ahead { low: -1_000, high: 1_000 }, ..good }).expect("just good enough");
        assert!(received(&daemon).is_some());
    }

    #[test]
    fn a_daemon_may_come_late_go_and_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sock");
        let mut feed = Sock::new(Receiver::Chrony, &path, 1_000).expect("a feed");
        let sample = measured(Time::from_parts(1_000_000_001, 0), 0);
        let error = feed.update(&sample).expect_err("nobody is there").to_string();
        assert!(error.contains("is chronyd running, with `refclock SOCK`"), "{error}");
        let daemon = UnixDatagram::bind(&path).expect("bound");
        feed.update(&sample).expect("there now");
        drop(daemon);
        let error = feed.update(&sample).expect_err("gone").to_string();
        assert!(error.contains("is chronyd running"), "{error}");
        std::fs::remove_file(&path).expect("removed");
        let _daemon = UnixDatagram::bind(&path).expect("bound again");
        let full = (0..1_000_000).find_map(|_| feed.update(&sample).err()).expect("full at last").to_string();
        assert!(full.contains("does not read"), "{full}");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let long = "/run/".to_owned() + &"x".repeat(108);
        let error = Sock::new(Receiver::Chrony, long, 1_000).expect_err("too long").to_string();
        assert!(error.contains("a socket of this name"), "{error}");
    }

    #[test]
    fn configurations() {
        let chrony = Sock::new(Receiver::Chrony, "/run/a", 25_000).expect("a feed").configuration();
        assert_eq!(chrony, "refclock SOCK /run/a refid VMCL poll 0 precision 1e-6 delay 0.000050000\n");
        let ntpd_rs = Sock::new(Receiver::NtpdRs, "/run/a", 25_000).expect("a feed").configuration();
        let expected = "[[source]]\nmode = \"sock\"\npath = \"/run/a\"\n\
                        precision = 0.000025000 # ntpd-rs 1.4: measurement_noise_estimate = ";
        let variance: f64 = ntpd_rs.strip_prefix(expected).and_then(|rest| rest.trim().parse().ok()).expect(&ntpd_rs);
        assert!((variance / 6.25e-10 - 1.0).abs() < 1e-9, "{ntpd_rs}");
    }

    proptest! {
        /// What a receiver adds to its clock is the middle of the interval, to a nanosecond in weeks.
        #[test]
        fn the_offset_is_the_middle(ahead in -2_000_000_000_000_000_i64..2_000_000_000_000_000) {
            let measured = measured(Time::from_parts(1_000_000_001, 0), ahead.into());
            let sample = Sample::of(&measured, None).expect("in range");
            #[allow(clippy::cast_possible_truncation)]
            let back = (sample.offset * 1e9).round() as i64;
            prop_assert!((back + ahead).abs() <= 1, "{} {ahead}", sample.offset);
        }
    }
}
