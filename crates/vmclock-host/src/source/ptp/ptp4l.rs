// SPDX-License-Identifier: MIT OR Apache-2.0
//! What linuxptp's ptp4l states of its synchronization, by management messages of IEEE 1588 over its socket.
//!
//! Three questions: whether there is a grandmaster and how far off it the clock is (`TIME_STATUS_NP`, linuxptp's own),
//! how many ports there are (`DEFAULT_DATA_SET`), and in which state each is (`PORT_DATA_SET`).

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::identity::never_used;

use crate::source::SourceError;

const TIMEOUT: Duration = Duration::from_millis(250);

/// Header, target, action and an empty management TLV (IEEE 1588-2008, 13.3, 15.4 and 15.5).
const REQUEST_LEN: usize = 54;
/// Where a message's parts are.
const SEQUENCE: usize = 30;
const TARGET: usize = 34;
const ACTION: usize = 46;
const TLV: usize = 48;
const DATA: usize = REQUEST_LEN;

/// The lower half of the first byte. The upper half is the profile: 1 is IEEE 802.1AS.
const MANAGEMENT_MESSAGE: u8 = 0xd;
const VERSION: u8 = 2;
const GET: u8 = 0;
const RESPONSE: u8 = 2;
const MANAGEMENT_TLV: u16 = 1;
const DEFAULT_DATA_SET: u16 = 0x2000;
const PORT_DATA_SET: u16 = 0x2004;
const TIME_STATUS_NP: u16 = 0xc000;
/// A port that is synchronized to a master.
const SLAVE: u8 = 9;

/// Where ptp4l is asked.
///
/// ```
/// use vmclock_host::source::ptp::Ptp4l;
/// let ptp4l = Ptp4l::new("/var/run/ptp4l".into(), 0);
/// assert_eq!(ptp4l.to_string(), "ptp4l /var/run/ptp4l");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ptp4l {
    socket: PathBuf,
    domain: u8,
    /// How long all the answers together may take.
    pub(super) timeout: Duration,
}

/// What ptp4l states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A port is synchronized to a master.
    Synchronized {
        /// The clock's offset from its master at the last synchronization, in nanoseconds.
        offset: i64,
        /// The clock's own time at the last synchronization, in nanoseconds.
        ingress: i64,
    },
    /// None is; why.
    Unsynchronized(&'static str),
}

impl Ptp4l {
    /// By its socket, usually `/var/run/ptp4l`, and its `domainNumber`, usually 0. It has to be in this program's
    /// network namespace.
    pub const fn new(socket: PathBuf, domain: u8) -> Self {
        Self { socket, domain, timeout: TIMEOUT }
    }

    /// Asks for the state. Takes up to 250 ms.
    pub(super) fn ask(&self) -> Result<State, SourceError> {
        match self.answers() {
            Ok(answers) => answers.state().ok_or_else(|| SourceError::Timeout {
                name: self.to_string(),
                milliseconds: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            }),
            Err(error) => Err(SourceError::Io {
                name: self.to_string(),
                what: "cannot be asked, is it running, and may this user write to its socket?",
                error,
            }),
        }
    }

