// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fields of a segment as words of 8 bytes, in native byte order.

pub(super) fn signed(value: i64) -> u64 {
    u64::from_ne_bytes(value.to_ne_bytes())
}

/// Two fields, the first at the lower address.
pub(super) fn pair(first: u32, second: u32) -> u64 {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&first.to_ne_bytes());
    both[4..].copy_from_slice(&second.to_ne_bytes());
    bytes(both)
}

/// Eight of them, as they are in memory.
pub(super) const fn bytes(bytes: [u8; 8]) -> u64 {
    u64::from_ne_bytes(bytes)
}
