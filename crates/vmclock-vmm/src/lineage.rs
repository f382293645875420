// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Values for markers and generations: never the same twice in a lineage of saved and restored machines, not to be
//! guessed, and hardly ever equal between siblings that were restored from one image.
//!
//! A value is a number that counts the values of the lineage (16 bits) beside a number drawn at random (48 bits), put
//! through a keyed permutation. As it is a permutation, values whose counts differ differ, and without the key
//! one cannot be distinguished from the other.
//!
//! Siblings have equal counts, and only what each drew makes them differ. That any two of `n` draw the same has a
//! chance of about n² / 2^49: one in 560 million for a thousand siblings, one in 560 for a million. Marker and
//! generation are drawn independently: two siblings share both with a chance of one in 2^96.
//!
//! After 65,535 values the lineage continues with another key, under which a value may be one of those before by
//! chance: one in 2^64 for each of them.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// How many bits count.
const COUNT_BITS: u32 = 16;
/// What a saved count is below.
const COUNT_END: u32 = 1 << 24;
/// Rounds of the permutation; four make one that is as good as random (Luby and Rackoff).
const ROUNDS: u64 = 4;

/// The source of a device's values. All of it is in the device's saved state.
///
/// ```
/// use vmclock_vmm::lineage::Lineage;
/// let saved = Lineage::new([1, 2]);
/// let (mut one, mut other) = (saved, saved);
/// assert_ne!(one.next(0xaaaa), other.next(0xbbbb)); // siblings, that drew for themselves
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Lineage {
    /// Random bits. Who has them can recognise the values to come.
    pub key: [u64; 2],
    /// How many values were made with this key.
    pub count: u32,
}

/// Without the key, which is private.
impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lineage").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Lineage {
    /// A lineage that begins. `key`: random bits, from the system.
    pub const fn new(key: [u64; 2]) -> Self {
        Self { key, count: 0 }
    }

    /// The next value, never 0. `fresh`: random bits, drawn now.
    #[must_use]
    pub fn next(&mut self, fresh: u64) -> u64 {
        loop {
            self.count = self.count.saturating_add(1);
            if self.count >> COUNT_BITS != 0 {
                // Another key.
                self.key = [self.hash(u64::MAX, fresh), self.hash(u64::MAX - 1, fresh)];
                self.count = 1;
            }
            let value = self.permuted(u64::from(self.count) << (64 - COUNT_BITS) | drawn(fresh));
            if value != 0 {
                return value;
            }
        }
    }

    /// Whether some version of this can have made so many values with one key.
    pub(crate) const fn is_in_range(&self) -> bool {
        self.count < COUNT_END
    }

    /// A Feistel network.
    fn permuted(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> 32, value & u64::from(u32::MAX));
        for round in 0..ROUNDS {
            let mixed = left ^ (self.hash(round, right) & u64::from(u32::MAX));
            (left, right) = (right, mixed);
        }
        left << 32 | right
    }

    fn hash(&self, round: u64, value: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        hasher.write_u64(round);
        hasher.write_u64(value);
        hasher.finish()
    }
}

/// The bits beside the count. All bits of `fresh` matter, wherever they are random.
const fn drawn(fresh: u64) -> u64 {
    (fresh ^ fresh >> COUNT_BITS) & (u64::MAX >> COUNT_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn no_value_comes_twice_even_without_luck() {
        // The worst randomness there is.
        let mut lineage = Lineage::new([7, 9]);
        let values: HashSet<u64> = (0..100_000).map(|_| lineage.next(0)).collect();
        assert_eq!(values.len(), 100_000);
        assert!(!values.contains(&0));
    }

    #[test]
    fn all_bits_that_were_drawn_make_siblings_differ() {
        let saved = Lineage::new([7, 9]);
        for bit in 0..64 {
            let (mut one, mut other) = (saved, saved);
            assert_ne!(one.next(0), other.next(1 << bit), "bit {bit}");
        }
        // Each of 48 bits makes a difference of its own.
        for bit in 0..48 {
            assert_eq!(drawn(1 << bit).ilog2(), bit);
        }
    }

    #[test]
    fn a_count_of_an_older_version_or_of_none_continues() {
        for count in [COUNT_END - 1, u32::MAX] {
            let mut lineage = Lineage { key: [7, 9], count };
            let values = HashSet::from([lineage.next(3), lineage.next(3), lineage.next(3)]);
            assert_eq!((values.len(), lineage.count), (3, 3));
            assert_ne!(lineage.key, [7, 9]);
        }
    }

    #[test]
    fn siblings_differ_and_a_lineage_outlives_its_count() {
        let mut parent = Lineage::new([7, 9]);
        parent.count = (1 << COUNT_BITS) - 2;
        let last = parent.next(1);
        let mut values: HashSet<u64> = HashSet::from([last]);
        let saved = parent;
        for fresh in 0..10_000_u64 {
            let mut sibling = saved;
            assert!(values.insert(sibling.next(fresh.wrapping_mul(0x9e37_79b9_7f4a_7c15))), "sibling {fresh}");
            assert!(values.insert(sibling.next(fresh.wrapping_mul(0x9e37_79b9_7f4a_7c15))), "sibling {fresh}, again");
        }
        assert!(!format!("{saved:?}").contains("key"), "{saved:?}");
    }

    proptest! {
        #[test]
        fn it_is_a_permutation(key in any::<[u64; 2]>(), a in any::<u64>(), b in any::<u64>()) {
            let lineage = Lineage::new(key);
            prop_assert_eq!(a == b, lineage.permuted(a) == lineage.permuted(b));
        }
    }
}