    /// What it answers within the time.
    fn answers(&self) -> io::Result<Answers> {
        // It answers to the sender's name. This one is in no folder, and cannot be guessed.
        let identity = never_used()?;
        let name = SocketAddr::from_abstract_name(format!("vmclock-{identity:016x}"))?;
        let socket = UnixDatagram::bind_addr(&name)?;
        // From now on only ptp4l can send anything here.
        socket.connect(&self.socket)?;
        socket.set_write_timeout(Some(self.timeout))?;
        #[allow(clippy::cast_possible_truncation)] // any number will do
        let sequence = identity as u16;
        let start = Instant::now();
        for id in [TIME_STATUS_NP, DEFAULT_DATA_SET, PORT_DATA_SET] {
            // It ignores requests of another profile than its own.
            for profile in 0..=1 {
                socket.send(&request(profile, self.domain, sequence, id))?;
            }
        }
        let mut answers = Answers::default();
        while !answers.are_complete() {
            let left = self.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let mut bytes = [0; 1500];
            match socket.recv(&mut bytes) {
                Ok(len) => answers.take(Answer::parse(&bytes[..len], sequence)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => break,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(answers)
    }
}

impl std::fmt::Display for Ptp4l {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ptp4l {}", self.socket.display())
    }
}

/// A request for a data set of every port, which ptp4l is not to forward to the network (0 boundary hops).
fn request(profile: u8, domain: u8, sequence: u16, id: u16) -> [u8; REQUEST_LEN] {
    const CONTROL: usize = 32;
    const INTERVAL: usize = 33;
    let mut bytes = [0; REQUEST_LEN];
    bytes[0] = profile << 4 | MANAGEMENT_MESSAGE;
    bytes[1] = VERSION;
    #[allow(clippy::cast_possible_truncation)] // 54
    bytes[2..4].copy_from_slice(&(REQUEST_LEN as u16).to_be_bytes());
    bytes[4] = domain;
    bytes[SEQUENCE..SEQUENCE + 2].copy_from_slice(&sequence.to_be_bytes());
    bytes[CONTROL] = 4; // management
    bytes[INTERVAL] = 0x7f; // none
    bytes[TARGET..TARGET + 10].fill(0xff); // all ports of all clocks
    bytes[ACTION] = GET;
    bytes[TLV..TLV + 2].copy_from_slice(&MANAGEMENT_TLV.to_be_bytes());
    bytes[TLV + 2..TLV + 4].copy_from_slice(&2_u16.to_be_bytes()); // the length of what follows: the id
    bytes[TLV + 4..TLV + 6].copy_from_slice(&id.to_be_bytes());
    bytes
}

/// One answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    TimeStatus { offset: i64, ingress: i64, has_grandmaster: bool },
    Ports(u16),
    Port { number: u16, state: u8 },
}

impl Answer {
    /// `None` where it is no answer to one of our questions.
    fn parse(bytes: &[u8], sequence: u16) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let is_answer = bytes.first()? & 0xf == MANAGEMENT_MESSAGE
            && bytes.get(1)? & 0xf == VERSION
            && half(SEQUENCE)? == sequence
            && bytes.get(ACTION)? & 0xf == RESPONSE
            && half(TLV)? == MANAGEMENT_TLV;
        if !is_answer {
            return None;
        }
        match half(TLV + 4)? {
            TIME_STATUS_NP => Some(Self::TimeStatus {
                offset: word(DATA)?,
                ingress: word(DATA + 8)?,
                // After two rates, an indicator, and a phase of 12 bytes.
                has_grandmaster: bytes.get(DATA + 38..DATA + 42)? != [0; 4],
            }),
            // After two bytes of flags.
            DEFAULT_DATA_SET => Some(Self::Ports(half(DATA + 2)?)),
            // After the clock's identity, of 8 bytes.
            PORT_DATA_SET => Some(Self::Port { number: half(DATA + 8)?, state: *bytes.get(DATA + 10)? }),
            _ => None,
        }
    }
}

/// What is known so far.
#[derive(Debug, Default)]
struct Answers {
    time_status: Option<(i64, i64, bool)>,
    ports: Option<u16>,
    /// The numbers and states of the ports that answered.
    states: Vec<(u16, u8)>,
}

impl Answers {
    fn take(&mut self, answer: Option<Answer>) {
        match answer {
            Some(Answer::TimeStatus { offset, ingress, has_grandmaster }) => {
                self.time_status = Some((offset, ingress, has_grandmaster));
            }
            Some(Answer::Ports(ports)) => self.ports = Some(ports),
            Some(Answer::Port { number, state }) => {
                self.states.retain(|(known, _)| *known != number);
                self.states.push((number, state));
            }
            None => {}
        }
    }

    fn are_complete(&self) -> bool {
        self.time_status.is_some() && self.ports.is_some_and(|ports| self.states.len() >= usize::from(ports))
    }

