// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values for disruption markers and generation counters.

use std::io;

use rustix::rand::{getrandom, GetRandomFlags};

/// A value that was never used before, in this machine's lineage or in any sibling's: 64 random bits, as a value that
/// is counted or saved would be repeated by a restore. Never 0, which an empty page has.
///
/// ```
/// assert_ne!(vmclock_host::identity::never_used()?, vmclock_host::identity::never_used()?);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn never_used() -> io::Result<u64> {
    loop {
        let mut bytes = [0; 8];
        // The kernel gives up to 256 bytes at once, or none.
        let len = getrandom(&mut bytes[..], GetRandomFlags::empty())?;
        let value = u64::from_ne_bytes(bytes);
        if len == bytes.len() && value != 0 {
            return Ok(value);
        }
    }
}
