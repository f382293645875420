// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frame of chronyd's command protocol, version 6, as since chrony 2.2: `candm.h` and `pktlength.c` of its sources.
//!
//! A request is a header of 20 bytes, of which none of the commands here needs more, and zeros: it has to be as long as
//! its reply, so that nobody can use chronyd to multiply traffic. A reply is a header of 28 bytes and what was asked
//! for. Numbers are big-endian. A reply has the request's command and sequence number; a request that is repeated keeps
//! both, and counts its attempts.

use std::fmt;

const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Of a reply; the shortest that a request may be.
const HEADER_LEN: usize = 28;

/// What chronyd is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// Step the clock by what is still being slewed. Over the Unix socket only.
    MakeStep,
    /// What chronyd states of the clock.
    Tracking,
    /// Drop what was measured of all sources, as the clock was disrupted. Over the Unix socket only; chrony 4.0 or
    /// later.
    ResetSources,
}

impl Command {
    /// Its number, as a request has it (`REQ_MAKESTEP`), and that of its reply (`RPY_NULL`, `RPY_TRACKING`).
    const fn numbers(self) -> (u16, u16) {
        match self {
            Self::MakeStep => (43, 1),
            Self::Tracking => (33, 5),
            Self::ResetSources => (66, 1),
        }
    }

    /// How much a reply has after its header.
    const fn reply_len(self) -> usize {
        match self {
            Self::MakeStep | Self::ResetSources => 0,
            Self::Tracking => 76,
        }
    }

    /// The request.
    pub fn request(self, sequence: u32, attempt: u16) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + self.reply_len()];
        bytes[0] = VERSION;
        bytes[1] = REQUEST;
        bytes[4..6].copy_from_slice(&self.numbers().0.to_be_bytes());
        bytes[6..8].copy_from_slice(&attempt.to_be_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_be_bytes());
        bytes
    }

    /// What a reply says after its header.
    pub fn parse_reply(self, reply: &[u8], sequence: u32) -> Result<&[u8], ReplyError> {
        let (header, body) = reply.split_at_checked(HEADER_LEN).ok_or(ReplyError::TooShort)?;
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[0] != VERSION || header[1] != REPLY {
            return Err(ReplyError::OtherVersion);
        }
        let (command, kind) = self.numbers();
        if half(4) != command || word(16) != sequence {
            return Err(ReplyError::ToSomethingElse);
        }
        if half(8) != 0 {
            return Err(ReplyError::Refused(half(8)));
        }
        if half(6) != kind {
            return Err(ReplyError::ToSomethingElse);
        }
        body.get(..self.reply_len()).ok_or(ReplyError::TooShort)
    }
}

impl fmt::Display for Command {
    /// As `chronyc` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MakeStep => "makestep",
            Self::Tracking => "tracking",
            Self::ResetSources => "reset sources",
        })
    }
}

/// What is wrong with a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// It lacks bytes.
    #[error("sent too short an answer")]
    TooShort,
    /// It is not one of this protocol.
    #[error("sent an answer of another version of its protocol; chrony 2.2 or later is known")]
    OtherVersion,
    /// It is to another request, perhaps to an earlier one.
    #[error("sent an answer to something else")]
    ToSomethingElse,
    /// chronyd's own status.
    #[error("refuses: {}", reason(*.0))]
    Refused(u16),
}

/// What a status means (`STT_...`).
fn reason(status: u16) -> String {
    match status {
        1 => "the command failed; see its log".to_owned(),
        2 => "not allowed; see its configuration for cmdallow, and use its Unix socket".to_owned(),
        3 => "it does not know the command; chrony 4.0 or later does".to_owned(),
        6 => "not enabled in its configuration".to_owned(),
        18 => "it has another version of the protocol".to_owned(),
        other => format!("status {other}; see candm.h in its sources, and its configuration for cmdallow and cmdport"),
    }
}

/// chronyd's floating-point numbers: an exponent of 7 bits, a coefficient of 25, both in two's complement.
///
/// ```
/// assert_eq!(vmclock_host::source::chrony::protocol::number(0x0080_0000), 0.25);
/// ```
pub fn number(word: u32) -> f64 {
    // Shifting up and down again extends the sign.
    #[allow(clippy::cast_possible_wrap)]
    let (exponent, coefficient) = (word as i32 >> 25, (word as i32) << 7 >> 7);
    f64::from(coefficient) * 2_f64.powi(exponent - 25)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(command: Command, sequence: u32) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + command.reply_len()];
        bytes[..2].copy_from_slice(&[VERSION, REPLY]);
        bytes[4..6].copy_from_slice(&command.numbers().0.to_be_bytes());
        bytes[6..8].copy_from_slice(&command.numbers().1.to_be_bytes());
        bytes[16..20].copy_from_slice(&sequence.to_be_bytes());
        bytes
    }

    #[test]
    fn requests() {
        let mut expected = [0; 28];
        expected[..12].copy_from_slice(&[6, 1, 0, 0, 0, 66, 0, 1, 0xa, 0xb, 0xc, 0xd]);
        assert_eq!(Command::ResetSources.request(0x0a0b_0c0d, 1), expected);
        assert_eq!(Command::MakeStep.request(1, 0)[4..6], [0, 43]);
        assert_eq!(Command::Tracking.request(1, 0).len(), 104, "as long as the reply");
    }

    #[test]
    fn replies() {
        for command in [Command::MakeStep, Command::Tracking, Command::ResetSources] {
            let good = reply(command, 7);
            assert_eq!(command.parse_reply(&good, 7), Ok(&good[HEADER_LEN..]));
            assert_eq!(command.parse_reply(&good[..good.len() - 1], 7), Err(ReplyError::TooShort));
            assert_eq!(command.parse_reply(&good, 8), Err(ReplyError::ToSomethingElse));
            for (at, value, expected) in [
                (0, 5, ReplyError::OtherVersion),
                (1, 1, ReplyError::OtherVersion),
                (5, 99, ReplyError::ToSomethingElse),
                (7, 99, ReplyError::ToSomethingElse),
                (9, 2, ReplyError::Refused(2)),
            ] {
                let mut wrong = good.clone();
                wrong[at] = value;
                assert_eq!(command.parse_reply(&wrong, 7), Err(expected));
            }
            // A refusal is a header, whatever was asked for.
            let mut refusal = good[..HEADER_LEN].to_vec();
            refusal[6..10].copy_from_slice(&[0, 1, 0, 3]);
            assert_eq!(command.parse_reply(&refusal, 7), Err(ReplyError::Refused(3)));
        }
    }

    #[test]
    fn numbers() {
        // 1.0 as chrony writes it: a coefficient of 2^23 and an exponent of 2.
        for (word, value) in [(0x0480_0000, 1.0_f64), (0x0180_0000, -0.25), (0xfe80_0000, 0.125), (0, 0.0)] {
            assert_eq!(number(word).to_bits(), value.to_bits());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_reply_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<u32>()) {
            for command in [Command::MakeStep, Command::Tracking, Command::ResetSources] {
                let _ = command.parse_reply(&bytes, at);
            }
        }
    }
}