    /// `None` where too little is known.
    fn state(&self) -> Option<State> {
        let (offset, ingress, has_grandmaster) = self.time_status?;
        // A slave-only ptp4l still names the grandmaster that it has lost; its port's state shows the loss.
        let is_slave = self.states.iter().any(|(_, state)| *state == SLAVE);
        match (has_grandmaster, is_slave) {
            (true, true) => Some(State::Synchronized { offset, ingress }),
            (false, _) => Some(State::Unsynchronized("has no grandmaster")),
            (true, false) if self.are_complete() => Some(State::Unsynchronized("has no port in the state SLAVE")),
            (true, false) => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread::JoinHandle;

    /// Some ptp4l, as it answers.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Fake {
        pub(in super::super) offset: i64,
        pub(in super::super) ingress: i64,
        pub(in super::super) has_grandmaster: bool,
        /// The states of its ports.
        pub(in super::super) states: [u8; 2],
        /// The profile that it takes requests of.
        pub(in super::super) profile: u8,
    }

    pub(in super::super) const HONEST: Fake = Fake {
        offset: -120,
        ingress: 1_800_000_000_000_000_000,
        has_grandmaster: true,
        states: [6, SLAVE],
        profile: 0,
    };

    impl Fake {
        /// The answers to a request.
        fn answers(&self, request: &[u8]) -> Vec<Vec<u8>> {
            let id = u16::from_be_bytes([request[TLV + 4], request[TLV + 5]]);
            if request[0] >> 4 != self.profile || request[4] != 0 {
                return Vec::new();
            }
            let data = match id {
                TIME_STATUS_NP => {
                    let mut data = [self.offset.to_be_bytes(), self.ingress.to_be_bytes()].concat();
                    data.extend([0; 22]);
                    data.extend(u32::from(self.has_grandmaster).to_be_bytes());
                    data.extend([7; 8]);
                    vec![data]
                }
                DEFAULT_DATA_SET => vec![[[1, 0, 0, 2], [0; 4], [0; 4], [0; 4], [0; 4]].concat()],
                _ => {
                    let ports = (1_u8..).zip(self.states);
                    ports.map(|(port, state)| [&[9; 8], &[0, port, state][..], &[0; 15]].concat()).collect()
                }
            };
            let answer = |data: Vec<u8>| {
                let mut bytes = request.to_vec();
                bytes[ACTION] = RESPONSE;
                bytes.extend(data);
                bytes
            };
            data.into_iter().map(answer).collect()
        }

        /// Answers so many questions at a socket of this path.
        pub(in super::super) fn serve(self, path: &std::path::Path, questions: usize) -> JoinHandle<()> {
            let socket = UnixDatagram::bind(path).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
            std::thread::spawn(move || {
                for _ in 0..6 * questions {
                    let mut request = [0; 100];
                    let (len, from) = socket.recv_from(&mut request).expect("asked");
                    for answer in self.answers(&request[..len]) {
                        // The client has left once it knows what it needs.
                        let _ = socket.send_to_addr(&answer, &from);
                    }
                }
            })
        }
    }

    /// One that has all the time that it needs on a busy machine.
    pub(in super::super) fn unhurried(socket: PathBuf) -> Ptp4l {
        Ptp4l { timeout: Duration::from_secs(30), ..Ptp4l::new(socket, 0) }
    }

    fn asked(fake: Fake) -> Result<State, SourceError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ptp4l");
        let served = fake.serve(&path, 1);
        let state = unhurried(path).ask();
        served.join().expect("served");
        state
    }

    #[test]
    fn a_request_is_what_the_standard_says() {
        let header =
            "1d 02 00 36 07 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 12 34 04 7f";
        let rest = "ff ff ff ff ff ff ff ff ff ff 00 00 00 00 00 01 00 02 c0 00";
        let expected: Vec<_> = [header, rest]
            .iter()
            .flat_map(|part| part.split(' '))
            .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
            .collect();
        assert_eq!(request(1, 7, 0x1234, TIME_STATUS_NP)[..], expected);
    }

