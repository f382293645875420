// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The device against a guest that reads meanwhile, in every order that the memory model allows.
#![cfg(loom)]

use std::convert::Infallible;

use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;
use vmclock_vmm::device::{Arrival, Options};
use vmclock_vmm::memory::{PageMemory, Region};
use vmclock_vmm::VmClockDevice;

/// Of the page what matters here: the count, and two words that change together.
struct Words {
    sequence: AtomicU32,
    marker: AtomicU64,
    generation: AtomicU64,
}

#[derive(Clone)]
struct Shared(Arc<Words>);

impl PageMemory for Shared {
    type Error = Infallible;

    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), Infallible> {
        if offset == 0x0c {
            self.0.sequence.store(value, order);
        }
        Ok(())
    }

    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), Infallible> {
        match offset {
            0x10 => self.0.marker.store(value, order),
            0x68 => self.0.generation.store(value, order),
            _ => {}
        }
        Ok(())
    }
}

impl Region for Shared {
    fn region_len(&self) -> u64 {
        0x1000
    }

    fn load_u32(&self, _: u64, order: Ordering) -> Result<u32, Infallible> {
        Ok(self.0.sequence.load(order))
    }
}

#[test]
fn no_guest_sees_half_an_update() {
    loom::model(|| {
        let words = Words { sequence: AtomicU32::new(0), marker: AtomicU64::new(0), generation: AtomicU64::new(0) };
        let shared = Shared(Arc::new(words));
        let device = VmClockDevice::new(shared.clone(), (), (), Options::compatible(), [0, 2]).expect("written");
        let state = device.save();
        let reader = {
            let words = Arc::clone(&shared.0);
            thread::spawn(move || {
                let before = words.sequence.load(Ordering::Acquire);
                if before & 1 == 1 {
                    return;
                }
                let (marker, generation) =
                    (words.marker.load(Ordering::Relaxed), words.generation.load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                if words.sequence.load(Ordering::Relaxed) == before {
                    assert_eq!(marker, generation, "one update changes both");
                }
            })
        };
        // Two updates of both words.
        let restored = |state| {
            let restored = VmClockDevice::from_state(shared.clone(), (), (), state, Arrival::Restore, None, [0, 8]);
            restored.expect("written").0
        };
        let device = restored(&state);
        restored(&device.save());
        reader.join().expect("no panic");
    });
}
