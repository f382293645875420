// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values for markers and generations: never the same twice in a lineage of saved and restored machines, and not to be
//! guessed, nor equal, between siblings that were restored from one image.
//!
//! A value is a number that counts all values of the lineage (24 bits) beside a number drawn at random (40 bits), put
//! through a keyed permutation. As it is a permutation, values whose counts differ differ; siblings have equal counts, but
//! drew for themselves; and without the key nobody can tell one from the other.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// How many bits count.
const COUNT_BITS: u32 = 24;
/// Rounds of the permutation; four make one that is as good as random (Luby and Rackoff).
const ROUNDS: u64 = 4;

/// Where a device's values come from. All of it is in the device's saved state.
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
    /// Random bits. Who has them can tell the values to come from others.
    pub key: [u64; 2],
    /// How many values were made with this key.
    pub count: u32,
}

/// Without the key, which is nobody's business.
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
                // After sixteen million values: another key, for which no value has been used.
                self.key = [self.hash(u64::MAX, fresh), self.hash(u64::MAX - 1, fresh)];
                self.count = 1;
            }
            // All of its bits count, in whichever half they are random.
            let drawn = (fresh ^ fresh >> COUNT_BITS) & (u64::MAX >> COUNT_BITS);
            let value = self.permuted(u64::from(self.count) << (64 - COUNT_BITS) | drawn);
            if value != 0 {
                return value;
            }
        }
    }

    /// Whether so many values can have been made with one key.
    pub(crate) const fn is_in_range(&self) -> bool {
        self.count >> COUNT_BITS == 0
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
