// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The sequence count, model-checked: in every order that the memory model allows, a reader gets words of one update
//! or none at all, and the last update is never lost. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p vmclock-core --release --test loom`.
//!
//! The models are small on purpose: two words represent the page, because what can go wrong between two words of
//! relaxed atomics can go wrong between any two.
#![cfg(loom)]

use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;
use vmclock_core::page::SeqCount;

/// Explores every interleaving with up to three preemptions, and every order of memory within each. Without that limit
/// two updates against two readings would take hours; what is known of such bugs is that two preemptions find them.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// Two words that belong together: every update sets both to the same number.
struct Page {
    count: SeqCount,
    words: [AtomicU64; 2],
}

impl Page {
    fn new(seq_count: u32) -> Arc<Self> {
        Arc::new(Self { count: SeqCount::new(seq_count), words: [AtomicU64::new(0), AtomicU64::new(0)] })
    }

    fn write(&self, count: &mut u32, value: u64) {
        self.count.write(count, || self.store(value));
    }

    fn store(&self, value: u64) {
        for word in &self.words {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn load(&self) -> [u64; 2] {
        [self.words[0].load(Ordering::Relaxed), self.words[1].load(Ordering::Relaxed)]
    }

    /// One attempt and one more: loom explores what happens when both fail, too.
    fn read(&self) -> Option<[u64; 2]> {
        let mut more = [false, true].into_iter();
        self.count.read(|| self.load(), || more.next_back().unwrap_or(false)).ok()
    }
}

#[track_caller]
fn assert_whole(read: Option<[u64; 2]>) -> Option<u64> {
    let [first, second] = read?;
    assert_eq!(first, second, "a torn snapshot");
    Some(first)
}

#[test]
fn no_snapshot_is_torn_and_none_goes_back() {
    model(|| {
        let page = Page::new(0);
        let writer = thread::spawn({
            let page = Arc::clone(&page);
            move || {
                let mut count = 0;
                page.write(&mut count, 1);
                page.write(&mut count, 2);
                assert_eq!(count, 4);
            }
        });
        let first = assert_whole(page.read());
        let second = assert_whole(page.read());
        if let (Some(first), Some(second)) = (first, second) {
            assert!(first <= second, "an update was taken back");
        }
        writer.join().unwrap();
        assert_eq!(assert_whole(page.read()), Some(2), "the last update was lost");
    });
}

#[test]
fn around_the_end_the_count_skips_0_and_no_snapshot_is_torn() {
    model(|| {
        let page = Page::new(u32::MAX - 3);
        let writer = thread::spawn({
            let page = Arc::clone(&page);
            move || {
                let mut count = u32::MAX - 3;
                page.write(&mut count, 1);
                page.write(&mut count, 2);
                assert_eq!(count, 2);
            }
        });
        let (count, first) = (page.count.get(), assert_whole(page.read()));
        let second = assert_whole(page.read());
        assert_ne!(count, 0);
        if let (Some(first), Some(second)) = (first, second) {
            assert!(first <= second, "an update was taken back");
        }
        writer.join().unwrap();
        assert_eq!(assert_whole(page.read()), Some(2), "the last update was lost");
    });
}

#[test]
fn two_readers_do_not_affect_one_another() {
    model(|| {
        let page = Page::new(0);
        let reader = thread::spawn({
            let page = Arc::clone(&page);
            move || assert_whole(page.read())
        });
        let writer = thread::spawn({
            let page = Arc::clone(&page);
            move || page.write(&mut 0, 1)
        });
        assert_whole(page.read());
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(assert_whole(page.read()), Some(1));
    });
}

#[test]
fn the_counter_was_read_while_the_page_said_what_the_reader_got() {
    model(|| {
        let page = Page::new(0);
        // A counter that the writer moves on between two updates, as a migration does.
        let counter = Arc::new(AtomicU64::new(0));
        let writer = thread::spawn({
            let (page, counter) = (Arc::clone(&page), Arc::clone(&counter));
            move || {
                page.count.write(&mut 0, || {
                    counter.store(1, Ordering::Relaxed);
                    page.store(1);
                });
            }
        });
        let read = page.count.read(|| (counter.load(Ordering::Relaxed), page.load()), || false);
        if let Ok((counter, [first, second])) = read {
            assert_eq!((first, second), (counter, counter), "a counter of one time with a page of another");
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_page_left_odd_gives_nothing_until_it_is_taken_over() {
    model(|| {
        let page = Page::new(0);
        // Killed in the middle of an update: the count is odd, one word is new.
        let victim = thread::spawn({
            let page = Arc::clone(&page);
            move || {
                let killed = std::panic::AssertUnwindSafe(|| {
                    page.count.write(&mut 0, || {
                        page.words[0].store(7, Ordering::Relaxed);
                        std::panic::resume_unwind(Box::new("killed"));
                    });
                });
                assert!(std::panic::catch_unwind(killed).is_err());
            }
        });
        let reader = thread::spawn({
            let page = Arc::clone(&page);
            move || assert_whole(page.read())
        });
        victim.join().unwrap();
        assert_eq!(page.count.get(), 1);
        assert_eq!(page.read(), None, "an unfinished update was read");
        let mut count = page.count.get();
        page.write(&mut count, 2);
        assert_eq!(count, 2);
        assert_ne!(reader.join().unwrap(), Some(7));
        assert_eq!(assert_whole(page.read()), Some(2));
    });
}

/// The same protocol without one of its fences: that the models above can fail is what makes them worth something.
fn broken(release: bool, acquire: bool) {
    model(move || {
        let page = Arc::new((AtomicU32::new(0), [AtomicU64::new(0), AtomicU64::new(0)]));
        let writer = thread::spawn({
            let page = Arc::clone(&page);
            move || {
                page.0.store(1, Ordering::Relaxed);
                if release {
                    fence(Ordering::Release);
                }
                page.1[0].store(1, Ordering::Relaxed);
                page.1[1].store(1, Ordering::Relaxed);
                page.0.store(2, Ordering::Release);
            }
        });
        let before = page.0.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let words = [page.1[0].load(Ordering::Relaxed), page.1[1].load(Ordering::Relaxed)];
        if acquire {
            fence(Ordering::Acquire);
        }
        if before & 1 == 0 && page.0.load(Ordering::Relaxed) == before {
            assert_eq!(words[0], words[1], "a torn snapshot");
        }
        writer.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "a torn snapshot")]
fn without_the_writers_fence_a_snapshot_tears() {
    broken(false, true);
}

#[test]
#[should_panic(expected = "a torn snapshot")]
fn without_the_readers_fence_a_snapshot_tears() {
    broken(true, false);
}

#[test]
fn with_both_fences_none_does() {
    broken(true, true);
}