    #[test]
    fn ptp4l_is_asked() {
        let synchronized = State::Synchronized { offset: -120, ingress: 1_800_000_000_000_000_000 };
        assert_eq!(asked(HONEST).expect("answered"), synchronized);
        assert_eq!(asked(Fake { profile: 1, ..HONEST }).expect("answered"), synchronized, "IEEE 802.1AS");
        let lost = asked(Fake { has_grandmaster: false, ..HONEST }).expect("answered");
        assert_eq!(lost, State::Unsynchronized("has no grandmaster"));
        let not_yet = asked(Fake { states: [6, 8], ..HONEST }).expect("answered");
        assert_eq!(not_yet, State::Unsynchronized("has no port in the state SLAVE"));
    }

    #[test]
    fn whoever_does_not_answer_is_not_waited_for_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ptp4l");
        // Of another domain.
        let served = HONEST.serve(&path, 1);
        let error = Ptp4l::new(path, 1).ask().expect_err("no answer").to_string();
        served.join().expect("served");
        assert!(error.ends_with("no answer within 250 ms"), "{error}");
        let error = Ptp4l::new("/no/ptp4l".into(), 0).ask().expect_err("nobody").to_string();
        assert!(error.starts_with("ptp4l /no/ptp4l: cannot be asked"), "{error}");
    }

    #[test]
    fn too_little_is_no_state() {
        let mut answers = Answers::default();
        assert_eq!(answers.state(), None);
        answers.take(Some(Answer::TimeStatus { offset: 1, ingress: 2, has_grandmaster: true }));
        answers.take(Some(Answer::Port { number: 1, state: 8 }));
        assert_eq!(answers.state(), None, "another port may be the one");
        answers.take(Some(Answer::Port { number: 2, state: SLAVE }));
        assert_eq!(answers.state(), Some(State::Synchronized { offset: 1, ingress: 2 }));
        answers.take(Some(Answer::Port { number: 2, state: 8 }));
        assert_eq!(answers.state(), None, "the later answer counts");
        answers.take(Some(Answer::Ports(2)));
        assert!(matches!(answers.state(), Some(State::Unsynchronized(_))));
    }

    fn some_answers() -> Vec<Vec<u8>> {
        [TIME_STATUS_NP, DEFAULT_DATA_SET, PORT_DATA_SET]
            .iter()
            .flat_map(|id| HONEST.answers(&request(0, 0, 0x1234, *id)))
            .collect()
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let answers = some_answers();
        assert_eq!(answers.len(), 4);
        for answer in &answers {
            assert!(Answer::parse(answer, 0x1234).is_some());
            assert_eq!(Answer::parse(answer, 0x1235), None, "of another question");
            // A request, an error, another message, another version.
            for (at, value) in [(ACTION, GET), (TLV + 1, 2), (0, 0xb), (1, 1), (TLV + 4, 0x21)] {
                let mut other = answer.clone();
                other[at] = value;
                assert_eq!(Answer::parse(&other, 0x1234), None, "{at} {value}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(
            answer in 0..4_usize,
            noise in prop::collection::vec(any::<u8>(), 0..120),
            (at, len) in (0..120_usize, 0..120_usize),
        ) {
            let _ = Answer::parse(&noise, 0x1234);
            let mut bytes = some_answers().swap_remove(answer);
            for (to, from) in bytes.iter_mut().skip(at).zip(&noise) {
                *to = *from;
            }
            bytes.truncate(len);
            let mut answers = Answers::default();
            answers.take(Answer::parse(&bytes, 0x1234));
            prop_assert!(!matches!(answers.state(), Some(State::Synchronized { .. })), "one answer is too little");
        }

        #[test]
        fn numbers_come_through(offset: i64, ingress: i64, has_grandmaster: bool) {
            let fake = Fake { offset, ingress, has_grandmaster, ..HONEST };
            let answer = fake.answers(&request(0, 0, 1, TIME_STATUS_NP)).swap_remove(0);
            prop_assert_eq!(Answer::parse(&answer, 1), Some(Answer::TimeStatus { offset, ingress, has_grandmaster }));
        }
    }
}
