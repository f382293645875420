// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of what a process writes.

/// So many bytes of it are kept.
const KEPT: usize = 4096;

/// The last 4 KiB of a stream.
#[derive(Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let excess = self.bytes.len().saturating_sub(KEPT);
        self.is_cut |= excess > 0;
        self.bytes.drain(..excess);
    }

    /// As text, from the first whole character on. What is not UTF-8 is replaced.
    pub(super) fn text(&self) -> String {
        let continued = |byte: &&u8| self.is_cut && **byte & 0xc0 == 0x80;
        let cut = self.bytes.iter().take(3).take_while(continued).count();
        String::from_utf8_lossy(&self.bytes[cut..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::default();
        tail.push(b"begin");
        assert_eq!(tail.text(), "begin");
        tail.push(&[b'x'; 2 * KEPT]);
        tail.push(b"end");
        assert_eq!(tail.text(), "x".repeat(KEPT - 3) + "end");
    }

    #[test]
    fn a_character_that_was_cut_is_left_out() {
        let mut tail = Tail::default();
        tail.push("€".repeat(KEPT).as_bytes());
        assert_eq!(tail.text(), "€".repeat(KEPT / 3));
        let mut tail = Tail::default();
        tail.push(b"\x80\xff!");
        assert_eq!(tail.text(), "\u{fffd}\u{fffd}!");
    }
}
